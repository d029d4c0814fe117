"""Whether hosts can be reached, as this agent sees it: said when it changes, not each time. Owns what a change is."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from chargehand_schemas.hosts import HostReachabilityObserved
from chargehand_schemas.ids import item_id

from .facts import AgentFacts

KIND = "reachability"


def is_change(known: Mapping[UUID, bool], host_id: UUID, is_reachable: bool) -> bool:
    return known.get(host_id) is not is_reachable


class Seen(NamedTuple):
    """What was seen of a host. `why` is one closed word, empty when it was reached."""

    is_reachable: bool
    at: datetime
    why: str = ""
    detail: str = ""


def observed(host_id: UUID, seen: Seen, facts: AgentFacts) -> HostReachabilityObserved:
    """The fact of it."""
    return HostReachabilityObserved(
        id=item_id(KIND, host_id, facts.agent_id, seen.at.isoformat()),
        time=seen.at,
        host_id=host_id,
        proxy=facts.proxy,
        agent_id=facts.agent_id,
        reachable=seen.is_reachable,
        why=seen.why,
        detail=seen.detail[:2000],
        observed_at=seen.at,
    )


def key(host_id: UUID) -> str:
    """The Kafka key: compacted by host and kind."""
    return f"{host_id}:{KIND}"
