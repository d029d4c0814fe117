"""Messages of the topic `host-events` (compacted by host and kind): what was observed of hosts. Reported, never assigned.

Owns shape only, and the keys. Key: `HOST_ID:KIND`, one item a message. What a host says of itself has the proxy in its kind:
compaction keeps the latest of each key, so an agent that speaks of another proxy's host would else wipe out the true word.
"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import Field, StringConstraints

from .base import Instant, Item

MAX_FACTS = 128
MAX_FACT_CHARACTERS = 512

FactName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.]{0,63}$")]
FactValue = Annotated[str, StringConstraints(max_length=MAX_FACT_CHARACTERS)]


def check_in_key(host_id: UUID, proxy: str) -> str:
    """The Kafka key of a host's check-ins at a proxy."""
    return f"{host_id}:check-in:{proxy}"


def facts_key(host_id: UUID, proxy: str) -> str:
    """The Kafka key of the facts a host reported at a proxy."""
    return f"{host_id}:facts:{proxy}"


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


class HostFactsReported(HostEvent):
    """What the host says of itself, all of it each time: data for ever, never rendered, never trusted to be true."""

    facts: dict[FactName, FactValue] = Field(max_length=MAX_FACTS)
    reported_at: Instant
