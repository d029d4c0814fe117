"""Rows as values of the core, and the queries that several methods of the store share.

Owns that reading. It changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

from chargehand_schemas.base import Item
from chargehand_schemas.batches import Outgoing
from chargehand_schemas.catalog import EnrolmentTokenIssued, KeyEnrolled
from chargehand_schemas.commands import HostRecord
from chargehand_schemas.reasons import Reason, Role
from pydantic import TypeAdapter

from ...core import keys as key_rules
from ...core.bindings import Binding, BindingKind
from ...core.hosts import Host
from ...core.job_invocations import JobInvocation
from ...core.keys import Key
from ...core.outcomes import Append, key_stream
from ...core.rights import Person, Principal, Program, login_of, service_of
from ...core.routing import routed
from ...core.users import Token
from .engines import Row, Transaction
from .stored_events import decode, model_named

NEAR_NAMES = 200


def items(row: Row) -> Sequence[Item]:
    return _adapter(model_named(row["type"])).validate_json(bytes(row["document"]))


@lru_cache
def _adapter(model: type[Item]) -> TypeAdapter[tuple[Item, ...]]:
    return TypeAdapter(tuple[model, ...])  # type: ignore[valid-type]


def outgoing(name: str, state: bytes) -> Outgoing | None:
    return routed(decode(name, state))


@lru_cache(maxsize=4096)
def record(document: str) -> HostRecord:
    return HostRecord.model_validate_json(document)


@lru_cache(maxsize=256)
def invocation(state: str) -> JobInvocation:
    return JobInvocation.model_validate_json(state)


def host(row: Row) -> Host:
    return Host(UUID(row["host_id"]), row["version"], record(row["document"]), bool(row["is_removed"]))


def hosts(tx: Transaction, host_ids: Iterable[UUID]) -> dict[UUID, Host]:
    rows = tx.rows(
        "select host_id, version, is_removed, document from hosts where host_id {in}", tx.as_list(map(str, host_ids))
    )
    return {found.host_id: found for found in map(host, rows)}


def ids_by_name(tx: Transaction, names: Sequence[str]) -> dict[str, UUID]:
    sql = "select host_id, name from hosts where is_removed = 0 and name {in}"
    rows = tx.rows(sql, tx.as_list(names)) if names else []
    return {row["name"]: UUID(row["host_id"]) for row in rows}


def present(tx: Transaction, host_ids: Sequence[UUID]) -> frozenset[UUID]:
    sql = "select host_id from hosts where is_removed = 0 and host_id {in}"
    rows = tx.rows(sql, tx.as_list(map(str, host_ids))) if host_ids else []
    return frozenset(UUID(row["host_id"]) for row in rows)


def everyone(tx: Transaction) -> tuple[UUID, ...]:
    return tuple(
        UUID(row["host_id"]) for row in tx.rows("select host_id from hosts where is_removed = 0 order by name")
    )


def near(tx: Transaction, name: str) -> tuple[str, ...]:
    """Names that begin alike, or have the same length: enough to find a typing error among 100,000."""
    sql = "select name from hosts where is_removed = 0 and (name >= ? and name < ?) order by name limit ?"
    rows = tx.rows(sql, name[:2], name[:2] + "\x7f", NEAR_NAMES)
    if not rows:
        rows = tx.rows(
            "select name from hosts where is_removed = 0 and length(name) = ? limit ?", len(name), NEAR_NAMES
        )
    return tuple(row["name"] for row in rows)


KEYS = "select kid, version, role, document, is_used, is_revoked from keys"


def key(row: Row) -> Key:
    model = EnrolmentTokenIssued if row["role"] == Role.ENROLEE else KeyEnrolled
    event = model.model_validate_json(row["document"])
    found = key_rules.evolve(None, Append(key_stream(row["kid"]), row["version"], event))
    if found is None:
        raise LookupError(f"key {row['kid']} cannot be read from its row")
    return key_rules.marked(found, is_used=bool(row["is_used"]), is_revoked=bool(row["is_revoked"]))


def principal(tx: Transaction, actor: str) -> Principal | None:
    login, service = login_of(actor), service_of(actor)
    if login is not None:
        return person(tx, login)
    if service is None:
        return None
    rows = tx.rows("select is_revoked from keys where subject = ? and role = ?", service, Role.SERVICE_ACCOUNT.value)
    return Program(service, any(not row["is_revoked"] for row in rows)) if rows else None


def person(tx: Transaction, login: str) -> Person | None:
    rows = tx.rows("select login, version, role, is_disabled from users where login = ?", login)
    return Person(login, rows[0]["role"], rows[0]["version"], bool(rows[0]["is_disabled"])) if rows else None


def token(tx: Transaction, token_id: UUID) -> Token | None:
    rows = tx.rows("select login, expires_at, is_revoked from tokens where token_id = ?", str(token_id))
    if not rows:
        return None
    row = rows[0]
    return Token(token_id, row["login"], datetime.fromisoformat(row["expires_at"]), bool(row["is_revoked"]))


def binding(row: Row) -> Binding:
    return Binding(
        job_invocation_id=UUID(row["job_invocation_id"]),
        job_task_id=UUID(row["job_task_id"]),
        attempt=row["attempt"],
        host_id=UUID(row["host_id"]),
        kind=BindingKind(row["kind"]),
        host_version=row["host_version"],
        proxy=row["proxy"],
        lock_path=row["lock_path"],
        connecting_user=row["connecting_user"],
        provider_type=row["provider_type"],
        effective_user=row["effective_user"],
        script_digest=row["script_digest"],
        template_id=UUID(row["template_id"]) if row["template_id"] else None,
        template_version=row["template_version"],
        reason=Reason(row["reason"]) if row["reason"] else None,
        detail=row["detail"],
    )


def chunks(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
