"""The aggregates Key and EnrolmentToken: whose key is trusted for what, from its enrolment to its revocation.

Owns those decisions (docs/explanation/trust.md). Signatures were checked before a command comes here; no private half is ever seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from chargehand_schemas.base import Item
from chargehand_schemas.catalog import EnrolmentTokenIssued, EnrolmentTokenUsed, KeyEnrolled, KeyRevoked
from chargehand_schemas.commands import EnrolKey, IssueEnrolmentToken, RevokeKey
from chargehand_schemas.ids import item_id
from chargehand_schemas.keyring import Writer
from chargehand_schemas.reasons import Refusal, Role

from .outcomes import Append, Decided, Outcome, Refused, appended, key_stream
from .rights import PLANNER_ACTOR, is_actor
from .words import listed

ENROLLABLE = (Role.AGENT, Role.SERVICE_ACCOUNT)
MAX_TOKEN_LIFE = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Key:
    """A key, or a one-time token's (role `enrolee`, and then what it may enrol in `enrols`). Keys are hex."""

    kid: str
    version: int
    role: Role
    subject: str
    signing_key: str
    sealing_key: str = ""
    agent_id: str = ""
    actors: tuple[str, ...] = ()
    enrols: Role | None = None
    expires_at: datetime | None = None
    is_used: bool = False
    is_revoked: bool = False

    @property
    def is_alive(self) -> bool:
        return not (self.is_revoked or self.is_used)


def evolve(key: Key | None, append: Append) -> Key | None:
    """The key after one event of its stream."""
    event = append.event
    match event:
        case KeyEnrolled():
            return _enrolled(event, append.version)
        case EnrolmentTokenIssued():
            return _issued(event, append.version)
        case EnrolmentTokenUsed() if key is not None:
            return replace(key, version=append.version, is_used=True)
        case KeyRevoked() if key is not None:
            return replace(key, version=append.version, is_revoked=True)
        case _:
            return key


def marked(key: Key, *, is_used: bool, is_revoked: bool) -> Key:
    """The key with what became of it since it was enrolled or issued."""
    return replace(key, is_used=is_used, is_revoked=is_revoked)


def _enrolled(event: KeyEnrolled, version: int) -> Key:
    return Key(
        event.kid,
        version,
        event.role,
        event.subject,
        event.signing_key,
        event.sealing_key,
        event.agent_id,
        event.actors,
    )


def _issued(event: EnrolmentTokenIssued, version: int) -> Key:
    return Key(
        event.kid, version, Role.ENROLEE, event.subject, event.token_key,
        actors=event.actors, enrols=event.role, expires_at=event.expires_at,
    )  # fmt: skip


def key_id(signing_key: str) -> str:
    """The name of a key (hex): 16 hex digits of the SHA-256 of its bytes."""
    return hashlib.sha256(bytes.fromhex(signing_key)).hexdigest()[:16]


def decide_issue(command: IssueEnrolmentToken, present: Key | None, now: datetime) -> Outcome:
    """Allow one enrolment, of a proxy's agent or of a service account."""
    refused = _check_token(command, present, now)
    if refused is not None:
        return refused
    kid = key_id(command.token_key)
    event = EnrolmentTokenIssued(
        id=item_id("enrolment-token-issued", command.id),
        time=now,
        causation_id=command.id,
        traceparent=command.traceparent,
        actor=command.actor,
        kid=kid,
        token_key=command.token_key,
        role=command.role,
        subject=command.subject,
        actors=command.actors,
        expires_at=command.expires_at,
    )
    return Decided(appended(key_stream(kid), 0, [event]))


def _check_token(command: IssueEnrolmentToken, present: Key | None, now: datetime) -> Refused | None:
    if command.role not in ENROLLABLE:
        detail = f"a token enrols {listed([role.value for role in ENROLLABLE])}, not {command.role.value}"
        return Refused(Refusal.NOT_SUPPORTED, f"{detail}; name its key in the planner's trusted keys instead")
    if present is not None:
        return Refused(Refusal.ALREADY_EXISTS, "this token was issued before; make a new one")
    if not now < command.expires_at <= now + MAX_TOKEN_LIFE:
        detail = f"expires_at {command.expires_at.isoformat()} is not within the next {MAX_TOKEN_LIFE.days} days"
        return Refused(Refusal.OUT_OF_RANGE, detail)
    wrong = [actor for actor in command.actors if not is_actor(actor)]
    if wrong:
        return Refused(Refusal.MALFORMED, f"actor {wrong[0][:64]!r} is neither user:LOGIN nor service:NAME")
    return None


@dataclass(frozen=True, slots=True)
class EnrolLookups:
    """What an enrolment needs: the token it uses, the key of the same name, living agents of the same proxy."""

    token: Key | None
    present: Key | None = None
    agents: Sequence[Key] = ()


def decide_enrol(command: EnrolKey, lookups: EnrolLookups, appended_at: datetime, now: datetime) -> Outcome:
    """Use a one-time token, once and in time: the new key is enrolled and the token worth nothing."""
    token = lookups.token
    refused = _check_enrolment(command, lookups, appended_at)
    if refused is not None or token is None or token.enrols is None:
        return refused or _unknown_token(command)
    kid = key_id(command.signing_key)
    about = {"time": now, "causation_id": command.id, "traceparent": command.traceparent}
    enrolled = KeyEnrolled(
        id=item_id("key-enrolled", command.id),
        **about,
        kid=kid,
        role=token.enrols,
        subject=token.subject,
        agent_id=command.agent_id,
        actors=token.actors,
        signing_key=command.signing_key,
        sealing_key=command.sealing_key,
    )
    used = EnrolmentTokenUsed(id=item_id("enrolment-token-used", command.id), **about, kid=token.kid, enrolled_kid=kid)
    return Decided(
        (*appended(key_stream(kid), 0, [enrolled]), *appended(key_stream(token.kid), token.version, [used])),
        {"enrolled": 1},
    )


def _unknown_token(command: EnrolKey) -> Refused:
    return Refused(Refusal.TOKEN_INVALID, f"no enrolment token has the key id {command.token_kid[:64]!r}")


def _check_enrolment(command: EnrolKey, lookups: EnrolLookups, appended_at: datetime) -> Refused | None:
    token = lookups.token
    if token is None or token.enrols is None:
        return _unknown_token(command)
    if not token.is_alive:
        return Refused(Refusal.TOKEN_INVALID, "this enrolment token was used or revoked; ask for another one")
    if token.expires_at is not None and appended_at > token.expires_at:
        detail = f"this enrolment token was good until {token.expires_at.isoformat()}; ask for another one"
        return Refused(Refusal.TOKEN_INVALID, detail)
    if lookups.present is not None:
        return Refused(
            Refusal.ALREADY_EXISTS, f"key {lookups.present.kid} is known already; make new keys and enrol those"
        )
    return _check_agent(command, lookups) if token.enrols is Role.AGENT else None


def _check_agent(command: EnrolKey, lookups: EnrolLookups) -> Refused | None:
    if not command.agent_id:
        return Refused(Refusal.MALFORMED, "an agent needs an agent_id, which tells it from others of its proxy")
    if any(agent.agent_id == command.agent_id for agent in lookups.agents):
        detail = f"agent {command.agent_id!r} of this proxy has a key; revoke that one first, or take another agent_id"
        return Refused(Refusal.ALREADY_EXISTS, detail)
    return None


def decide_revoke(command: RevokeKey, present: Key | None, now: datetime) -> Outcome:
    """No message under this key has an effect any more. A token not used yet is revoked the same way."""
    if present is None:
        return Refused(Refusal.NO_SUCH_KEY, f"no key is named {command.kid[:64]!r}")
    if present.role is Role.PLANNER:
        detail = "this is the planner's own key, which every service pins in its settings; it is changed there"
        return Refused(Refusal.NOT_ALLOWED, detail)
    if present.is_revoked:
        return Decided()
    event = KeyRevoked(
        id=item_id("key-revoked", command.id),
        time=now,
        causation_id=command.id,
        traceparent=command.traceparent,
        actor=command.actor,
        kid=command.kid,
        reason=f"revoked by {command.actor}",
    )
    return Decided(appended(key_stream(command.kid), present.version, [event]))


def trust(writers: Sequence[Writer], known: Collection[str], now: datetime) -> tuple[Append, ...]:
    """Enrol the keys that the settings name and nobody enrolled before."""
    fresh = {writer.kid: writer for writer in writers if writer.kid not in known}
    return tuple(Append(key_stream(kid), 1, _trusted(writer, now)) for kid, writer in fresh.items())


def _trusted(writer: Writer, now: datetime) -> Item:
    return KeyEnrolled(
        id=item_id("key-trusted", writer.kid),
        time=now,
        actor=PLANNER_ACTOR,
        kid=writer.kid,
        role=writer.role,
        subject=writer.subject,
        agent_id=writer.agent_id,
        actors=writer.actors,
        signing_key=writer.signing_key.hex(),
        sealing_key=writer.sealing_key.hex(),
    )
