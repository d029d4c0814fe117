"""The binder's shell: facts of a batch of attempts in one reading, scripts from the renderer, decisions in one transaction.

Owns the way of a due attempt to its stored decision. A script that takes long is waited for aside: the attempt is parked in
the store and the partition goes on. What is decided, the core says (core/bindings.py).
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias
from uuid import UUID

import structlog
from chargehand_chassis.clock import now
from chargehand_chassis.errors import TransientFailure
from chargehand_chassis.keys import OwnKeys, seal
from chargehand_chassis.metrics import METRICS
from chargehand_schemas.catalog import JobTemplateSaved
from chargehand_schemas.commands import HostRecord
from chargehand_schemas.dispatch import AttemptDue, CancelDue, ResumeDue
from chargehand_schemas.keyring import Keyring

from ..core import bindings
from ..core.bindings import AttemptFacts, Bindable, Binding, BoundFacts, Decision, Proxy, Sealed
from ..core.effective_users import PASSWORD
from ..core.hosts import Host
from ..core.inputs import placeholder
from ..core.job_invocations import JobInvocation
from ..core.job_templates import Fault
from ..core.rights import Principal
from .gate import StoreGate
from .rendering.renderer import Answer, Renderer, RenderJob
from .store import Change, Conflict, Due, PlannerStore, Position

PARK_AFTER_S = 0.1
TRIES = 5
REMEMBERED_TARGETS = 16
REMEMBERED_TEMPLATES = 256

FollowUp: TypeAlias = "CancelDue | ResumeDue"
Key: TypeAlias = "tuple[UUID, int]"


@dataclass(frozen=True, slots=True)
class Place:
    """Where messages came from: the partition, the offset to go on from, the token of its ownership, and the broker's time of
    the last message."""

    partition: Position
    offset: int
    token: str
    append_ms: int = 0

    @property
    def positions(self) -> Mapping[Position, int]:
        return {self.partition: self.offset}

    @property
    def times(self) -> Mapping[Position, int]:
        return {self.partition: self.append_ms}

    @property
    def tokens(self) -> Mapping[Position, str]:
        return {self.partition: self.token}


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is true now of a batch of attempts, by id."""

    invocations: Mapping[UUID, JobInvocation]
    hosts: Mapping[UUID, Host]
    bindings: Mapping[UUID, Sequence[Binding]]
    principals: Mapping[str, Principal]
    proxies: Mapping[str, Proxy]
    parked: Collection[Key]
    sealed: Mapping[UUID, Mapping[str, str]]


@dataclass(slots=True)
class _Batch:
    """Attempts on their way to a decision."""

    decisions: dict[Key, Decision] = field(default_factory=dict)
    bindable: dict[Key, tuple[AttemptDue, AttemptFacts, Bindable]] = field(default_factory=dict)


class Binder:
    """Binds attempts, and turns cancels and resumes into commands. One event loop."""

    def __init__(
        self, gate: StoreGate, renderer: Renderer, own_keys: OwnKeys, keyring: Keyring, default_proxy: str
    ) -> None:
        self._gate = gate
        self._renderer = renderer
        self._own_keys = own_keys
        self._keyring = keyring
        self._default_proxy = default_proxy
        self._targets: dict[UUID, frozenset[UUID]] = {}
        self._templates: dict[tuple[UUID, int], JobTemplateSaved] = {}
        self._slow: set[tuple[UUID, int]] = set()
        self._aside: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger()

    # Due attempts

    async def bind(self, dues: Sequence[AttemptDue], place: Place) -> None:
        """Decide due attempts of one partition, at most one of each job task, and move its position."""
        for _ in range(TRIES):
            batch = self._examined(dues, await self._facts(dues))
            parked = await self._render(batch, wait=PARK_AFTER_S)
            try:
                await self._record(batch, [Due(due, place.partition) for due in parked], place)
            except Conflict as conflict:
                self._log.info("bound_again", why=str(conflict))
                continue
            self._set_aside([Due(due, place.partition) for due in parked])
            return
        raise TransientFailure(f"attempts of {place.partition} met another binder {TRIES} times")

    async def resume(self, partitions: Collection[Position]) -> None:
        """Go on with what was parked in these partitions before."""
        self._set_aside(await self._gate.ask(self._gate.store.parked, partitions))

    async def stop(self) -> None:
        """Leave what is parked to the next start."""
        for task in self._aside:
            task.cancel()
        if self._aside:
            await asyncio.wait(self._aside)

    def failure(self) -> BaseException | None:
        """What ended the binding of a parked attempt, other than the next start would repair."""
        ended = [task for task in self._aside if task.done()]
        self._aside.difference_update(ended)
        return next((error for task in ended if not task.cancelled() and (error := task.exception())), None)

    async def _facts(self, dues: Sequence[AttemptDue]) -> _Facts:
        unknown = {due.job_invocation_id for due in dues} - self._targets.keys()
        facts, targets = await self._gate.ask(_look_up, self._gate.store, dues, unknown)
        self._targets |= targets
        while len(self._targets) > REMEMBERED_TARGETS:
            self._targets.pop(next(iter(self._targets)))
        return facts

    def _examined(self, dues: Sequence[AttemptDue], facts: _Facts, *, is_parked: bool = False) -> _Batch:
        batch, moment = _Batch(), now()
        for due in dues:
            key = (due.job_task_id, due.attempt)
            if key in facts.parked and not is_parked:
                METRICS.repeats.labels("attempt-due").inc()
                continue
            own = self._facts_of(due, facts)
            found = bindings.examine(due, own, moment)
            if isinstance(found, Bindable):
                batch.bindable[key] = (due, own, found)
            else:
                batch.decisions[key] = found
        return batch

    def _facts_of(self, due: AttemptDue, facts: _Facts) -> AttemptFacts:
        invocation = facts.invocations.get(due.job_invocation_id)
        return AttemptFacts(
            invocation=invocation,
            host=facts.hosts.get(due.host_id),
            is_targeted=due.host_id in self._targets.get(due.job_invocation_id, ()),
            principal=facts.principals.get(invocation.actor) if invocation else None,
            bindings=facts.bindings.get(due.job_task_id, ()),
            proxies=facts.proxies,
            default_proxy=self._default_proxy,
            sealed_inputs=facts.sealed.get(due.job_invocation_id, {}),
        )

    # Scripts

    async def _render(self, batch: _Batch, wait: float | None) -> list[AttemptDue]:
        """Decide what is bindable. With `wait` (seconds), attempts whose scripts take longer come back undecided."""
        quick, undecided = self._groups(batch, skip_slow=wait is not None)
        tasks = {asyncio.create_task(self._scripts(batch, keys)): keys for keys in quick}
        try:
            done, pending = await asyncio.wait(tasks, timeout=wait) if tasks else (set(), set())
        except asyncio.CancelledError:
            await _cancel(tasks)
            raise
        await _cancel(pending)
        for task in done:
            for key, script in zip(tasks[task], task.result(), strict=True):
                batch.decisions[key] = self._bound(*batch.bindable[key], script)
        undecided += [key for task in pending for key in tasks[task]]
        self._slow |= {_template_of(batch.bindable[key][2]) for key in undecided}
        return [batch.bindable[key][0] for key in undecided]

    def _groups(self, batch: _Batch, *, skip_slow: bool) -> tuple[list[list[Key]], list[Key]]:
        """The attempts by invocation; and apart those of templates that were slow before, which nobody waits for again."""
        groups: dict[UUID, list[Key]] = {}
        slow: list[Key] = []
        for key, (due, _, bindable) in batch.bindable.items():
            is_slow = skip_slow and _template_of(bindable) in self._slow
            (slow if is_slow else groups.setdefault(due.job_invocation_id, [])).append(key)
        return list(groups.values()), slow

    async def _scripts(self, batch: _Batch, keys: Sequence[Key]) -> Sequence[Answer]:
        """The scripts of attempts of one invocation, which share a template and its inputs."""
        first = batch.bindable[keys[0]][2]
        template = await self._template(first)
        if template is None:
            return [Fault(0, "this version of the template is not in the store")] * len(keys)
        analysis = await self._renderer.analyse(template.body)
        if analysis.fault is not None:
            return [analysis.fault] * len(keys)
        hosts = [bindings.host_values(batch.bindable[key][2].record) if analysis.uses_host else {} for key in keys]
        job = RenderJob(template.body, bindings.input_values(first.invocation), hosts, analysis.uses_host)
        return await self._renderer.render(job)

    async def _template(self, bindable: Bindable) -> JobTemplateSaved | None:
        key = _template_of(bindable)
        template = self._templates.get(key)
        if template is None:
            template = await self._gate.ask(self._gate.store.template_version, *key)
        if template is not None:
            self._templates[key] = template
        while len(self._templates) > REMEMBERED_TEMPLATES:
            self._templates.pop(next(iter(self._templates)))
        return template

    def _bound(self, due: AttemptDue, facts: AttemptFacts, bindable: Bindable, script: Answer) -> Decision:
        try:
            sealed = self._resealed(bindable, facts.sealed_inputs)
        except ValueError as error:
            return bindings.refuse(due, str(error), now())
        return bindings.bind(due, facts, bindable, script, sealed, now())

    def _resealed(self, bindable: Bindable, kept: Mapping[str, str]) -> Sealed:
        """Secrets, from the vault key to the keys of the proxy's agents. ValueError in words if that cannot be done."""
        invocation = bindable.invocation
        if not _has_secrets(invocation):
            return Sealed()
        boxes = sorted({one.sealing_key for one in self._keyring.agents_of(bindable.proxy) if one.sealing_key})
        if not boxes:
            raise ValueError(f"no agent of proxy {bindable.proxy!r} has a key to seal secrets to")
        values = {
            placeholder(invocation.job_invocation_id, name): self._for_boxes(kept, name, boxes)
            for name in invocation.hidden_inputs
        }
        has_password = invocation.has_effective_user_password
        return Sealed(values, self._for_boxes(kept, PASSWORD, boxes) if has_password else "")

    def _for_boxes(self, kept: Mapping[str, str], name: str, boxes: Sequence[bytes]) -> str:
        if name not in kept:
            raise ValueError(f"hidden value {name!r} is not kept any more")
        secret = self._own_keys.unseal(base64.b64decode(kept[name]))
        return " ".join(base64.b64encode(seal(box, secret)).decode() for box in boxes)

    # Writing

    async def _record(self, batch: _Batch, parked: Sequence[Due], place: Place) -> None:
        change = _change(batch.decisions.values(), parked=parked, place=place)
        await self._gate.record(change, "binding")
        _count(change)

    def _set_aside(self, parked: Sequence[Due]) -> None:
        by_invocation: dict[UUID, list[AttemptDue]] = {}
        for one in parked:
            by_invocation.setdefault(one.due.job_invocation_id, []).append(one.due)
        for dues in by_invocation.values():
            self._aside.add(asyncio.create_task(self._bind_aside(dues), name="parked attempts"))

    async def _bind_aside(self, dues: Sequence[AttemptDue]) -> None:
        """Decide parked attempts of one invocation, however long their scripts take; facts are looked at again afterwards."""
        for _ in range(TRIES):
            batch = self._examined(dues, await self._facts(dues), is_parked=True)
            await self._render(batch, wait=None)
            again = self._examined(dues, await self._facts(dues), is_parked=True)
            if not _holds(batch, again):
                continue
            decisions = {**batch.decisions, **again.decisions}
            change = _change(decisions.values(), unparked=list(decisions))
            try:
                await self._gate.record(change, "parked_binding")
            except Conflict:
                continue
            return _count(change)
        raise TransientFailure(f"parked attempts of {dues[0].job_invocation_id} changed {TRIES} times")

    # Cancels and resumes

    async def follow_up(self, dues: Sequence[FollowUp], place: Place) -> None:
        """Hand cancels and resumes on to the bound proxies, or void what is not bound."""
        for _ in range(TRIES):
            facts = await self._gate.ask(_look_up_bound, self._gate.store, dues)
            moment = now()
            decisions: dict[Key, Decision] = {}
            for due, own in zip(dues, facts, strict=True):
                decisions[(due.job_task_id, due.attempt)] = bindings.follow_up(due, own, moment)
            voided = [key for key, decision in decisions.items() if decision.binding is not None]
            try:
                change = _change(decisions.values(), unparked=voided, place=place)
                await self._gate.record(change, "follow_up")
            except Conflict:
                continue
            return _count(change)
        raise TransientFailure(f"follow-ups of {place.partition} met another binder {TRIES} times")


def _has_secrets(invocation: JobInvocation) -> bool:
    return bool(invocation.hidden_inputs) or invocation.has_effective_user_password


async def _cancel(tasks: Iterable[asyncio.Task[Sequence[Answer]]]) -> None:
    waiting = [task for task in tasks if not task.done()]
    for task in waiting:
        task.cancel()
    if waiting:
        await asyncio.wait(waiting)


def _template_of(bindable: Bindable) -> tuple[UUID, int]:
    invocation = bindable.invocation
    return invocation.template_id or UUID(int=0), invocation.template_version


def _holds(before: _Batch, after: _Batch) -> bool:
    """Whether scripts that were rendered are still those of the hosts as they are now."""
    return all(
        key in before.bindable and before.bindable[key][2].host.version == bindable.host.version
        for key, (_, _, bindable) in after.bindable.items()
    )


def _change(
    decisions: Iterable[Decision],
    *,
    parked: Sequence[Due] = (),
    unparked: Sequence[Key] = (),
    place: Place | None = None,
) -> Change:
    rows, moment = list(decisions), now()
    return Change(
        bindings=[decision.binding for decision in rows if decision.binding is not None],
        scripts=bindings.scripts_of(rows, moment),
        items=[item for decision in rows for item in decision.items],
        parked=parked,
        unparked=unparked,
        positions=place.positions if place else {},
        times=place.times if place else {},
        tokens=place.tokens if place else {},
        moment=moment,
    )


def _count(change: Change) -> None:
    for binding in change.bindings:
        METRICS.bindings.labels(binding.kind.value).inc()


def _look_up(
    store: PlannerStore, dues: Sequence[AttemptDue], unknown: Iterable[UUID]
) -> tuple[_Facts, dict[UUID, frozenset[UUID]]]:
    job_tasks = [due.job_task_id for due in dues]
    invocations = store.invocations({due.job_invocation_id for due in dues})
    hidden = [job_invocation_id for job_invocation_id, one in invocations.items() if _has_secrets(one)]
    facts = _Facts(
        invocations=invocations,
        hosts=store.hosts_by_id({due.host_id for due in dues}),
        bindings=store.bindings(job_tasks),
        principals=store.principals({one.actor for one in invocations.values()}),
        proxies=store.proxies(),
        parked=store.parked_attempts(job_tasks),
        sealed=store.sealed_inputs(hidden) if hidden else {},
    )
    # Of an unknown invocation nothing is remembered: it may be accepted yet.
    return facts, {one: frozenset(store.targeted(one)) for one in unknown if one in invocations}


def _look_up_bound(store: PlannerStore, dues: Sequence[FollowUp]) -> list[BoundFacts]:
    found = store.bindings([due.job_task_id for due in dues])
    hosts = store.hosts_by_id({due.host_id for due in dues})
    invocations = store.invocations({due.job_invocation_id for due in dues})
    rows = []
    for due in dues:
        binding = next((b for b in found.get(due.job_task_id, ()) if b.attempt == due.attempt), None)
        record = _record_as_bound(store, binding, hosts) if binding else None
        rows.append(BoundFacts(binding, record, invocations.get(due.job_invocation_id)))
    return rows


def _record_as_bound(store: PlannerStore, binding: Binding, hosts: Mapping[UUID, Host]) -> HostRecord | None:
    host = hosts.get(binding.host_id)
    if host is not None and host.version == binding.host_version:
        return host.record
    return store.host_record(binding.host_id, binding.host_version)
