"""Messages of the topic `proxy-events`: agents about themselves. Not ordered with execution-events: they make the dispatcher
ask, and never change a state. Key: agent id.

Owns shape only.
"""

from __future__ import annotations

from uuid import UUID

from .base import Item, Model


class AgentEvent(Item):
    agent_id: str
    agent_boot_id: UUID
    proxy: str


class AgentStarted(AgentEvent):
    """A process of the proxy began, with this journal and these providers."""

    journal_id: UUID
    providers: tuple[str, ...]
    version: str = ""


class AgentHeartbeat(AgentEvent):
    """`clock_offset_s`: the agent's clock minus the broker's, as measured; None until known."""

    following: int = 0
    clock_offset_s: float | None = None


class FollowedAttempt(Model):
    job_task_id: UUID
    attempt: int
    job_invocation_id: UUID


class AttemptsFollowed(AgentEvent):
    """Attempts the agent follows, every 30 s: only what is missing here is asked for. At most 500 a message."""

    attempts: tuple[FollowedAttempt, ...]


class AgentStopped(AgentEvent):
    """A clean stop; attempts go on on their hosts."""

    reason: str = ""
