"""Watching a job to its end, and what is printed then. Owns the deadline, Ctrl-C, and fetching what the summary shows."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from chargehand_schemas.api import JobInvocationDocument, OutputGroup
from chargehand_schemas.reasons import JobInvocationStatus, JobTaskStatus, Stream

from ..errors import CommandError, ExitStatus
from ..terminal.escapes import OutputFilter
from ..terminal.live import view_on
from ..terminal.progress import Progress
from ..terminal.summary import cut, heading, in_order, job_document, last_line
from .frame import client_errors

if TYPE_CHECKING:
    from ..client.http import Change
    from ..options import Asked

T = TypeVar("T")

_TICK_S = 0.25
_MAX_GROUPS_SHOWN = 40
_MAX_SHOWN_BYTES = 64 * 1024


class TimedOut(Exception):
    """The deadline of watching passed."""


def watch_to_the_end(asked: Asked, ref: str, *, timeout: timedelta | None) -> JobInvocationDocument:
    """Watch, drawing what happens. CommandError 130 after Ctrl-C and 124 at the deadline: the job goes on."""
    progress = Progress()
    try:
        with client_errors(asked), view_on(asked.screen) as view:
            for change in in_background(asked.client.watch(ref), timeout):
                view.show(progress, progress.take(change) if change is not None else ())
            return _ended(asked, ref, progress)
    except KeyboardInterrupt:
        raise _goes_on("not watched any more.", "Ctrl-C ended watching only.", ref, ExitStatus.INTERRUPTED) from None
    except TimedOut:
        said = f"{timeout.total_seconds():g} s have passed" if timeout else "the time has passed"
        raise _goes_on("watching timed out.", f"{said} ({progress.line()}).", ref, ExitStatus.TIMED_OUT) from None


def _ended(asked: Asked, ref: str, progress: Progress) -> JobInvocationDocument:
    last = progress.invocation
    return last if last is not None and last.status.is_end else asked.client.job_invocation(ref)


def _goes_on(what: str, why: str, ref: str, status: ExitStatus) -> CommandError:
    do = f"the job goes on. Watch it again: chargehand job watch {ref}; cancel it: chargehand job cancel {ref}"
    return CommandError(what, why=why, do=do, status=status)


def in_background(source: Iterator[T], timeout: timedelta | None) -> Iterator[T | None]:
    """What a blocking iterator gives, read by a thread, with None every quarter of a second in between, so that a deadline
    and Ctrl-C are seen at once. TimedOut at the deadline; what the iterator raises is raised here."""
    deadline = None if timeout is None else time.monotonic() + timeout.total_seconds()
    arrived: queue.SimpleQueue[tuple[str, T | BaseException | None]] = queue.SimpleQueue()

    def read() -> None:
        try:
            for item in source:
                arrived.put(("item", item))
            arrived.put(("end", None))
        except Exception as error:  # noqa: BLE001 (raised where it is waited for)
            arrived.put(("error", error))

    threading.Thread(target=read, daemon=True, name="reads the stream").start()
    while True:
        if deadline is not None and time.monotonic() >= deadline:
            raise TimedOut
        try:
            kind, value = arrived.get(timeout=_TICK_S)
        except queue.Empty:
            yield None
            continue
        if kind == "end":
            return
        if isinstance(value, BaseException):
            raise value
        yield value


# --- the end -----------------------------------------------------------------------------------------------------------


def report(asked: Asked, invocation: JobInvocationDocument, *, lines: int, is_raw: bool) -> int:
    """Print what a job came to. The exit status: 0 if every job task succeeded, else 1."""
    ref = str(invocation.job_invocation_id)
    with client_errors(asked):
        match asked.screen.output:
            case "json":
                asked.screen.json(job_document(invocation, list(asked.client.job_tasks(ref))))
            case "jsonl":
                asked.screen.json_lines(job_task.model_dump(mode="json") for job_task in asked.client.job_tasks(ref))
            case _:
                print_summary(asked, invocation, lines=lines, is_raw=is_raw)
    asked.screen.say(f"job {ref}, page {asked.client.page_of(invocation.job_invocation_id)}")
    return exit_status_of(invocation)


def print_summary(asked: Asked, invocation: JobInvocationDocument, *, lines: int, is_raw: bool) -> None:
    """Equal output once, failures first, and the counts."""
    ref = str(invocation.job_invocation_id)
    _print_groups(asked, in_order(asked.client.groups(ref)), ref, lines, is_raw)
    asked.screen.print(last_line(invocation))


def exit_status_of(invocation: JobInvocationDocument) -> int:
    """0 as long as nothing has gone wrong."""
    wrong = (JobInvocationStatus.FAILED, JobInvocationStatus.CANCELLED, JobInvocationStatus.CANCELLING)
    if invocation.status is JobInvocationStatus.REFUSED:
        return ExitStatus.REFUSED
    return ExitStatus.NOT_SUCCEEDED if invocation.status in wrong else ExitStatus.SUCCEEDED


def _print_groups(asked: Asked, groups: Iterable[OutputGroup], ref: str, lines: int, is_raw: bool) -> None:
    rows = list(groups)
    for group in rows[:_MAX_GROUPS_SHOWN]:
        _print_heading(asked, group)
        for stream in (Stream.STDOUT, Stream.STDERR):
            if group.lengths.get(stream):
                _print_output(asked, group, stream, ref, lines, is_raw)
        asked.screen.print()
    if len(rows) > _MAX_GROUPS_SHOWN:
        left = sum(group.count for group in rows[_MAX_GROUPS_SHOWN:])
        asked.screen.print(f"{left} more hosts in {len(rows) - _MAX_GROUPS_SHOWN} groups: chargehand job output {ref}")


def _print_heading(asked: Asked, group: OutputGroup) -> None:
    text = heading(group)
    if not asked.screen.has_colour(sys.stdout):
        asked.screen.print(text)
        return
    colour = {JobTaskStatus.FAILED: 31, JobTaskStatus.SUCCEEDED: 32}.get(group.status, 33)
    asked.screen.print(f"\x1b[1;{colour}m{text}\x1b[0m")


def _print_output(asked: Asked, group: OutputGroup, stream: Stream, ref: str, lines: int, is_raw: bool) -> None:
    data = b"".join(asked.client.output(group.example_job_task_id, stream, limit=_MAX_SHOWN_BYTES))
    clean = OutputFilter(asked.screen.escapes(is_raw, sys.stdout)).feed(data, final=True)
    text, left_out = cut(clean.decode("utf-8", "surrogateescape"), lines)
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape") + b"\n")
    sys.stdout.buffer.flush()
    if left_out or group.lengths[stream] > _MAX_SHOWN_BYTES:
        more = f"{left_out} more lines" if group.lengths[stream] <= _MAX_SHOWN_BYTES else "more"
        asked.screen.print(f"… {more}: chargehand job output {ref} --host {group.hosts[0]} --stream {stream.value}")


def start_watching(asked: Asked, ref: str, timeout: timedelta | None, *, lines: int, is_raw: bool) -> int:
    """Watch, then report."""
    return report(asked, watch_to_the_end(asked, ref, timeout=timeout), lines=lines, is_raw=is_raw)


def stream_changes(asked: Asked, ref: str, timeout: timedelta | None) -> int:
    """`job watch --output jsonl`: every change as a line."""
    last: JobInvocationDocument | None = None
    try:
        with client_errors(asked):
            for change in in_background(asked.client.watch(ref), timeout):
                if isinstance(change, JobInvocationDocument):
                    last = change
                asked.screen.json_lines(_change_documents(change))
    except KeyboardInterrupt:
        return ExitStatus.INTERRUPTED
    except TimedOut:
        return ExitStatus.TIMED_OUT
    return exit_status_of(last) if last is not None else ExitStatus.SUCCEEDED


def _change_documents(change: Change | None) -> Iterator[dict[str, object]]:
    if isinstance(change, JobInvocationDocument):
        yield {"invocation": change.model_dump(mode="json")}
    elif change is not None:
        for job_task in change:
            yield {"job_task": job_task.model_dump(mode="json")}
