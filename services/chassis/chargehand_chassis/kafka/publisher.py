"""Publishing: items are packed, signed once a message, and acknowledged by the broker before `publish` returns.

Owns batching and signing on the way out. Which items, and in which order, is the caller's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from chargehand_schemas.base import as_utc
from chargehand_schemas.batches import Outgoing, Packed, pack
from chargehand_schemas.envelope import CONTENT_TYPE, CONTENT_TYPE_WITH_BYTES, Envelope, join_value, signed_bytes
from chargehand_schemas.registry import type_of

from ..clock import now
from ..errors import PublishFailed
from ..keys import OwnKeys
from ..metrics import METRICS
from ..settings import KafkaSettings
from .connection import connection, partition_of
from .marks import Mark

Sent = tuple[list[tuple[str, int, int]], datetime | None]
"""Messages and items by topic, and the broker's time of the latest."""


class Publisher:
    """One idempotent producer (acks=all) of one writer. `source` names the instance, e.g. `dispatcher/1`."""

    def __init__(self, settings: KafkaSettings, keys: OwnKeys, source: str) -> None:
        self._settings = settings
        self._keys = keys
        self._source = source
        self._producer: AIOKafkaProducer | None = None
        self._partition_counts: dict[str, int] = {}
        self.ends: dict[tuple[str, int], Mark] = {}
        """The place after the last acknowledged message, by topic and partition."""

    async def start(self) -> None:
        producer = AIOKafkaProducer(
            **connection(self._settings),
            client_id=self._source,
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            max_batch_size=512 * 1024,
            max_request_size=1024 * 1024,
            compression_type="zstd",
            request_timeout_ms=10_000,
        )
        await producer.start()
        self._producer = producer

    async def stop(self) -> None:
        """Send what is buffered and close."""
        if self._producer is not None:
            producer, self._producer = self._producer, None
            await producer.stop()

    async def publish(self, outgoing: Iterable[Outgoing], *, timeout: timedelta | None = None) -> datetime | None:  # noqa: ASYNC109
        """Publish in this order per partition; returns when all is acknowledged: the broker's time of the latest append
        (None if there was nothing to publish), by which clocks are compared.

        PublishFailed if that takes longer than `timeout` (default: the setting) or the broker refuses. What was sent may
        arrive nevertheless: repeat with the same item ids.
        """
        return await self._acknowledged(self._pack_and_send(outgoing), timeout)

    async def publish_packed(self, messages: Iterable[Packed], *, timeout: timedelta | None = None) -> datetime | None:  # noqa: ASYNC109
        """The same for messages whose items are put together, and whose partition is known."""
        return await self._acknowledged(self._send(messages), timeout)

    async def _acknowledged(self, sending: Coroutine[Any, Any, Sent], timeout: timedelta | None) -> datetime | None:  # noqa: ASYNC109
        limit = timeout or self._settings.publish_timeout
        try:
            async with asyncio.timeout(limit.total_seconds()):
                counts, appended = await sending
        except TimeoutError as error:
            raise PublishFailed(
                f"no acknowledgement within {limit.total_seconds():g} s from {self._brokers}"
            ) from error
        except KafkaError as error:
            raise PublishFailed(f"the broker refused: {error!r}") from error
        for topic, messages, items in counts:
            METRICS.messages_published.labels(topic).inc(messages)
            METRICS.items_published.labels(topic).inc(items)
        return appended

    @property
    def _brokers(self) -> str:
        return self._settings.kafka_bootstrap

    async def _pack_and_send(self, outgoing: Iterable[Outgoing]) -> Sent:
        rows = list(outgoing)
        await self._learn_partitions({row.topic for row in rows})
        return await self._send(pack(self._placed(rows)))

    async def _send(self, messages: Iterable[Packed]) -> Sent:
        producer = self._started()
        waits: list[Any] = []
        counts: dict[str, list[int]] = {}
        for packed in messages:
            value, headers = self._signed(packed)
            waits.append(
                await producer.send(
                    packed.topic, value, packed.key.encode(), partition=packed.partition, headers=headers
                )
            )
            count = counts.setdefault(packed.topic, [0, 0])
            count[0] += 1
            count[1] += packed.count
        appends = await asyncio.gather(*waits)
        for append in appends:
            place = (append.topic, append.partition)
            self.ends[place] = max(self.ends.get(place, Mark(0)), Mark(append.offset + 1, append.timestamp))
        latest = max((append.timestamp for append in appends), default=None)
        appended = None if latest is None else datetime.fromtimestamp(latest / 1000, UTC)
        return [(topic, messages, items) for topic, (messages, items) in counts.items()], appended

    def _placed(self, rows: Sequence[Outgoing]) -> Iterator[tuple[Outgoing, int]]:
        for row in rows:
            yield row, partition_of(row.key, self._partition_counts[row.topic])

    async def _learn_partitions(self, topics: set[str]) -> None:
        for topic in topics - self._partition_counts.keys():
            self._partition_counts[topic] = len(await self._started().partitions_for(topic))

    def _signed(self, packed: Packed) -> tuple[bytes, list[tuple[str, bytes]]]:
        value = join_value(packed.document, packed.raw)
        unsigned = Envelope(
            type=type_of(packed.model).name,
            source=self._source,
            id=packed.id,
            time=as_utc(now()),
            content_type=CONTENT_TYPE if packed.raw is None else CONTENT_TYPE_WITH_BYTES,
            key_id=self._keys.kid,
            proof=b"",
        )
        proof = self._keys.sign(signed_bytes(packed.topic, packed.key.encode(), unsigned, value))
        return value, [*unsigned.headers()[:-1], ("ce_proof", proof)]

    def _started(self) -> AIOKafkaProducer:
        if self._producer is None:
            raise PublishFailed("the publisher is not started, or stopped already")
        return self._producer
