"""`job output`: what hosts printed, byte for byte, made harmless on a terminal and plain in a pipe.

Owns the choice of hosts and streams, and how several hosts are kept apart.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO
from uuid import UUID

import click

from ..errors import CommandError, ExitStatus
from ..help import Command
from ..options import Asked, common_options
from .completions import complete_hosts
from .frame import client_errors
from .job import ref_argument

if TYPE_CHECKING:
    from chargehand_schemas.api import JobTaskDocument
    from chargehand_schemas.reasons import Stream

    from ..client.http import AttemptOver

_STREAMS = ("stdout", "stderr")


@click.command(cls=Command)
@ref_argument
@click.option(
    "--host", "hosts", multiple=True, metavar="NAME", shell_complete=complete_hosts, help="Only there; repeat it."
)
@click.option("--stream", type=click.Choice(_STREAMS), help="Only this one; both otherwise.")
@click.option("--attempt", type=click.IntRange(1), help="Of this attempt; the last one otherwise.")
@click.option("--follow", "-f", is_flag=True, help="Go on as it is printed, until the host has ended. One host only.")
@click.option("--raw", "is_raw", is_flag=True, help="Print it unchanged, control sequences too.")
@common_options
def output(
    asked: Asked,
    ref: str,
    hosts: Sequence[str],
    stream: str | None,
    attempt: int | None,
    follow: bool,
    is_raw: bool,
) -> int:
    """What a job printed on its hosts: stdout to stdout, stderr to stderr.

    Each attempt has its own output. Followed, a host that is tried again is followed into its next attempt.

    \b
    chargehand job output @last --host web1              of its last attempt that ran
    chargehand job output @last --host web1 --attempt 1  of the first one
    chargehand job output @last --host web1 --follow     as it is printed
    """
    from chargehand_schemas.reasons import Stream

    streams = [Stream(stream)] if stream else list(Stream)
    with client_errors(asked):
        job_tasks = _chosen(asked, ref, hosts)
        if follow:
            return _follow(asked, job_tasks, streams, attempt, is_raw)
        if not asked.screen.is_table:
            return _print_documents(asked, job_tasks, streams, attempt)
        for job_task in _with_attempt(asked, job_tasks, attempt):
            _print(asked, job_task, streams, attempt, is_raw, is_one=len(job_tasks) == 1)
    return ExitStatus.SUCCEEDED


def _chosen(asked: Asked, ref: str, hosts: Sequence[str]) -> list[JobTaskDocument]:
    found = list(asked.client.job_tasks(ref)) if len(hosts) != 1 else list(asked.client.job_tasks(ref, host=hosts[0]))
    chosen = [job_task for job_task in found if not hosts or job_task.host in hosts]
    missing = sorted(set(hosts) - {job_task.host for job_task in chosen})
    if missing:
        raise CommandError(
            f"{missing[0]!r} is none of the job's hosts.",
            why=f"job {ref} did not run there.",
            do=f"see chargehand job show {ref}.",
        )
    return chosen


def _with_attempt(asked: Asked, job_tasks: Sequence[JobTaskDocument], attempt: int | None) -> Iterator[JobTaskDocument]:
    """Those that have the attempt; of the others it is said."""
    from ..terminal.escapes import visible

    for job_task in job_tasks:
        if attempt is None or attempt <= job_task.attempts:
            yield job_task
        elif len(job_tasks) == 1:
            raise CommandError(
                f"there is no attempt {attempt} of {visible(job_task.host)}.",
                why=f"it has {job_task.attempts}.",
                do=f"see chargehand job show {job_task.job_invocation_id} --host {visible(job_task.host)}.",
            )
        else:
            asked.screen.say(f"note: {visible(job_task.host)} has no attempt {attempt}")


def _print(
    asked: Asked,
    job_task: JobTaskDocument,
    streams: Sequence[Stream],
    attempt: int | None,
    is_raw: bool,
    *,
    is_one: bool,
) -> None:
    from ..terminal.escapes import visible

    if not is_one:
        asked.screen.print(f"== {visible(job_task.host)} ({job_task.status.value})")
    for stream in streams:
        # Among several hosts everything is on stdout: apart, nobody could tell which line is whose.
        target = sys.stderr if stream.value == "stderr" and is_one else sys.stdout
        _copy(asked, asked.client.output(job_task.job_task_id, stream, attempt=attempt), target, is_raw)
        for start, end in _omitted(asked, job_task, stream, attempt):
            asked.screen.say(
                f"note: {visible(job_task.host)} printed more on {stream.value} than is kept: bytes {start} to {end}, "
                f"{end - start} of them, are left out"
            )


def _omitted(
    asked: Asked, job_task: JobTaskDocument, stream: Stream, attempt: int | None
) -> tuple[tuple[int, int], ...]:
    """Ranges that a cap left out, of the attempt that is meant."""
    streams = job_task.streams
    if attempt is not None:
        known = asked.client.job_task(job_task.job_task_id).attempts_detail
        streams = next((one.streams for one in known if one.attempt == attempt), {})
    shown = streams.get(stream)
    return shown.omitted if shown is not None else ()


def _copy(asked: Asked, pieces: Iterator[bytes], target: Any, is_raw: bool) -> None:
    from ..terminal.escapes import OutputFilter

    screen = OutputFilter(asked.screen.escapes(is_raw, target))
    target.flush()
    for piece in pieces:
        target.buffer.write(screen.feed(piece))
    target.buffer.write(screen.feed(b"", final=True))
    target.buffer.flush()


def _follow(
    asked: Asked, job_tasks: Sequence[JobTaskDocument], streams: Sequence[Stream], attempt: int | None, is_raw: bool
) -> int:
    from ..client.http import AttemptOver
    from ..terminal.escapes import OutputFilter

    if len(job_tasks) != 1:
        raise CommandError(
            "only one host can be followed.",
            why=f"the job has {len(job_tasks)} of them.",
            do="name it with --host NAME, or watch the job with `chargehand job watch`.",
        )
    targets = {stream: _target(stream) for stream in streams}
    filters = {stream: OutputFilter(asked.screen.escapes(is_raw, _text_target(stream))) for stream in streams}
    told_of = 0
    try:
        for piece in asked.client.follow_output(job_tasks[0].job_task_id, attempt=attempt):
            if isinstance(piece, AttemptOver):
                for stream, target in targets.items():
                    target.write(filters[stream].feed(b"", final=True))
                    target.flush()
                filters = {
                    stream: OutputFilter(asked.screen.escapes(is_raw, _text_target(stream))) for stream in streams
                }
                asked.screen.say(f"note: {_over_words(piece, is_told=piece.attempt == told_of)}")
                told_of = piece.attempt
            elif piece.stream in targets:
                targets[piece.stream].write(filters[piece.stream].feed(piece.data))
                targets[piece.stream].flush()
    except KeyboardInterrupt:
        return ExitStatus.INTERRUPTED
    finally:
        for stream, target in targets.items():
            target.write(filters[stream].feed(b"", final=True))
            target.flush()
    return ExitStatus.SUCCEEDED


def _over_words(over: AttemptOver, *, is_told: bool) -> str:
    """`attempt 1 ended with exit status 3; attempt 2 begins`; not again how it ended."""
    from datetime import UTC, datetime

    from ..terminal.escapes import visible
    from ..terminal.ladder import next_try_words

    if over.signal:
        ended = f"was killed by {visible(over.signal)}"
    elif over.outcome == "exited":
        ended = f"ended with exit status {over.exit_status}"
    else:
        ended = f"is over ({visible(over.outcome.replace('_', ' ')) or 'nothing was told of it'})"
    if over.next_attempt is not None and is_told:
        return f"attempt {over.next_attempt} begins"
    if over.next_attempt is not None:
        return f"attempt {over.attempt} {ended}; attempt {over.next_attempt} begins"
    if over.next_try_at is not None:
        return f"attempt {over.attempt} {ended}; {next_try_words(over.next_try_at, datetime.now(UTC))}"
    return f"attempt {over.attempt} {ended}"


def _text_target(stream: Stream) -> Any:
    return sys.stderr if stream.value == "stderr" else sys.stdout


def _target(stream: Stream) -> BinaryIO:
    target: BinaryIO = _text_target(stream).buffer
    return target


def _print_documents(
    asked: Asked, job_tasks: Sequence[JobTaskDocument], streams: Sequence[Stream], attempt: int | None
) -> int:
    chosen = _with_attempt(asked, job_tasks, attempt)
    rows = (_document(asked, job_task, stream, attempt) for job_task in chosen for stream in streams)
    if asked.screen.output == "json":
        asked.screen.json(list(rows))
    else:
        asked.screen.json_lines(rows)
    return ExitStatus.SUCCEEDED


def _document(asked: Asked, job_task: JobTaskDocument, stream: Stream, attempt: int | None) -> dict[str, object]:
    """One stream of one host: `text` where it is UTF-8, else `base64`."""
    job_task_id: UUID = job_task.job_task_id
    data = b"".join(asked.client.output(job_task_id, stream, attempt=attempt))
    row: dict[str, object] = {
        "job_task_id": str(job_task_id),
        "host": job_task.host,
        "stream": stream.value,
        "length": len(data),
    }
    if attempt is not None:
        row["attempt"] = attempt
    if omitted := _omitted(asked, job_task, stream, attempt):
        row["omitted"] = [list(span) for span in omitted]
    try:
        return {**row, "text": data.decode()}
    except UnicodeDecodeError:
        return {**row, "base64": base64.b64encode(data).decode()}
