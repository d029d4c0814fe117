"""Faust, and nothing of it but what drives: an agent that pumps records into a bounded queue, acknowledged in order later.

Owns the application and its settings. Faust acknowledges and skips what an agent raises on, so nothing is done inside the
agent; there are no tables, no timers and no automatic acknowledgements (docs/adr on Faust: it drives, the database remembers).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faust
from chargehand_chassis.errors import TransientFailure
from chargehand_chassis.kafka import Patience, TopicPartition, connection
from faust.types.auth import SASLMechanism

from .settings import ReporterSettings

_QUEUED_GROUPS = 2


@dataclass(frozen=True, slots=True)
class PumpedRecord:
    """A record as the chassis reads one. `timestamp` is the broker's append time in milliseconds."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


@dataclass(slots=True)
class Pumped:
    """A record and what Faust needs to acknowledge it. The record is let go when it is folded; the rest stays until acked."""

    record: PumpedRecord | None
    size: int
    _stream: Any
    _event: Any

    async def ack(self) -> None:
        """Acknowledge. Must be called in the order in which records of a partition came out of the pump: Faust may commit
        beyond an earlier one that is not acknowledged yet."""
        await self._stream.ack(self._event)

    def let_go(self) -> None:
        """Forget the bytes."""
        self.record = None
        self._event.message.value = None
        self._event.value = None


class Pump:
    """The Faust application of one instance."""

    def __init__(self, settings: ReporterSettings, group: str, topics: Iterable[str]) -> None:
        self._settings = settings
        self._group = group
        self._topics = sorted(topics)
        self._waiting: deque[Pumped] = deque()
        self._waiting_bytes = 0
        self._filled = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._app: Any = None
        self._patience: Patience | None = None

    async def start(self) -> None:
        """Join the group. Records come as soon as partitions are assigned."""
        logging.getLogger("faust").setLevel(logging.ERROR)
        logging.getLogger("mode").setLevel(logging.ERROR)
        self._app = _application(self._settings, self._group)
        channel = self._app.topic(*self._topics, key_serializer="raw", value_serializer="raw")
        self._app.agent(channel, name="pump", concurrency=1)(self._pump)
        self._app.finalize()
        await self._app.start()
        self._patience = Patience(self._app.consumer._thread._consumer)
        self._patience.looked(True)

    async def stop(self) -> None:
        """Commit what is acknowledged and leave the group. A crashed application raises here, and is gone anyway."""
        if self._app is not None:
            with contextlib.suppress(Exception):
                await self._app.stop()

    async def has_ended(self) -> None:
        """Returns never; raises TransientFailure when Faust has stopped by itself: folding would stop in silence."""
        await self._app.wait_until_stopped()
        raise TransientFailure(f"Faust has stopped by itself: {self._app._crash_reason!r}")

    async def _pump(self, stream: Any) -> None:
        unacknowledged = stream.noack()
        async for event in unacknowledged.events():
            await self._drained.wait()
            self._put(unacknowledged, event)

    def _put(self, stream: Any, event: Any) -> None:
        message = event.message
        record = PumpedRecord(
            message.topic,
            message.partition,
            message.offset,
            round(message.timestamp * 1000),
            message.key,
            message.value,
            message.headers or (),
        )
        size = len(message.value or b"")
        self._be_patient(True)
        self._waiting.append(Pumped(record, size, stream, event))
        self._waiting_bytes += size
        self._filled.set()
        if self._is_full():
            self._drained.clear()

    def _is_full(self) -> bool:
        return (
            len(self._waiting) >= _QUEUED_GROUPS * self._settings.group_messages
            or self._waiting_bytes >= _QUEUED_GROUPS * self._settings.group_bytes
        )

    async def take(self) -> list[Pumped]:
        """The next group: what is there, at least one record, without waiting for more."""
        await self._filled.wait()
        group: list[Pumped] = []
        size = 0
        while self._waiting and len(group) < self._settings.group_messages and size < self._settings.group_bytes:
            group.append(self._waiting.popleft())
            size += group[-1].size
        self._waiting_bytes -= size
        if not self._waiting:
            self._filled.clear()
        if not self._is_full():
            self._drained.set()
        return group

    def look(self) -> None:
        """To be called now and then: while nothing comes, Faust's consumer waits longer at the broker."""
        self._be_patient(bool(self._waiting))

    def _be_patient(self, has_news: bool) -> None:
        if self._patience is not None:
            self._patience.looked(has_news)

    def assigned(self) -> list[TopicPartition]:
        """The partitions that are read here, as far as Faust knows."""
        return [TopicPartition(place.topic, place.partition) for place in self._app.consumer.assignment()]

    def lags(self, positions: dict[tuple[str, int], int]) -> dict[tuple[str, int], int]:
        """Records between a position and the end, of each partition assigned here and read at least once."""
        found: dict[tuple[str, int], int] = {}
        consumer = self._app.consumer
        for partition in consumer.assignment():
            end, place = consumer.highwater(partition), (partition.topic, partition.partition)
            if end is not None and place in positions:
                found[place] = max(0, int(end) - positions[place])
        return found


def _application(settings: ReporterSettings, group: str) -> Any:
    brokers = ";".join(f"kafka://{broker}" for broker in settings.kafka_bootstrap.split(","))
    session_s = settings.session_timeout.total_seconds()
    directory = settings.data / "faust"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return faust.App(
        group,
        broker=brokers,
        broker_credentials=_credentials(settings),
        ssl_context=_tls(settings),
        broker_session_timeout=session_s,
        broker_heartbeat_interval=session_s / 3,
        broker_rebalance_timeout=session_s + 2,
        broker_commit_interval=1.0,
        broker_max_poll_records=500,
        consumer_group_instance_id=f"{group}-{settings.instance}",
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=2 << 20,
        processing_guarantee="at_least_once",
        stream_wait_empty=False,
        stream_buffer_maxsize=32,
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_enabled=False,
        datadir=Path(directory),
        store="memory://",
        autodiscover=False,
    )


def _credentials(settings: ReporterSettings) -> Any:
    if not settings.kafka_username:
        return None
    return faust.SASLCredentials(
        username=settings.kafka_username,
        password=connection(settings)["sasl_plain_password"],
        ssl_context=_tls(settings),
        mechanism=SASLMechanism.SCRAM_SHA_256,
    )


def _tls(settings: ReporterSettings) -> ssl.SSLContext | None:
    context: ssl.SSLContext | None = connection(settings).get("ssl_context")
    return context
