"""Reading commands: verified, for this proxy, taken in order; positions are committed when they are journaled.

Owns the consumer and when it must not read: with a clock that is off, a journal that cannot be written, too many in hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog
from chargehand_chassis.kafka import (
    DeadLetters,
    KafkaRecord,
    KeyringFollower,
    PartitionReader,
    Received,
    Rejected,
    TopicPartition,
    read_record,
)
from chargehand_chassis.metrics import METRICS
from chargehand_chassis.runner import Context, Watchdog
from chargehand_schemas.proxy_commands import CancelProxyCommand, ProxyCommand, ResumeProxyCommand, RunProxyCommand
from chargehand_schemas.reasons import DeadLetterReason
from chargehand_schemas.topics import (
    EXECUTION_EVENTS,
    HOST_EVENTS,
    PROGRESS_REPORTS,
    PROXY_COMMANDS,
    PROXY_EVENTS,
)

from ..core.inputs import CancelReceived, Input, ResumeReceived, RunReceived
from ..core.policy import is_for
from ..core.reports import attempt_id
from .attempts import Attempts
from .offsets import Offsets, Taken
from .settings import AgentSettings

_COMMIT_EVERY_S = 0.5
_LOOK_AGAIN_S = 1.0
RECORDS_AT_ONCE = 50


class Commands:
    """The topic of this proxy's commands, as one member of its group."""

    def __init__(
        self, context: Context[AgentSettings], keyring: KeyringFollower, letters: DeadLetters, attempts: Attempts
    ) -> None:
        self._context, self._keyring, self._letters, self._attempts = context, keyring, letters, attempts
        self._offsets = Offsets()
        self._committed_at = 0.0
        self._log = structlog.get_logger()

    async def read(self) -> None:
        """Take commands until the agent stops."""
        watchdog = self._context.watch("commands")
        while not self._context.stopping.is_set():
            watchdog.beat()
            if self._attempts.facts().is_clock_trusted:
                await self._read_as_member(watchdog)
            else:
                self._complain_about_the_clock()
                await asyncio.sleep(_LOOK_AGAIN_S)

    def _complain_about_the_clock(self) -> None:
        offset = self._attempts.facts().clock_offset
        self._context.health.set_ready(False, "this agent's clock is not known to be right")
        self._log.error("clock_off", offset_s=None if offset is None else offset.total_seconds())

    async def _read_as_member(self, watchdog: Watchdog) -> None:
        """Until the agent stops or its clock is off: then others of its proxy take over (docs/protocol.md, rule CLK)."""
        settings = self._context.settings
        reader = PartitionReader(
            settings,
            [PROXY_COMMANDS.of(settings.proxy)],
            group=f"chargehand-agent-{settings.proxy}",
            instance=self._attempts.facts().agent_id,
            on_revoked=self._revoked,
            stall_after_s=settings.stall_after.total_seconds(),
        )
        await reader.start()
        try:
            self._context.health.set_ready(True)
            while not self._context.stopping.is_set() and self._attempts.facts().is_clock_trusted:
                watchdog.beat()
                await self._turn(reader)
        finally:
            await self._commit(reader, at_once=True)
            await reader.stop()

    async def _turn(self, reader: PartitionReader) -> None:
        if self._offsets.has_failed:
            await self._wait_for_the_journal(reader)
            return
        stopping = self._context.stopping
        batches = await reader.getmany(timeout_ms=1000, max_records=RECORDS_AT_ONCE, stopping=stopping)
        await self._keyring.meet(record for records in batches.values() for record in records)
        for partition, records in batches.items():
            for record in records:
                await self._take(partition, record)
        await self._commit(reader)
        failure = self._keyring.failure()
        if failure is not None:
            raise failure

    async def _wait_for_the_journal(self, reader: PartitionReader) -> None:
        """Nothing is taken while it cannot be written; then what was not taken is read again."""
        self._context.health.set_ready(False, "the journal cannot be written")
        if not await self._attempts.journal.is_writable():
            await reader.getmany(timeout_ms=1000, max_records=1)
            return
        for partition, offset in self._offsets.rewind().items():
            if partition in reader.assignment():
                reader.seek(partition, offset)
        self._context.health.set_ready(True)
        self._log.info("journal_writable_again")

    async def _take(self, partition: TopicPartition, record: KafkaRecord) -> None:
        message = self._for_us(read_record(record, self._keyring.keyring), record)
        if isinstance(message, Rejected):
            taken = self._offsets.begin(partition, record.offset, 1)
            await self._letters.put([message])
            taken.done()
            return
        await self._attempts.room(self._context.settings.max_attempts)
        METRICS.messages_read.labels(message.topic).inc()
        METRICS.items_read.labels(message.topic).inc(len(message.items))
        self._give(message, self._offsets.begin(partition, record.offset, len(message.items)))

    def _for_us(self, message: Received | Rejected, record: KafkaRecord) -> Received | Rejected:
        if isinstance(message, Rejected):
            return message
        proxy = self._context.settings.proxy
        wrong = [item for item in message.items if not (isinstance(item, ProxyCommand) and is_for(item, proxy))]
        if not wrong:
            return message
        detail = f"{len(wrong)} of {len(message.items)} commands are for another proxy than {proxy!r}"
        return Rejected(
            message.topic, message.partition, message.offset, DeadLetterReason.SUBJECT_NOT_ALLOWED, detail, record
        )

    def _give(self, message: Received, taken: Taken) -> None:
        for item in message.items:
            if isinstance(item, ProxyCommand):
                self._attempts.give(attempt_id(item), _input(item), taken)

    async def _revoked(self, partitions: list[TopicPartition]) -> None:
        self._offsets.drop(partitions)

    async def _commit(self, reader: PartitionReader, *, at_once: bool = False) -> None:
        moment = asyncio.get_running_loop().time()
        if not at_once and moment - self._committed_at < _COMMIT_EVERY_S:
            return
        positions = self._offsets.fresh()
        if positions:
            await reader.commit(positions)
            self._offsets.committed(positions)
            self._committed_at = moment


def _input(command: ProxyCommand) -> Input:
    match command:
        case RunProxyCommand():
            METRICS.attempts_taken.inc()
            return RunReceived(command)
        case CancelProxyCommand():
            return CancelReceived(command)
        case ResumeProxyCommand():
            return ResumeReceived(command)
        case _:
            raise TypeError(f"no such command: {type(command).__name__}")


def topics_of(proxy: str) -> Sequence[str]:
    """What an agent of this proxy reads and writes."""
    return [
        PROXY_COMMANDS.of(proxy),
        *(t.name for t in (EXECUTION_EVENTS, HOST_EVENTS, PROGRESS_REPORTS, PROXY_EVENTS)),
    ]
