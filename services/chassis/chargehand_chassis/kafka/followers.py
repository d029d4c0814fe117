"""Following topics without a group: all partitions, from a place of one's own. And the keyring, which is such a follower.

Owns reading to a known end. Nothing is committed anywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from aiokafka import AIOKafkaConsumer, TopicPartition
from chargehand_schemas.base import Item
from chargehand_schemas.keyring import Keyring, Writer
from chargehand_schemas.topics import CATALOG_EVENTS

from ..errors import TransientFailure
from ..settings import KafkaSettings
from .connection import connection
from .patience import Patience
from .records import KafkaRecord, Received, Rejected, read_record

Start = Literal["beginning", "end"] | Mapping[TopicPartition, int]


class TopicFollower:
    """Reads every partition of some topics."""

    def __init__(self, settings: KafkaSettings, topics: Iterable[str], start: Start = "beginning") -> None:
        self._topics = sorted(topics)
        self._start = start
        self._consumer = AIOKafkaConsumer(
            **connection(settings),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=2 * 1024 * 1024,
        )
        self._patience = Patience(self._consumer)
        self.partitions: list[TopicPartition] = []

    async def start(self) -> None:
        """TransientFailure if a topic is not there."""
        await self._consumer.start()
        self._patience.looked(True)
        for topic in self._topics:
            numbers = await self._partitions_for(topic)
            self.partitions += [TopicPartition(topic, number) for number in sorted(numbers)]
        self._consumer.assign(self.partitions)
        await self._seek()

    async def stop(self) -> None:
        await self._consumer.stop()

    async def _partitions_for(self, topic: str) -> set[int]:
        await self._consumer._client.set_topics([*self._topics])
        numbers = self._consumer.partitions_for_topic(topic)
        if not numbers:
            raise TransientFailure(f"topic {topic} does not exist; the planner makes it when it starts")
        return set(numbers)

    async def _seek(self) -> None:
        if self._start == "beginning":
            await self._consumer.seek_to_beginning(*self.partitions)
        elif self._start == "end":
            await self._consumer.seek_to_end(*self.partitions)
            for partition in self.partitions:
                await self._consumer.position(partition)
        else:
            for partition in self.partitions:
                self._consumer.seek(partition, self._start.get(partition, 0))

    async def getmany(self, timeout_ms: int | None = 1000, max_records: int = 1000) -> dict[TopicPartition, list[Any]]:
        """What has arrived, by partition in offset order; empty after `timeout_ms`. None: the longer, the longer nothing came."""
        if timeout_ms is None:
            timeout_ms = round(2000 * self._patience.wait_s)
        records = dict(await self._consumer.getmany(timeout_ms=timeout_ms, max_records=max_records))
        self._patience.looked(bool(records))
        return records

    async def end_offsets(self) -> dict[TopicPartition, int]:
        """The offsets after the last records, fetched now."""
        return dict(await self._consumer.end_offsets(self.partitions))

    async def position(self, partition: TopicPartition) -> int:
        return int(await self._consumer.position(partition))

    async def has_reached(self, ends: Mapping[TopicPartition, int]) -> bool:
        """Whether every partition was read up to these offsets."""
        for partition, end in ends.items():
            if await self.position(partition) < end:
                return False
        return True

    async def records(self) -> AsyncIterator[KafkaRecord]:
        """Every record, for ever."""
        while True:
            for records in (await self.getmany()).values():
                for record in records:
                    yield record


class KeyringFollower:
    """Keeps a Keyring by folding catalog events, which only the pinned planner writes.

    `also` is given the events of the other `nouns`, each in its order: what a service wants to know of the catalog besides."""

    def __init__(
        self,
        settings: KafkaSettings,
        planner: Writer,
        also: Callable[[Item], None] | None = None,
        nouns: Iterable[str] = (),
    ) -> None:
        self.keyring = Keyring()
        self.keyring.pin(planner)
        self._also = also
        self._nouns = (*_KEY_NOUNS, *(f"chargehand.{noun}.".encode() for noun in nouns))
        self._follower = TopicFollower(settings, [CATALOG_EVENTS.name])
        # A connection of its own: on the follower's the question would wait behind its long fetch.
        self._asker = AIOKafkaConsumer(**connection(settings), enable_auto_commit=False)
        self._turn = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self._seen: dict[TopicPartition, int] = {}

    async def start(self) -> None:
        """Begin to follow; returns when everything up to now is folded."""
        await self._follower.start()
        await self._asker.start()
        self._seen = {partition: 0 for partition in self._follower.partitions}
        self._task = asyncio.create_task(self._follow(), name="keyring")
        await self.caught_up()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await self._asker.stop()
        await self._follower.stop()

    async def caught_up(self) -> None:
        """Wait until what stands in the topic now is folded. Raises what ended the follower."""
        ends = await self._asker.end_offsets(self._follower.partitions)
        async with self._turn:
            await self._turn.wait_for(lambda: self._has_ended() or self._has_folded(ends))
        if self._task is not None and self._task.done():
            self._task.result()

    async def meet(self, records: Iterable[KafkaRecord]) -> None:
        """Know every key that was enrolled before these records were written: with keys not known yet the catalog is caught up
        with, once for all of them: whoever floods us has time."""
        if any(self._is_by_stranger(record) for record in records):
            await self.caught_up()

    async def read(self, record: KafkaRecord) -> Received | Rejected:
        """`read_record` of a record met."""
        await self.meet([record])
        return read_record(record, self.keyring)

    async def read_all(self, records: Sequence[KafkaRecord]) -> list[Received | Rejected]:
        """`read_record` of each, all met at once."""
        await self.meet(records)
        return [read_record(record, self.keyring) for record in records]

    def _is_by_stranger(self, record: KafkaRecord) -> bool:
        kid = next((value for name, value in record.headers if name == "ce_keyid"), b"")
        return bool(kid) and self.keyring.find(kid.decode("ascii", "replace")) is None

    def failure(self) -> BaseException | None:
        """What ended the follower, if it has ended; a service checks it and exits."""
        if self._task is None or not self._task.done() or self._task.cancelled():
            return None
        return self._task.exception()

    def _has_ended(self) -> bool:
        return self._task is not None and self._task.done()

    def _has_folded(self, ends: Mapping[TopicPartition, int]) -> bool:
        return all(self._seen[partition] >= end for partition, end in ends.items())

    async def _follow(self) -> None:
        try:
            while True:
                for partition, records in (await self._follower.getmany(None)).items():
                    for record in records:
                        self._fold(record)
                    self._seen[partition] = records[-1].offset + 1
                async with self._turn:
                    self._turn.notify_all()
        finally:
            async with self._turn:
                self._turn.notify_all()

    def _fold(self, record: KafkaRecord) -> None:
        if not self._is_wanted(record):
            return
        message = read_record(record, self.keyring)
        if isinstance(message, Received):
            for item in message.items:
                self.keyring.fold(item)
                if self._also is not None:
                    self._also(item)

    def _is_wanted(self, record: KafkaRecord) -> bool:
        """By the type header alone: the catalog is large, and keys are few."""
        return any(name == "ce_type" and value.startswith(self._nouns) for name, value in record.headers)


_KEY_NOUNS = (b"chargehand.key.", b"chargehand.enrolment-token.")
