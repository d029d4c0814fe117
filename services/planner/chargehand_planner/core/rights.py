"""Who may ask for what: the right each command needs, the rights each principal has, and who may speak for whom.

Owns docs/explanation/trust.md as far as commands go: what fails `may_speak` has no effect at all, what fails `check_actor` is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TypeAlias

from chargehand_schemas.base import Item
from chargehand_schemas.commands import (
    CancelJobInvocation,
    ChangeProxy,
    Command,
    CreateUser,
    DisableUser,
    EditJobInvocation,
    EnrolKey,
    ImportHosts,
    InvokeJob,
    IssueEnrolmentToken,
    IssueToken,
    RemoveHosts,
    RevokeKey,
    RevokeToken,
    SaveJobTemplate,
)
from chargehand_schemas.keyring import Writer
from chargehand_schemas.reasons import DeadLetterReason, Refusal, Role
from chargehand_schemas.registry import MESSAGE_TYPES
from chargehand_schemas.topics import COMMANDS

from .outcomes import Refused

ADMINISTRATOR = "administrator"
PLANNER_ACTOR = "service:planner"


class Right(StrEnum):
    """What a command needs of the one it is for."""

    CREATE_JOB_INVOCATIONS = "create_job_invocations"
    CANCEL_JOB_INVOCATIONS = "cancel_job_invocations"
    EDIT_JOB_INVOCATIONS = "edit_job_invocations"
    EDIT_HOSTS = "edit_hosts"
    EDIT_JOB_TEMPLATES = "edit_job_templates"
    EDIT_KEYS = "edit_keys"
    EDIT_PROXIES = "edit_proxies"
    EDIT_USERS = "edit_users"
    HOLD_TOKEN = "hold_token"  # noqa: S105 (a word, no password)


NEEDED: Mapping[type[Item], Right] = {
    InvokeJob: Right.CREATE_JOB_INVOCATIONS,
    CancelJobInvocation: Right.CANCEL_JOB_INVOCATIONS,
    EditJobInvocation: Right.EDIT_JOB_INVOCATIONS,
    ChangeProxy: Right.EDIT_PROXIES,
    ImportHosts: Right.EDIT_HOSTS,
    RemoveHosts: Right.EDIT_HOSTS,
    SaveJobTemplate: Right.EDIT_JOB_TEMPLATES,
    IssueEnrolmentToken: Right.EDIT_KEYS,
    EnrolKey: Right.HOLD_TOKEN,
    RevokeKey: Right.EDIT_KEYS,
    CreateUser: Right.EDIT_USERS,
    DisableUser: Right.EDIT_USERS,
    IssueToken: Right.EDIT_USERS,
    RevokeToken: Right.EDIT_USERS,
}
OF_ROLES: Mapping[str, frozenset[Right]] = {ADMINISTRATOR: frozenset(Right)}
OF_SERVICES = frozenset(
    {
        Right.CREATE_JOB_INVOCATIONS,
        Right.CANCEL_JOB_INVOCATIONS,
        Right.EDIT_JOB_INVOCATIONS,
        Right.EDIT_HOSTS,
        Right.EDIT_JOB_TEMPLATES,
    }
)


def undeclared() -> tuple[str, ...]:
    """Commands that declare no right; the planner does not start while there is one."""
    return tuple(m.name for m in MESSAGE_TYPES if m.topic is COMMANDS and m.model not in NEEDED)


@dataclass(frozen=True, slots=True)
class Person:
    """A user as the planner knows one. `version` is that of the stream."""

    login: str
    role: str
    version: int = 1
    is_disabled: bool = False


@dataclass(frozen=True, slots=True)
class Program:
    """A service account; alive while a key of it is enrolled and not revoked."""

    name: str
    is_alive: bool


Principal: TypeAlias = Person | Program


@dataclass(frozen=True, slots=True)
class Silenced:
    """A message that has no effect and goes to dead letters."""

    reason: DeadLetterReason
    detail: str


def login_of(actor: str) -> str | None:
    """The login of `user:LOGIN`; None for any other actor."""
    kind, _, name = actor.partition(":")
    return name if kind == "user" and name else None


def service_of(actor: str) -> str | None:
    """The name of `service:NAME`; None for any other actor."""
    kind, _, name = actor.partition(":")
    return name if kind == "service" and name else None


def is_actor(text: str) -> bool:
    return login_of(text) is not None or service_of(text) is not None


def may_speak(command: Item, writer: Writer) -> Silenced | None:
    """Whether the writer may say this: a gateway for people, a service account for itself and the actors its enrolment
    names, a one-time token for itself. None if it may."""
    if isinstance(command, EnrolKey):
        return None if command.token_kid == writer.kid else _not_its_own(command.token_kid, writer)
    if not isinstance(command, Command):
        return _not_its_own("nobody", writer)
    actor = command.actor
    if writer.role is Role.GATEWAY:
        allowed = login_of(actor) is not None
    else:
        allowed = actor == f"service:{writer.subject}" or (is_actor(actor) and actor in writer.actors)
    return None if allowed else _not_its_own(actor, writer)


def _not_its_own(actor: str, writer: Writer) -> Silenced:
    detail = f"{writer.role.value} {writer.subject!r} (key {writer.kid}) may not speak for {actor[:128]!r}"
    return Silenced(DeadLetterReason.SUBJECT_NOT_ALLOWED, detail)


def is_of_age(writer: Writer, written: datetime, appended: datetime, max_age: timedelta) -> Silenced | None:
    """Whether a message reached the broker soon enough after it was written (a replay does not); gateways are ours."""
    age = appended - written
    if writer.role is Role.GATEWAY or abs(age) <= max_age:
        return None
    detail = (
        f"written {written.isoformat()}, in Kafka {appended.isoformat()}: more than {max_age.total_seconds():g} s apart; "
        "check the clock of the program, and sign commands when they are sent"
    )
    return Silenced(DeadLetterReason.TOO_OLD, detail)


def check_actor(command: Command, principal: Principal | None) -> Refused | None:
    """Whether the one a command is for is alive and has the right it needs."""
    refused = is_alive(command.actor, principal)
    if refused is not None:
        return refused
    right = NEEDED[type(command)]
    if right in _rights(principal):
        return None
    return Refused(Refusal.NOT_ALLOWED, f"{command.actor} lacks the right {right.value}; ask an administrator")


def is_alive(actor: str, principal: Principal | None) -> Refused | None:
    """Whether an actor may do anything at all; asked again when an attempt is bound."""
    match principal:
        case None:
            return Refused(Refusal.NO_SUCH_USER, f"{actor} is not known here; an administrator can create the account")
        case Person(is_disabled=True):
            return Refused(Refusal.NOT_ALLOWED, f"{actor} is disabled")
        case Program(is_alive=False):
            return Refused(Refusal.NOT_ALLOWED, f"{actor} has no key that is not revoked")
        case _:
            return None


def _rights(principal: Principal | None) -> frozenset[Right]:
    match principal:
        case Person(role=role):
            return OF_ROLES.get(role, frozenset())
        case Program():
            return OF_SERVICES
        case _:
            return frozenset()
