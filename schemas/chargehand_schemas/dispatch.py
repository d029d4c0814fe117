"""Messages of the topic `dispatch-events`: what the dispatcher decided: due attempts, states, verdicts. Key: job_invocation_id.

Owns shape only. The rules are docs/protocol.md section 1.
"""

from __future__ import annotations

from uuid import UUID

from pydantic import Field

from .base import AttemptItem, Instant, InvocationItem, JobTaskItem, Model
from .reasons import JobInvocationStatus, JobTaskStatus, Reason


class JobInvocationDue(InvocationItem):
    """The start time has come: the planner resolves the targeting now."""

    start_at: Instant


class PlanChunkMissing(InvocationItem):
    """Chunks of the plan that did not arrive within 60 s, asked of the planner again. Empty: not one arrived."""

    chunks: tuple[int, ...] = ()


class ConcurrencyChanged(InvocationItem):
    """From here on claims are bound by another concurrency limit. None: no limit. `command_id` brought it about."""

    command_id: UUID
    concurrency: int | None


class AttemptDue(AttemptItem):
    """An attempt holds a slot of `proxy` and may start until `not_after`; it is over by `run_deadline`.

    `proxy_limit`: slots of the proxy in all, as in force at the claim; None in messages of before there were such limits.

    `earlier`: attempts of this job task before this one; `unknown`: those whose end is not known; `unlooked`: those that are over by the
    word of one agent's journal alone, and nobody has looked at their host (docs/protocol.md, rule ONE); `tried`: tries used up.
    """

    host_id: UUID
    host_name: str
    proxy: str
    issued_at: Instant
    not_after: Instant
    run_deadline: Instant
    earlier: tuple[int, ...] = ()
    unknown: tuple[int, ...] = ()
    unlooked: tuple[int, ...] = ()
    tried: int = 0
    proxy_limit: int | None = None
    ordinal: int = 0


class ResumeDue(AttemptItem):
    """An accepted attempt that nobody has reported on is asked for; any agent of the proxy may answer, from the host."""

    host_id: UUID
    proxy: str
    issued_at: Instant
    run_deadline: Instant
    asked: int = Field(1, description="How often it was asked for.")


class CancelDue(AttemptItem):
    """A dispatched attempt is to be ended; repeated every 30 s until its end is proved."""

    host_id: UUID
    proxy: str
    issued_at: Instant
    run_deadline: Instant
    asked: int = 1


class JobTaskStatusChanged(JobTaskItem):
    """A job task's state between its verdicts' ends. `due_at`: when a waiting one is due; `after` is what ended its last attempt."""

    host_id: UUID
    status: JobTaskStatus
    attempt: int = 0
    tried: int = 0
    due_at: Instant | None = None
    after: Reason | None = None
    detail: str = ""


class JobTaskEnded(JobTaskItem):
    """The one verdict of a job task. `ordinal`: its place in the order of the plan, from 0."""

    host_id: UUID
    host_name: str
    status: JobTaskStatus
    reason: Reason | None = None
    exit_status: int | None = None
    signal: str | None = None
    attempts: int = 0
    tried: int = 0
    detail: str = ""
    ordinal: int = 0


class Halt(Model):
    """Where a rolling invocation was halted: the failed host that was one too many, its place in the order (from 0), the batch it
    is of (from 1), where that batch begins in the order, and how many failures of how many allowed there were."""

    host_id: UUID
    host_name: str
    ordinal: int
    batch: int
    batch_begins: int
    failures: int
    failure_limit: int


class JobInvocationEnded(InvocationItem):
    """All job tasks have their verdict. `counts` by status, `reasons` by reason; both sum to `total` (reasons over not succeeded)."""

    status: JobInvocationStatus
    total: int
    counts: dict[str, int]
    reasons: dict[str, int] = Field(default_factory=dict)
    halt: Halt | None = None
