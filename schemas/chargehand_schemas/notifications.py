"""Messages of the topic `notifications`: what people and programs want to be told. Key: the subject's id.

Owns shape only.
"""

from __future__ import annotations

from pydantic import Field

from .base import Instant, InvocationItem, Item, Model
from .reasons import JobInvocationStatus


class FailedHost(Model):
    host: str
    reason: str
    exit_status: int | None = None


class JobInvocationStartedNotification(InvocationItem):
    """An invocation has its hosts and begins."""

    description: str
    actor: str
    total: int


class JobInvocationEndedNotification(InvocationItem):
    """An invocation has ended. `failed_hosts` are the first 50 that did not succeed; `path` is its page."""

    description: str
    actor: str
    status: JobInvocationStatus
    total: int
    counts: dict[str, int]
    reasons: dict[str, int] = Field(default_factory=dict)
    started_at: Instant | None = None
    ended_at: Instant
    failed_hosts: tuple[FailedHost, ...] = ()
    path: str = ""


class JobInvocationRefusedNotification(InvocationItem):
    """An invocation was refused; nothing ran."""

    actor: str
    reason: str
    detail: str


class ProxySilentNotification(Item):
    """No agent of a proxy has been heard for a while: its hosts cannot be reached."""

    proxy: str
    last_heard_at: Instant


class ProxyBackNotification(Item):
    """A silent proxy is heard again."""

    proxy: str
