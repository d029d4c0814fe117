"""Taking partitions: own them, check that nothing is missing, fold their own log, read the planner's part of the inbox.

Owns the order (docs/protocol.md, rules REST and RET): nothing is claimed of a partition before all of it is done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from chargehand_chassis.kafka import (
    KeyringFollower,
    Mark,
    PartitionReader,
    Received,
    TopicFollower,
    TopicPartition,
    find_cuts,
    is_cut,
)
from chargehand_schemas.base import Item
from chargehand_schemas.topics import DISPATCH_EVENTS, EXECUTION_EVENTS, PLANNING_EVENTS

from chargehand_dispatcher.core.engine import Surroundings

from .settings import DispatcherSettings
from .store import DispatcherStore, InboxGroup

T = TypeVar("T")
_AT_ONCE = 20_000
_READ = (DISPATCH_EVENTS.name, PLANNING_EVENTS.name)
CHECKED = (PLANNING_EVENTS.name, EXECUTION_EVENTS.name, DISPATCH_EVENTS.name)


class InThread(Protocol):
    """Runs work on the store's thread."""

    async def __call__(self, work: Callable[[], T]) -> T: ...


class Taking:
    """One assignment of partitions."""

    def __init__(
        self,
        settings: DispatcherSettings,
        keyring: KeyringFollower,
        reader: PartitionReader,
        store: DispatcherStore,
        in_thread: InThread,
        around: Callable[[], Surroundings],
        group: Callable[[TopicPartition, Iterable[Any]], Awaitable[InboxGroup]],
    ) -> None:
        self._settings, self._keyring, self._reader, self._store = settings, keyring, reader, store
        self._in_thread, self._around, self._group = in_thread, around, group
        self._positions: dict[TopicPartition, int] = {}
        self._marks: dict[TopicPartition, Mark] = {}

    async def take(self, numbers: Sequence[int]) -> tuple[dict[TopicPartition, int], dict[int, str]]:
        """Where to begin in the inbox, and which partitions stand still, with why."""
        for number in numbers:
            await self._acquire(number)
        stopped = await self._missing()
        await self._in_thread(lambda: self._store.release(stopped))
        mine = [number for number in numbers if number not in stopped]
        if mine:
            await self._catch_up(mine)
        for number in mine:
            await self._in_thread(lambda n=number: self._store.open(n))  # type: ignore[misc]
            await self._in_thread(lambda n=number: self._store.look_again(n, self._around()))  # type: ignore[misc]
            await self._in_thread(lambda n=number: self._store.wake_checked_in(n, self._around()))  # type: ignore[misc]
        inbox = {tp: at for tp, at in self._positions.items() if tp.topic != DISPATCH_EVENTS.name}
        return {tp: at for tp, at in inbox.items() if tp.partition not in stopped}, stopped

    async def _acquire(self, number: int) -> None:
        await self._in_thread(lambda: self._store.acquire(number, is_whole=False))
        marks = await self._in_thread(lambda: self._store.marks(number))
        self._marks |= {TopicPartition(topic, number): marks[topic] for topic in CHECKED}
        self._positions |= {tp: mark.next_offset for tp, mark in self._marks.items()}

    async def _missing(self) -> dict[int, str]:
        """A position outside its log stops its partition and is never jumped over (rule RET)."""
        cuts = await find_cuts(self._settings, self._marks)
        return {cut.partition: is_cut(str(cut)) for cut in cuts}

    async def _catch_up(self, mine: Sequence[int]) -> None:
        """Own log first, then what the planner said: agents' facts are judged by both."""
        everywhere = [TopicPartition(topic, n) for topic in _READ for n in range(self._settings.partitions)]
        ends = await self._reader.end_offsets(everywhere)
        begins = {tp: self._positions[tp] if tp.partition in mine else ends[tp] for tp in everywhere}
        if all(begins[tp] >= ends[tp] for tp in everywhere):
            return
        for topic in _READ:
            own = {tp: at for tp, at in begins.items() if tp.topic == topic}
            await self._read(topic, own, {tp: ends[tp] for tp in own if tp.partition in mine})

    async def _read(self, topic: str, begins: dict[TopicPartition, int], ends: dict[TopicPartition, int]) -> None:
        if all(begins[tp] >= end for tp, end in ends.items()):
            return
        follower = TopicFollower(self._settings, [topic], begins)
        await follower.start()
        try:
            while not await follower.has_reached(ends):
                for tp, records in (await follower.getmany(max_records=200)).items():
                    some = [record for record in records if tp in ends and record.offset < ends[tp]]
                    if some:
                        await (self._fold if topic == DISPATCH_EVENTS.name else self._plan)(tp, some, ends[tp])
        finally:
            await follower.stop()

    async def _fold(self, tp: TopicPartition, records: Sequence[Any], end: int) -> None:
        items: list[Item] = []
        for message in await self._keyring.read_all(records):
            if isinstance(message, Received):
                items.extend(message.items)
        next_offset = records[-1].offset + 1
        await self._in_thread(
            lambda: self._store.restore(
                tp.partition,
                items,
                next_offset,
                self._around(),
                is_last=next_offset >= end,
                append_ms=records[-1].timestamp,
            )
        )

    async def _plan(self, tp: TopicPartition, records: Sequence[Any], end: int) -> None:
        await self._keyring.meet(records)
        group = await self._group(tp, records)
        await self._in_thread(lambda: self._store.take([group], self._around()))
        self._positions[tp] = group.next_offset
