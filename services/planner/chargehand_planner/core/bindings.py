"""The binder: one decision for each attempt, with what is true now (docs/protocol.md, rules BIND and PIN; docs/explanation/trust.md).

Owns whether an attempt may be bound, to what, and what a cancel or resume of it becomes. It believes the planner's own facts
and takes from the dispatcher only what the planner cannot know: the attempt's number and its times. Rendering comes in as data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from chargehand_schemas.base import AttemptItem, Item
from chargehand_schemas.commands import HostRecord
from chargehand_schemas.dispatch import AttemptDue, CancelDue, ResumeDue
from chargehand_schemas.ids import item_id, job_task_id
from chargehand_schemas.planning import AttemptBound, AttemptRebound, AttemptRefused, AttemptVoided, ScriptRendered
from chargehand_schemas.proxy_commands import CancelProxyCommand, ProxyCommand, ResumeProxyCommand, RunProxyCommand
from chargehand_schemas.reasons import Reason

from . import hosts
from .hosts import Host
from .inputs import placeholder
from .job_invocations import InvocationState, JobInvocation
from .job_templates import Fault
from .rights import Principal, is_alive
from .words import listed

CLOCK_MARGIN = timedelta(seconds=5)
MAX_ATTEMPTS = 10_000


class BindingKind(StrEnum):
    """What was decided for an attempt. Only a bound one has a command."""

    BOUND = "bound"
    REFUSED = "refused"
    REBOUND = "rebound"
    VOIDED = "voided"


@dataclass(frozen=True, slots=True)
class Binding:
    """The stored decision for one attempt: enough to repeat it, and to cancel or resume what was bound."""

    job_invocation_id: UUID
    job_task_id: UUID
    attempt: int
    host_id: UUID
    kind: BindingKind
    host_version: int = 0
    proxy: str = ""
    lock_path: str = ""
    connecting_user: str = ""
    provider_type: str = ""
    effective_user: str = ""
    script_digest: str = ""
    template_id: UUID | None = None
    template_version: int = 0
    reason: Reason | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one message about an attempt: a binding to store (None: it is stored already) and items to publish,
    the fact before the command. `script` is what the command runs; it is published before both, once per digest."""

    binding: Binding | None = None
    items: tuple[Item, ...] = ()
    script: str = ""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy as the planner knows it. `providers` is empty until an agent of it said what it offers."""

    name: str
    has_agent: bool = False
    providers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class AttemptFacts:
    """What is true now of one due attempt. `bindings` are those of its job task so far; `proxies` by name; `sealed_inputs` by
    name, sealed to the planner's vault key (base64)."""

    invocation: JobInvocation | None
    host: Host | None = None
    is_targeted: bool = False
    principal: Principal | None = None
    bindings: Sequence[Binding] = ()
    proxies: Mapping[str, Proxy] = field(default_factory=dict)
    default_proxy: str = "local"
    sealed_inputs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bindable:
    """An attempt that may be bound once its script is rendered."""

    invocation: JobInvocation
    host: Host
    record: HostRecord
    proxy: str
    provider_type: str
    lock_path: str


def examine(due: AttemptDue, facts: AttemptFacts, now: datetime) -> Bindable | Decision:
    """Everything that can be judged before rendering. A Decision without binding: decided before, nothing to do."""
    if any(binding.attempt == due.attempt for binding in facts.bindings):
        return Decision()
    invocation, host = facts.invocation, facts.host
    if invocation is None or invocation.state is InvocationState.REFUSED:
        return refuse(due, "this planner accepted no such job invocation", now)
    binding = _first(check(due, facts, invocation, now) for check in _CHECKS)
    if binding is None and (host is None or host.is_removed):
        binding = _refused(due, f"host {due.host_name!r} is no longer in the inventory")
    if binding is None and host is not None:
        binding = _first(check(due, facts, invocation, host) for check in _HOST_CHECKS)
    if binding is not None or host is None:
        return Decision(binding, (announced(binding, due, now),) if binding is not None else ())
    return _bindable(due, facts, invocation, host)


def _first(bindings: Iterable[Binding | None]) -> Binding | None:
    return next((binding for binding in bindings if binding is not None), None)


def _check_target(due: AttemptDue, facts: AttemptFacts, invocation: JobInvocation, now: datetime) -> Binding | None:
    is_its_host = due.job_task_id == job_task_id(invocation.job_invocation_id, due.host_id)
    if is_its_host and facts.is_targeted:
        return None
    return _refused(due, f"host {due.host_name!r} is not among the hosts of this job invocation")


def _check_time(due: AttemptDue, facts: AttemptFacts, invocation: JobInvocation, now: datetime) -> Binding | None:
    is_over = invocation.state is InvocationState.ENDED or invocation.has_cancelled(due.job_task_id)
    is_stale = any(binding.attempt > due.attempt for binding in facts.bindings)
    # Too late: every agent would let it go. Saying so here is a proof of never started that needs none of them.
    is_late = now > due.not_after + CLOCK_MARGIN
    is_early = invocation.start_at is not None and now < invocation.start_at - CLOCK_MARGIN
    return _decided(due, BindingKind.VOIDED) if is_over or is_stale or is_late or is_early else None


def _check_tries(due: AttemptDue, facts: AttemptFacts, invocation: JobInvocation, now: datetime) -> Binding | None:
    tries = invocation.properties.tries
    if due.tried < tries and due.attempt <= MAX_ATTEMPTS:
        return None
    return _refused(due, f"{due.tried} of {tries} tries are used up, and {due.attempt - 1} attempts made")


def _check_actor(due: AttemptDue, facts: AttemptFacts, invocation: JobInvocation, now: datetime) -> Binding | None:
    refused = is_alive(invocation.actor, facts.principal)
    return None if refused is None else _refused(due, refused.detail)


_CHECKS = (_check_target, _check_time, _check_tries, _check_actor)


def _check_proxy(due: AttemptDue, facts: AttemptFacts, invocation: JobInvocation, host: Host) -> Binding | None:
    name = host.record.proxy or facts.default_proxy
    proxy = facts.proxies.get(name)
    if proxy is None or not proxy.has_agent:
        known = listed(sorted(one.name for one in facts.proxies.values() if one.has_agent)) or "none"
        return _refused(due, f"proxy {name!r} of host {due.host_name!r} has no enrolled agent; enrolled: {known}")
    return _decided(due, BindingKind.REBOUND, proxy=name) if name != due.proxy else None


def _check_provider(due: AttemptDue, facts: AttemptFacts, invocation: JobInvocation, host: Host) -> Binding | None:
    wanted = hosts.provider_of(host.record, invocation.provider_type)
    offered = facts.proxies[due.proxy].providers
    if not offered or wanted in offered:
        return None
    return _refused(
        due, f"proxy {due.proxy!r} offers {listed(sorted(offered))}; host {due.host_name!r} needs {wanted!r}"
    )


def _check_path(due: AttemptDue, facts: AttemptFacts, invocation: JobInvocation, host: Host) -> Binding | None:
    fault = None if _first_bound(facts) else hosts.work_directory_fault(host.record)
    return None if fault is None else _refused(due, f"host {due.host_name!r}: {fault}")


_HOST_CHECKS = (_check_proxy, _check_provider, _check_path)


def _first_bound(facts: AttemptFacts) -> Binding | None:
    bound = (binding for binding in facts.bindings if binding.kind is BindingKind.BOUND)
    return min(bound, key=lambda binding: binding.attempt, default=None)


def _bindable(due: AttemptDue, facts: AttemptFacts, invocation: JobInvocation, host: Host) -> Bindable:
    """Rule PIN: the path, and the user whose home it may lie in, are those of the job task's first binding."""
    first, record = _first_bound(facts), host.record
    if first is not None and record.user != first.connecting_user:
        record = record.model_copy(update={"user": first.connecting_user})
    path = hosts.lock_path(record, due.job_task_id) if first is None else first.lock_path
    provider_type = hosts.provider_of(record, invocation.provider_type)
    return Bindable(invocation, host, record, due.proxy, provider_type, path)


@dataclass(frozen=True, slots=True)
class Sealed:
    """Secrets for the agents of one proxy, sealed to their keys (base64): what fills each placeholder, and the password."""

    values: Mapping[str, str] = field(default_factory=dict)
    password: str = ""


def input_values(invocation: JobInvocation) -> dict[str, str]:
    """What `input("x")` gives while rendering: hidden values are placeholders, which are the same on every host."""
    hidden = {name: placeholder(invocation.job_invocation_id, name) for name in invocation.hidden_inputs}
    return {**invocation.inputs, **hidden}


def host_values(record: HostRecord) -> dict[str, Any]:
    """What `host` is while rendering: plain data that people assigned."""
    return {
        "name": record.name,
        "address": record.address or record.name,
        "groups": list(record.groups),
        "parameters": dict(record.parameters),
    }


def bind(
    due: AttemptDue,
    facts: AttemptFacts,
    bindable: Bindable,
    script: str | Fault,
    sealed: Sealed,
    now: datetime,
) -> Decision:
    """The decision, now that the script is there, or is known not to be."""
    if isinstance(script, Fault):
        where = f"template {bindable.invocation.template_name!r}" + (f", line {script.line}" if script.line else "")
        detail = f"{where}: {script.message}"
        binding = _decided(due, BindingKind.REFUSED, reason=Reason.RENDER_FAILED, detail=detail)
        return Decision(binding, (announced(binding, due, now),))
    digest = hashlib.sha256(script.encode()).hexdigest()
    binding = _bound(due, bindable, digest)
    command = _run(due, facts, bindable, script, digest, sealed, now)
    return Decision(binding, (announced(binding, due, now), command), script)


def refuse(due: AttemptDue, detail: str, now: datetime) -> Decision:
    """An attempt that cannot be bound for a reason found on the way, e.g. a secret nobody can open."""
    binding = _refused(due, detail)
    return Decision(binding, (announced(binding, due, now),))


def _run(
    due: AttemptDue,
    facts: AttemptFacts,
    bindable: Bindable,
    script: str,
    digest: str,
    sealed: Sealed,
    now: datetime,
) -> RunProxyCommand:
    own = {b.attempt for b in facts.bindings if b.kind is BindingKind.BOUND and b.attempt < due.attempt}
    properties = bindable.invocation.properties
    return RunProxyCommand(
        id=item_id("run", due.job_task_id, due.attempt),
        time=now,
        causation_id=due.id,
        traceparent=due.traceparent,
        job_invocation_id=due.job_invocation_id,
        job_task_id=due.job_task_id,
        attempt=due.attempt,
        host_id=due.host_id,
        host=bindable.record,
        proxy=bindable.proxy,
        provider_type=bindable.provider_type,
        lock_path=bindable.lock_path,
        effective_user=bindable.invocation.effective_user,
        issued_at=due.issued_at,
        run_deadline=due.run_deadline,
        not_after=due.not_after,
        execution_timeout=properties.execution_timeout_interval,
        grace=properties.grace,
        script=script,
        script_digest=digest,
        earlier=tuple(sorted(own.union(due.earlier))),
        unknown=tuple(sorted({*due.unknown, *due.unlooked})),
        sealed=dict(sealed.values),
        sealed_effective_user_password=sealed.password,
    )


def _bound(due: AttemptDue, bindable: Bindable, digest: str) -> Binding:
    return Binding(
        job_invocation_id=due.job_invocation_id,
        job_task_id=due.job_task_id,
        attempt=due.attempt,
        host_id=due.host_id,
        kind=BindingKind.BOUND,
        host_version=bindable.host.version,
        proxy=bindable.proxy,
        lock_path=bindable.lock_path,
        connecting_user=bindable.record.user,
        provider_type=bindable.provider_type,
        effective_user=bindable.invocation.effective_user,
        script_digest=digest,
        template_id=bindable.invocation.template_id,
        template_version=bindable.invocation.template_version,
    )


def _decided(due: AttemptDue | ResumeDue | CancelDue, kind: BindingKind, **more: Any) -> Binding:
    return Binding(due.job_invocation_id, due.job_task_id, due.attempt, due.host_id, kind, **more)


def _refused(due: AttemptDue, detail: str) -> Binding:
    return _decided(due, BindingKind.REFUSED, reason=Reason.REFUSED, detail=detail)


def announced(binding: Binding, about: AttemptItem, now: datetime) -> AttemptItem:
    """The event that tells of a binding; the same id however often it is told."""
    common: dict[str, Any] = {
        "id": item_id("attempt-bound", binding.job_task_id, binding.attempt),
        "time": now,
        "causation_id": about.id,
        "traceparent": about.traceparent,
        "job_invocation_id": binding.job_invocation_id,
        "job_task_id": binding.job_task_id,
        "attempt": binding.attempt,
        "host_id": binding.host_id,
    }
    match binding.kind:
        case BindingKind.BOUND:
            return _announced_bound(binding, common)
        case BindingKind.REFUSED:
            return AttemptRefused(**common, reason=binding.reason or Reason.REFUSED, detail=binding.detail)
        case BindingKind.REBOUND:
            return AttemptRebound(**common, proxy=binding.proxy)
        case BindingKind.VOIDED:
            return AttemptVoided(**common)


def _announced_bound(binding: Binding, common: Mapping[str, Any]) -> AttemptBound:
    return AttemptBound(
        **common,
        proxy=binding.proxy,
        lock_path=binding.lock_path,
        template_id=binding.template_id,
        template_version=binding.template_version,
        effective_user=binding.effective_user,
        script_digest=binding.script_digest,
        provider_type=binding.provider_type,
    )


@dataclass(frozen=True, slots=True)
class BoundFacts:
    """What a cancel or resume needs: the attempt's binding, the host's record as it was bound, the invocation."""

    binding: Binding | None
    record: HostRecord | None = None
    invocation: JobInvocation | None = None


def follow_up(due: CancelDue | ResumeDue, facts: BoundFacts, now: datetime) -> Decision:
    """A command to the bound proxy; of an attempt not bound yet, a void: no command was or will be published for it."""
    binding = facts.binding
    if binding is None:
        void = _decided(due, BindingKind.VOIDED)
        return Decision(void, (announced(void, due, now),))
    if binding.kind is not BindingKind.BOUND or facts.record is None:
        return Decision(None, (announced(binding, due, now),))
    return Decision(None, (_ordered(due, binding, facts.record, facts.invocation, now),))


def _ordered(
    due: CancelDue | ResumeDue, binding: Binding, record: HostRecord, invocation: JobInvocation | None, now: datetime
) -> ProxyCommand:
    common: dict[str, Any] = {
        "id": item_id("follow-up", due.id),
        "time": now,
        "causation_id": due.id,
        "traceparent": due.traceparent,
        "job_invocation_id": binding.job_invocation_id,
        "job_task_id": binding.job_task_id,
        "attempt": binding.attempt,
        "host_id": binding.host_id,
        "host": record.model_copy(update={"user": binding.connecting_user}),
        "proxy": binding.proxy,
        "provider_type": binding.provider_type,
        "lock_path": binding.lock_path,
        "effective_user": binding.effective_user,
        "issued_at": due.issued_at,
        "run_deadline": due.run_deadline,
        "asked": due.asked,
    }
    if isinstance(due, ResumeDue):
        return ResumeProxyCommand(**common)
    properties = (invocation or JobInvocation(job_invocation_id=due.job_invocation_id)).properties
    return CancelProxyCommand(**common, grace=properties.grace)


def scripts_of(decisions: Iterable[Decision], now: datetime) -> list[ScriptRendered]:
    """The scripts of these decisions, each digest of an invocation once."""
    bound = [(decision.binding, decision.script) for decision in decisions]
    texts = {(b.job_invocation_id, b.script_digest): text for b, text in bound if b and b.kind is BindingKind.BOUND}
    return [_rendered(*key, text, now) for key, text in texts.items()]


def _rendered(job_invocation_id: UUID, digest: str, text: str, now: datetime) -> ScriptRendered:
    identity = item_id("script", job_invocation_id, digest)
    return ScriptRendered(id=identity, time=now, job_invocation_id=job_invocation_id, digest=digest, body=text)
