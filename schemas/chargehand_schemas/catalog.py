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
    kid: str
    enrolled_kid: str


class HostRegistered(CatalogEvent):
    host_id: UUID
    version: int
    host: HostRecord


class HostChanged(CatalogEvent):
    host_id: UUID
    version: int
    host: HostRecord


class HostRemoved(CatalogEvent):
    host_id: UUID
    version: int
    name: str


class JobTemplateSaved(CatalogEvent):
    template_id: UUID
    version: int
    name: str
    job_category: str
    provider_type: str
    body: str
    inputs: tuple[TemplateInput, ...]
    properties: ExecutionProperties
    effective_user: str = ""
    description_format: str = ""


class UserCreated(CatalogEvent):
    login: str
    role: str


class UserDisabled(CatalogEvent):
    login: str


class TokenIssued(CatalogEvent):
    token_id: UUID
    login: str
    token_sha256: str
    label: str
    expires_at: Instant


class TokenRevoked(CatalogEvent):
    token_id: UUID


class CommandDecided(CatalogEvent):
    """What became of a command that is not about an invocation: `handled` or `refused` with why."""

    command_id: UUID
    decision: Literal["handled", "refused"]
    reason: Refusal | None = None
    detail: str = ""
    counts: dict[str, int] = Field(default_factory=dict)
