"""Messages of the topic `dispatch-events`: what the dispatcher decided: due attempts, states, verdicts. Key: job_invocation_id.

Owns shape only. The rules are docs/protocol.md section 1.
"""

from __future__ import annotations

from uuid import UUID

from pydantic import Field

from .base import AttemptItem, Instant, InvocationItem, JobTaskItem
from .reasons import JobInvocationStatus, JobTaskStatus, Reason


class JobInvocationDue(InvocationItem):
    """The start time has come: the planner resolves the targeting now."""

    start_at: Instant


class PlanChunkMissing(InvocationItem):
    """Chunks of the plan that did not arrive within 60 s, asked of the planner again. Empty: not one arrived."""

    chunks: tuple[int, ...] = ()


class AttemptDue(AttemptItem):
    """An attempt holds a slot of `proxy` and may start until `not_after`; it is over by `run_deadline`.

    `earlier`: attempts of this job task before this one; `unknown`: those whose end is not known; `tried`: tries used up.
    """

    host_id: UUID
    host_name: str
    proxy: str
    issued_at: Instant
    not_after: Instant
    run_deadline: Instant
    earlier: tuple[int, ...] = ()
    unknown: tuple[int, ...] = ()
    tried: int = 0


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
    """The one verdict of a job task."""

    host_id: UUID
    host_name: str
    status: JobTaskStatus
    reason: Reason | None = None
    exit_status: int | None = None
    signal: str | None = None
    attempts: int = 0
    tried: int = 0
    detail: str = ""


class JobInvocationEnded(InvocationItem):
    """All job tasks have their verdict. `counts` by status, `reasons` by reason; both sum to `total` (reasons over not succeeded)."""

    status: JobInvocationStatus
    total: int
    counts: dict[str, int]
    reasons: dict[str, int] = Field(default_factory=dict)
