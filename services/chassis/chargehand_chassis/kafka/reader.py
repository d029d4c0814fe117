"""Reading partitions of a consumer group, from positions that the reader's own store keeps.

Owns assignment, seeking, and the watch for a consumer that has silently stopped. Kafka's own offsets serve lag only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import IllegalStateError, KafkaError

from ..errors import TransientFailure
from ..metrics import METRICS
from ..settings import KafkaSettings
from .connection import connection
from .patience import Patience

Assigned = Callable[[list[TopicPartition]], Awaitable[Mapping[TopicPartition, int]]]
Revoked = Callable[[list[TopicPartition]], Awaitable[None]]

_CHECK_EVERY_S = 10.0


class PartitionReader:
    """A member of a consumer group over topics. `on_assigned` answers where to begin; of partitions it does not name nothing is
    read, and a log that goes back is an error. Without it the committed or earliest offsets count."""

    def __init__(
        self,
        settings: KafkaSettings,
        topics: Iterable[str],
        *,
        group: str,
        instance: str | None = None,
        on_assigned: Assigned | None = None,
        on_revoked: Revoked | None = None,
        stall_after_s: float = 60.0,
    ) -> None:
        self._topics = sorted(topics)
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked
        self._stall_after_s = stall_after_s
        self._failure: BaseException | None = None
        self._begun: dict[TopicPartition, int] = {}
        self._assigned_in: dict[TopicPartition, int] = {}
        self._assignments = 0
        self._checked = self._advanced = time.monotonic()
        session_ms = round(settings.session_timeout.total_seconds() * 1000)
        self._consumer = AIOKafkaConsumer(
            **connection(settings),
            client_id=group,
            group_id=group,
            group_instance_id=instance,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            partition_assignment_strategy=(RangePartitionAssignor,),
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=session_ms // 3,
            rebalance_timeout_ms=session_ms + 2_000,
            max_partition_fetch_bytes=2 * 1024 * 1024,
        )
        self._patience = Patience(self._consumer)
        # A connection of its own: on the consumer's the question would wait behind its long fetch.
        self._asker = AIOKafkaConsumer(**connection(settings), enable_auto_commit=False)

    async def start(self) -> None:
        await self._asker.start()
        self._consumer.subscribe(self._topics, listener=_Listener(self))
        await self._consumer.start()
        self._patience.looked(True)

    async def stop(self) -> None:
        await self._consumer.stop()
        await self._asker.stop()

    async def getmany(
        self, timeout_ms: int = 1000, max_records: int = 500, stopping: asyncio.Event | None = None
    ) -> dict[TopicPartition, list[Any]]:
        """What has arrived, by partition in offset order; empty after `timeout_ms`, or when `stopping` is set. Raises what
        `on_assigned` raised."""
        if self._failure is not None:
            raise self._failure
        assignments = self._assignments
        records = await self._get(timeout_ms, max_records, stopping)
        if self._failure is not None:
            raise self._failure
        self._patience.looked(bool(records) or assignments != self._assignments)
        if records:
            self._advanced = time.monotonic()
        await self._check_progress()
        return records if self._on_assigned is None else self._of_our_positions(records, assignments)

    async def _get(
        self, timeout_ms: int, max_records: int, stopping: asyncio.Event | None
    ) -> dict[TopicPartition, list[Any]]:
        records = dict(await self._consumer.getmany(timeout_ms=0, max_records=max_records))
        if records:
            return records
        waiting = self._consumer.getmany(timeout_ms=timeout_ms, max_records=max_records)
        if stopping is None:
            return dict(await waiting)
        getting, stop = asyncio.ensure_future(waiting), asyncio.ensure_future(stopping.wait())
        try:
            await asyncio.wait({getting, stop}, return_when=asyncio.FIRST_COMPLETED)
            return dict(getting.result()) if getting.done() else {}
        finally:
            # A consumer that is interrupted while it waits has taken nothing yet.
            getting.cancel()
            stop.cancel()

    def _of_our_positions(
        self, records: Mapping[TopicPartition, list[Any]], assignments: int
    ) -> dict[TopicPartition, list[Any]]:
        """Without what comes from Kafka's own positions: while we are still asked where to begin, or when we had just said it."""
        ours: dict[TopicPartition, list[Any]] = {}
        for tp, some in records.items():
            begun = self._begun.get(tp)
            if begun is None or not some:
                continue
            if self._assigned_in[tp] > assignments:
                self._consumer.seek(tp, begun)
                continue
            self._check_order(tp, begun, some[0].offset)
            self._begun[tp] = some[-1].offset + 1
            ours[tp] = some
        return ours

    @staticmethod
    def _check_order(tp: TopicPartition, begun: int, offset: int) -> None:
        """A consumer whose position lies beyond the end of its log begins again at the beginning, without a word."""
        if offset < begun:
            raise TransientFailure(
                f"{tp.topic}/{tp.partition} was read up to {begun} and goes on at {offset}: the log was cut meanwhile; positions "
                "are compared anew"
            )

    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset(self._consumer.assignment())

    async def position(self, partition: TopicPartition) -> int:
        """The offset of the next record."""
        return int(await self._consumer.position(partition))

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The offsets after the last records, fetched now (docs/protocol.md, rule WM). TransientFailure if they cannot be."""
        try:
            return dict(await self._asker.end_offsets(list(partitions)))
        except KafkaError as error:
            raise TransientFailure(f"the ends of the log cannot be fetched: {error!r}") from error

    async def beginning_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The offsets of the first records left. TransientFailure if they cannot be fetched."""
        try:
            return dict(await self._asker.beginning_offsets(list(partitions)))
        except KafkaError as error:
            raise TransientFailure(f"the beginnings of the log cannot be fetched: {error!r}") from error

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._consumer.seek(partition, offset)

    async def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        """Tell Kafka for lag monitoring; of partitions lost meanwhile, say nothing."""
        owned = {tp: offset for tp, offset in positions.items() if tp in self._consumer.assignment()}
        if not owned:
            return
        try:
            await self._consumer.commit(owned)
        except (KafkaError, IllegalStateError):
            return  # a rebalance came between: whoever owns them now commits

    async def _check_progress(self) -> None:
        """A consumer that heartbeats and fetches no more shows as a position behind an end that is known (aiokafka#625)."""
        moment = time.monotonic()
        if moment - self._checked < _CHECK_EVERY_S:
            return
        self._checked = moment
        lags = await self._lags()
        for tp, lag in lags.items():
            METRICS.consumer_lag.labels(f"{tp.topic}/{tp.partition}").set(lag)
        if not any(lags.values()):
            self._advanced = moment
        elif moment - self._advanced > self._stall_after_s:
            raise TransientFailure(f"no record for {self._stall_after_s:g} s with records waiting: {lags}")

    async def _lags(self) -> dict[TopicPartition, int]:
        lags: dict[TopicPartition, int] = {}
        for tp in self._consumer.assignment():
            end = self._consumer.highwater(tp)
            if end is not None:
                lags[tp] = max(0, int(end) - int(await self._consumer.position(tp)))
        return lags

    async def assigned(self, partitions: list[TopicPartition]) -> None:
        if self._on_assigned is None or not partitions:
            return
        positions = await self._on_assigned(partitions)
        self._assignments += 1
        self._begun |= positions
        self._assigned_in |= dict.fromkeys(positions, self._assignments)
        for partition in partitions:
            self._consumer.seek(partition, positions.get(partition, 0))
            if partition not in positions:
                self._consumer.pause(partition)

    async def revoked(self, partitions: list[TopicPartition]) -> None:
        for partition in partitions:
            self._begun.pop(partition, None)
            self._assigned_in.pop(partition, None)
        if self._on_revoked is not None and partitions:
            await self._on_revoked(partitions)

    def fail(self, error: BaseException) -> None:
        """aiokafka logs and swallows what a listener raises; `getmany` raises it instead."""
        self._failure = error


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, reader: PartitionReader) -> None:
        self._reader = reader

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        try:
            await self._reader.assigned(sorted(assigned))
        except Exception as error:  # noqa: BLE001 (handed to getmany)
            self._reader.fail(error)

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        try:
            await self._reader.revoked(sorted(revoked))
        except Exception as error:  # noqa: BLE001 (handed to getmany)
            self._reader.fail(error)
