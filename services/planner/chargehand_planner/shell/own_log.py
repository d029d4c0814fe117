"""The planner's own messages against its store: both must tell the same story before anything is decided or published.

Owns that comparison (docs/protocol.md, rules REST and RET; section 3, 8 and 12). A store restored from a backup, and a log that
was cut or made anew, stop the planner with an error: it would decide again what was decided, or take for published what is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from chargehand_chassis.errors import FatalFailure
from chargehand_chassis.kafka import Received, TopicFollower, TopicPartition, check_log, read_record
from chargehand_chassis.settings import KafkaSettings
from chargehand_schemas.keyring import Keyring, Writer
from chargehand_schemas.topics import CATALOG_EVENTS, PLANNING_EVENTS

from .gate import StoreGate

OWN_TOPICS = (CATALOG_EVENTS.name, PLANNING_EVENTS.name)


class OwnLog:
    """What this planner's key has signed in the log."""

    def __init__(self, settings: KafkaSettings, gate: StoreGate, own: Writer) -> None:
        self._settings = settings
        self._gate = gate
        self._keyring = Keyring()
        self._keyring.pin(own)

    async def compare(self) -> None:
        """Return if log and store agree. FatalFailure if not; nobody else may publish meanwhile."""
        partitions = [(topic, number) for topic in OWN_TOPICS for number in range(self._settings.partitions)]
        found = await self._gate.ask(self._gate.store.marks, partitions)
        marks = {TopicPartition(*partition): mark for partition, mark in found.items()}
        await check_log(self._settings, marks)
        log = TopicFollower(self._settings, OWN_TOPICS, {tp: mark.next_offset for tp, mark in marks.items()})
        await log.start()
        try:
            await self._check_known(log, await log.end_offsets())
        finally:
            await log.stop()

    async def _check_known(self, log: TopicFollower, ends: Mapping[TopicPartition, int]) -> None:
        """Beyond the marks only stands what was sent and not noted before the last end of this planner."""
        known = await self._gate.ask(self._gate.store.unpublished_ids)
        while not await log.has_reached(ends):
            for records in (await log.getmany(500)).values():
                for record in records:
                    message = read_record(record, self._keyring)
                    if isinstance(message, Received):
                        _check_items(message, known)


def _check_items(message: Received, known: set[UUID]) -> None:
    strange = [item.id for item in message.items if item.id not in known]
    if strange:
        raise FatalFailure(
            f"{message.topic}/{message.partition}: this planner signed item {strange[0]} at offset {message.offset}, and its "
            "store does not know it: the store was restored from a backup or lost. Going on would decide again what was "
            "decided: restore a newer one"
        )
