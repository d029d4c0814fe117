"""Messages of the topic `host-events` (compacted by host and kind): what was observed of hosts. Reported, never assigned.

Owns shape only. Key: `HOST_ID:KIND`; one item a message.
"""

from __future__ import annotations

from uuid import UUID

from pydantic import Field

from .base import Instant, Item


class HostEvent(Item):
    """Something an agent observed of a host."""

    host_id: UUID
    proxy: str
    agent_id: str


class HostReachabilityObserved(HostEvent):
    """Whether the host could be reached, as an agent saw it when it last tried."""

    reachable: bool
    why: str = ""
    detail: str = Field("", max_length=2048)
    observed_at: Instant


class HostCheckedIn(HostEvent):
    """The host announced itself."""

    checked_in_at: Instant
