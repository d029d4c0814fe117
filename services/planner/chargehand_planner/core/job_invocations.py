"""The aggregate JobInvocation: accepting or refusing it, its time, its plan, its cancellation, its end.

Owns those decisions. Its stream has no event per host: hosts stand in the copied targeting and in the plan's chunks of 500.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from chargehand_schemas.base import Instant, Item, Model
from chargehand_schemas.catalog import JobTemplateSaved
from chargehand_schemas.commands import CancelJobInvocation, EditJobInvocation, InvokeJob
from chargehand_schemas.dispatch import JobInvocationDue, JobInvocationEnded, PlanChunkMissing
from chargehand_schemas.ids import item_id, job_task_id
from chargehand_schemas.planning import (
    CancelRefused,
    EditRefused,
    JobInvocationAccepted,
    JobInvocationCancelRequested,
    JobInvocationEdited,
    JobInvocationRefused,
    JobInvocationScheduled,
    JobInvocationTargeted,
    JobTasksPlanned,
)
from chargehand_schemas.properties import ExecutionProperties
from chargehand_schemas.reasons import Refusal
from pydantic import Field

from . import effective_users, targeting
from . import inputs as template_inputs
from .descriptions import describe
from .events import JobInvocationClosed, TargetingCopied
from .inputs import Inputs
from .job_templates import Analysis, check
from .outcomes import Append, Decided, Refused, appended
from .plans import PlannedHost, plan
from .targeting import Inventory
from .words import did_you_mean, listed

PAST_ALLOWED = timedelta(minutes=1)
"""A start so little in the past is one that was now when it was sent."""

FUTURE_ALLOWED = timedelta(days=366)
HOST_ID_BYTES = 16
HOSTS_AT_ONCE = 5000
SHOWN_BEFOREHAND = timedelta(seconds=5)
"""What starts later than that has its hosts told beforehand; else its plan is there as soon."""


class InvocationState(StrEnum):
    """As far as the planner is concerned."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    ENDED = "ended"


class JobInvocation(Model):
    """An invocation without its hosts: what binding an attempt or cancelling needs. `version` is that of its stream."""

    job_invocation_id: UUID
    version: int = 0
    state: InvocationState = InvocationState.ACCEPTED
    actor: str = ""
    template_id: UUID | None = None
    template_version: int = 0
    template_name: str = ""
    provider_type: str = ""
    inputs: dict[str, str] = Field(default_factory=dict)
    hidden_inputs: tuple[str, ...] = ()
    effective_user: str = ""
    has_effective_user_password: bool = False
    properties: ExecutionProperties = ExecutionProperties()
    start_at: Instant | None = None
    chunks: int = 0
    total: int = 0
    is_cancelled: bool = False
    cancelled_job_tasks: frozenset[UUID] = frozenset()

    def has_cancelled(self, job_task: UUID) -> bool:
        """Whether a cancel covers this job task."""
        return self.is_cancelled or job_task in self.cancelled_job_tasks


def evolve(invocation: JobInvocation | None, append: Append) -> JobInvocation:
    """The invocation after one event of its stream."""
    known = invocation or JobInvocation(job_invocation_id=append.stream)
    return known.model_copy(update={"version": append.version, **_changes(known, append.event)})


def _changes(known: JobInvocation, event: Item) -> dict[str, object]:
    match event:
        case JobInvocationAccepted():
            return _accepted_fields(event)
        case JobInvocationRefused():
            return {"state": InvocationState.REFUSED}
        case TargetingCopied():
            return {"total": len(event.host_ids) // HOST_ID_BYTES}
        case JobInvocationScheduled():
            return {"start_at": event.start_at}
        case JobTasksPlanned():
            return {"chunks": event.chunks, "total": event.total}
        case JobInvocationCancelRequested(job_task_ids=()):
            return {"is_cancelled": True}
        case JobInvocationCancelRequested():
            return {"cancelled_job_tasks": known.cancelled_job_tasks.union(event.job_task_ids)}
        case JobInvocationEdited():
            return {"properties": known.properties.model_copy(update={"concurrency": event.concurrency})}
        case JobInvocationClosed():
            return {"state": InvocationState.ENDED}
        case _:
            return {}


def _accepted_fields(event: JobInvocationAccepted) -> dict[str, object]:
    names = (
        "actor", "template_id", "template_version", "template_name", "provider_type", "inputs", "hidden_inputs",
        "effective_user", "has_effective_user_password", "properties",
    )  # fmt: skip
    return {name: getattr(event, name) for name in names}


@dataclass(frozen=True, slots=True)
class InvokeLookups:
    """What deciding an InvokeJob needs. `near_templates` are names near an unknown one; `unsealable` are
    secrets, in words, that were not sealed to this planner's vault key."""

    template: JobTemplateSaved | None
    analysis: Analysis = field(default_factory=Analysis)
    inventory: Inventory = field(default_factory=Inventory)
    near_templates: Sequence[str] = ()
    unsealable: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Invoked(Decided):
    """An accepted invocation, and what is kept beside its stream until it ends: hidden values and the password, sealed."""

    sealed_inputs: Mapping[str, str] = field(default_factory=dict)


def decide_invoke(command: InvokeJob, lookups: InvokeLookups, now: datetime) -> Invoked | Refused:
    """Accept an invocation with everything that is fixed from here on, or say what is wrong with it."""
    template = lookups.template
    if template is None:
        hint = did_you_mean(command.template, lookups.near_templates) or "; `chargehand template list` shows them"
        return Refused(Refusal.NO_SUCH_TEMPLATE, f"there is no template {command.template!r}{hint}. Nothing was run")
    refused = check(template.name, template.inputs, lookups.analysis) or _check_times(command, now)
    if refused is not None:
        return refused
    inputs = template_inputs.resolve(command, template.name, template.inputs)
    if isinstance(inputs, Refused):
        return inputs
    if lookups.unsealable:
        detail = f"{listed(sorted(lookups.unsealable))} is not sealed to this planner's key; fetch the key, seal again"
        return Refused(Refusal.MALFORMED, detail)
    user = effective_users.choose(command, template)
    if isinstance(user, Refused):
        return user
    hosts = targeting.resolve(command.targeting, lookups.inventory, command.expect_hosts)
    if isinstance(hosts, Refused):
        return hosts
    events = _events(command, template, inputs, user, hosts, now)
    kept = dict(inputs.sealed)
    if command.sealed_effective_user_password:
        kept[effective_users.PASSWORD] = command.sealed_effective_user_password
    return Invoked(appended(command.job_invocation_id, 0, events), {"hosts": len(hosts)}, kept)


def _check_times(command: InvokeJob, now: datetime) -> Refused | None:
    start_at = command.start_at or now
    fault = None
    if start_at < now - PAST_ALLOWED:
        fault = f"start_at {start_at.isoformat()} is in the past; leave it out to start now"
    elif start_at > now + FUTURE_ALLOWED:
        fault = f"start_at {start_at.isoformat()} is more than {FUTURE_ALLOWED.days} days ahead"
    elif command.start_before is not None and command.start_before <= max(start_at, now):
        fault = f"start_before {command.start_before.isoformat()} is not after the start, {start_at.isoformat()}"
    return None if fault is None else Refused(Refusal.OUT_OF_RANGE, f"{fault}. Nothing was run")


def _events(
    command: InvokeJob, template: JobTemplateSaved, inputs: Inputs, user: str, hosts: Sequence[UUID], now: datetime
) -> list[Item]:
    accepted = _accepted(command, template, inputs, user, len(hosts), now)
    copied = TargetingCopied(
        id=item_id("targeting-copied", command.id),
        time=now,
        causation_id=command.id,
        job_invocation_id=command.job_invocation_id,
        host_ids=b"".join(host_id.bytes for host_id in hosts),
    )
    scheduled = JobInvocationScheduled(
        id=item_id("scheduled", command.id),
        time=now,
        causation_id=command.id,
        traceparent=command.traceparent,
        job_invocation_id=command.job_invocation_id,
        start_at=max(command.start_at or now, now),
        start_before=command.start_before,
        properties=accepted.properties,
        actor=command.actor,
    )
    shown = _targeted(command, hosts, now) if scheduled.start_at > now + SHOWN_BEFOREHAND else []
    return [accepted, copied, scheduled, *shown]


def _targeted(command: InvokeJob, hosts: Sequence[UUID], now: datetime) -> list[JobInvocationTargeted]:
    parts = [hosts[start : start + HOSTS_AT_ONCE] for start in range(0, len(hosts), HOSTS_AT_ONCE)]
    return [
        JobInvocationTargeted(
            id=item_id("targeted", command.id, number),
            time=now,
            causation_id=command.id,
            job_invocation_id=command.job_invocation_id,
            chunk=number,
            chunks=len(parts),
            total=len(hosts),
            host_ids=tuple(part),
        )
        for number, part in enumerate(parts)
    ]


def _accepted(
    command: InvokeJob, template: JobTemplateSaved, inputs: Inputs, user: str, count: int, now: datetime
) -> JobInvocationAccepted:
    return JobInvocationAccepted(
        id=item_id("accepted", command.id),
        time=now,
        causation_id=command.id,
        traceparent=command.traceparent,
        job_invocation_id=command.job_invocation_id,
        command_id=command.id,
        actor=command.actor,
        template_id=template.template_id,
        template_name=template.name,
        template_version=template.version,
        job_category=template.job_category,
        provider_type=template.provider_type,
        description=command.description or describe(template, inputs),
        inputs=dict(inputs.values),
        hidden_inputs=tuple(inputs.sealed),
        targeting=targeting.in_words(command.targeting, count),
        effective_user=user,
        has_effective_user_password=bool(command.sealed_effective_user_password),
        properties=command.overrides.applied_to(template.properties),
        rerun_of=command.rerun_of,
    )


def refusal(command: InvokeJob, refused: Refused, now: datetime) -> Append:
    """The answer to an InvokeJob that is refused: the only event of its stream."""
    event = JobInvocationRefused(
        id=item_id("refused", command.id),
        time=now,
        causation_id=command.id,
        traceparent=command.traceparent,
        job_invocation_id=command.job_invocation_id,
        command_id=command.id,
        actor=command.actor,
        reason=refused.reason,
        detail=refused.detail,
    )
    return Append(command.job_invocation_id, 1, event)


def decide_plan(
    due: JobInvocationDue | PlanChunkMissing,
    invocation: JobInvocation | None,
    hosts: Sequence[PlannedHost],
    now: datetime,
) -> Decided:
    """The plan, when the time has come; nothing if it was made before, or nobody knows the invocation."""
    if invocation is None or invocation.state is not InvocationState.ACCEPTED or invocation.chunks:
        return Decided()
    chunks = plan(invocation.job_invocation_id, hosts, now, due.id)
    return Decided(appended(invocation.job_invocation_id, invocation.version, chunks), {"job_tasks": len(hosts)})


def decide_close(ended: JobInvocationEnded, invocation: JobInvocation | None, now: datetime) -> Decided:
    """The end, as the dispatcher says it."""
    if invocation is None or invocation.state is not InvocationState.ACCEPTED:
        return Decided()
    event = JobInvocationClosed(
        id=item_id("closed", ended.id),
        time=now,
        causation_id=ended.id,
        job_invocation_id=ended.job_invocation_id,
        status=ended.status,
    )
    return Decided(appended(ended.job_invocation_id, invocation.version, [event]))


def decide_cancel(
    command: CancelJobInvocation, invocation: JobInvocation | None, targeted: Collection[UUID], now: datetime
) -> Decided | Refused:
    """Hand a cancel on to the dispatcher, for the whole invocation or some of its hosts (`targeted` are all of them)."""
    going = _going_on(invocation, command.job_invocation_id, "cancel")
    if isinstance(going, Refused):
        return going
    strangers = [str(host_id) for host_id in command.host_ids if host_id not in targeted]
    if strangers:
        detail = f"host {listed(strangers)} is not among those of this invocation; nothing was cancelled"
        return Refused(Refusal.NO_SUCH_HOST, detail)
    event = JobInvocationCancelRequested(
        id=item_id("cancel-requested", command.id),
        time=now,
        causation_id=command.id,
        traceparent=command.traceparent,
        job_invocation_id=command.job_invocation_id,
        command_id=command.id,
        actor=command.actor,
        job_task_ids=tuple(job_task_id(command.job_invocation_id, host_id) for host_id in command.host_ids),
    )
    return Decided(appended(command.job_invocation_id, going.version, [event]))


def _going_on(invocation: JobInvocation | None, job_invocation_id: UUID, what: str) -> JobInvocation | Refused:
    if invocation is None or invocation.state is InvocationState.REFUSED:
        detail = f"there is no job invocation {job_invocation_id}; `chargehand job list` shows them"
        return Refused(Refusal.NO_SUCH_JOB_INVOCATION, detail)
    if invocation.state is InvocationState.ENDED:
        return Refused(
            Refusal.ALREADY_ENDED, f"job invocation {job_invocation_id} has ended; nothing is left to {what}"
        )
    return invocation


def decide_edit(command: EditJobInvocation, invocation: JobInvocation | None, now: datetime) -> Decided | Refused:
    """Another concurrency limit for an invocation that goes on; also the present one again is handed on."""
    going = _going_on(invocation, command.job_invocation_id, "edit")
    if isinstance(going, Refused):
        return going
    event = JobInvocationEdited(
        id=item_id("edited", command.id),
        time=now,
        causation_id=command.id,
        traceparent=command.traceparent,
        job_invocation_id=command.job_invocation_id,
        command_id=command.id,
        actor=command.actor,
        concurrency=command.concurrency,
    )
    return Decided(appended(command.job_invocation_id, going.version, [event]))


def edit_refusal(command: EditJobInvocation, refused: Refused, now: datetime) -> Append:
    """The answer to an edit that changes nothing."""
    return _refusal_beside(EditRefused, "edit-refused", command, refused, now)


def cancel_refusal(command: CancelJobInvocation, refused: Refused, now: datetime) -> Append:
    """The answer to a cancel that changes nothing."""
    return _refusal_beside(CancelRefused, "cancel-refused", command, refused, now)


def _refusal_beside(
    model: type[CancelRefused | EditRefused],
    word: str,
    command: CancelJobInvocation | EditJobInvocation,
    refused: Refused,
    now: datetime,
) -> Append:
    """In a stream of its own, since the invocation's is not touched."""
    event = model(
        id=item_id(word, command.id),
        time=now,
        causation_id=command.id,
        traceparent=command.traceparent,
        job_invocation_id=command.job_invocation_id,
        command_id=command.id,
        actor=command.actor,
        reason=refused.reason,
        detail=refused.detail,
    )
    return Append(command.id, 1, event)
