"""Facts about hosts, users, tokens and keys, as HTTP needs them: who may log in, what a host is. The latest version holds.

Owns the folds of catalog and host events, each of them monotonic: disabled, revoked and removed are for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

from chargehand_schemas.catalog import HostChanged, HostRegistered, HostRemoved, TokenIssued
from chargehand_schemas.commands import HostRecord
from chargehand_schemas.hosts import HostCheckedIn, HostFactsReported, HostReachabilityObserved


@dataclass(frozen=True, slots=True)
class Host:
    """A host as people assigned it. A removed one keeps its row, so that an older event cannot bring it back."""

    host_id: UUID
    version: int
    name: str
    record: HostRecord | None
    is_removed: bool = False


def assign(known: Host | None, event: HostRegistered | HostChanged | HostRemoved) -> Host:
    """The fact with the highest version holds."""
    if known is not None and event.version <= known.version:
        return known
    if isinstance(event, HostRemoved):
        return Host(event.host_id, event.version, event.name, known.record if known is not None else None, True)
    return Host(event.host_id, event.version, event.host.name, event.host)


@dataclass(frozen=True, slots=True)
class Observation:
    """What agents of one proxy observed of one host, and what it told them of itself (`facts`)."""

    host_id: UUID
    proxy: str
    reachable: bool | None = None
    why: str = ""
    detail: str = ""
    observed_at: datetime | None = None
    last_check_in: datetime | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    facts_reported_at: datetime | None = None


Observed = HostReachabilityObserved | HostCheckedIn | HostFactsReported


def observe(known: Observation, event: Observed) -> Observation:
    """The latest observation holds, the latest check-in, and the facts reported last."""
    if isinstance(event, HostFactsReported):
        is_newer = known.facts_reported_at is None or event.reported_at > known.facts_reported_at
        return replace(known, facts=event.facts, facts_reported_at=event.reported_at) if is_newer else known
    if isinstance(event, HostCheckedIn):
        is_newer = known.last_check_in is None or event.checked_in_at > known.last_check_in
        return replace(known, last_check_in=event.checked_in_at) if is_newer else known
    if known.observed_at is not None and event.observed_at <= known.observed_at:
        return known
    return replace(known, reachable=event.reachable, why=event.why, detail=event.detail, observed_at=event.observed_at)


@dataclass(frozen=True, slots=True)
class Token:
    """An access token by its digest. A revocation that is read before its issue leaves a mark."""

    token_id: UUID
    token_sha256: str = ""
    login: str = ""
    expires_at: datetime | None = None
    is_revoked: bool = False


def issue(known: Token | None, event: TokenIssued) -> Token:
    return Token(
        token_id=event.token_id,
        token_sha256=event.token_sha256,
        login=event.login,
        expires_at=event.expires_at,
        is_revoked=known is not None and known.is_revoked,
    )


def revoke(known: Token | None, token_id: UUID) -> Token:
    return Token(token_id, is_revoked=True) if known is None else replace(known, is_revoked=True)
