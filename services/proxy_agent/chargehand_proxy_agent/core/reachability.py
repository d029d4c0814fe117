"""Whether hosts can be reached, as this agent sees it: said when it changes, not each time. Owns what a change is."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from chargehand_schemas.hosts import HostReachabilityObserved
from chargehand_schemas.ids import item_id

from .facts import AgentFacts

KIND = "reachability"


def is_change(known: Mapping[UUID, bool], host_id: UUID, is_reachable: bool) -> bool:
    return known.get(host_id) is not is_reachable


def observed(
    host_id: UUID, is_reachable: bool, why: str, detail: str, now: datetime, facts: AgentFacts
) -> HostReachabilityObserved:
    """The fact of it. `why` is one closed word, empty when reachable."""
    return HostReachabilityObserved(
        id=item_id(KIND, host_id, facts.agent_id, now.isoformat()),
        time=now,
        host_id=host_id,
        proxy=facts.proxy,
        agent_id=facts.agent_id,
        reachable=is_reachable,
        why=why,
        detail=detail[:2000],
        observed_at=now,
    )


def key(host_id: UUID) -> str:
    """The Kafka key: compacted by host and kind."""
    return f"{host_id}:{KIND}"
