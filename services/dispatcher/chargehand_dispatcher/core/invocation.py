"""The state of one JobInvocation as the dispatcher keeps it: its time, its plan as it comes in, its counts, its end.

Owns what is true of an invocation as a whole. What is true of one job task is in table.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from chargehand_schemas.dispatch import (
    ConcurrencyChanged,
    Halt,
    JobInvocationDue,
    JobInvocationEnded,
    JobTaskEnded,
    PlanChunkMissing,
)
from chargehand_schemas.frozen import replace
from chargehand_schemas.ids import item_id
from chargehand_schemas.planning import (
    JobInvocationEdited,
    JobInvocationScheduled,
    JobTasksPlanned,
    PlannedJobTask,
)
from chargehand_schemas.plans import batch_of, failures_allowed, splay_offset
from chargehand_schemas.properties import ExecutionProperties
from chargehand_schemas.reasons import JobInvocationStatus, JobTaskStatus, Reason

from .job_task import JobTask
from .rules import Timers


@dataclass(frozen=True, slots=True)
class Invocation:
    """One JobInvocation. `start_at` None: only a cancel of it is known yet. `chunks` None: no part of its plan came.

    `chunks_in`, `lost_chunks`: those that came and those given up; `planned`: job tasks in the former, of `total`. `asks`: how
    often missing ones were asked for. `cancelled_job_tasks`: marks for those that are not planned yet. `edited_by`: the command
    that gave it its present concurrency, `edits`: all that were obeyed. Of a rolling one: `ahead` are the ordinals that ended in
    batches that have not begun; `halt`, where it was halted.
    """

    job_invocation_id: UUID
    start_at: datetime | None = None
    start_before: datetime | None = None
    properties: ExecutionProperties = field(default_factory=ExecutionProperties)
    due_said_at: datetime | None = None
    chunks: int | None = None
    chunks_in: frozenset[int] = frozenset()
    lost_chunks: frozenset[int] = frozenset()
    planned: int = 0
    total: int = 0
    asks: int = 0
    cancelled_job_tasks: frozenset[UUID] = frozenset()
    asked_for_chunks_at: datetime | None = None
    is_cancelled: bool = False
    is_ended: bool = False
    is_halted: bool = False
    halt: Halt | None = None
    edited_by: UUID | None = None
    edits: frozenset[UUID] = frozenset()
    ahead: frozenset[int] = frozenset()
    counts: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)
    traceparent: str | None = None

    @property
    def is_plan_complete(self) -> bool:
        """Whether every part of its plan came, or was given up."""
        return self.chunks is not None and len(self.chunks_in) + len(self.lost_chunks) >= self.chunks

    @property
    def is_swept(self) -> bool:
        """Whether there is nothing to be said to all its job tasks: cancelled, halted, or forgotten after the end."""
        return not (self.is_cancelled or self.is_halted or self.is_ended)

    @property
    def verdicts(self) -> int:
        return sum(self.counts.values())

    @property
    def unfinished(self) -> int:
        """How many job tasks of the plan that came have no verdict."""
        return max(0, self.planned + self.reasons.get(Reason.LOST_MESSAGE.value, 0) - self.verdicts)

    @property
    def failures(self) -> int:
        return self.counts.get(JobTaskStatus.FAILED.value, 0)

    @property
    def released(self) -> int | None:
        """Job tasks with a smaller ordinal may be claimed (rolling): those up to the end of the first batch in which one has no
        verdict yet; None: all."""
        if self.properties.rolling is None:
            return None
        passed = self.verdicts - len(self.ahead)
        return self.total if passed >= self.total else batch_of(self.properties.rolling, self.total, passed).ends

    def free_slots(self, held: int) -> int | None:
        """How many slots it may take beside those it holds; None: no limit. None at all once it is cancelled, halted or ended."""
        if self.is_cancelled or self.is_halted or self.is_ended:
            return 0
        limit = self.properties.concurrency
        return None if limit is None else max(0, limit - held)

    def missing_chunks(self) -> tuple[int, ...]:
        """Numbers of chunks that did not come; empty when none came at all."""
        return tuple(n for n in range(self.chunks or 0) if n not in self.chunks_in)


def schedule(invocation: Invocation, event: JobInvocationScheduled) -> Invocation:
    """Its time is known; a repeat changes nothing. A limit that its own log told of before (rule REST) stays in force."""
    if invocation.start_at is not None:
        return invocation
    properties = event.properties
    if invocation.edits:
        properties = properties.model_copy(update={"concurrency": invocation.properties.concurrency})
    return replace(
        invocation,
        start_at=event.start_at,
        start_before=event.start_before,
        properties=properties,
        traceparent=event.traceparent,
    )


def edit(
    invocation: Invocation, event: JobInvocationEdited, now: datetime
) -> tuple[Invocation, tuple[ConcurrencyChanged, ...]]:
    """Another concurrency limit binds the claims from here on, and that is said where claims are (docs/protocol.md section 3,
    item 10), also where it is the same: whoever reads both logs again comes to the same limit. What runs, runs out; a repeat
    takes nothing back."""
    if invocation.is_ended or invocation.start_at is None or event.command_id in invocation.edits:
        return invocation, ()
    known = with_concurrency(invocation, event.concurrency, event.command_id)
    return known, say_concurrency(known, now)


def with_concurrency(invocation: Invocation, concurrency: int | None, command_id: UUID) -> Invocation:
    properties = invocation.properties.model_copy(update={"concurrency": concurrency})
    return replace(invocation, properties=properties, edited_by=command_id, edits=invocation.edits | {command_id})


def say_concurrency(invocation: Invocation, now: datetime) -> tuple[ConcurrencyChanged, ...]:
    """`ConcurrencyChanged`, if its limit was edited."""
    if invocation.edited_by is None:
        return ()
    return (
        ConcurrencyChanged(
            id=item_id("concurrency-changed", invocation.edited_by),
            time=now,
            traceparent=invocation.traceparent,
            job_invocation_id=invocation.job_invocation_id,
            command_id=invocation.edited_by,
            concurrency=invocation.properties.concurrency,
        ),
    )


def say_due(invocation: Invocation, now: datetime) -> tuple[Invocation, tuple[JobInvocationDue, ...]]:
    """`JobInvocationDue`, once, when its start time has come and it was not cancelled before."""
    is_due = invocation.start_at is not None and now >= invocation.start_at
    if not is_due or invocation.due_said_at or invocation.is_cancelled or invocation.is_ended:
        return invocation, ()
    assert invocation.start_at  # noqa: S101 (seen above)
    due = JobInvocationDue(
        id=item_id("job-invocation-due", invocation.job_invocation_id),
        time=now,
        traceparent=invocation.traceparent,
        job_invocation_id=invocation.job_invocation_id,
        start_at=invocation.start_at,
    )
    return replace(invocation, due_said_at=now), (due,)


def take_chunk(invocation: Invocation, event: JobTasksPlanned, now: datetime) -> tuple[Invocation, tuple[JobTask, ...]]:
    """A part of the plan: new job tasks, each due at its own instant of the splay interval. A part that was given up is taken
    back while the invocation goes on."""
    if event.chunk in invocation.chunks_in:
        return invocation, ()
    if event.chunk in invocation.lost_chunks and not invocation.is_ended:
        invocation = _with_lost(invocation, -len(event.job_tasks))
    known = replace(
        invocation,
        chunks=event.chunks,
        total=event.total,
        chunks_in=invocation.chunks_in | {event.chunk},
        lost_chunks=invocation.lost_chunks - {event.chunk},
        planned=invocation.planned + len(event.job_tasks),
        due_said_at=invocation.due_said_at or now,
    )
    known = _in_its_order(known)
    start = known.start_at or now
    return known, tuple(_job_task(known, planned, start) for planned in event.job_tasks)


def _job_task(invocation: Invocation, planned: PlannedJobTask, start: datetime) -> JobTask:
    return JobTask(
        job_task_id=planned.job_task_id,
        job_invocation_id=invocation.job_invocation_id,
        host_id=planned.host_id,
        host_name=planned.host_name,
        proxy=planned.proxy,
        ordinal=planned.ordinal,
        due_at=start + splay_offset(planned.job_task_id, invocation.properties.splay),
    )


def count(invocation: Invocation, verdicts: Iterable[JobTaskEnded]) -> Invocation:
    """Verdicts are in. A rolling invocation with too many failures is halted by the first one too many.

    Before its plan is read (rule REST: its own log is folded first) it is not known whether it is rolling: their ordinals are kept
    until then."""
    if not invocation.total:
        verdicts = list(verdicts)
        invocation = replace(invocation, ahead=invocation.ahead.union(verdict.ordinal for verdict in verdicts))
        return _added(invocation, Counter((verdict.status, verdict.reason) for verdict in verdicts))
    if invocation.properties.rolling is None:
        return _added(invocation, Counter((verdict.status, verdict.reason) for verdict in verdicts))
    for verdict in verdicts:
        invocation = _count_rolling(invocation, verdict)
    return invocation


def count_alike(invocation: Invocation, status: JobTaskStatus, reason: Reason | None, number: int) -> Invocation:
    """So many verdicts that are alike are in, of an invocation that is not rolling."""
    return _added(invocation, {(status, reason): number})


def _added(invocation: Invocation, verdicts: Mapping[tuple[JobTaskStatus, Reason | None], int]) -> Invocation:
    counts, reasons = Counter(invocation.counts), Counter(invocation.reasons)
    for (status, reason), number in verdicts.items():
        counts[status.value] += number
        if reason is not None:
            reasons[reason.value] += number
    return replace(invocation, counts=dict(counts), reasons=dict(reasons))


def _count_rolling(invocation: Invocation, verdict: JobTaskEnded) -> Invocation:
    released = invocation.released or 0
    counted = _added(invocation, {(verdict.status, verdict.reason): 1})
    if verdict.ordinal >= released:
        counted = replace(counted, ahead=counted.ahead | {verdict.ordinal})
    return _halted_by(_caught_up(counted), verdict)


def _in_its_order(invocation: Invocation) -> Invocation:
    """Its plan is read: what its own log told of it before is judged by that (rule REST)."""
    if invocation.start_at is None:
        return invocation
    if invocation.properties.rolling is None:
        return replace(invocation, ahead=frozenset()) if invocation.ahead else invocation
    caught_up = _caught_up(invocation)
    return replace(caught_up, is_halted=caught_up.is_halted or _has_too_many_failures(caught_up))


def _caught_up(invocation: Invocation) -> Invocation:
    """What ended ahead of its batch counts when its batch has come."""
    while invocation.ahead:
        released = invocation.released or 0
        ahead = frozenset(ordinal for ordinal in invocation.ahead if ordinal >= released)
        if ahead == invocation.ahead:
            break
        invocation = replace(invocation, ahead=ahead)
    return invocation


def _halted_by(invocation: Invocation, verdict: JobTaskEnded) -> Invocation:
    rolling = invocation.properties.rolling
    if rolling is None or invocation.is_halted or not _has_too_many_failures(invocation):
        return invocation
    batch = batch_of(rolling, invocation.total, verdict.ordinal)
    halt = Halt(
        host_id=verdict.host_id,
        host_name=verdict.host_name,
        ordinal=verdict.ordinal,
        batch=batch.number,
        batch_begins=batch.begins,
        failures=invocation.failures,
        failure_limit=failures_allowed(rolling, invocation.total),
    )
    return replace(invocation, is_halted=True, halt=halt)


def _has_too_many_failures(invocation: Invocation) -> bool:
    rolling = invocation.properties.rolling
    return rolling is not None and invocation.failures > failures_allowed(rolling, invocation.total)


def uncount(invocation: Invocation, job_task: JobTask) -> Invocation:
    """A verdict is taken back: nobody has heard it (rule REST)."""
    counts, reasons = Counter(invocation.counts), Counter(invocation.reasons)
    if job_task.status is not None:
        counts[job_task.status.value] -= 1
    if job_task.reason is not None:
        reasons[job_task.reason.value] -= 1
    ahead = invocation.ahead - {job_task.ordinal}
    left = replace(invocation, counts=dict(+counts), reasons=dict(+reasons), ahead=ahead)
    is_halted = _has_too_many_failures(left)
    return replace(left, is_halted=is_halted, halt=left.halt if is_halted else None)


def end(invocation: Invocation, now: datetime) -> tuple[Invocation, tuple[JobInvocationEnded, ...]]:
    """`JobInvocationEnded`, once, when every planned job task has its verdict, or a cancel came before it was due."""
    is_never_planned = invocation.is_cancelled and invocation.start_at is not None and invocation.due_said_at is None
    is_complete = invocation.is_plan_complete and invocation.verdicts == invocation.total
    if invocation.is_ended or not (is_never_planned or is_complete):
        return invocation, ()
    return replace(invocation, is_ended=True), (_ended(invocation, now),)


def give_up_plan(invocation: Invocation, now: datetime) -> tuple[Invocation, tuple[JobInvocationEnded, ...]]:
    """Chunks that never came: what they planned counts as failed (lost_message). What did come goes on to its own verdicts."""
    chunks = invocation.chunks or 0
    lost = frozenset(range(chunks)) - invocation.chunks_in
    counted = _with_lost(invocation, invocation.total - invocation.planned)
    # The order of a rolling one is not known any more.
    is_halted = counted.is_halted or counted.properties.rolling is not None
    return end(replace(counted, chunks=chunks, lost_chunks=lost, is_halted=is_halted), now)


def _with_lost(invocation: Invocation, job_tasks: int) -> Invocation:
    """So many more job tasks are lost; fewer, if the number is negative."""
    failed, lost = JobTaskStatus.FAILED.value, Reason.LOST_MESSAGE.value
    counts = {**invocation.counts, failed: invocation.counts.get(failed, 0) + job_tasks}
    reasons = {**invocation.reasons, lost: invocation.reasons.get(lost, 0) + job_tasks}
    return replace(
        invocation,
        counts={word: number for word, number in counts.items() if number},
        reasons={word: number for word, number in reasons.items() if number},
    )


def is_given_up(invocation: Invocation, timers: Timers) -> bool:
    """Whether missing chunks were asked for often enough; while none at all came, the planner may just be away longer."""
    return invocation.chunks is not None and invocation.asks >= timers.chunk_asks


def mark_cancelled(invocation: Invocation, job_task_ids: Iterable[UUID]) -> Invocation:
    """Single job tasks are cancelled, which may not be planned yet (docs/protocol.md section 3, item 7)."""
    if invocation.is_ended or invocation.is_plan_complete:
        return invocation
    return replace(invocation, cancelled_job_tasks=invocation.cancelled_job_tasks.union(job_task_ids))


def plan_deadline(invocation: Invocation, timers: Timers) -> datetime | None:
    """When missing chunks are asked for, or given up after that; None if none is missing."""
    if invocation.is_ended or invocation.is_plan_complete or invocation.due_said_at is None:
        return None
    return (invocation.asked_for_chunks_at or invocation.due_said_at) + timers.chunk_missing_after


def ask_for_chunks(invocation: Invocation, now: datetime) -> tuple[Invocation, tuple[PlanChunkMissing, ...]]:
    missing = PlanChunkMissing(
        id=item_id("plan-chunk-missing", invocation.job_invocation_id, invocation.asks, now),
        time=now,
        traceparent=invocation.traceparent,
        job_invocation_id=invocation.job_invocation_id,
        chunks=invocation.missing_chunks(),
    )
    return replace(invocation, asked_for_chunks_at=now, asks=invocation.asks + 1), (missing,)


def _ended(invocation: Invocation, now: datetime) -> JobInvocationEnded:
    return JobInvocationEnded(
        id=item_id("job-invocation-ended", invocation.job_invocation_id),
        time=now,
        traceparent=invocation.traceparent,
        job_invocation_id=invocation.job_invocation_id,
        status=_status(invocation),
        total=invocation.total,
        counts=dict(invocation.counts),
        reasons=dict(invocation.reasons),
        halt=invocation.halt,
    )


def _status(invocation: Invocation) -> JobInvocationStatus:
    if invocation.counts.get(JobTaskStatus.SUCCEEDED.value, 0) == invocation.total and invocation.total:
        return JobInvocationStatus.SUCCEEDED
    if invocation.is_cancelled and not invocation.failures:
        return JobInvocationStatus.CANCELLED
    return JobInvocationStatus.FAILED
