"""The agent about itself: started, alive, what it follows, stopped; and how far its clock is off, measured by that.

Owns proxy-events and the measurement (docs/protocol.md, rule CLK). The estimate itself is the core's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import structlog
from chargehand_chassis.clock import now
from chargehand_chassis.errors import PublishFailed
from chargehand_chassis.kafka import Publisher
from chargehand_chassis.metrics import METRICS
from chargehand_schemas.batches import Outgoing
from chargehand_schemas.ids import item_id
from chargehand_schemas.proxies import (
    AgentEvent,
    AgentHeartbeat,
    AgentStarted,
    AgentStopped,
    AttemptsFollowed,
    FollowedAttempt,
)
from chargehand_schemas.topics import PROXY_EVENTS

from ..core.attempt import Attempt
from ..core.clock import measured
from .attempts import Attempts, clock_drift
from .settings import AgentSettings

FOLLOWED_PER_MESSAGE = 500


class Presence:
    """This process on the topic of proxies."""

    def __init__(self, settings: AgentSettings, publisher: Publisher, attempts: Attempts) -> None:
        self._settings, self._publisher, self._attempts = settings, publisher, attempts
        self._said = 0
        self._log = structlog.get_logger()

    async def started(self, version: str) -> None:
        """Say that this process began; returns with the clock measured, if that was possible."""
        facts = self._attempts.facts()
        await self._measure(
            AgentStarted(
                **self._about("started"),
                journal_id=facts.journal_id,
                providers=tuple(sorted(facts.providers)),
                version=version,
            )
        )

    async def beat(self) -> None:
        """Heartbeats and what is followed, until cancelled."""
        while True:
            try:
                await self._heartbeat()
                await self._publish(*self._followed())
            except PublishFailed as error:
                self._log.warning("heartbeat_not_acknowledged", error=str(error))
            self._attempts.outbox.measure()
            await asyncio.sleep(self._settings.heartbeat_every.total_seconds())

    async def stopped(self, reason: str) -> None:
        await self._publish(AgentStopped(**self._about("stopped"), reason=reason))

    async def _heartbeat(self) -> None:
        offset = self._attempts.facts().clock_offset
        followed = sum(1 for _ in self._attempts.followed())
        METRICS.attempts_running.set(followed)
        await self._measure(
            AgentHeartbeat(
                **self._about("heartbeat"),
                following=followed,
                clock_offset_s=None if offset is None else offset.total_seconds(),
            )
        )

    async def _measure(self, event: AgentEvent) -> None:
        sent = now()
        appended = await self._publish(event)
        if appended is not None:
            self._attempts.set_clock(measured(self._attempts.clock, sent, appended, now(), clock_drift()))
        offset = self._attempts.facts().clock_offset
        METRICS.clock_offset.set(0 if offset is None else offset.total_seconds())

    def _followed(self) -> Iterator[AttemptsFollowed]:
        for batch in _batches(self._attempts.followed()):
            yield AttemptsFollowed(**self._about("followed"), attempts=tuple(_named(one) for one in batch))

    async def _publish(self, *events: AgentEvent) -> Any:
        return await self._publisher.publish([Outgoing(PROXY_EVENTS.name, event.agent_id, event) for event in events])

    def _about(self, what: str) -> dict[str, Any]:
        facts = self._attempts.facts()
        self._said += 1
        return {
            "id": item_id("agent", what, facts.agent_boot_id, self._said),
            "time": now(),
            "agent_id": facts.agent_id,
            "agent_boot_id": facts.agent_boot_id,
            "proxy": facts.proxy,
        }


def _batches(attempts: Iterable[Attempt]) -> Iterator[list[Attempt]]:
    rest = iter(attempts)
    while batch := list(islice(rest, FOLLOWED_PER_MESSAGE)):
        yield batch


def _named(attempt: Attempt) -> FollowedAttempt:
    order = attempt.order
    return FollowedAttempt(
        job_task_id=order.job_task_id, attempt=order.attempt, job_invocation_id=order.job_invocation_id
    )
