"""A job invocation as readers see it: its definition, its time, and counts that change with its job tasks.

Owns the fold of the planner's and the dispatcher's events about an invocation as a whole. Monotonic: only what is known
moves it on, in whatever order it comes to be known.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from chargehand_schemas.dispatch import ConcurrencyChanged, Halt, JobInvocationDue, JobInvocationEnded
from chargehand_schemas.frozen import replace
from chargehand_schemas.planning import (
    JobInvocationAccepted,
    JobInvocationRefused,
    JobInvocationScheduled,
    JobTasksPlanned,
)
from chargehand_schemas.properties import ExecutionProperties
from chargehand_schemas.reasons import JobInvocationStatus, JobTaskStatus, Reason

from .job_task import JobTask

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class JobInvocation:
    """One invocation. `counts` are those of the job tasks known so far; `said_counts` what the dispatcher said at its end;
    `edit` the concurrency that was put in force last, and when.

    `steps` of its ladder, as ladder.py keeps them: its acceptance, and who asked to cancel the whole of it.
    """

    job_invocation_id: UUID
    created_at: datetime
    definition: JobInvocationAccepted | None = None
    refusal: str = ""
    refused_by: str = ""
    detail: str = ""
    refused_at: datetime | None = None
    start_at: datetime | None = None
    due_at: datetime | None = None
    total: int = 0
    is_cancel_requested: bool = False
    ended: JobInvocationStatus | None = None
    ended_at: datetime | None = None
    said_counts: Mapping[str, int] = field(default_factory=dict)
    said_reasons: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[JobTaskStatus, int] = field(default_factory=dict)
    reasons: Mapping[Reason, int] = field(default_factory=dict)
    told: tuple[str, ...] = ()
    steps: str = ""
    position: int = 0
    halt: Halt | None = None
    edit: tuple[datetime, int | None] | None = None

    @property
    def properties(self) -> ExecutionProperties | None:
        """Those in force; None while it is not known what it is."""
        if self.definition is None:
            return None
        known = self.definition.properties
        return known if self.edit is None else known.model_copy(update={"concurrency": self.edit[1]})

    @property
    def status(self) -> JobInvocationStatus:
        if self.ended is not None:
            return self.ended
        if self.definition is None and self.refusal:
            return JobInvocationStatus.REFUSED
        if self.is_cancel_requested:
            return JobInvocationStatus.CANCELLING
        if self.due_at is not None or self.total or self.counts:
            return JobInvocationStatus.RUNNING
        return JobInvocationStatus.SCHEDULED

    @property
    def actor(self) -> str:
        return self.definition.actor if self.definition is not None else self.refused_by


def accept(invocation: JobInvocation, event: JobInvocationAccepted, steps: str) -> JobInvocation:
    """The planner accepted it: what it is, for ever. `steps`: its ladder with that."""
    if invocation.definition is not None:
        return replace(invocation, steps=steps)
    return replace(invocation, definition=event, created_at=event.time, steps=steps)


def refuse(invocation: JobInvocation, event: JobInvocationRefused) -> JobInvocation:
    """The planner refused a command. A refused repeat does not touch an invocation that was accepted before."""
    if invocation.refused_at is not None and invocation.refused_at <= event.time:
        return invocation
    created_at = invocation.created_at if invocation.definition is not None else event.time
    return replace(
        invocation,
        refusal=event.reason.value,
        detail=event.detail,
        refused_by=event.actor,
        refused_at=event.time,
        created_at=created_at,
    )


def schedule(invocation: JobInvocation, event: JobInvocationScheduled) -> JobInvocation:
    return replace(invocation, start_at=event.start_at)


def begin(invocation: JobInvocation, event: JobInvocationDue) -> JobInvocation:
    """Its time has come; the first such word counts."""
    if invocation.due_at is not None and invocation.due_at <= event.time:
        return invocation
    return replace(invocation, due_at=event.time)


def plan(invocation: JobInvocation, event: JobTasksPlanned) -> JobInvocation:
    return replace(invocation, total=max(invocation.total, event.total))


def request_cancel(invocation: JobInvocation, steps: str) -> JobInvocation:
    """A cancel of all of it. One of single job tasks shows at those. `steps`: its ladder with that."""
    return replace(invocation, is_cancel_requested=True, steps=steps)


def change_concurrency(invocation: JobInvocation, event: ConcurrencyChanged) -> JobInvocation:
    """Another limit is in force; the last such word counts."""
    if invocation.edit is not None and invocation.edit[0] >= event.time:
        return invocation
    return replace(invocation, edit=(event.time, event.concurrency))


def end(invocation: JobInvocation, event: JobInvocationEnded) -> JobInvocation:
    """The dispatcher ended it; the first such word counts."""
    if invocation.ended_at is not None and invocation.ended_at <= event.time:
        return invocation
    return replace(
        invocation,
        ended=event.status,
        ended_at=event.time,
        total=max(invocation.total, event.total),
        said_counts=event.counts,
        said_reasons=event.reasons,
        halt=event.halt,
    )


def recount(invocation: JobInvocation, changes: Iterable[tuple[JobTask | None, JobTask]]) -> JobInvocation:
    """Counts follow job tasks from their former states (None: new) to their present ones."""
    counts, reasons = dict(invocation.counts), dict(invocation.reasons)
    for before, after in changes:
        if before is not None:
            _add(counts, before.status, -1)
            _add(reasons, before.reason, -1)
        _add(counts, after.status, 1)
        _add(reasons, after.reason, 1)
    if counts == invocation.counts and reasons == invocation.reasons:
        return invocation
    return replace(invocation, counts=counts, reasons=reasons)


def _add(counts: dict[K, int], key: K | None, by: int) -> None:
    if key is None:
        return
    counts[key] = counts.get(key, 0) + by
    if not counts[key]:
        del counts[key]


def differs_at_end(invocation: JobInvocation) -> bool:
    """Whether our counts are not those the dispatcher ended it with: a message was lost, and somebody must know."""
    said = {status: count for status, count in invocation.said_counts.items() if count}
    return invocation.ended is not None and {str(s): n for s, n in invocation.counts.items()} != said
