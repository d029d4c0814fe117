"""The planner: the real decisions over a store in memory, its notification log and the relay that publishes it.

Owns the loops. It stands where chargehand_planner.shell stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from chargehand_planner.core import bindings, job_invocations
from chargehand_planner.core.bindings import AttemptFacts, Binding, BoundFacts, Decision, Proxy
from chargehand_planner.core.hosts import Host as PlannerHost
from chargehand_planner.core.job_invocations import InvokeLookups, JobInvocation
from chargehand_planner.core.outcomes import Append, Decided, Refused
from chargehand_planner.core.plans import PlannedHost
from chargehand_planner.core.rights import ADMINISTRATOR, Person
from chargehand_planner.core.targeting import Inventory
from chargehand_schemas.base import AttemptItem, Item
from chargehand_schemas.catalog import JobTemplateSaved
from chargehand_schemas.commands import CancelJobInvocation, HostRecord, InvokeJob, Targeting
from chargehand_schemas.dispatch import (
    AttemptDue,
    CancelDue,
    JobInvocationDue,
    JobInvocationEnded,
    PlanChunkMissing,
    ResumeDue,
)
from chargehand_schemas.ids import item_id
from chargehand_schemas.planning import JobTasksPlanned
from chargehand_schemas.properties import ExecutionProperties
from chargehand_schemas.proxy_commands import ProxyCommand
from chargehand_schemas.topics import DISPATCH_EVENTS, PLANNING_EVENTS, PROXY_COMMANDS

from .agent import PROVIDER, PROXY
from .bus import Bus, Place, Reader, Record
from .world import Process

ACTOR = "user:simulation"
SCRIPT = "simulate"
RELAY_AT_ONCE = 500


@dataclass
class PlannerStore:
    """What outlives the process."""

    invocations: dict[UUID, JobInvocation] = field(default_factory=dict)
    hosts: dict[UUID, tuple[UUID, ...]] = field(default_factory=dict)
    targeted: dict[UUID, frozenset[UUID]] = field(default_factory=dict)
    plans: dict[UUID, dict[int, JobTasksPlanned]] = field(default_factory=dict)
    bindings: dict[UUID, list[Binding]] = field(default_factory=dict)
    places: dict[UUID, int] = field(default_factory=dict)
    log: list[tuple[Place, Item]] = field(default_factory=list)
    published: int = 0
    inbox: dict[int, int] = field(default_factory=dict)


class SimulatedPlanner(Process):
    """One planner with its binder."""

    def __init__(self, bus: Bus, hosts: Sequence[tuple[UUID, str]], template_id: UUID) -> None:
        super().__init__(bus.world, "planner")
        self.bus = bus
        self.store = PlannerStore()
        self.hosts = {host_id: PlannerHost(host_id, 1, HostRecord(name=name, proxy=PROXY)) for host_id, name in hosts}
        self._template_id = template_id
        self._everyone = tuple(host_id for host_id, _ in hosts)
        self._readers: list[Reader] = []
        self._is_publishing = False

    def lose_memory(self) -> None:
        for reader in self._readers:
            self.bus.close(reader)
        self._readers, self._is_publishing = [], False

    def boot(self) -> None:
        for number in range(self.bus.partitions):
            place = Place(DISPATCH_EVENTS.name, number)
            reader = Reader(self.bus, self, place, self.store.inbox.get(number, 0), self._inbox(number))
            self._readers.append(reader)
            self.bus.open(reader)
        self._relay()

    # --- commands

    def invoke(
        self, job_invocation_id: UUID, place: int, hosts: Sequence[UUID], properties: ExecutionProperties
    ) -> None:
        """Accept an invocation of these hosts."""
        now = self.clock()
        command = InvokeJob(
            id=item_id("invoke", job_invocation_id),
            time=now,
            actor=ACTOR,
            job_invocation_id=job_invocation_id,
            template="Simulate",
            targeting=Targeting(host_ids=tuple(hosts)),
        )
        lookups = InvokeLookups(self._template(properties, now), inventory=Inventory(present=set(self._everyone)))
        decided = job_invocations.decide_invoke(command, lookups, now)
        if isinstance(decided, Refused):
            raise ValueError(decided.detail)
        self.store.places[job_invocation_id] = place
        self.store.hosts[job_invocation_id] = tuple(hosts)
        self.store.targeted[job_invocation_id] = frozenset(hosts)
        self._append(decided.appends)
        self._relay()

    def _template(self, properties: ExecutionProperties, now: datetime) -> JobTemplateSaved:
        return JobTemplateSaved(
            id=item_id("template", self._template_id), time=now, actor=ACTOR, command_id=self._template_id,
            template_id=self._template_id, version=1, name="Simulate", job_category="Simulation",
            provider_type=PROVIDER, body=SCRIPT, inputs=(), properties=properties,
        )  # fmt: skip

    def cancel(self, job_invocation_id: UUID, host_ids: Sequence[UUID]) -> None:
        """Cancel an invocation, or some of its hosts; refused when it has ended."""
        now = self.clock()
        identity = item_id("cancel", job_invocation_id, *host_ids, now)
        command = CancelJobInvocation(
            id=identity, time=now, actor=ACTOR, job_invocation_id=job_invocation_id, host_ids=tuple(host_ids)
        )
        known = self.store.invocations.get(job_invocation_id)
        decided = job_invocations.decide_cancel(command, known, self.store.hosts.get(job_invocation_id, ()), now)
        if isinstance(decided, Decided):
            self._append(decided.appends)
            self._relay()

    def _append(self, appends: Iterable[Append]) -> None:
        """Events of invocations: stored, and in the notification log."""
        store = self.store
        for append in appends:
            store.invocations[append.stream] = job_invocations.evolve(store.invocations.get(append.stream), append)
            if isinstance(append.event, JobTasksPlanned):
                store.plans.setdefault(append.stream, {})[append.event.chunk] = append.event
            if _is_published(append.event):
                store.log.append((Place(PLANNING_EVENTS.name, store.places[append.stream]), append.event))

    # --- what the dispatcher says

    def _inbox(self, number: int) -> Callable[[Sequence[Record]], None]:
        def take(records: Sequence[Record]) -> None:
            self.step()
            for record in records:
                self._take(record.item)
            self.store.inbox[number] = records[-1].offset + 1
            self.step()
            self._relay()

        return take

    def _take(self, item: Item) -> None:
        match item:
            case JobInvocationDue() | PlanChunkMissing():
                self._plan(item)
            case JobInvocationEnded():
                known = self.store.invocations.get(item.job_invocation_id)
                self._append(job_invocations.decide_close(item, known, self.clock()).appends)
            case AttemptDue():
                self._bind(item)
            case CancelDue() | ResumeDue():
                self._follow_up(item)
            case _:
                return

    def _plan(self, item: JobInvocationDue | PlanChunkMissing) -> None:
        store, one = self.store, item.job_invocation_id
        if isinstance(item, PlanChunkMissing) and one in store.plans:
            wanted = item.chunks or tuple(store.plans[one])
            store.log += [
                (Place(PLANNING_EVENTS.name, store.places[one]), store.plans[one][chunk])
                for chunk in wanted
                if chunk in store.plans[one]
            ]
            return
        hosts = [PlannedHost(h, self.hosts[h].record.name, PROXY) for h in store.hosts.get(one, ())]
        self._append(job_invocations.decide_plan(item, store.invocations.get(one), hosts, self.clock()).appends)

    def _bind(self, due: AttemptDue) -> None:
        store, now = self.store, self.clock()
        facts = AttemptFacts(
            invocation=store.invocations.get(due.job_invocation_id),
            host=self.hosts.get(due.host_id),
            is_targeted=due.host_id in store.targeted.get(due.job_invocation_id, ()),
            principal=Person("simulation", ADMINISTRATOR),
            bindings=store.bindings.get(due.job_task_id, ()),
            proxies={PROXY: Proxy(PROXY, True, frozenset({PROVIDER}))},
            default_proxy=PROXY,
        )
        found = bindings.examine(due, facts, now)
        self._record(found if isinstance(found, Decision) else bindings.bind(due, facts, found, SCRIPT, {}, now))

    def _follow_up(self, due: CancelDue | ResumeDue) -> None:
        known = self.store.bindings.get(due.job_task_id, ())
        binding = next((one for one in known if one.attempt == due.attempt), None)
        host, invocation = self.hosts.get(due.host_id), self.store.invocations.get(due.job_invocation_id)
        facts = BoundFacts(binding, host.record if host else None, invocation)
        self._record(bindings.follow_up(due, facts, self.clock()))

    def _record(self, decision: Decision) -> None:
        """One decision per attempt, stored before anything of it is published (rule BIND)."""
        store, binding = self.store, decision.binding
        if binding is not None:
            store.bindings.setdefault(binding.job_task_id, []).append(binding)
        store.log += [(self._place_of(item), item) for item in decision.items]

    def _place_of(self, item: Item) -> Place:
        if isinstance(item, ProxyCommand):
            return Place(PROXY_COMMANDS.of(item.proxy), item.host_id.int % self.bus.partitions)
        assert isinstance(item, AttemptItem)  # noqa: S101 (a decision is about an attempt)
        return Place(PLANNING_EVENTS.name, self.store.places.get(item.job_invocation_id, 0))

    # --- the relay

    def _relay(self) -> None:
        """In order; the position is stored after the acknowledgement."""
        store = self.store
        if self._is_publishing or store.published >= len(store.log):
            return
        self.step()
        self._is_publishing = True
        some = store.log[store.published : store.published + RELAY_AT_ONCE]
        by_place: dict[Place, list[tuple[Item, bytes]]] = {}
        for place, item in some:
            by_place.setdefault(place, []).append((item, b""))
        waiting = set(by_place)

        def acked(place: Place) -> None:
            waiting.discard(place)
            if not waiting:
                self.step()
                self._is_publishing = False
                store.published += len(some)
                self._relay()

        # The fact before the command, as the log has them.
        for place in sorted(by_place):
            self.bus.send(self, place, by_place[place], lambda p=place: acked(p))  # type: ignore[misc]


def _is_published(event: Item) -> bool:
    """What stands in planning-events; the rest stays in the planner's own streams."""
    return type(event).__module__.endswith(".planning")
