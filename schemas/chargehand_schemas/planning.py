"""Messages of the topic `planning-events`: what the planner decided about invocations and attempts.

Owns shape only. Key: job_invocation_id.
"""

from __future__ import annotations

from uuid import UUID

from pydantic import Field

from .base import AttemptItem, Instant, InvocationItem, Model
from .properties import ExecutionProperties
from .reasons import Reason, Refusal


class JobInvocationAccepted(InvocationItem):
    """The invocation as it was accepted: template version and targeting are fixed from here on."""

    command_id: UUID
    actor: str
    template_id: UUID
    template_name: str
    template_version: int
    job_category: str
    provider_type: str
    description: str
    inputs: dict[str, str] = Field(default_factory=dict)
    hidden_inputs: tuple[str, ...] = ()
    targeting: str = Field("", description="The targeting in words.")
    effective_user: str = ""
    has_effective_user_password: bool = False
    properties: ExecutionProperties
    rerun_of: UUID | None = None


class JobInvocationRefused(InvocationItem):
    """Nothing was run. `detail` says what was wrong, where, and what to do."""

    command_id: UUID
    actor: str
    reason: Refusal
    detail: str


class JobInvocationScheduled(InvocationItem):
    """The invocation's time, handed to the dispatcher."""

    start_at: Instant
    start_before: Instant | None = None
    properties: ExecutionProperties
    actor: str = ""


class JobInvocationTargeted(InvocationItem):
    """The hosts of an invocation that starts later, as they were copied, in their order: part `chunk` of `chunks` (from 0), `total` in
    all. Its plan is made when it is due; this is for whoever wants to see it beforehand."""

    chunk: int
    chunks: int
    total: int
    host_ids: tuple[UUID, ...] = Field(max_length=5000)


class PlannedJobTask(Model):
    """One job task of a plan. `proxy` is where its slot is counted; `ordinal` its place in the order, from 0."""

    job_task_id: UUID
    host_id: UUID
    host_name: str
    proxy: str
    ordinal: int


class JobTasksPlanned(InvocationItem):
    """Chunk `chunk` of `chunks` (from 0) of the plan; `total` job tasks in all, at most 500 here."""

    chunk: int
    chunks: int
    total: int
    job_tasks: tuple[PlannedJobTask, ...] = Field(max_length=500)


class JobInvocationCancelRequested(InvocationItem):
    """The planner allowed a cancel. Empty `job_task_ids`: the whole invocation."""

    command_id: UUID
    actor: str
    job_task_ids: tuple[UUID, ...] = ()


class CancelRefused(InvocationItem):
    """A cancel that changes nothing, and why."""

    command_id: UUID
    actor: str
    reason: Refusal
    detail: str


class JobInvocationEdited(InvocationItem):
    """The planner allowed another concurrency limit. None: no limit."""

    command_id: UUID
    actor: str
    concurrency: int | None


class EditRefused(InvocationItem):
    """An edit that changes nothing, and why."""

    command_id: UUID
    actor: str
    reason: Refusal
    detail: str


class AttemptBound(AttemptItem):
    """The binder's one decision for an attempt: it goes to `proxy`, with this lock path, template and rendered script."""

    host_id: UUID
    proxy: str
    lock_path: str
    template_id: UUID
    template_version: int
    effective_user: str
    script_digest: str
    provider_type: str = Field(
        "", description="The connection's; a host parameter `provider` decides among script providers."
    )


class AttemptRefused(AttemptItem):
    """The binder refused: the job task fails, no other does."""

    host_id: UUID
    reason: Reason = Reason.REFUSED
    detail: str = ""


class AttemptRebound(AttemptItem):
    """The attempt must go to another proxy than the one whose slot it holds: never started, claimed anew there."""

    host_id: UUID
    proxy: str


class AttemptVoided(AttemptItem):
    """Cancelled or asked for before it was bound: no command was or will be published. Proof of never started."""

    host_id: UUID


class ScriptRendered(InvocationItem):
    """A rendered script, once per digest (SHA-256, hex). Secrets are placeholders in it."""

    digest: str
    body: str
