"""Agents as the dispatcher hears of them: who is silent, who is a new process, which attempts they follow.

Owns the fold of proxy-events. It only ever makes the dispatcher ask (docs/protocol.md section 3, item 2): nothing in it is
proof, and it may be lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from chargehand_schemas.proxies import AgentEvent, AgentStopped, AttemptsFollowed

from .table import AgentLost, AgentRestarted

_FORGET_AFTER = timedelta(minutes=5)


@dataclass(slots=True)
class _Agent:
    boot_id: UUID
    heard_at: datetime
    is_lost: bool = False


class Agents:
    """What agents said of themselves. Mutable, but only through its methods."""

    def __init__(self) -> None:
        self._agents: dict[str, _Agent] = {}
        self._followed: dict[tuple[UUID, int, str], datetime] = {}

    @property
    def followed(self) -> Mapping[tuple[UUID, int, str], datetime]:
        """When an agent last said that it follows an attempt: by job task, attempt and proxy."""
        return self._followed

    def hear(self, event: AgentEvent, now: datetime) -> AgentLost | AgentRestarted | None:
        """Take in one event, heard now. What it makes us ask."""
        known = self._agents.get(event.agent_id)
        is_stopped = isinstance(event, AgentStopped)
        self._agents[event.agent_id] = _Agent(event.agent_boot_id, now, is_lost=is_stopped)
        if isinstance(event, AttemptsFollowed):
            for one in event.attempts:
                self._followed[one.job_task_id, one.attempt, event.proxy] = now
        if is_stopped:
            return AgentLost(event.agent_id)
        if known is not None and known.boot_id != event.agent_boot_id:
            return AgentRestarted(event.agent_id, event.agent_boot_id)
        return None

    def silent(self, now: datetime, silent_after: timedelta) -> list[AgentLost]:
        """Agents that fell silent since the last look. What was followed long ago is forgotten."""
        self._followed = {key: at for key, at in self._followed.items() if now - at < _FORGET_AFTER}
        lost = {
            agent_id: agent
            for agent_id, agent in self._agents.items()
            if not agent.is_lost and now - agent.heard_at >= silent_after
        }
        for agent in lost.values():
            agent.is_lost = True
        return [AgentLost(agent_id) for agent_id in lost]
