"""Tables that are read instead of streams, changed with each event in its transaction.

Owns which event changes which row. Everything here can be made again from the streams.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TypeAlias

from chargehand_schemas.base import as_utc
from chargehand_schemas.catalog import (
    EnrolmentTokenIssued,
    EnrolmentTokenUsed,
    HostChanged,
    HostRegistered,
    HostRemoved,
    JobTemplateSaved,
    KeyEnrolled,
    KeyRevoked,
    TokenIssued,
    TokenRevoked,
    UserCreated,
    UserDisabled,
)
from chargehand_schemas.reasons import Role

from ...core.events import TargetingCopied
from ...core.outcomes import Append
from .engines import Transaction

Statement: TypeAlias = "tuple[str, tuple[object, ...]]"

_HOST = """
    insert into hosts (host_id, name, version, is_removed, proxy, document) values (?, ?, ?, 0, ?, ?)
    on conflict (host_id) do update set name = excluded.name, version = excluded.version, proxy = excluded.proxy,
        document = excluded.document
"""
_HOST_REMOVED = "update hosts set is_removed = 1, version = ? where host_id = ?"
_TEMPLATE = """
    insert into templates (template_id, name, version, document) values (?, ?, ?, ?)
    on conflict (template_id) do update set name = excluded.name, version = excluded.version, document = excluded.document
"""
_TARGETING = "update invocations set host_ids = ? where job_invocation_id = ?"
_USER = "insert into users (login, version, role) values (?, ?, ?)"
_USER_VERSION = "update users set version = ? where login = ?"
_USER_DISABLED = "update users set version = ?, is_disabled = 1 where login = ?"
_TOKEN = "insert into tokens (token_id, login, token_sha256, expires_at) values (?, ?, ?, ?)"  # noqa: S105 (SQL)
_TOKEN_REVOKED = "update tokens set is_revoked = 1 where token_id = ?"  # noqa: S105 (SQL)
_TOKEN_OWNER = "update users set version = ? where login = (select login from tokens where token_id = ?)"  # noqa: S105
_KEY = "insert into keys (kid, version, role, subject, document) values (?, ?, ?, ?, ?)"
_KEY_USED = "update keys set version = ?, is_used = 1 where kid = ?"
_KEY_REVOKED = "update keys set version = ?, is_revoked = 1 where kid = ?"


def project(transaction: Transaction, appends: Iterable[Append]) -> None:
    """Bring the tables up to these events, in their order."""
    statements = [statement for append in appends for statement in _statements(append)]
    for sql, group in groupby(statements, key=lambda statement: statement[0]):
        transaction.many(sql, [parameters for _, parameters in group])


def _statements(append: Append) -> Sequence[Statement]:
    event, version = append.event, append.version
    match event:
        case HostRegistered() | HostChanged():
            record = event.host
            return [(_HOST, (str(event.host_id), record.name, version, record.proxy, record.model_dump_json()))]
        case HostRemoved():
            return [(_HOST_REMOVED, (version, str(event.host_id)))]
        case JobTemplateSaved():
            return [(_TEMPLATE, (str(event.template_id), event.name, version, event.model_dump_json()))]
        case TargetingCopied():
            return [(_TARGETING, (event.host_ids, str(event.job_invocation_id)))]
        case _:
            return _of_people_and_keys(append)


def _of_people_and_keys(append: Append) -> Sequence[Statement]:
    event, version = append.event, append.version
    match event:
        case UserCreated():
            return [(_USER, (event.login, version, event.role))]
        case UserDisabled():
            return [(_USER_DISABLED, (version, event.login))]
        case TokenIssued():
            token = (str(event.token_id), event.login, event.token_sha256, as_utc(event.expires_at))
            return [(_TOKEN, token), (_USER_VERSION, (version, event.login))]
        case TokenRevoked():
            token_id = str(event.token_id)
            return [(_TOKEN_REVOKED, (token_id,)), (_TOKEN_OWNER, (version, token_id))]
        case KeyEnrolled():
            return [(_KEY, (event.kid, version, event.role, event.subject, event.model_dump_json()))]
        case EnrolmentTokenIssued():
            return [(_KEY, (event.kid, version, Role.ENROLEE, event.subject, event.model_dump_json()))]
        case EnrolmentTokenUsed():
            return [(_KEY_USED, (version, event.kid))]
        case KeyRevoked():
            return [(_KEY_REVOKED, (version, event.kid))]
        case _:
            return []
