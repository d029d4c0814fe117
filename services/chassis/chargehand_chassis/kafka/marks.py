"""Whether a log still holds what was read of it or written to it: by an offset, and by the broker's time of the record before it.

Owns that comparison. A log is cut when its machine crashes and what was not on disk is gone, or when its topic is made anew; and
it grows again before anybody looks. An offset alone cannot tell: the record below it must be the one that was there before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from ..errors import FatalFailure, TransientFailure
from ..settings import KafkaSettings
from .connection import connection

_WITHIN_S = 30.0


def is_cut(what: str) -> str:
    """What every service says of a log that does not hold what it knows, and what to do."""
    return (
        f"the log was cut, see `chargehand repair`: {what}. Nothing is skipped: stop the services and repair, or restore the log "
        "or the store of the same day"
    )


class Mark(NamedTuple):
    """A place in a log: the offset to go on from, and the broker's time of the record before it (milliseconds since 1970; 0: not
    known)."""

    next_offset: int
    append_ms: int = 0


@dataclass(frozen=True, slots=True)
class Cut:
    """A log that does not hold what a store knows of it: it is the same up to `held`. It begins at `begin` and ends at `end`."""

    topic: str
    partition: int
    position: int
    begin: int
    held: int
    end: int

    @property
    def place(self) -> str:
        return f"{self.topic}/{self.partition}"

    @property
    def is_below(self) -> bool:
        """Whether the log has lost its beginning, and with it what was not read yet, instead of its end."""
        return self.position < self.begin

    @property
    def missing(self) -> int:
        """How many records are gone, by their offsets."""
        return self.begin - self.position if self.is_below else self.position - self.held

    def __str__(self) -> str:
        said = f"{self.place}: the store stands at {self.position}, the log "
        if self.is_below:
            return f"{said}begins at {self.begin}: {self.missing} messages are missing"
        if self.end > self.held:
            return f"{said}is the same up to {self.held} only, and went on to {self.end}: {self.missing} messages are missing"
        return f"{said}has {self.begin} to {self.end}: {self.missing} messages are missing"


async def find_cuts(settings: KafkaSettings, marks: Mapping[TopicPartition, Mark]) -> list[Cut]:
    """The logs that do not hold what these marks say. Compacted topics are to be left out: they lose records by nature.
    TransientFailure if Kafka does not answer."""
    if not marks:
        return []
    consumer = AIOKafkaConsumer(
        **connection(settings),
        enable_auto_commit=False,
        auto_offset_reset="none",
        fetch_max_wait_ms=100,
        max_partition_fetch_bytes=64 * 1024,
    )
    await consumer.start()
    try:
        async with asyncio.timeout(_WITHIN_S):
            return [cut for cut in await _Comparison(consumer, marks).run() if cut is not None]
    except (KafkaError, TimeoutError) as error:
        raise TransientFailure(f"positions could not be compared with the log: {error!r}") from error
    finally:
        await consumer.stop()


async def ends_of(settings: KafkaSettings, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
    """The ends of logs that hold anything, asked by a connection of its own. TransientFailure if Kafka does not answer."""
    if not partitions:
        return {}
    consumer = AIOKafkaConsumer(**connection(settings), enable_auto_commit=False)
    try:
        async with asyncio.timeout(_WITHIN_S):
            await consumer.start()
            begins = await consumer.beginning_offsets(list(partitions))
            ends = await consumer.end_offsets(list(partitions))
            return {tp: end for tp, end in ends.items() if end > begins[tp]}
    except (KafkaError, TimeoutError) as error:
        raise TransientFailure(f"the ends of logs are not known: {error!r}") from error
    finally:
        await consumer.stop()


async def check_log(
    settings: KafkaSettings, marks: Mapping[TopicPartition, Mark], *, may_begin_later: bool = False
) -> None:
    """FatalFailure if a log does not hold what these marks say (docs/protocol.md, rule RET): that needs a person.
    `may_begin_later`: who reads tells of what was deleted unread in another way."""
    cuts = [cut for cut in await find_cuts(settings, marks) if not (cut.is_below and may_begin_later)]
    if cuts:
        raise FatalFailure(is_cut("; ".join(map(str, cuts))))


class _Comparison:
    def __init__(self, consumer: Any, marks: Mapping[TopicPartition, Mark]) -> None:
        self._consumer = consumer
        self._marks = marks

    async def run(self) -> list[Cut | None]:
        partitions = sorted(self._marks)
        begins = await self._consumer.beginning_offsets(partitions)
        ends = await self._consumer.end_offsets(partitions)
        there = [
            tp
            for tp in partitions
            if begins[tp] < self._marks[tp].next_offset <= ends[tp] and self._marks[tp].append_ms
        ]
        times = await self._times_before(there)
        return [await self._compare(tp, begins[tp], ends[tp], times.get(tp)) for tp in partitions]

    async def _compare(self, tp: TopicPartition, begin: int, end: int, append_ms: int | None) -> Cut | None:
        mark = self._marks[tp]
        if mark.next_offset < begin:
            return Cut(tp.topic, tp.partition, mark.next_offset, begin, mark.next_offset, end)
        is_same = append_ms is None or append_ms == mark.append_ms
        if mark.next_offset <= end and is_same:
            return None
        held = await self._held(tp, mark, begin, end, is_same=is_same)
        return Cut(tp.topic, tp.partition, mark.next_offset, begin, held, end)

    async def _held(self, tp: TopicPartition, mark: Mark, begin: int, end: int, *, is_same: bool) -> int:
        """The offset of the first record that came after the last one that is known. Where the broker's clock was set back it
        cannot be told: then all of the log is taken for new, which costs time and no more."""
        if not mark.append_ms:
            return min(mark.next_offset, end)
        found = (await self._consumer.offsets_for_times({tp: mark.append_ms + 1}))[tp]
        if found is not None and found.offset < mark.next_offset:
            return max(begin, int(found.offset))
        return begin if not is_same else end

    async def _times_before(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        """The broker's time of the record before each mark."""
        found: dict[TopicPartition, int] = {}
        if not partitions:
            return found
        self._consumer.assign(partitions)
        for tp in partitions:
            self._consumer.seek(tp, self._marks[tp].next_offset - 1)
        while len(found) < len(partitions):
            for tp, records in (await self._consumer.getmany(timeout_ms=1000)).items():
                for record in records[:1]:
                    is_it = record.offset == self._marks[tp].next_offset - 1
                    found.setdefault(tp, int(record.timestamp) if is_it else 0)
                self._consumer.pause(tp)
        return found
