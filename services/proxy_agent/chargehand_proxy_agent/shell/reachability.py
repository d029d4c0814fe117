"""Telling whether hosts can be reached: on change, a bounded number a second, the latest word of each host.

Owns pacing and remembering. What a change is is the core's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import chain, islice
from uuid import UUID

from chargehand_chassis.clock import now
from chargehand_chassis.errors import PublishFailed
from chargehand_chassis.kafka import Publisher
from chargehand_schemas.batches import Outgoing
from chargehand_schemas.topics import HOST_EVENTS

from ..core import reachability as rules
from ..core.facts import AgentFacts
from .journal import Journal

PER_SECOND = 50
"""A compacted topic takes one host a message; 10,000 new hosts at once must not hold up their own jobs."""


class Reachability:
    """What was last seen of each host, and what is still to be said of it."""

    def __init__(self, publisher: Publisher, journal: Journal, facts: Callable[[], AgentFacts]) -> None:
        self._publisher, self._journal, self._facts = publisher, journal, facts
        self._known = journal.reachability()
        self._bad: dict[UUID, rules.Seen] = {}
        self._good: dict[UUID, rules.Seen] = {}
        self._wake = asyncio.Event()

    def note(self, host_id: UUID, is_reachable: bool, why: str = "", detail: str = "") -> None:
        """A host was reached, or was not."""
        if not rules.is_change(self._known, host_id, is_reachable):
            return
        self._known[host_id] = is_reachable
        for unsaid in (self._bad, self._good):
            unsaid.pop(host_id, None)
        (self._good if is_reachable else self._bad)[host_id] = rules.Seen(is_reachable, now(), why, detail)
        self._wake.set()

    async def tell(self) -> None:
        """Publish changes, until cancelled."""
        while True:
            await self._wake.wait()
            # Bad news first: those are what people wait for.
            await self._say(list(islice(chain(self._bad.items(), self._good.items()), PER_SECOND)))
            if not self._bad and not self._good:
                self._wake.clear()
            await asyncio.sleep(1)

    async def _say(self, rows: list[tuple[UUID, rules.Seen]]) -> None:
        facts = self._facts()
        events = [(host_id, rules.observed(host_id, seen, facts)) for host_id, seen in rows]
        try:
            await self._publisher.publish(
                [Outgoing(HOST_EVENTS.name, rules.key(host), event) for host, event in events]
            )
        except PublishFailed:
            return
        for host_id, seen in rows:
            for unsaid in (self._bad, self._good):
                if unsaid.get(host_id) is seen:
                    del unsaid[host_id]
        await self._journal.note_reachability({host_id: seen.is_reachable for host_id, seen in rows})
