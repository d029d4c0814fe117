"""A planner instance: the real decisions over a store in memory, its notification log and the relay that publishes it.

Owns the loops: inbox by partition, fenced by its owner; one relay at a time. It stands where chargehand_planner.shell stands;
several instances share what is durable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from uuid import UUID

from chargehand_planner.core import bindings, job_invocations
from chargehand_planner.core.bindings import AttemptFacts, Binding, BoundFacts, Decision, Proxy, Sealed
from chargehand_planner.core.hosts import Host as PlannerHost
from chargehand_planner.core.job_invocations import InvokeLookups, JobInvocation
from chargehand_planner.core.outcomes import Append, Decided, Refused
from chargehand_planner.core.plans import PlannedHost
from chargehand_planner.core.rights import ADMINISTRATOR, Person
from chargehand_planner.core.targeting import Inventory
from chargehand_schemas.base import AttemptItem, Item
from chargehand_schemas.catalog import JobTemplateSaved
from chargehand_schemas.commands import CancelJobInvocation, EditJobInvocation, HostRecord, InvokeJob, Targeting
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
from .bus import SESSION_S, Bus, Cut, Group, Mark, Member, Place, Reader, Record
from .world import Process

ACTOR = "user:simulation"
SCRIPT = "simulate"
RELAY_AT_ONCE = 500
STANDBY_S = 5.0


@dataclass
class PlannerStore:
    """What outlives the processes. `owners`: who may write of a partition of its inbox. `relay`: who publishes, a process and its
    life. `heard`, `said`: marks of what was read, and of what was published up to a place of the log. `writes` counts."""

    invocations: dict[UUID, JobInvocation] = field(default_factory=dict)
    hosts: dict[UUID, tuple[UUID, ...]] = field(default_factory=dict)
    targeted: dict[UUID, frozenset[UUID]] = field(default_factory=dict)
    plans: dict[UUID, dict[int, JobTasksPlanned]] = field(default_factory=dict)
    bindings: dict[UUID, list[Binding]] = field(default_factory=dict)
    places: dict[UUID, int] = field(default_factory=dict)
    log: list[tuple[Place, Item]] = field(default_factory=list)
    published: int = 0
    inbox: dict[int, int] = field(default_factory=dict)
    owners: dict[int, UUID] = field(default_factory=dict)
    relay: tuple[str, int] | None = None
    heard: dict[int, Mark] = field(default_factory=dict)
    said: list[tuple[int, dict[Place, Mark]]] = field(default_factory=list)
    writes: int = 0

    def copy(self) -> PlannerStore:
        """As a transaction reads it."""
        return PlannerStore(
            invocations=dict(self.invocations), hosts=dict(self.hosts), targeted=dict(self.targeted),
            plans={one: dict(chunks) for one, chunks in self.plans.items()},
            bindings={one: list(some) for one, some in self.bindings.items()}, places=dict(self.places), log=list(self.log),
            published=self.published, inbox=dict(self.inbox), owners=dict(self.owners), relay=self.relay,
            heard=dict(self.heard), said=list(self.said), writes=self.writes,
        )  # fmt: skip

    def become(self, other: PlannerStore) -> None:
        """What the transaction has changed is written over; who owns what, and who publishes, was never its."""
        for each in fields(self):
            if each.name not in ("owners", "relay"):
                setattr(self, each.name, getattr(other, each.name))


class SimulatedPlanner(Process):
    """One planner with its binder. `peers` are woken by its commits, and it by theirs."""

    def __init__(
        self,
        bus: Bus,
        group: Group,
        name: str,
        durable: PlannerStore,
        hosts: Sequence[tuple[UUID, str]],
        template_id: UUID,
    ) -> None:
        super().__init__(bus.world, name)
        self.bus, self.group, self.durable, self.store = bus, group, durable, durable
        self.member = Member(group, self, self._assigned)
        self.peers: list[SimulatedPlanner] = []
        self.hosts = {host_id: PlannerHost(host_id, 1, HostRecord(name=name, proxy=PROXY)) for host_id, name in hosts}
        self._template_id = template_id
        self._everyone = tuple(host_id for host_id, _ in hosts)
        self._forget_all()

    def _forget_all(self) -> None:
        self._readers: list[Reader] = []
        self._tokens: dict[int, UUID] = {}
        self._is_publishing = False
        self.stands_still_for: float | None = None
        self.stands_still_sending: float | None = None
        self.cuts: list[Cut] = []

    def lose_memory(self) -> None:
        for reader in self._readers:
            self.bus.close(reader)
        self.member.forget()
        self.group.lose(self.member)
        self._end_session()
        self._forget_all()

    def boot(self) -> None:
        self.group.join(self.member)
        self._relay()
        if self.peers:
            self.after(STANDBY_S, self._stand_by)

    # --- partitions

    def _assigned(self, owned: list[int]) -> None:
        for reader in self._readers:
            self.bus.close(reader)
        self._readers, self._tokens = [], {}
        self.cuts = self.find_cuts(owned)
        if self.cuts:
            self.world.tell(f"{self.name} ends: the log was cut: {self.cuts}")
            return
        for number in owned:
            self.store.owners[number] = self._tokens[number] = self.world.new_id()
            place = Place(DISPATCH_EVENTS.name, number)
            reader = Reader(self.bus, self, place, self.store.inbox.get(number, 0), self._inbox(number))
            self._readers.append(reader)
            self.bus.open(reader)

    def find_cuts(self, numbers: Sequence[int]) -> list[Cut]:
        """Rule RET: the positions of its inbox, and what it published, against the logs."""
        store = self.store
        marks = {Place(DISPATCH_EVENTS.name, number): store.heard.get(number, Mark()) for number in numbers}
        for _, ends in store.said:
            marks.update({place: mark for place, mark in ends.items() if place.topic == PLANNING_EVENTS.name})
        return [cut for place, mark in sorted(marks.items()) if (cut := self.bus.find_cut(place, mark))]

    def mend(self) -> None:
        """`chargehand repair planner`: positions go back to where the log is whole, and what stood beyond is published again."""
        store = self.store
        for cut in self.find_cuts(range(self.bus.partitions)):
            if cut.place.topic == DISPATCH_EVENTS.name:
                store.inbox[cut.place.partition] = cut.held
                store.heard[cut.place.partition] = self.bus.mark(cut.place, cut.held)
                continue
            surely = [n for n, ends in store.said if ends.get(cut.place, Mark()).next_offset <= cut.held]
            store.published = min(store.published, max(surely, default=0))
        store.said = [(n, ends) for n, ends in store.said if n <= store.published]

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
        self._wake()

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
            self._wake()

    def edit(self, job_invocation_id: UUID, concurrency: int | None) -> None:
        """Another concurrency limit for an invocation that goes on."""
        now = self.clock()
        command = EditJobInvocation(
            id=item_id("edit", job_invocation_id, now), time=now, actor=ACTOR, job_invocation_id=job_invocation_id,
            concurrency=concurrency,
        )  # fmt: skip
        decided = job_invocations.decide_edit(command, self.store.invocations.get(job_invocation_id), now)
        if isinstance(decided, Decided):
            self._append(decided.appends)
            self._wake()

    def _append(self, appends: Iterable[Append]) -> None:
        """Events of invocations: stored, and in the notification log."""
        store = self.store
        for append in appends:
            store.invocations[append.stream] = job_invocations.evolve(store.invocations.get(append.stream), append)
            if isinstance(append.event, JobTasksPlanned):
                store.plans.setdefault(append.stream, {})[append.event.chunk] = append.event
            store.writes += 1
            if _is_published(append.event):
                store.log.append((Place(PLANNING_EVENTS.name, store.places[append.stream]), append.event))

    # --- what the dispatcher says

    def _inbox(self, number: int) -> Callable[[Sequence[Record]], None]:
        def take(records: Sequence[Record]) -> None:
            self.step()
            if self.stands_still_for is not None:
                self._take_and_stand_still(number, records, self.stands_still_for)
            elif self._is_owner(number):
                self._take_all(number, records)

        return take

    def _is_owner(self, number: int) -> bool:
        """Nobody has taken this partition since: what this instance decides of it may be stored."""
        return number in self._tokens and self.store.owners.get(number) == self._tokens[number]

    def _take_all(self, number: int, records: Sequence[Record]) -> None:
        for record in records:
            self._take(record.item)
        self.store.inbox[number] = records[-1].offset + 1
        self.store.heard[number] = Mark(records[-1].offset + 1, records[-1].appended_at)
        self.store.writes += 1
        self.step()
        self._wake()

    def _take_and_stand_still(self, number: int, records: Sequence[Record], for_s: float) -> None:
        """SIGSTOP in the middle of a transaction: what was decided by what was read then is stored when it goes on, if the fence
        lets it and nobody has written meanwhile."""
        self.stands_still_for = None
        read, begun = self.store.copy(), self.store.writes
        self.store = read
        for record in records:
            self._take(record.item)
        read.inbox[number] = records[-1].offset + 1
        read.heard[number] = Mark(records[-1].offset + 1, records[-1].appended_at)
        self.store = self.durable
        token = self._tokens.get(number)
        self.stand_still(for_s)
        self.hold_first(lambda: self._commit(number, token, (read, begun), records))

    def _commit(
        self, number: int, token: UUID | None, transaction: tuple[PlannerStore, int], records: Sequence[Record]
    ) -> None:
        read, begun = transaction
        if token is None or self.store.owners.get(number) != token:
            return
        if self.store.writes == begun:
            self.store.become(read)
            self.store.writes += 1
            self._wake()
        elif self._is_owner(number):
            self._take_all(number, records)

    def stand_still(self, for_s: float) -> None:
        """SIGSTOP for a while. The group goes on without it after its session, and so does the store's: its lock is free then."""
        self.stop(for_s)
        self.group.lose(self.member)
        self.world.after(SESSION_S, self._end_session_if_stopped)
        self.after(0.0, lambda: self.group.join(self.member))

    def _end_session_if_stopped(self) -> None:
        if self.is_stopped:
            self._end_session()

    def _end_session(self) -> None:
        if self.durable.relay is not None and self.durable.relay[0] == self.name:
            self.durable.relay = None

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
        self._record(found if isinstance(found, Decision) else bindings.bind(due, facts, found, SCRIPT, Sealed(), now))

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

    def _wake(self) -> None:
        """Something is committed: whoever publishes is woken."""
        self._relay()
        for peer in self.peers:
            if peer.is_alive:
                peer.after(self.bus.latency(), peer._relay)

    def _stand_by(self) -> None:
        self._relay()
        self.after(STANDBY_S, self._stand_by)

    def _may_publish(self) -> bool:
        """The single-relay lock: held until the process dies or its session ends."""
        me = (self.name, self.generation)
        if self.store.relay is None:
            self.store.relay = me
        return self.store.relay == me

    def _relay(self) -> None:
        """In order; the position is stored after the acknowledgement."""
        store = self.store
        if self._is_publishing or store.published >= len(store.log) or self.cuts or not self._may_publish():
            return
        self.step()
        self._is_publishing = True
        begin = store.published
        end = min(begin + RELAY_AT_ONCE, len(store.log))
        by_place: dict[Place, list[tuple[Item, bytes]]] = {}
        for place, item in store.log[begin:end]:
            by_place.setdefault(place, []).append((item, b""))
        waiting = set(by_place)

        def acked(place: Place) -> None:
            waiting.discard(place)
            if not waiting:
                self.step()
                self._is_publishing = False
                self._note_sent(end, by_place)
                self._relay()

        # The fact before the command, as the log has them.
        for place in sorted(by_place):
            self.bus.send(self, place, by_place[place], lambda p=place: acked(p))  # type: ignore[misc]
        if self.stands_still_sending is not None:
            for_s, self.stands_still_sending = self.stands_still_sending, None
            self.stand_still(for_s)

    def _note_sent(self, end: int, places: Iterable[Place]) -> None:
        """Never back: another may have gone on from there meanwhile."""
        self.store.published = max(self.store.published, end)
        ends = dict(self.store.said[-1][1]) if self.store.said else {}
        ends |= {place: self.bus.mark(place, self.bus.end(place)) for place in places}
        self.store.said.append((self.store.published, ends))


def _is_published(event: Item) -> bool:
    """What stands in planning-events; the rest stays in the planner's own streams."""
    return type(event).__module__.endswith(".planning")
