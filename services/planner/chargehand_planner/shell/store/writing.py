"""A change as rows: the statements that write it, in one transaction.

Owns the inserts and updates of every table but the projections'.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any
from uuid import UUID

from chargehand_schemas.base import Item, as_utc
from chargehand_schemas.planning import ScriptRendered

from ...core.bindings import Binding
from ...core.job_invocations import InvocationState, JobInvocation
from .engines import Transaction
from .projections import project
from .records import Change, Due, Fenced, Position
from .stored_events import type_name

_INVOCATION = """
    insert into invocations (job_invocation_id, version, is_ended, state) values (?, ?, ?, ?)
    on conflict (job_invocation_id) do update
    set version = excluded.version, is_ended = excluded.is_ended, state = excluded.state
"""
_SEALED = "insert into sealed_inputs (job_invocation_id, name, sealed) values (?, ?, ?)"
_UNSEALED = "delete from sealed_inputs where job_invocation_id = ?"
_HANDLED = "insert into handled (command_id, handled_at) values (?, ?)"
_SCRIPT = """
    insert into scripts (job_invocation_id, digest, rendered_at) values (?, ?, ?)
    on conflict (job_invocation_id, digest) do nothing
"""
_PARKED = """
    insert into parked (job_task_id, attempt, partition_name, document) values (?, ?, ?, ?)
    on conflict (job_task_id, attempt) do nothing
"""
_UNPARKED = "delete from parked where job_task_id = ? and attempt = ?"
_OUTBOX = "insert into outbox (type, document) values (?, ?) returning id"
_OFFER = """
    insert into offers (proxy, agent_id, providers) values (?, ?, ?)
    on conflict (proxy, agent_id) do update set providers = excluded.providers
"""
_REPORT = """
    insert into host_reports (host_id, kind, reported_at, document) values (?, ?, ?, ?)
    on conflict (host_id, kind) do update set reported_at = excluded.reported_at, document = excluded.document
    where host_reports.reported_at < excluded.reported_at
"""
_HEARD = """
    insert into heard (partition_name, next_offset, append_ms) values (?, ?, ?)
    on conflict (partition_name) do update set next_offset = excluded.next_offset, append_ms = excluded.append_ms
"""
_BINDING_COLUMNS = tuple(field.name for field in fields(Binding))
_binding_values = attrgetter(*_BINDING_COLUMNS)
_BINDING = (
    f"insert into bindings ({', '.join(_BINDING_COLUMNS)}, bound_at) "  # noqa: S608 (names of our own fields)
    f"values ({', '.join('?' * (len(_BINDING_COLUMNS) + 1))})"
)


def write(transaction: Transaction, change: Change) -> dict[int, list[Item]]:
    """Everything of a change but its events and positions, which the recorder writes. The outbox's new rows by their ids."""
    moment = "" if change.moment is None else as_utc(change.moment)
    _write_invocations(transaction, change)
    project(transaction, change.appends)
    transaction.many(_HANDLED, [(str(command_id), moment) for command_id in change.handled])
    transaction.many(_BINDING, [_binding_row(binding, moment) for binding in change.bindings])
    transaction.many(_PARKED, [_parked_row(parked) for parked in change.parked])
    transaction.many(_UNPARKED, [(str(job_task_id), attempt) for job_task_id, attempt in change.unparked])
    transaction.many(_OFFER, [(o.proxy, o.agent_id, json.dumps(sorted(o.providers))) for o in change.offers])
    transaction.many(_HEARD, [(position_name(p), change.positions[p], at) for p, at in change.times.items()])
    transaction.many(_REPORT, [(str(r.host_id), r.kind, as_utc(r.reported_at), r.document) for r in change.reports])
    fresh = [script for script in change.scripts if _is_new(transaction, script, moment)]
    return write_outbox(transaction, [*fresh, *change.items])


def _write_invocations(transaction: Transaction, change: Change) -> None:
    transaction.many(_INVOCATION, [_invocation_row(invocation) for invocation in change.invocations])
    for job_invocation_id, sealed in change.sealed_inputs.items():
        transaction.many(_SEALED, [(str(job_invocation_id), name, value) for name, value in sealed.items()])
    ended = [i for i in change.invocations if i.state is InvocationState.ENDED]
    transaction.many(_UNSEALED, [(str(i.job_invocation_id),) for i in ended])


def _invocation_row(invocation: JobInvocation) -> tuple[Any, ...]:
    is_ended = int(invocation.state is not InvocationState.ACCEPTED)
    return (str(invocation.job_invocation_id), invocation.version, is_ended, invocation.model_dump_json())


def _is_new(transaction: Transaction, script: ScriptRendered, moment: str) -> bool:
    return transaction.run(_SCRIPT, str(script.job_invocation_id), script.digest, moment) > 0


def _binding_row(binding: Binding, moment: str) -> tuple[Any, ...]:
    return (*(str(value) if isinstance(value, UUID) else value for value in _binding_values(binding)), moment)


def _parked_row(parked: Due) -> tuple[Any, ...]:
    due = parked.due
    return (str(due.job_task_id), due.attempt, position_name(parked.partition), due.model_dump_json())


def write_outbox(transaction: Transaction, items: Sequence[Item]) -> dict[int, list[Item]]:
    """One row for items of one type, in the order in which the types first come: a fact before its command."""
    by_type: dict[type[Item], list[Item]] = {}
    for item in items:
        by_type.setdefault(type(item), []).append(item)
    written: dict[int, list[Item]] = {}
    for model, rows in by_type.items():
        document = b"[" + b",".join(item.model_dump_json().encode() for item in rows) + b"]"
        written[int(transaction.rows(_OUTBOX, type_name(model), document)[0]["id"])] = rows
    return written


def position_name(position: Position) -> str:
    """A partition as rows name it."""
    return f"{position[0]}:{position[1]}"


def check_owner(transaction: Transaction, tokens: Mapping[Position, str]) -> None:
    """Fenced, unless these partitions are owned under these tokens still."""
    if not tokens:
        return
    expected = {position_name(partition): token for partition, token in tokens.items()}
    rows = transaction.rows(
        "select partition_name, token from owners where partition_name {in} {share}", transaction.as_list(expected)
    )
    if {row["partition_name"]: row["token"] for row in rows} != expected:
        raise Fenced(f"another planner owns {', '.join(sorted(expected))} now")
