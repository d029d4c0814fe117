"""The inbox: reads the planner's topics from the positions of its store, and hands every message to who decides about it.

Owns partitions, their fences and positions, and what has no effect. A partition's messages are taken in their order; a message
that cannot be believed goes to dead letters and stops nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from chargehand_chassis.kafka import (
    DeadLetters,
    KafkaRecord,
    KeyringFollower,
    Mark,
    PartitionReader,
    Received,
    Rejected,
    TopicPartition,
    check_log,
    read_record,
)
from chargehand_chassis.metrics import METRICS
from chargehand_schemas.dispatch import (
    AttemptDue,
    CancelDue,
    JobInvocationDue,
    JobInvocationEnded,
    JobTaskEnded,
    JobTaskStatusChanged,
    PlanChunkMissing,
    ResumeDue,
)
from chargehand_schemas.proxies import AgentHeartbeat, AgentStopped, AttemptsFollowed
from chargehand_schemas.registry import type_of
from chargehand_schemas.topics import COMMANDS, DISPATCH_EVENTS, HOST_EVENTS, PROXY_EVENTS

from ..core.rights import Silenced
from .binder import Binder, Place
from .commands import Commands, silenced
from .gate import StoreGate
from .observations import Observations
from .occurrences import Occurrences
from .settings import PlannerSettings
from .store import Change, Conflict, Fenced, Position

GROUP = "planner"
OBSERVATIONS = (HOST_EVENTS.name, PROXY_EVENTS.name)
TOPICS = (COMMANDS.name, DISPATCH_EVENTS.name, *OBSERVATIONS)
RECORDS_AT_ONCE = 16
ATTEMPTS_AT_ONCE = 500
SAVE_EVERY_S = 5.0

_UNREAD = tuple(
    type_of(model).family.encode() + b"."
    for model in (JobTaskStatusChanged, JobTaskEnded, AgentHeartbeat, AttemptsFollowed, AgentStopped)
)
"""What other services need to know and the planner does not: not even verified."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Who decides about what."""

    commands: Commands
    binder: Binder
    occurrences: Occurrences
    observations: Observations


class Inbox:
    """One member of the planner's group. `positions` in memory run ahead of the store's by what had no effect."""

    def __init__(
        self, settings: PlannerSettings, gate: StoreGate, follower: KeyringFollower, letters: DeadLetters, parts: Parts
    ) -> None:
        self._settings = settings
        self._gate = gate
        self._follower = follower
        self._letters = letters
        self._parts = parts
        self._tokens: dict[Position, str] = {}
        self._unsaved: dict[Position, Mark] = {}
        self._saved_at = time.monotonic()
        self._is_assigned = asyncio.Event()
        self._log = structlog.get_logger()
        self._reader = PartitionReader(
            settings,
            TOPICS,
            group=GROUP,
            instance=f"{GROUP}-{settings.instance}",
            on_assigned=self._take,
            on_revoked=self._give_up,
            stall_after_s=settings.stall_after.total_seconds(),
        )

    async def run(self, stopping: asyncio.Event, beat: Callable[[], None], ready: Callable[[], None]) -> None:
        """Read until told to stop. Raises what a restart may repair, and FatalFailure for a log that was cut."""
        await self._reader.start()
        telling = asyncio.create_task(self._tell(ready), name="ready")
        try:
            while not stopping.is_set():
                beat()
                await self._turn(stopping)
                self._check_helpers()
            await self._save()
        finally:
            telling.cancel()
            await self._parts.binder.stop()
            await self._reader.stop()

    async def _turn(self, stopping: asyncio.Event) -> None:
        batches = await self._reader.getmany(timeout_ms=1000, max_records=RECORDS_AT_ONCE, stopping=stopping)
        await self._follower.meet(record for records in batches.values() for record in records)
        # People wait for the answer to a command; attempts have their not_after.
        for tp in sorted(batches, key=lambda tp: (tp.topic != COMMANDS.name, tp)):
            await self._take_records((tp.topic, tp.partition), batches[tp])
        if time.monotonic() - self._saved_at > SAVE_EVERY_S:
            await self._save()

    async def _tell(self, ready: Callable[[], None]) -> None:
        """Ready as soon as partitions are ours: who started us waits for that."""
        await self._is_assigned.wait()
        ready()

    def _check_helpers(self) -> None:
        failure = self._follower.failure() or self._parts.binder.failure()
        if failure is not None:
            raise failure

    # Partitions

    async def _take(self, tps: list[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Become the owner, and begin where the store says (docs/protocol.md, rules REST and RET)."""
        partitions = [(tp.topic, tp.partition) for tp in tps]
        stored, tokens = await self._gate.ask(self._gate.store.take, partitions)
        marks = await self._gate.ask(self._gate.store.heard, partitions)
        await check_log(
            self._settings, {tp: marks[tp.topic, tp.partition] for tp in tps if tp.topic not in OBSERVATIONS}
        )
        positions = {tp: stored.get((tp.topic, tp.partition), 0) for tp in tps}
        # What agents observe may expire, and is asked again (rule RET).
        observed = [tp for tp in tps if tp.topic in OBSERVATIONS]
        beginnings, ends = await self._reader.beginning_offsets(observed), await self._reader.end_offsets(observed)
        positions |= {tp: min(max(positions[tp], beginnings[tp]), ends[tp]) for tp in observed}
        self._tokens |= tokens
        await self._parts.binder.resume(partitions)
        self._is_assigned.set()
        return positions

    async def _give_up(self, tps: list[TopicPartition]) -> None:
        for tp in tps:
            self._tokens.pop((tp.topic, tp.partition), None)
            self._unsaved.pop((tp.topic, tp.partition), None)

    async def _take_records(self, partition: Position, records: Sequence[KafkaRecord]) -> None:
        if partition not in self._tokens:
            return
        try:
            await self._take_steps(partition, records)
        except Fenced as fenced:
            self._log.warning("partition_lost", topic=partition[0], partition=partition[1], why=str(fenced))
            await self._give_up([TopicPartition(*partition)])

    async def _take_steps(self, partition: Position, records: Sequence[KafkaRecord]) -> None:
        messages = [(message, message.offset + 1) for message in await self._believed(records)]
        times = {record.offset + 1: record.timestamp for record in records}
        for step in _steps(messages):
            token = self._tokens.get(partition)
            if token is None:
                return
            await self._step(step, Place(partition, step[-1][1], token, times[step[-1][1]]))
        # What had no effect need not be written at once: read again, it has none either.
        self._unsaved[partition] = Mark(records[-1].offset + 1, records[-1].timestamp)

    async def _believed(self, records: Sequence[KafkaRecord]) -> list[Received]:
        """What of it may have an effect; the rest is in the dead letters, acknowledged, when this returns."""
        believed: list[Received] = []
        rejected: list[Rejected] = []
        for record in records:
            if _is_unread(record):
                continue
            message = read_record(record, self._follower.keyring)
            fault = None if isinstance(message, Rejected) else await self._fault(message)
            if isinstance(message, Rejected):
                rejected.append(message)
            elif fault is not None:
                where = (record.topic, record.partition, record.offset)
                rejected.append(Rejected(*where, fault.reason, fault.detail, record))
            else:
                METRICS.messages_read.labels(message.topic).inc()
                METRICS.items_read.labels(message.topic).inc(len(message.items))
                believed.append(message)
        await self._letters.put(rejected)
        return believed

    async def _fault(self, message: Received) -> Silenced | None:
        if message.topic == COMMANDS.name:
            return silenced(message, self._settings.command_max_age)
        if message.topic in OBSERVATIONS:
            return await self._parts.observations.fault(message)
        return None

    async def _step(self, step: Sequence[tuple[Received, int]], place: Place) -> None:
        """Messages of one kind, in one transaction where that is possible; it moves the position behind them."""
        message = step[0][0]
        items: list[Any] = [item for one, _ in step for item in one.items]
        model = message.type.model
        if message.topic == COMMANDS.name:
            await self._parts.commands.handle(message, place)
        elif model is AttemptDue:
            await self._parts.binder.bind(items, place)
        elif model in (CancelDue, ResumeDue):
            await self._parts.binder.follow_up(items, place)
        elif model in (JobInvocationDue, PlanChunkMissing, JobInvocationEnded):
            await self._parts.occurrences.take(items, place)
        else:
            await self._parts.observations.take(message, items, place)

    # Positions

    async def _save(self) -> None:
        self._saved_at = time.monotonic()
        for partition, mark in list(self._unsaved.items()):
            token = self._tokens.get(partition)
            if token is not None:
                await self._save_one(Place(partition, mark.next_offset, token, mark.append_ms))
        positions = {TopicPartition(*partition): mark.next_offset for partition, mark in self._unsaved.items()}
        self._unsaved.clear()
        await self._reader.commit(positions)

    async def _save_one(self, place: Place) -> None:
        try:
            change = Change(positions=place.positions, times=place.times, tokens=place.tokens)
            await self._gate.ask(self._gate.store.record, change)
        except Conflict:
            return  # it is there already: the last message had an effect
        except Fenced:
            await self._give_up([TopicPartition(*place.partition)])


def _is_unread(record: KafkaRecord) -> bool:
    return any(name == "ce_type" and value.startswith(_UNREAD) for name, value in record.headers)


def _steps(messages: Sequence[tuple[Received, int]]) -> Iterator[list[tuple[Received, int]]]:
    """Neighbours that can be decided together: commands one by one, others by type, attempts up to 500, each job task once."""
    step: list[tuple[Received, int]] = []
    for message in messages:
        if step and not _belongs(step, message[0]):
            yield step
            step = []
        step.append(message)
    if step:
        yield step


def _belongs(step: Sequence[tuple[Received, int]], message: Received) -> bool:
    first = step[0][0]
    if message.topic == COMMANDS.name or message.type is not first.type:
        return False
    if sum(len(one.items) for one, _ in step) + len(message.items) > ATTEMPTS_AT_ONCE:
        return False
    present = {getattr(item, "job_task_id", None) for one, _ in step for item in one.items} - {None}
    return present.isdisjoint(getattr(item, "job_task_id", None) for item in message.items)
