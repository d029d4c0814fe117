"""Check-ins on their way to the log: judged, bounded, and published many at once; answered when the broker has them.

Owns the queue and what is remembered of hosts; how many wait is bounded by the endpoint's connections. What is answered to whom is
the core's; HTTP is in check_in_endpoint.py.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar
from uuid import UUID

import structlog
from chargehand_chassis.clock import now
from chargehand_chassis.errors import PublishFailed
from chargehand_chassis.kafka import Publisher
from chargehand_chassis.metrics import METRICS
from chargehand_schemas.batches import Outgoing
from chargehand_schemas.hosts import check_in_key, facts_key
from chargehand_schemas.topics import HOST_EVENTS

from ..core import check_in as rules
from ..core.check_in import Allowance, Announcement, Answer
from ..core.facts import AgentFacts
from ..core.own_hosts import OwnHosts

AT_ONCE = 500
ACKNOWLEDGED_WITHIN = timedelta(seconds=15)
"""Less than a client waits for its answer: who has given up comes again."""
REMEMBERED = 100_000
_REPEAT_FACTS_AFTER = timedelta(hours=24)
_BUSY_S = 10

V = TypeVar("V")


class Remembered(Generic[V]):
    """The latest of a bounded number of hosts; the one not heard for longest is forgotten first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._rows: OrderedDict[bytes, V] = OrderedDict()

    def get(self, host_id: UUID) -> V | None:
        return self._rows.get(host_id.bytes)

    def put(self, host_id: UUID, value: V) -> None:
        self._rows[host_id.bytes] = value
        self._rows.move_to_end(host_id.bytes)
        if len(self._rows) > self._most:
            self._rows.popitem(last=False)


@dataclass(slots=True)
class _Waiting:
    """One that is to be published, and who waits for it."""

    said: Announcement
    answer: asyncio.Future[Answer]


class CheckIns:
    """Takes announcements; `carry` publishes them."""

    def __init__(
        self,
        publisher: Publisher,
        facts: Callable[[], AgentFacts],
        secrets: tuple[bytes, ...],
        hosts: OwnHosts,
    ) -> None:
        self._publisher, self._facts, self._secrets, self._hosts = publisher, facts, secrets, hosts
        self._waiting: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._allowances: Remembered[Allowance] = Remembered(REMEMBERED)
        self._told: Remembered[tuple[bytes, datetime]] = Remembered(REMEMBERED)
        self._unlogged, self._logged_at = 0, 0.0
        self._log = structlog.get_logger()

    async def announce(self, body: bytes) -> Answer:
        """What is answered to an announcement; for one that is accepted, when it is in the log."""
        answer = await self._judge(body)
        METRICS.check_ins.labels(str(answer.status)).inc()
        return answer

    async def _judge(self, body: bytes) -> Answer:
        said = rules.read_announcement(body)
        if isinstance(said, Answer):
            return said
        refused = rules.objection(said, self._secrets, said.host_id in self._hosts, self._facts().proxy)
        if refused is not None:
            self._complain(said, refused)
            return refused
        allowance, wait = rules.spend(self._allowances.get(said.host_id), asyncio.get_running_loop().time())
        self._allowances.put(said.host_id, allowance)
        if wait:
            return rules.too_often(wait)
        return await self._published(said)

    def _complain(self, said: Announcement, refused: Answer) -> None:
        """Once a second at most: whoever floods us does not fill the disk."""
        self._unlogged += 1
        moment = asyncio.get_running_loop().time()
        if moment - self._logged_at >= 1:
            self._log.warning(
                "check_in_refused", host_id=str(said.host_id), status=refused.status, since_last=self._unlogged
            )
            self._unlogged, self._logged_at = 0, moment

    async def _published(self, said: Announcement) -> Answer:
        waiting = _Waiting(said, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._wake.set()
        return await waiting.answer

    async def carry(self) -> None:
        """Publish what is accepted, as much as has come meanwhile at once, until cancelled."""
        try:
            while True:
                await self._wake.wait()
                group = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
                # Whoever has hung up will come again.
                await self._say([one for one in group if not one.answer.done()])
                if not self._waiting:
                    self._wake.clear()
        finally:
            self._settle(self._waiting, rules.busy(_BUSY_S))

    async def _say(self, group: list[_Waiting]) -> None:
        at = self._facts().true_time(now())
        try:
            await self._publisher.publish(self._outgoing(group, at), timeout=ACKNOWLEDGED_WITHIN)
        except PublishFailed as error:
            self._log.error("check_ins_not_acknowledged", count=len(group), error=str(error))
            self._settle(group, rules.unsaid(_BUSY_S))
            return
        except asyncio.CancelledError:
            self._settle(group, rules.busy(_BUSY_S))
            raise
        for one in group:
            self._told.put(one.said.host_id, (rules.digest_of(one.said.facts), at))
            self._settle([one], rules.accepted(one.said))

    def _outgoing(self, group: list[_Waiting], at: datetime) -> list[Outgoing]:
        """Facts that are news before the check-in: whoever it wakes may want to know them. Of one host once: the latest."""
        facts = self._facts()
        rows: list[Outgoing] = []
        for host_id, said in {one.said.host_id: one.said for one in group}.items():
            if self._is_news(said, at):
                reported = rules.reported(said, at, facts)
                rows.append(Outgoing(HOST_EVENTS.name, facts_key(host_id, facts.proxy), reported))
            checked_in = rules.checked_in(said, at, facts)
            rows.append(Outgoing(HOST_EVENTS.name, check_in_key(host_id, facts.proxy), checked_in))
        return rows

    def _is_news(self, said: Announcement, at: datetime) -> bool:
        known = self._told.get(said.host_id)
        if known is None:
            return bool(said.facts)
        return known[0] != rules.digest_of(said.facts) or at - known[1] >= _REPEAT_FACTS_AFTER

    @staticmethod
    def _settle(group: deque[_Waiting] | list[_Waiting], answer: Answer) -> None:
        for one in group:
            with suppress(asyncio.InvalidStateError):
                one.answer.set_result(answer)
