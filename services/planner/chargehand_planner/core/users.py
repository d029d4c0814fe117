"""The aggregate User with its access tokens.

Owns creating and disabling people and issuing and revoking their tokens. A token itself is never seen here, only its SHA-256.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from chargehand_schemas.base import Item
from chargehand_schemas.catalog import TokenIssued, TokenRevoked, UserCreated, UserDisabled
from chargehand_schemas.commands import CreateUser, DisableUser, IssueToken, RevokeToken
from chargehand_schemas.ids import item_id
from chargehand_schemas.reasons import Refusal

from .outcomes import Append, Decided, Outcome, Refused, appended, user_stream
from .rights import ADMINISTRATOR, OF_ROLES, PLANNER_ACTOR, Person
from .words import listed

MAX_TOKEN_LIFE = timedelta(days=366)


@dataclass(frozen=True, slots=True)
class Token:
    """An access token of a person."""

    token_id: UUID
    login: str
    expires_at: datetime
    is_revoked: bool = False


@dataclass(frozen=True, slots=True)
class UserLookups:
    """What decisions about people need. `tokens` by id; `administrators`: logins that are not disabled."""

    person: Person | None = None
    token: Token | None = None
    token_owner: Person | None = None
    administrators: frozenset[str] = frozenset()
    known_digests: Mapping[str, UUID] = field(default_factory=dict)


def evolve(person: Person | None, append: Append) -> Person | None:
    """The person after one event of the stream; events about tokens change its version only."""
    event = append.event
    match event:
        case UserCreated():
            return Person(event.login, event.role, append.version)
        case UserDisabled() if person is not None:
            return Person(person.login, person.role, append.version, is_disabled=True)
        case _ if person is not None:
            return Person(person.login, person.role, append.version, person.is_disabled)
        case _:
            return None


def decide_create(command: CreateUser, lookups: UserLookups, now: datetime) -> Outcome:
    """A new person. A login is given once for ever, so that nobody inherits another's rights or history."""
    if lookups.person is not None:
        return Refused(Refusal.ALREADY_EXISTS, f"login {command.login!r} was given before; logins are not given twice")
    if command.role not in OF_ROLES:
        detail = f"there is no role {command.role!r}; there is: {listed(sorted(OF_ROLES))}"
        return Refused(Refusal.NOT_SUPPORTED, detail)
    event = UserCreated(**_about(command, now, "user-created"), login=command.login, role=command.role)
    return Decided(appended(user_stream(command.login), 0, [event]))


def decide_disable(command: DisableUser, lookups: UserLookups, now: datetime) -> Outcome:
    """A person who may do nothing any more. The last administrator stays."""
    person = lookups.person
    if person is None:
        return _no_such_user(command.login)
    if person.is_disabled:
        return Decided()
    if lookups.administrators == {command.login}:
        return Refused(Refusal.NOT_ALLOWED, f"{command.login!r} is the last administrator; create another one first")
    event = UserDisabled(**_about(command, now, "user-disabled"), login=command.login)
    return Decided(appended(user_stream(command.login), person.version, [event]))


def decide_issue(command: IssueToken, lookups: UserLookups, now: datetime) -> Outcome:
    """A token that expires within a year."""
    person = lookups.person
    if person is None or person.is_disabled:
        return _no_such_user(command.login)
    if command.token_sha256 in lookups.known_digests:
        return Refused(Refusal.ALREADY_EXISTS, "this token was issued before; make a new one")
    if not now < command.expires_at <= now + MAX_TOKEN_LIFE:
        detail = f"expires_at {command.expires_at.isoformat()} is not within the next {MAX_TOKEN_LIFE.days} days"
        return Refused(Refusal.OUT_OF_RANGE, detail)
    event = TokenIssued(
        **_about(command, now, "token-issued"),
        token_id=item_id("token", command.id),
        login=command.login,
        token_sha256=command.token_sha256,
        label=command.label,
        expires_at=command.expires_at,
    )
    return Decided(appended(user_stream(command.login), person.version, [event]))


def decide_revoke(command: RevokeToken, lookups: UserLookups, now: datetime) -> Outcome:
    """A token nobody can use any more."""
    token, owner = lookups.token, lookups.token_owner
    if token is None or owner is None:
        return Refused(Refusal.NO_SUCH_KEY, f"there is no access token with the id {command.token_id}")
    if token.is_revoked:
        return Decided()
    event = TokenRevoked(**_about(command, now, "token-revoked"), token_id=command.token_id)
    return Decided(appended(user_stream(owner.login), owner.version, [event]))


def bootstrap(
    login: str, token_sha256: str, expires_at: datetime, lookups: UserLookups, now: datetime
) -> tuple[Append, ...]:
    """The first administrator and a token, as the settings name them; nothing of what is there already."""
    person, events = lookups.person, list[Item]()
    source = item_id("bootstrap-admin", login, token_sha256)
    about = {"time": now, "causation_id": source, "actor": PLANNER_ACTOR}
    if person is None:
        events.append(UserCreated(id=item_id("user-created", login), **about, login=login, role=ADMINISTRATOR))
    if token_sha256 not in lookups.known_digests:
        token = TokenIssued(
            id=item_id("token-issued", source),
            **about,
            token_id=item_id("token", source),
            login=login,
            token_sha256=token_sha256,
            label="installation",
            expires_at=expires_at,
        )
        events.append(token)
    return appended(user_stream(login), 0 if person is None else person.version, events)


def _about(command: CreateUser | DisableUser | IssueToken | RevokeToken, now: datetime, what: str) -> dict[str, object]:
    return {
        "id": item_id(what, command.id),
        "time": now,
        "causation_id": command.id,
        "traceparent": command.traceparent,
        "actor": command.actor,
    }


def _no_such_user(login: str) -> Refused:
    return Refused(Refusal.NO_SUCH_USER, f"there is no user {login!r} who is not disabled")
