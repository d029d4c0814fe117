"""Proxies and their agents as last heard. Owns when a proxy counts as silent. An agent's own clock is never used for that."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from chargehand_schemas.catalog import ProxyChanged
from chargehand_schemas.proxies import AgentEvent, AgentHeartbeat, AgentStarted, AgentStopped


@dataclass(frozen=True, slots=True)
class Agent:
    """One agent. `heard_at` is the broker's append time of what it last said."""

    agent_id: str
    proxy: str
    heard_at: datetime
    providers: tuple[str, ...] = ()
    version: str = ""
    following: int = 0
    clock_offset_s: float | None = None
    has_stopped: bool = False


def hear(known: Agent | None, event: AgentEvent, proxy: str, heard_at: datetime) -> Agent:
    """One more word of an agent; an older one than the last changes nothing."""
    if known is not None and heard_at < known.heard_at:
        return known
    agent = Agent(event.agent_id, proxy, heard_at) if known is None else replace(known, proxy=proxy, heard_at=heard_at)
    match event:
        case AgentStarted():
            return replace(agent, providers=event.providers, version=event.version, has_stopped=False)
        case AgentHeartbeat():
            return replace(agent, following=event.following, clock_offset_s=event.clock_offset_s, has_stopped=False)
        case AgentStopped():
            return replace(agent, has_stopped=True)
        case _:
            return agent


@dataclass(frozen=True, slots=True)
class ProxySize:
    """How many attempts a proxy takes at once, as people assigned it last. None: the dispatcher's default."""

    proxy: str
    concurrency: int | None
    changed_at: datetime


def resize(known: ProxySize | None, event: ProxyChanged) -> ProxySize:
    """The last word counts."""
    if known is not None and known.changed_at >= event.time:
        return known
    return ProxySize(event.proxy, event.concurrency, event.time)


def last_heard(agents: Iterable[Agent]) -> dict[str, datetime]:
    """When any agent of each proxy was last heard."""
    found: dict[str, datetime] = {}
    for agent in agents:
        known = found.get(agent.proxy)
        found[agent.proxy] = agent.heard_at if known is None else max(known, agent.heard_at)
    return found


def is_silent(heard_at: datetime, listening_since: datetime, moment: datetime, silent_after: timedelta) -> bool:
    """Whether a proxy has said nothing for `silent_after`, all of which we were listening (docs/protocol.md, rule WM)."""
    return moment - max(heard_at, listening_since) > silent_after


def status_of(agents: Iterable[Agent], moment: datetime, silent_after: timedelta) -> str:
    """`up`, `silent`, `stopped`, or `unknown` when nothing was ever heard."""
    known = list(agents)
    if not known:
        return "unknown"
    if all(agent.has_stopped for agent in known):
        return "stopped"
    heard_at = max(agent.heard_at for agent in known if not agent.has_stopped)
    return "silent" if moment - heard_at > silent_after else "up"
