"""The relay: publishes what the store holds, in order, and notes it when it is acknowledged.

Owns the single-relay lock and the pace: woken by each commit, looking by itself only as a fallback, so that an idle planner is idle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import timedelta

import structlog
from chargehand_chassis.clock import now
from chargehand_chassis.errors import PublishFailed, TransientFailure
from chargehand_chassis.faults import FaultPoints
from chargehand_chassis.kafka import Mark, Publisher
from chargehand_chassis.metrics import METRICS
from chargehand_schemas.batches import Outgoing
from chargehand_schemas.catalog import KeyEnrolled
from chargehand_schemas.reasons import Role

from .gate import StoreGate
from .own_log import OWN_TOPICS
from .store import Position, Sending

LOOK_EVERY = timedelta(seconds=5)
STANDBY_EVERY = timedelta(milliseconds=500)
RETRY_AFTER = timedelta(milliseconds=500)
PUBLISH_WITHIN = timedelta(seconds=20)

MakeTopics = Callable[[Iterable[str]], Awaitable[None]]
Compare = Callable[[], Awaitable[None]]


class Relay:
    """`make_topics` makes the topics of proxies; it is called before an agent's enrolment is published. `compare` raises if
    log and store disagree; it is called once, under the lock, before the first publication."""

    def __init__(
        self,
        gate: StoreGate,
        publisher: Publisher,
        make_topics: MakeTopics,
        compare: Compare,
        faults: FaultPoints,
        made: Iterable[str] = (),
    ) -> None:
        self._gate = gate
        self._publisher = publisher
        self._make_topics = make_topics
        self._compare = compare
        self._faults = faults
        self._is_compared = False
        self._noted: dict[Position, Mark] = {}
        self._made = set(made)
        self._finishing = asyncio.Event()
        self._log = structlog.get_logger()

    async def check(self) -> None:
        """Compare log and store now, if this planner is the one that publishes. Raises what `compare` raises."""
        if not self._is_compared and await self._gate.ask(self._gate.store.take_relay_lock):
            await self._compare()
            self._is_compared = True

    def finish(self) -> None:
        """Publish what is there, then return from `run`."""
        self._finishing.set()
        self._gate.committed.set()

    async def run(self, beat: Callable[[], None]) -> None:
        """Publish until told to finish; a broker or store that does not answer is tried again for ever."""
        while True:
            beat()
            try:
                is_done = not await self._publish_next()
            except TransientFailure as error:
                self._log.warning("relay_waits", why=str(error))
                await self._pause(RETRY_AFTER)
                is_done = self._finishing.is_set()
            if is_done:
                if self._finishing.is_set():
                    return
                await self._pause(LOOK_EVERY)

    async def listen(self) -> None:
        """Be woken by the commits of other planners, where there can be any, and keep the lock meanwhile. Runs until it is cancelled."""
        while self._gate.store.is_shared:
            try:
                if await asyncio.to_thread(self._gate.store.wait_for_commit, STANDBY_EVERY):
                    self._gate.committed.set()
                await asyncio.to_thread(self._gate.store.keep_relay_lock)
            except TransientFailure as error:
                self._log.warning("relay_does_not_hear", why=str(error))
                await asyncio.sleep(RETRY_AFTER.total_seconds())

    async def _pause(self, longest: timedelta) -> None:
        try:
            async with asyncio.timeout(longest.total_seconds()):
                await self._gate.committed.wait()
        except TimeoutError:
            return

    async def _publish_next(self) -> bool:
        """Whether there was something to publish, for this planner."""
        self._gate.committed.clear()
        if not await self._gate.ask(self._gate.store.take_relay_lock):
            return False
        await self.check()
        sending = await self._gate.ask(self._gate.store.next_sending)
        if sending.is_empty:
            METRICS.outbox_depth.set(0)
            return False
        await self._send(sending)
        return True

    async def _send(self, sending: Sending) -> None:
        METRICS.outbox_depth.set(len(sending.outgoing))
        await self._prepare(sending.outgoing)
        self._faults.reach("planner.before_publish")
        try:
            await self._publisher.publish(sending.outgoing, timeout=PUBLISH_WITHIN)
        except PublishFailed as error:
            raise TransientFailure(f"not published yet: {error}") from error
        self._faults.reach("planner.after_publish_before_position")
        # Only places that went on: each is kept with how far the store was published by then.
        own = {place: mark for place, mark in self._publisher.ends.items() if place[0] in OWN_TOPICS}
        fresh = {place: mark for place, mark in own.items() if self._noted.get(place) != mark}
        await self._gate.ask(self._gate.store.note_sent, sending, fresh, now())
        self._noted |= fresh

    async def _prepare(self, outgoing: Sequence[Outgoing]) -> None:
        """The topic of a proxy is there before anybody hears of its agent, and before any command for it."""
        enrolled = (out.item for out in outgoing if isinstance(out.item, KeyEnrolled))
        missing = {event.subject for event in enrolled if event.role is Role.AGENT} - self._made
        if missing:
            await self._make_topics(sorted(missing))
            self._made |= missing
