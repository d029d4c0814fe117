"""The planner's part of `chargehand repair`: positions that go back to where the log is whole, and what is published again.

Owns what its store can do (docs/adr/0023): its events are kept for ever, and so nothing of them is ever lost. The service publishes
at its next start.
"""

from __future__ import annotations

from collections.abc import Sequence

from chargehand_chassis.clock import now
from chargehand_chassis.errors import FatalFailure
from chargehand_chassis.kafka import Cut, Mark, TopicPartition, find_cuts, partition_of
from chargehand_chassis.repair import LOST_BEGINNING, Finding
from chargehand_chassis.settings import KafkaSettings
from chargehand_schemas.base import AttemptItem
from chargehand_schemas.topics import COMMANDS, DISPATCH_EVENTS, PLANNING_EVENTS

from ..core.repair import decisions_again
from .inbox import GROUP
from .own_log import OWN_TOPICS
from .settings import PlannerSettings
from .store import Position, RepairStore, Said

NAME = "planner"
READ_TOPICS = (COMMANDS.name, DISPATCH_EVENTS.name)

_SAYS_AGAIN = "publishes again, in order and under the same ids, {events} events and what was bound after them"
_DECISIONS = "; and every decision for an attempt that it keeps"
_SCRIPTS = "texts of scripts that were published there more than a minute before the last message"
_REREADS = "goes back to {held}: the dispatcher says again what stood there, and what was decided by it stays decided"
_COMMANDS = "goes back to {held}: what was decided stays decided"
_LOST_COMMANDS = "commands that nobody had decided yet: whoever sent one and saw no decision sends it again"


class PlannerRepair:
    """Opens the store of the settings. TransientFailure if a planner uses it."""

    def __init__(self, settings: PlannerSettings) -> None:
        self.settings: KafkaSettings = settings
        self.group = GROUP
        self._store = RepairStore.open(settings.data, settings.store_url, settings.store_schema)

    def close(self) -> None:
        self._store.close()

    async def find(self) -> list[Finding]:
        """Its positions, and what it published, against the logs."""
        marks = {**self._store.heard(self._places(READ_TOPICS)), **self._store.marks(self._places(OWN_TOPICS))}
        cuts = await find_cuts(self.settings, {TopicPartition(*place): Mark(*mark) for place, mark in marks.items()})
        return [self._finding(cut) for cut in cuts]

    def _places(self, topics: Sequence[str]) -> list[Position]:
        return [(topic, number) for topic in topics for number in range(self.settings.partitions)]

    def _finding(self, cut: Cut) -> Finding:
        if cut.is_below:
            return Finding(NAME, cut, "", (LOST_BEGINNING,))
        if cut.topic == COMMANDS.name:
            return Finding(NAME, cut, _COMMANDS.format(held=cut.held), (_LOST_COMMANDS,))
        if cut.topic == DISPATCH_EVENTS.name:
            return Finding(NAME, cut, _REREADS.format(held=cut.held))
        said = self._said(cut)
        does = _SAYS_AGAIN.format(events=self._store.events_after(said.notification_id))
        if said.is_whole or cut.topic != PLANNING_EVENTS.name:
            return Finding(NAME, cut, does)
        return Finding(NAME, cut, does + _DECISIONS, (_SCRIPTS,))

    def _said(self, cut: Cut) -> Said:
        return self._store.said_below((cut.topic, cut.partition), cut.held)

    async def mend(self, findings: Sequence[Finding]) -> list[str]:
        """Positions first; then what the service publishes at its next start is put before it."""
        cuts = [finding.cut for finding in findings if finding.service == NAME]
        if any(cut.is_below for cut in cuts):
            raise FatalFailure("the beginning of a log that was not read is missing: nothing was mended")
        own = {(cut.topic, cut.partition): self._said(cut) for cut in cuts if cut.topic in OWN_TOPICS}
        held = {(cut.topic, cut.partition): cut.held for cut in cuts if cut.topic in OWN_TOPICS}
        read = {(cut.topic, cut.partition): cut.held for cut in cuts if cut.topic in READ_TOPICS}
        if not cuts:
            return []
        self._store.take(self._places(READ_TOPICS))  # whoever runs still can write nothing of them any more
        self._store.go_back(read, own, held, self._decisions(own))
        done = [f"{topic}/{number} goes on at {offset}" for (topic, number), offset in read.items()]
        if own:
            places = ", ".join(f"{topic}/{number}" for topic, number in own)
            done.append(f"{places}: {self._store.unpublished()} events and rows are published again")
        return done

    def _decisions(self, own: dict[Position, Said]) -> list[AttemptItem]:
        """Of partitions for which what was bound is not kept whole."""
        numbers = {place[1] for place, said in own.items() if place[0] == PLANNING_EVENTS.name and not said.is_whole}
        bindings = self._store.all_bindings() if numbers else []
        wanted = [b for b in bindings if partition_of(str(b.job_invocation_id), self.settings.partitions) in numbers]
        return decisions_again(wanted, now())
