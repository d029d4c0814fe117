"""What agents observed: of hosts, and of themselves. Kept apart from what people assign.

Owns whose word counts for what, and the rows it becomes.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from chargehand_chassis.kafka import Received
from chargehand_schemas.base import Item
from chargehand_schemas.hosts import HostCheckedIn, HostEvent, HostFactsReported, HostReachabilityObserved
from chargehand_schemas.proxies import AgentStarted
from chargehand_schemas.reasons import DeadLetterReason

from ..core.rights import Silenced
from .binder import Place
from .gate import StoreGate
from .store import Change, HostReport, Offer


class Observations:
    """Takes in host events and proxy events."""

    def __init__(self, gate: StoreGate, default_proxy: str) -> None:
        self._gate = gate
        self._default_proxy = default_proxy

    async def fault(self, message: Received) -> Silenced | None:
        """Why a message has no effect: an agent speaks for itself, and for hosts of its own proxy."""
        for item in message.items:
            if isinstance(item, AgentStarted | HostEvent) and item.proxy != message.writer.subject:
                return _silenced(message, f"proxy {item.proxy!r}")
            if isinstance(item, AgentStarted) and item.agent_id != message.writer.agent_id:
                return _silenced(message, f"agent {item.agent_id!r}")
        return await self._fault_of_hosts(message)

    async def _fault_of_hosts(self, message: Received) -> Silenced | None:
        host_ids = {item.host_id for item in message.items if isinstance(item, HostEvent)}
        hosts = await self._gate.ask(self._gate.store.hosts_by_id, host_ids) if host_ids else {}
        for host in hosts.values():
            if (host.record.proxy or self._default_proxy) != message.writer.subject:
                return _silenced(message, f"host {host.record.name!r}")
        return None

    async def take(self, message: Received, items: Sequence[Item], place: Place) -> None:
        """In one transaction with the position. Nothing is published of it."""
        change = Change(
            offers=[Offer(i.proxy, i.agent_id, i.providers) for i in items if isinstance(i, AgentStarted)],
            reports=[_report(item) for item in items if isinstance(item, HostEvent)],
            positions=place.positions,
            times=place.times,
            tokens=place.tokens,
        )
        await self._gate.ask(self._gate.store.record, change)


def _report(item: HostEvent) -> HostReport:
    return HostReport(item.host_id, type(item).__name__, _moment(item), item.model_dump_json())


def _moment(item: HostEvent) -> datetime:
    match item:
        case HostReachabilityObserved():
            return item.observed_at
        case HostCheckedIn():
            return item.checked_in_at
        case HostFactsReported():
            return item.reported_at
        case _:
            return item.time


def _silenced(message: Received, about: str) -> Silenced:
    writer = message.writer
    detail = f"agent {writer.agent_id!r} of proxy {writer.subject!r} (key {writer.kid}) may not speak for {about}"
    return Silenced(DeadLetterReason.SUBJECT_NOT_ALLOWED, detail)
