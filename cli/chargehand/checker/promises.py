"""The promises of the design, each as a function from a recording to what breaks it. Pure.

Owns the judgement. It believes nothing but the log: limits, due times and tries are computed here anew, not asked for.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeGuard
from uuid import UUID

from chargehand_schemas.base import Item, JobTaskItem
from chargehand_schemas.dispatch import (
    AttemptDue,
    ConcurrencyChanged,
    JobInvocationEnded,
    JobTaskEnded,
    JobTaskStatusChanged,
)
from chargehand_schemas.execution import AttemptEnded, AttemptNeverStarted, AttemptStarted
from chargehand_schemas.ids import AttemptId
from chargehand_schemas.planning import AttemptBound, AttemptRefused, AttemptVoided
from chargehand_schemas.plans import batch_of, failures_allowed, splay_offset
from chargehand_schemas.progress import OutputOmitted, ProgressReport
from chargehand_schemas.properties import ExecutionProperties
from chargehand_schemas.reasons import JobTaskStatus, Stream

from .recording import Entry, InvocationLog, Recording

CLOCK_TOLERANCE = timedelta(seconds=5)
VERDICT_TOLERANCE = timedelta(seconds=60)
_FREES_SLOT = frozenset({JobTaskStatus.WAITING, JobTaskStatus.WAITING_FOR_CHECK_IN})


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise: its name, the job task or attempt it is about, what was seen, and where in the log."""

    promise: str
    subject: str
    detail: str
    place: str = ""

    def __str__(self) -> str:
        return f"{self.promise}: {self.subject}: {self.detail}" + (f" ({self.place})" if self.place else "")


Rule = Callable[[InvocationLog, Recording], Iterator[Violation]]


def check(recording: Recording, *, is_finished: bool = True) -> list[Violation]:
    """Every violation found. `is_finished`: nothing more is to come, so that missing verdicts and output count."""
    rules = _ALWAYS + (_AT_THE_END if is_finished else ())
    found = [one for log in recording.invocations.values() for rule in rules for one in rule(log, recording)]
    return [*found, *slots_never_exceed_the_size_of_the_proxy(recording)]


def _verdicts(log: InvocationLog) -> dict[UUID, list[Entry]]:
    found: dict[UUID, list[Entry]] = defaultdict(list)
    for entry in log.dispatch:
        if isinstance(entry.item, JobTaskEnded):
            found[entry.item.job_task_id].append(entry)
    return found


def one_verdict(log: InvocationLog, _: Recording) -> Iterator[Violation]:
    """Promise 1: each job task ends exactly once."""
    for job_task_id, entries in _verdicts(log).items():
        for entry in entries[1:]:
            yield Violation("one verdict", str(job_task_id), f"{len(entries)} verdicts", entry.place)
        if job_task_id not in log.planned:
            yield Violation(
                "one verdict", str(job_task_id), "a verdict of a job task that was never planned", entries[0].place
            )


def counts_are_those_of_the_verdicts(log: InvocationLog, _: Recording) -> Iterator[Violation]:
    """Promise 1: the end of an invocation says what its verdicts say."""
    for entry in log.dispatch:
        if isinstance(entry.item, JobInvocationEnded):
            counted = Counter(_ended(e[0]).status.value for e in _verdicts(log).values())
            said = {status: n for status, n in entry.item.counts.items() if n}
            if said != dict(counted) or entry.item.total != len(log.planned):
                detail = f"says {said} of {entry.item.total}, verdicts are {dict(counted)} of {len(log.planned)}"
                yield Violation("one verdict", str(entry.item.job_invocation_id), detail, entry.place)


def slots_never_exceed_the_limit(log: InvocationLog, _: Recording) -> Iterator[Violation]:
    """Promise 4: at every offset of dispatch-events the slots held are at most the limit."""
    limit = log.scheduled.properties.concurrency if log.scheduled else None
    held: dict[UUID, int] = {}
    for entry in log.dispatch:
        item = entry.item
        if isinstance(item, ConcurrencyChanged):
            limit = item.concurrency
        elif isinstance(item, AttemptDue):
            held[item.job_task_id] = item.attempt
            if limit is not None and len(held) > limit:
                yield Violation("limits", str(item.job_task_id), f"{len(held)} slots held, limit {limit}", entry.place)
        elif _frees_slot(item):
            held.pop(item.job_task_id, None)


def _frees_slot(item: Item) -> TypeGuard[JobTaskItem]:
    return isinstance(item, JobTaskEnded) or (isinstance(item, JobTaskStatusChanged) and item.status in _FREES_SLOT)


def slots_never_exceed_the_size_of_the_proxy(recording: Recording) -> Iterator[Violation]:
    """Promise 4: over all invocations, by the one clock of the dispatcher's store, the slots of a proxy are at most what was its
    limit at each claim. What is free in the same instant is free before."""
    entries = [entry for log in recording.invocations.values() for entry in log.dispatch]
    moves = sorted((e for e in entries if isinstance(e.item, AttemptDue) or _frees_slot(e.item)), key=_by_time)
    held: dict[UUID, str] = {}
    slots: Counter[str] = Counter()
    for entry in moves:
        item = entry.item
        assert isinstance(item, JobTaskItem)  # noqa: S101 (narrows for the type checker)
        slots[held.pop(item.job_task_id, "")] -= 1
        if isinstance(item, AttemptDue):
            held[item.job_task_id] = item.proxy
            slots[item.proxy] += 1
            if item.proxy_limit is not None and slots[item.proxy] > item.proxy_limit:
                detail = f"{slots[item.proxy]} slots of proxy {item.proxy} held, limit {item.proxy_limit}"
                yield Violation("limits", str(item.job_task_id), detail, entry.place)


def _by_time(entry: Entry) -> tuple[datetime, bool, str, int, int]:
    return entry.item.time, isinstance(entry.item, AttemptDue), entry.topic, entry.partition, entry.offset


def batches_go_one_after_another(log: InvocationLog, _: Recording) -> Iterator[Violation]:
    """Promise 4 for rolling: nothing of a batch is dispatched before all earlier ones have their verdicts, nor after there were
    more failures than allowed."""
    rolling = log.scheduled.properties.rolling if log.scheduled else None
    if rolling is None or not log.planned:
        return
    ordinals = {planned.job_task_id: planned.ordinal for planned in log.planned.values()}
    first, ended, failures = 0, set[int](), 0
    for entry in log.dispatch:
        item = entry.item
        if isinstance(item, JobTaskEnded) and item.job_task_id in ordinals:
            ended.add(ordinals[item.job_task_id])
            failures += item.status is JobTaskStatus.FAILED
            while first in ended:
                first += 1
        elif isinstance(item, AttemptDue) and item.job_task_id in ordinals:
            if first < batch_of(rolling, log.total, ordinals[item.job_task_id]).begins:
                detail = f"dispatched before job task {first} of an earlier batch has its verdict"
                yield Violation("rolling", str(item.job_task_id), detail, entry.place)
            if failures > failures_allowed(rolling, log.total):
                yield Violation("rolling", str(item.job_task_id), f"dispatched after {failures} failures", entry.place)


def nothing_begins_before_its_time(log: InvocationLog, _: Recording) -> Iterator[Violation]:
    """Promise 4: due times lie in the splay interval; nothing starts before it is due."""
    if log.scheduled is None:
        return
    start = log.scheduled.start_at
    for attempt, facts in log.facts.items():
        due = log.dues[attempt].issued_at if attempt in log.dues else start
        for entry in facts:
            if isinstance(entry.item, AttemptStarted) and entry.item.started_at < due - CLOCK_TOLERANCE:
                yield Violation("due times", str(attempt), f"started {entry.item.started_at}, due {due}", entry.place)
    for entry in log.dispatch:
        item = entry.item
        if isinstance(item, AttemptDue):
            earliest = start + splay_offset(item.job_task_id, log.scheduled.properties.splay)
            if item.issued_at < earliest:
                yield Violation("due times", str(item.job_task_id), f"dispatched before {earliest}", entry.place)


def tries_and_their_spacing(log: InvocationLog, _: Recording) -> Iterator[Violation]:
    """Promise 4: tries <= tries, a retry not before retry_interval after the end of the try before, and only of what is retried."""
    if log.scheduled is None:
        return
    properties = log.scheduled.properties
    retries: dict[UUID, datetime] = {}
    tried: dict[UUID, int] = {}
    for entry in log.dispatch:
        item = entry.item
        if isinstance(item, JobTaskStatusChanged) and item.status is JobTaskStatus.WAITING and item.due_at:
            retries[item.job_task_id] = item.due_at
            if item.tried > tried.get(item.job_task_id, 0):
                tried[item.job_task_id] = item.tried
                yield from _is_retried_as_it_should_be(item, item.due_at, properties, entry)
        elif isinstance(item, AttemptDue):
            due = retries.pop(item.job_task_id, None)
            if due is not None and item.issued_at < due:
                yield Violation("tries", str(item.job_task_id), f"dispatched {item.issued_at}, due {due}", entry.place)
            if item.tried >= properties.tries:
                detail = f"attempt {item.attempt} after {item.tried} of {properties.tries} tries"
                yield Violation("tries", str(item.job_task_id), detail, entry.place)


def _is_retried_as_it_should_be(
    item: JobTaskStatusChanged, due: datetime, properties: ExecutionProperties, entry: Entry
) -> Iterator[Violation]:
    if due < item.time + properties.retry_interval:
        yield Violation(
            "tries", str(item.job_task_id), f"to be tried again {due - item.time} after its end", entry.place
        )
    if item.after is not None and item.after not in properties.retry_on:
        yield Violation("tries", str(item.job_task_id), f"tried again after {item.after.value}", entry.place)


def attempts_count_up_by_one(log: InvocationLog, _: Recording) -> Iterator[Violation]:
    """Promise 2: each attempt is dispatched once."""
    last: dict[UUID, int] = {}
    for entry in log.dispatch:
        if isinstance(entry.item, AttemptDue):
            before = last.get(entry.item.job_task_id, 0)
            if entry.item.attempt != before + 1:
                detail = f"attempt {entry.item.attempt} after {before}"
                yield Violation("no doubled run", str(entry.item.job_task_id), detail, entry.place)
            last[entry.item.job_task_id] = entry.item.attempt


def one_decision_per_attempt(log: InvocationLog, _: Recording) -> Iterator[Violation]:
    """Rule BIND: an attempt is bound, refused or voided once."""
    decided: dict[AttemptId, str] = {}
    for entry in log.planning:
        if isinstance(entry.item, AttemptBound | AttemptRefused | AttemptVoided):
            attempt = AttemptId(entry.item.job_task_id, entry.item.attempt)
            if attempt in decided:
                detail = f"{type(entry.item).__name__} after {decided[attempt]}"
                yield Violation("one decision", str(attempt), detail, entry.place)
            decided[attempt] = type(entry.item).__name__


def started_once_on_one_boot(log: InvocationLog, _: Recording) -> Iterator[Violation]:
    """Promise 2: an attempt starts at most once, and what never started does not run."""
    for attempt, facts in log.facts.items():
        starts = [e for e in facts if isinstance(e.item, AttemptStarted)]
        boots = {e.item.host_boot_id for e in starts if isinstance(e.item, AttemptStarted)}
        if len(boots) > 1:
            yield Violation("no doubled run", str(attempt), f"started on {len(boots)} boots", starts[-1].place)
        never = [e for e in facts if isinstance(e.item, AttemptNeverStarted)]
        ran = [e for e in facts if isinstance(e.item, AttemptStarted | AttemptEnded)]
        if never and ran:
            yield Violation("no doubled run", str(attempt), "said to have run and never to have started", ran[0].place)


def never_two_attempts_at_once(log: InvocationLog, _: Recording) -> Iterator[Violation]:
    """Promise 2: by the hosts' times, no attempt starts before the one before it has ended."""
    by_job_task: dict[UUID, dict[int, tuple[datetime | None, datetime | None]]] = defaultdict(dict)
    for attempt, facts in log.facts.items():
        started = [e.item.started_at for e in facts if isinstance(e.item, AttemptStarted)]
        ended = [e.item.ended_at for e in facts if isinstance(e.item, AttemptEnded)]
        by_job_task[attempt.job_task_id][attempt.attempt] = (min(started, default=None), min(ended, default=None))
    for job_task_id, spans in by_job_task.items():
        latest_end: datetime | None = None
        for number in sorted(spans):
            started_at, ended_at = spans[number]
            if started_at and latest_end and started_at < latest_end - CLOCK_TOLERANCE:
                yield Violation("two at once", f"{job_task_id}/{number}", f"started {started_at}, before {latest_end}")
            latest_end = ended_at or latest_end


def nothing_after_the_verdict(log: InvocationLog, _: Recording) -> Iterator[Violation]:
    """Promise 4: after its verdict nothing of a job task is dispatched or starts."""
    ended: dict[UUID, Entry] = {}
    for entry in log.dispatch:
        item = entry.item
        if isinstance(item, JobTaskEnded):
            ended.setdefault(item.job_task_id, entry)
        elif isinstance(item, JobTaskItem) and item.job_task_id in ended:
            detail = f"{type(item).__name__} after the verdict"
            yield Violation("nothing after the verdict", str(item.job_task_id), detail, entry.place)
    for attempt, facts in log.facts.items():
        verdict = ended.get(attempt.job_task_id)
        for entry in facts:
            is_late = verdict is not None and isinstance(entry.item, AttemptStarted)
            if is_late and verdict and entry.item.started_at > verdict.append_time + CLOCK_TOLERANCE:  # type: ignore[attr-defined]
                yield Violation("nothing after the verdict", str(attempt), "started after the verdict", entry.place)


def every_job_task_has_its_verdict(log: InvocationLog, recording: Recording) -> Iterator[Violation]:
    """Promise 2: every planned job task comes to its verdict by its own deadlines + 60 s."""
    verdicts = _verdicts(log)
    for job_task_id, planned in log.planned.items():
        deadline = _deadline(log, job_task_id)
        if job_task_id not in verdicts and (deadline is None or recording.ended_at > deadline + VERDICT_TOLERANCE):
            yield Violation(
                "no lost job", str(job_task_id), f"{planned.host_name} has no verdict (deadline {deadline})"
            )


def output_is_complete_and_by_digest(log: InvocationLog, _: Recording) -> Iterator[Violation]:
    """Promise 3: what an ended attempt says it published is there, without a hole, with that digest."""
    for attempt, facts in log.facts.items():
        for entry in facts:
            if isinstance(entry.item, AttemptEnded):
                for stream, kept in entry.item.kept.items():
                    found = _published(log.output.get(attempt, []), stream)
                    digest = hashlib.sha256(found).hexdigest()
                    said = entry.item.digests.get(stream, digest if not kept else "")
                    if len(found) != kept or digest != said:
                        detail = f"{stream.value}: {len(found)} bytes {digest[:12]}, said {kept} bytes {said[:12]}"
                        yield Violation("no lost output", str(attempt), detail, entry.place)
                break


_ALWAYS: tuple[Rule, ...] = (
    one_verdict,
    counts_are_those_of_the_verdicts,
    slots_never_exceed_the_limit,
    nothing_begins_before_its_time,
    tries_and_their_spacing,
    attempts_count_up_by_one,
    one_decision_per_attempt,
    started_once_on_one_boot,
    never_two_attempts_at_once,
    nothing_after_the_verdict,
    batches_go_one_after_another,
)
_AT_THE_END: tuple[Rule, ...] = (every_job_task_has_its_verdict, output_is_complete_and_by_digest)


def _published(entries: list[Entry], stream: Stream) -> bytes:
    """The published bytes of a stream, put together by range; a hole or an omitted range ends up left out."""
    pieces = sorted(
        ((e.item.offset, e.raw) for e in entries if isinstance(e.item, ProgressReport) and e.item.stream is stream),
        key=lambda piece: (piece[0], -len(piece[1])),
    )
    skips = {e.item.start: e.item.end for e in entries if isinstance(e.item, OutputOmitted) and e.item.stream is stream}
    whole, end = bytearray(), 0
    for offset, raw in pieces:
        while end in skips:
            end = skips[end]
        if offset <= end < offset + len(raw):
            whole += raw[end - offset :]
            end = offset + len(raw)
    return bytes(whole)


def _deadline(log: InvocationLog, job_task_id: UUID) -> datetime | None:
    deadline = log.run_deadlines.get(job_task_id)
    if deadline is not None or log.scheduled is None:
        return deadline
    return log.scheduled.start_at + log.scheduled.properties.splay + log.scheduled.properties.time_to_pickup


def _ended(entry: Entry) -> JobTaskEnded:
    assert isinstance(entry.item, JobTaskEnded)  # noqa: S101 (narrows for the type checker)
    return entry.item
