"""A broker: logs in order, appended some time after they were sent and read some time after that.

Owns delays, outages, and who of a group owns which partition. Delivery is at least once, like Kafka's: what was read and not
committed is read again, and what a dead process had sent may still be appended.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from chargehand_schemas.base import Item
from chargehand_schemas.topics import HOST_EVENTS, PROGRESS_REPORTS

from .world import Action, Process, World

SESSION_S = 10.0
READ_AT_ONCE = 100
RETRY_S = 0.05
NEVER_CUT = frozenset({PROGRESS_REPORTS.name, HOST_EVENTS.name})
"""What is lost of output or check-ins is lost for good: no repair brings it back (docs/adr/0023)."""


class Place(NamedTuple):
    topic: str
    partition: int


class Record(NamedTuple):
    """An item in a log. `raw` are the bytes of a ProgressReport."""

    offset: int
    appended_at: datetime
    item: Item
    raw: bytes


class Mark(NamedTuple):
    """A place in a log: the offset to go on from, and the broker's time of the record before it (None: there was none)."""

    next_offset: int = 0
    appended_at: datetime | None = None


class Cut(NamedTuple):
    """A log that does not hold what a store knows of it: it is the same up to `held`. `is_below`: it lost its beginning unread."""

    place: Place
    position: int
    held: int
    is_below: bool


@dataclass(slots=True, eq=False)
class _Sent:
    """`is_at_home`: the broker was away, so that it has not left its process, and is lost with it."""

    process: Process
    generation: int
    number: int
    place: Place
    items: Sequence[tuple[Item, bytes]]
    acked: Action | None
    is_at_home: bool = False


class Bus:
    """All topics. `watch` is called for each record appended, in order."""

    def __init__(self, world: World, partitions: int) -> None:
        self.world, self.partitions = world, partitions
        self.logs: dict[Place, list[Record]] = defaultdict(list)
        self.begins: dict[Place, int] = defaultdict(int)
        self.watch: Callable[[Place, Record], None] = lambda place, record: None
        self.down_until = 0.0
        self.slow_until = 0.0
        self._readers: dict[Place, list[Reader]] = defaultdict(list)
        self._channel: dict[tuple[str, Place], float] = {}
        self._acks: dict[tuple[str, Place], float] = {}
        self._waiting: dict[tuple[str, Place], deque[_Sent]] = defaultdict(deque)
        self._sent: dict[str, int] = defaultdict(int)
        self._lost_from: dict[tuple[str, int], int] = {}

    @property
    def is_down(self) -> bool:
        return self.world.now < self.down_until

    def latency(self) -> float:
        most = 2.0 if self.world.now < self.slow_until else 0.004
        return self.world.between(0.0005, most)

    # --- writing

    def send(
        self, process: Process, place: Place, items: Sequence[tuple[Item, bytes]], acked: Action | None = None
    ) -> None:
        """Append, later; what one process sends to one partition stays in order. `acked` if the process is still there."""
        self._sent[process.name] += 1
        sent = _Sent(process, process.generation, self._sent[process.name], place, items, acked)
        self._waiting[process.name, place].append(sent)
        self._carry(sent, self.latency())

    def _carry(self, sent: _Sent, delay_s: float) -> None:
        channel = (sent.process.name, sent.place)
        at = max(self.world.now + delay_s, self._channel.get(channel, 0.0), self.down_until)
        self._channel[channel] = at
        sent.is_at_home = self.down_until > self.world.now + delay_s
        self.world.after(at - self.world.now, lambda: self._arrive(sent))

    def _arrive(self, sent: _Sent) -> None:
        waiting = self._waiting[sent.process.name, sent.place]
        if waiting[0] is not sent:
            # What was sent before it was refused, and is tried again: it comes first.
            self.world.after(RETRY_S, lambda: self._arrive(sent))
            return
        is_of_the_dead = sent.generation != sent.process.generation
        if is_of_the_dead and (self.is_down or sent.is_at_home or self._is_lost(sent)):
            waiting.popleft()
            return
        if self.is_down:
            # A producer that was refused waits before it tries again: until then it is in its memory alone.
            self._carry(sent, self.down_until - self.world.now + self.world.between(0.0, 5.0))
            sent.is_at_home = True
            return
        waiting.popleft()
        self.append(sent.place, sent.items)
        if sent.acked is not None and sent.generation == sent.process.generation:
            # Acknowledged in order, as it was appended.
            channel = (sent.process.name, sent.place)
            at = max(self.world.now + self.latency(), self._acks.get(channel, 0.0))
            self._acks[channel] = at
            sent.process.after(at - self.world.now, sent.acked)

    def _is_lost(self, sent: _Sent) -> bool:
        """What was on the wire when its sender died arrives up to some record, and not beyond."""
        key = (sent.process.name, sent.generation)
        if key not in self._lost_from:
            self._lost_from[key] = sent.number + int(self.world.between(0, 3))
        return sent.number >= self._lost_from[key]

    def append(self, place: Place, items: Sequence[tuple[Item, bytes]]) -> None:
        log, now = self.logs[place], self.world.instant()
        for item, raw in items:
            record = Record(len(log), now, item, raw)
            log.append(record)
            self.world.mark(item.id.bytes)
            self.watch(place, record)
        for reader in self._readers[place]:
            reader.wake()

    # --- reading

    def end(self, place: Place) -> int:
        return len(self.logs[place])

    def read(self, place: Place, position: int, most: int | None = None) -> Sequence[Record]:
        """From a position on, or from where the log begins if it has lost that."""
        begin = max(position, self.begins[place])
        return self.logs[place][begin : None if most is None else begin + most]

    def mark(self, place: Place, next_offset: int) -> Mark:
        """What whoever has read or written so far remembers of it."""
        return Mark(next_offset, self.logs[place][next_offset - 1].appended_at if next_offset else None)

    def find_cut(self, place: Place, mark: Mark) -> Cut | None:
        """Rule RET, as chargehand_chassis.kafka compares it: the record before the position is still the one that was there."""
        log, position = self.logs[place], mark.next_offset
        if position < self.begins[place]:
            return Cut(place, position, position, is_below=True)
        is_there = position <= len(log) and (not position or log[position - 1].appended_at == mark.appended_at)
        if is_there:
            return None
        held = next((one.offset for one in log if mark.appended_at and one.appended_at > mark.appended_at), len(log))
        return Cut(place, position, held, is_below=False)

    def lose_beginning(self, place: Place) -> None:
        """Everything in it is deleted, whoever has read it or not."""
        self.begins[place] = len(self.logs[place])

    def lose_end(self, since: datetime) -> None:
        """The machine has crashed: what was appended after that was not on disk."""
        for place, log in self.logs.items():
            while len(log) > self.begins[place] and log[-1].appended_at > since and place.topic not in NEVER_CUT:
                log.pop()

    def readers(self) -> list[Reader]:
        return [reader for place in sorted(self._readers) for reader in self._readers[place]]

    def open(self, reader: Reader) -> None:
        self._readers[reader.place].append(reader)
        reader.wake()

    def close(self, reader: Reader) -> None:
        if reader in self._readers[reader.place]:
            self._readers[reader.place].remove(reader)
        reader.is_open = False


class Reader:
    """One process reading one partition from a position on. `take` gets records in order."""

    def __init__(
        self, bus: Bus, process: Process, place: Place, position: int, take: Callable[[Sequence[Record]], None]
    ) -> None:
        self.bus, self.process, self.place, self.position, self.take = bus, process, place, position, take
        self.is_open = True
        self.lags_until = 0.0
        self._is_coming = False

    def wake(self) -> None:
        if not self._is_coming and self.position < self.bus.end(self.place):
            self._is_coming = True
            world = self.bus.world
            at = max(world.now + self.bus.latency(), self.lags_until, self.bus.down_until)
            self.process.after(at - world.now, self._fetch)

    def _fetch(self) -> None:
        self._is_coming = False
        if not self.is_open:
            return
        if not self.bus.is_down and self.position < self.bus.end(self.place):
            records = self.bus.read(self.place, self.position, self.bus.world.random.randint(1, READ_AT_ONCE))
            # Nothing is left, if all of it was deleted.
            self.position = records[-1].offset + 1 if records else self.bus.end(self.place)
            if records:
                self.take(records)
        self.wake()


class Group:
    """Members of a consumer group and what each owns: given anew when one comes, goes, or was not heard for a session."""

    def __init__(self, world: World, partitions: int) -> None:
        self.world, self.partitions = world, partitions
        self.members: list[Member] = []
        self.committed: dict[int, int] = defaultdict(int)

    def join(self, member: Member) -> None:
        if member not in self.members:
            self.members.append(member)
        self.world.after(0.05, self._assign)

    def lose(self, member: Member) -> None:
        """It was killed or stands still: the broker sees that when its session is over."""
        generation, died = member.process.generation, member.process.crashed_at
        self.world.after(SESSION_S, lambda: self._time_out(member, generation, died))

    def leave(self, member: Member) -> None:
        if member in self.members:
            self.members.remove(member)
            member.owned = []
            self._assign()

    def _time_out(self, member: Member, generation: int, died: float) -> None:
        process = member.process
        is_back = process.is_alive and not process.is_stopped and process.generation != generation
        is_the_same = process.crashed_at == died
        if not is_back and is_the_same and member in self.members and (not process.is_alive or process.is_stopped):
            self.members.remove(member)
            member.offer([])
            self._assign()

    def _assign(self) -> None:
        shares: list[list[int]] = [[] for _ in self.members]
        for number in range(self.partitions):
            if shares:
                shares[number % len(shares)].append(number)
        for member, share in zip(self.members, shares, strict=True):
            member.offer(share)


class Member:
    """One process in a group. `assigned` is told what it owns now, when it hears of it."""

    def __init__(self, group: Group, process: Process, assigned: Callable[[list[int]], None]) -> None:
        self.group, self.process, self._assigned = group, process, assigned
        self.owned: list[int] = []

    def offer(self, share: list[int]) -> None:
        """Every rebalance takes everything away and gives it anew, to all members (the eager protocol)."""
        self.owned = share
        self.process.after(0.01, lambda: self._assigned(list(share)))

    def forget(self) -> None:
        """Its process was killed; the broker does not know that yet."""
        self.owned = []
