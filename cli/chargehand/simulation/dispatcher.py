"""A dispatcher instance: the store in memory under the loops of the service.

Owns the loops: inbox, relay, time, taking partitions. It stands where chargehand_dispatcher.shell.service stands; several
instances share what is durable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial

from chargehand_dispatcher.core.agents import Agents
from chargehand_dispatcher.core.engine import Surroundings
from chargehand_dispatcher.core.rules import Timers
from chargehand_dispatcher.core.table import AgentLost, AgentRestarted
from chargehand_schemas.base import Item
from chargehand_schemas.hosts import HostCheckedIn
from chargehand_schemas.proxies import AgentEvent
from chargehand_schemas.topics import DISPATCH_EVENTS, EXECUTION_EVENTS, HOST_EVENTS, PLANNING_EVENTS, PROXY_EVENTS

from .bus import Bus, Cut, Group, Mark, Member, Place, Reader, Record
from .cuts import find_cuts, keep
from .store import Durable, LostPartition, MemoryStore, Row
from .world import Process

LOG_WITHIN_S = 10.0
PRESS_AFTER_S = 3.0
PROXY_LIMIT = 500
SILENT_AFTER = timedelta(seconds=30)
_INBOX = (PLANNING_EVENTS.name, EXECUTION_EVENTS.name)


class SimulatedDispatcher(Process):
    """One instance."""

    def __init__(
        self, bus: Bus, group: Group, name: str, durable: Durable, timers: Timers, singles: frozenset[str]
    ) -> None:
        super().__init__(bus.world, name)
        self.bus, self.group, self.durable, self.timers, self.singles = bus, group, durable, timers, singles
        self.member = Member(group, self, self._assigned)
        self.took: Callable[[Sequence[Item], datetime], None] = lambda items, now: None
        self.proxy_limits: dict[str, int] = {}
        self._forget_all()

    def _forget_all(self) -> None:
        self.store = MemoryStore(self.durable, self.store_clock, self.world.new_id)
        self.store.limit_of = lambda proxy: self.proxy_limits.get(proxy, PROXY_LIMIT)
        self.readers: list[Reader] = []
        self.agents = Agents()
        self._log_read_to: dict[int, datetime] = {}
        self._readable_since: datetime | None = None
        self._publishing_since: float | None = None
        self._timer = 0
        self.stands_still_for: float | None = None
        self._is_in_transaction = False
        self.stopped: dict[int, list[Cut]] = {}
        self._wakes_at = float("inf")

    def use(self, durable: Durable) -> None:
        """A store restored from a backup, while it is down."""
        self.durable = durable
        self._forget_all()

    def lose_memory(self) -> None:
        for reader in self.readers:
            self.bus.close(reader)
        self.member.forget()
        self.group.lose(self.member)
        self._forget_all()

    def store_clock(self) -> datetime:
        """One clock for all instances: the store's (rule CLK)."""
        return self.world.instant()

    # --- life

    def boot(self) -> None:
        self.group.join(self.member)
        news = (PROXY_EVENTS.name, HOST_EVENTS.name)
        for topic in news:
            place = Place(topic, 0)
            position = self.bus.end(place) if topic == PROXY_EVENTS.name else self.store.position(topic, 0)
            reader = Reader(self.bus, self, place, position, self._hear)
            self.readers.append(reader)
            self.bus.open(reader)
        self.after(5.0, self._look_for_silence)
        self.after(10.0, self._note_own_log)

    def around(self) -> Surroundings:
        return Surroundings(
            now=self.store_clock(),
            timers=self.timers,
            log_read_to=dict(self._log_read_to),
            readable_since=self._readable_since,
            single_agent_proxies=self.singles,
            heard=self.agents.followed,
            proxy_limit=PROXY_LIMIT,
            proxy_limits=self.proxy_limits,
        )

    def heed(self, proxy_limits: Mapping[str, int]) -> None:
        """How many attempts proxies take at once from here on."""
        self.proxy_limits = dict(proxy_limits)
        if self.is_alive:
            self._wake()

    # --- partitions

    def _assigned(self, owned: list[int]) -> None:
        if self.bus.is_down:
            # What it owns by then: two outages, one longer than the other, must not bring back what was taken away between them.
            self.after(self.bus.down_until - self.world.now, lambda: self._assigned(list(self.member.owned)))
            return
        self.store.release(sorted(self._mine()))
        for reader in [reader for reader in self.readers if reader.place.topic in _INBOX]:
            self.bus.close(reader)
            self.readers.remove(reader)
        self.stopped = {}
        for number in owned:
            cuts = find_cuts(self.bus, self.durable, number)
            if cuts:
                self.world.tell(f"{self.name} stands still on partition {number}: the log was cut: {cuts}")
                self.stopped[number] = cuts
                continue
            try:
                self._take(number)
            except LostPartition:
                continue  # another instance has taken it meanwhile, and this one will hear of it
        self._wake()

    def _mine(self) -> set[int]:
        return {reader.place.partition for reader in self.readers if reader.place.topic in _INBOX}

    def _take(self, number: int) -> None:
        """Own it, fold its own log, then what the planner said; claim nothing before that."""
        own = self.store.acquire(number)
        begins = {topic: self.store.position(topic, number) for topic in _INBOX}
        self.step()
        place = Place(DISPATCH_EVENTS.name, number)
        said = [record.item for record in self.bus.read(place, own)]
        self.store.restore(number, said, self.bus.end(place), self.around())
        self.durable.marks[place] = self.bus.mark(place, self.bus.end(place))
        self.step()
        planned = self.bus.read(Place(PLANNING_EVENTS.name, number), begins[PLANNING_EVENTS.name])
        if planned:
            items = [record.item for record in planned]
            end = planned[-1].offset + 1
            desk = self.store.take(number, PLANNING_EVENTS.name, items, end, self.around(), may_claim=False)
            begins[PLANNING_EVENTS.name] = end
            self.durable.marks[Place(PLANNING_EVENTS.name, number)] = Mark(end, planned[-1].appended_at)
            self.took(items, desk.surroundings.now)
            self.step()
        self.store.open(number)
        self.store.wake_checked_in(number, self.around())
        self._log_read_to.pop(number, None)
        self._readable_since = self.store_clock()
        for topic, position in begins.items():
            reader = Reader(self.bus, self, Place(topic, number), position, self._inbox(topic, number))
            self.readers.append(reader)
            self.bus.open(reader)

    # --- the inbox

    def _inbox(self, topic: str, number: int) -> Callable[[Sequence[Record]], None]:
        def take(records: Sequence[Record]) -> None:
            self.step()
            items = [record.item for record in records]
            try:
                desk = self.store.take(
                    number, topic, items, records[-1].offset + 1, self.around(), may_claim=not self._is_pressed()
                )
            except LostPartition:
                return
            self.durable.marks[Place(topic, number)] = Mark(records[-1].offset + 1, records[-1].appended_at)
            self.took(items, desk.surroundings.now)
            self.step()
            self._wake()

        return take

    def _wake(self) -> None:
        self._relay()
        self._set_timer(0.0)

    # --- the outbox

    def _relay(self) -> None:
        rows = self.store.outbox()
        if self._publishing_since is not None or not rows:
            return
        self.step()
        self._publishing_since = self.world.now
        by_partition: dict[int, list[Row]] = {}
        for row in rows:
            by_partition.setdefault(row.partition, []).append(row)
        waiting = set(by_partition)

        def acked(partition: int) -> None:
            waiting.discard(partition)
            keep(self.bus, self.durable, partition, by_partition[partition])
            if not waiting:
                self.step()
                self.store.published(rows)
                self._publishing_since = None
                self._wake()

        for partition, some in by_partition.items():
            items = [(item, b"") for row in some for item in row.items]
            self.bus.send(self, Place(DISPATCH_EVENTS.name, partition), items, lambda p=partition: acked(p))  # type: ignore[misc]

    def _is_pressed(self) -> bool:
        since = self._publishing_since
        return since is not None and self.world.now - since > PRESS_AFTER_S

    # --- time

    def _set_timer(self, delay_s: float) -> None:
        at = self.world.now + delay_s
        if at < self._wakes_at:
            self._timer += 1
            self._wakes_at = at
            self.after(delay_s, lambda number=self._timer: self._ring(number))  # type: ignore[misc]

    def _ring(self, number: int) -> None:
        if number == self._timer:
            self._wakes_at = float("inf")
            self._keep_time()

    def _keep_time(self) -> None:
        instant = self.store.next_instant()
        if instant is None:
            return
        wait_s = (instant - self.store_clock()).total_seconds()
        if wait_s > 0:
            self._set_timer(wait_s + 1e-6)
        elif self._work():
            self._wake()
        else:
            self._read_log_to_its_end()

    def _work(self) -> int:
        if self._is_in_transaction:
            return 0
        if self.stands_still_for is not None and set(self.store.owned()) == set(range(self.bus.partitions)):
            return self._work_and_stand_still(self.stands_still_for)
        try:
            worked = self.store.work(self.around(), may_claim=not self._is_pressed())
        except LostPartition:
            return 0
        self.step()
        return worked

    def _work_and_stand_still(self, for_s: float) -> int:
        """SIGSTOP in the middle of a transaction: what was read then is written when it goes on, if the fence lets it."""
        self.stands_still_for, self._is_in_transaction = None, True
        read = self.durable.copy()
        store = self.store.over(read)
        try:
            worked = store.work(self.around(), may_claim=True)
        except LostPartition:
            self._is_in_transaction = False
            return 0
        self.stop(for_s)
        self.group.lose(self.member)
        self.hold_first(lambda: self._commit(read, store))
        self.after(0.0, lambda: self.group.join(self.member))
        return worked

    def _commit(self, read: Durable, store: MemoryStore) -> None:
        self._is_in_transaction = False
        try:
            self.store.check_fence()
        except LostPartition:
            return
        self.durable.become(read)
        self.store.take_over(store)
        self._wake()

    def _read_log_to_its_end(self) -> None:
        """Rule WM: stored up to an end fetched after the instant that is concluded from."""
        if self.bus.is_down:
            self._readable_since = None
            self._set_timer(1.0)
            return
        moment, mine = self.store_clock(), self.store.owned()
        self._readable_since = self._readable_since or moment
        self.after(self.bus.latency(), lambda: self._see_ends(moment, mine))

    def _see_ends(self, moment: datetime, mine: list[int]) -> None:
        ends = {number: self.bus.end(Place(EXECUTION_EVENTS.name, number)) for number in mine}
        self._wait_for(moment, ends, self.world.now + LOG_WITHIN_S)

    def _wait_for(self, moment: datetime, ends: dict[int, int], deadline: float) -> None:
        if all(self.store.position(EXECUTION_EVENTS.name, number) >= end for number, end in ends.items()):
            self._log_read_to.update(dict.fromkeys(ends, moment))
            if self._work():
                self._wake()
            else:
                self._set_timer(1.0)
        elif self.world.now < deadline:
            self.after(0.05, lambda: self._wait_for(moment, ends, deadline))
        else:
            self._set_timer(1.0)

    # --- agents and hosts

    def _hear(self, records: Sequence[Record]) -> None:
        check_ins = {}
        for record in records:
            if isinstance(record.item, HostCheckedIn):
                at = min(record.item.checked_in_at, record.appended_at)
                check_ins[record.item.host_id, record.item.proxy] = at
            elif isinstance(record.item, AgentEvent):
                event = self.agents.hear(record.item, self.store_clock())
                if event is not None:
                    self._tell(partial(self._ask, event))
        if check_ins:
            self._tell(lambda: self.store.check_in(check_ins, self.around()))
            self.durable.inbox[HOST_EVENTS.name, 0] = records[-1].offset + 1

    def _ask(self, event: AgentLost | AgentRestarted) -> None:
        self.store.ask(event, self.around())

    def _tell(self, change: Callable[[], None]) -> None:
        try:
            change()
        except LostPartition:
            change()
        self.step()
        self._wake()

    def _look_for_silence(self) -> None:
        for lost in self.agents.silent(self.store_clock(), SILENT_AFTER):
            self._tell(partial(self._ask, lost))
        self.after(5.0, self._look_for_silence)

    def _note_own_log(self) -> None:
        """So that a restart folds little: what stands below was said by this store, or is folded into it."""
        if not self.bus.is_down:
            for number in self.store.owned():
                if self.durable.owners.get(number) is not None and not self.store.outbox():
                    self.durable.own_log[number] = self.bus.end(Place(DISPATCH_EVENTS.name, number))
        self.after(10.0, self._note_own_log)
