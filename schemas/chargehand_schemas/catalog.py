"""Messages of the topic `catalog-events`: facts about templates, hosts, users, tokens, keys; and what became of commands.

Owns shape only.
"""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import Field

from .base import Instant, Item
from .commands import HostRecord, TemplateInput
from .properties import ExecutionProperties
from .reasons import Refusal, Role


class CatalogEvent(Item):
    """A fact the planner recorded; `actor` brought it about."""

    actor: str = ""


class KeyEnrolled(CatalogEvent):
    """A writer's key. `subject`: the proxy of an agent, the name of a service. Keys are hex, `kid` names them."""

    kid: str
    role: Role
    subject: str
    agent_id: str = ""
    actors: tuple[str, ...] = ()
    signing_key: str
    sealing_key: str = ""


class KeyRevoked(CatalogEvent):
    """No message under this key has an effect from here on."""

    kid: str
    reason: str = ""


class EnrolmentTokenIssued(CatalogEvent):
    """`kid` and `token_key` (hex) are the public half of a one-time token."""

    kid: str
    token_key: str
    role: Role
    subject: str
    actors: tuple[str, ...] = ()
    expires_at: Instant


class EnrolmentTokenUsed(CatalogEvent):
    """A one-time token is spent: it enrolled this key."""

    kid: str
    enrolled_kid: str


class HostRegistered(CatalogEvent):
    """A host is in the inventory, as people assigned it."""

    host_id: UUID
    version: int
    host: HostRecord


class HostChanged(CatalogEvent):
    """What people assign to a host is another from this version on."""

    host_id: UUID
    version: int
    host: HostRecord


class HostRemoved(CatalogEvent):
    """A host is out of the inventory; its history stays."""

    host_id: UUID
    version: int
    name: str


class JobTemplateSaved(CatalogEvent):
    """A version of a JobTemplate, whole."""

    template_id: UUID
    version: int
    name: str
    job_category: str
    provider_type: str
    body: str
    inputs: tuple[TemplateInput, ...]
    properties: ExecutionProperties
    effective_user: str = ""
    effective_user_overridable: bool = True
    effective_user_current_user: bool = False
    description_format: str = ""


class ProxyChanged(CatalogEvent):
    """How many attempts a proxy takes at once from here on. None: the dispatcher's default."""

    proxy: str
    concurrency: int | None


class UserCreated(CatalogEvent):
    """There is such a person."""

    login: str
    role: str


class UserDisabled(CatalogEvent):
    """A person may do nothing any more."""

    login: str


class TokenIssued(CatalogEvent):
    """A person has an access token, known by its SHA-256 (hex) only."""

    token_id: UUID
    login: str
    token_sha256: str
    label: str
    expires_at: Instant


class TokenRevoked(CatalogEvent):
    """An access token is good for nothing any more."""

    token_id: UUID


class CommandDecided(CatalogEvent):
    """What became of a command that is not about an invocation: `handled` or `refused` with why."""

    command_id: UUID
    decision: Literal["handled", "refused"]
    reason: Refusal | None = None
    detail: str = ""
    counts: dict[str, int] = Field(default_factory=dict)
