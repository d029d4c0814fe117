"""Values to rows and back. Owns the column order of each table; nothing is computed here.

Times are microseconds since 1970, ids 16 bytes, small structures JSON text.
"""

# ruff: noqa: S608 (the names in these statements are constants)

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from chargehand_schemas.commands import HostRecord
from chargehand_schemas.dispatch import Halt
from chargehand_schemas.planning import JobInvocationAccepted
from chargehand_schemas.reasons import JobInvocationStatus, JobTaskStatus, Reason, Stream
from pydantic import TypeAdapter
from pydantic_core import from_json, to_json

from ...core.catalog import Host, Observation, Token
from ...core.groups import Group
from ...core.invocation import JobInvocation
from ...core.job_task import AttemptDecision, AttemptReport, JobTask, StreamView
from ...core.proxies import Agent, ProxySize
from ...core.read_model import AgentKey, CommandOutcome, User
from .database import Row

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_VIEWS = TypeAdapter(dict[Stream, StreamView])
_DECISION = TypeAdapter(AttemptDecision)
_REPORT = TypeAdapter(AttemptReport)

JOB_INVOCATION = (
    "job_invocation_id, created_at, status, definition, refusal, refused_by, detail, refused_at, start_at, due_at, total, "
    "is_cancel_requested, ended, ended_at, said_counts, said_reasons, counts, reasons, told, position, halt, edit, steps"
)
JOB_TASK = (
    "job_task_id, job_invocation_id, host_id, host_name, is_planned, ordinal, proxy, proxy_from, dispatch_rank, "
    "verdict_rank, status, reason, exit_status, signal, attempts, tried, detail, due_at, verdict_at, shown, started_at, "
    "attempt_ended_at, streams, group_id, position, steps"
)
OUTPUT_GROUP = "job_invocation_id, group_id, ordinal, status, reason, exit_status, digests, lengths, count"
HOST = "host_id, version, name, record, is_removed"
OBSERVATION = "host_id, proxy, reachable, why, detail, observed_at, last_check_in, facts, facts_reported_at"
AGENT = "agent_id, proxy, heard_at, providers, version, following, clock_offset_s, has_stopped"
PROXY_SIZE = "proxy, concurrency, changed_at"
AGENT_KEY = "kid, proxy, agent_id, is_revoked"
USER = "login, role, is_disabled"
TOKEN = "token_id, token_sha256, login, expires_at, is_revoked"  # noqa: S105 (columns)
COMMAND_OUTCOME = "command_id, decision, reason, detail, counts, job_invocation_id"


def upsert(table: str, columns: str, keys: int) -> str:
    """Insert a row or replace the one with the same first `keys` columns."""
    names = [name.strip() for name in columns.split(",")]
    places = ", ".join("?" * len(names))
    update = ", ".join(f"{name} = excluded.{name}" for name in names[keys:])
    return (
        f"insert into {table} ({columns}) values ({places}) "
        f"on conflict ({', '.join(names[:keys])}) do update set {update}"
    )


def micros(moment: datetime | None) -> int | None:
    return None if moment is None else (moment - _EPOCH) // _MICROSECOND


def instant(value: int | None) -> datetime | None:
    return None if value is None else _EPOCH + timedelta(microseconds=value)


def _instant(value: int) -> datetime:
    return _EPOCH + timedelta(microseconds=value)


def _dump(value: Any) -> str:
    return to_json(value).decode()


def _load(text: str) -> Any:
    return from_json(text)


def job_invocation_row(it: JobInvocation, position: int) -> tuple[Any, ...]:
    return (
        it.job_invocation_id.bytes,
        micros(it.created_at),
        it.status.value,
        None if it.definition is None else it.definition.model_dump_json(),
        it.refusal,
        it.refused_by,
        it.detail,
        micros(it.refused_at),
        micros(it.start_at),
        micros(it.due_at),
        it.total,
        int(it.is_cancel_requested),
        None if it.ended is None else it.ended.value,
        micros(it.ended_at),
        _dump(it.said_counts),
        _dump(it.said_reasons),
        _dump(it.counts),
        _dump(it.reasons),
        _dump(it.told),
        position,
        None if it.halt is None else it.halt.model_dump_json(),
        None if it.edit is None else _dump([micros(it.edit[0]), it.edit[1]]),
        it.steps,
    )


def job_invocation_of(row: Row) -> JobInvocation:
    return JobInvocation(
        job_invocation_id=UUID(bytes=row[0]),
        created_at=_instant(row[1]),
        definition=None if row[3] is None else JobInvocationAccepted.model_validate_json(row[3]),
        refusal=row[4],
        refused_by=row[5],
        detail=row[6],
        refused_at=instant(row[7]),
        start_at=instant(row[8]),
        due_at=instant(row[9]),
        total=row[10],
        is_cancel_requested=bool(row[11]),
        ended=None if row[12] is None else JobInvocationStatus(row[12]),
        ended_at=instant(row[13]),
        said_counts=_load(row[14]),
        said_reasons=_load(row[15]),
        counts={JobTaskStatus(word): count for word, count in _load(row[16]).items()},
        reasons={Reason(word): count for word, count in _load(row[17]).items()},
        told=tuple(_load(row[18])),
        position=row[19],
        halt=None if row[20] is None else Halt.model_validate_json(row[20]),
        edit=None if row[21] is None else _edit(*_load(row[21])),
        steps=row[22],
    )


def _edit(at: int, concurrency: int | None) -> tuple[datetime, int | None]:
    return _instant(at), concurrency


def job_task_row(it: JobTask, group: bytes, position: int) -> tuple[Any, ...]:
    return (
        it.job_task_id.bytes,
        it.job_invocation_id.bytes,
        it.host_id.bytes,
        it.host_name,
        int(it.is_planned),
        it.ordinal,
        it.proxy,
        it.proxy_from,
        it.rank,
        it.verdict_rank,
        it.status.value,
        None if it.reason is None else it.reason.value,
        it.exit_status,
        it.signal,
        it.attempts,
        it.tried,
        it.detail,
        micros(it.due_at),
        micros(it.verdict_at),
        it.shown,
        micros(it.started_at),
        micros(it.attempt_ended_at),
        _VIEWS.dump_json(dict(it.streams)).decode() if it.streams else "",
        group,
        position,
        it.steps,
    )


def job_task_of(row: Row) -> JobTask:
    return JobTask(
        job_task_id=UUID(bytes=row[0]),
        job_invocation_id=UUID(bytes=row[1]),
        host_id=UUID(bytes=row[2]),
        host_name=row[3],
        is_planned=bool(row[4]),
        ordinal=row[5],
        proxy=row[6],
        proxy_from=row[7],
        rank=row[8],
        verdict_rank=row[9],
        status=JobTaskStatus(row[10]),
        reason=None if row[11] is None else Reason(row[11]),
        exit_status=row[12],
        signal=row[13],
        attempts=row[14],
        tried=row[15],
        detail=row[16],
        due_at=instant(row[17]),
        verdict_at=instant(row[18]),
        shown=row[19],
        started_at=instant(row[20]),
        attempt_ended_at=instant(row[21]),
        streams=_VIEWS.validate_json(row[22]) if row[22] else {},
        group=row[23],
        position=row[24],
        steps=row[25],
    )


def decision_text(it: AttemptDecision) -> str:
    return _DECISION.dump_json(it, exclude_defaults=True).decode()


def decision_of(text: str) -> AttemptDecision:
    return _DECISION.validate_json(text)


def report_text(it: AttemptReport) -> str:
    return _REPORT.dump_json(it, exclude_defaults=True).decode()


def report_of(text: str) -> AttemptReport:
    return _REPORT.validate_json(text)


def group_values(group: Group) -> tuple[Any, ...]:
    """The columns of an output group between its ids and its count."""
    return (
        group.order,
        group.status.value,
        None if group.reason is None else group.reason.value,
        group.exit_status,
        _dump(dict(group.digests)),
        _dump(dict(group.lengths)),
    )


def host_row(it: Host) -> tuple[Any, ...]:
    record = None if it.record is None else it.record.model_dump_json()
    return it.host_id.bytes, it.version, it.name, record, int(it.is_removed)


def host_of(row: Row) -> Host:
    record = None if row[3] is None else HostRecord.model_validate_json(row[3])
    return Host(UUID(bytes=row[0]), row[1], row[2], record, bool(row[4]))


def observation_row(it: Observation) -> tuple[Any, ...]:
    reachable = None if it.reachable is None else int(it.reachable)
    moments = micros(it.observed_at), micros(it.last_check_in)
    facts = json.dumps(dict(it.facts)), micros(it.facts_reported_at)
    return it.host_id.bytes, it.proxy, reachable, it.why, it.detail, *moments, *facts


def observation_of(row: Row) -> Observation:
    reachable = None if row[2] is None else bool(row[2])
    moments = instant(row[5]), instant(row[6])
    return Observation(UUID(bytes=row[0]), row[1], reachable, row[3], row[4], *moments, _load(row[7]), instant(row[8]))


def agent_row(it: Agent) -> tuple[Any, ...]:
    return (
        it.agent_id,
        it.proxy,
        micros(it.heard_at),
        json.dumps(it.providers),
        it.version,
        it.following,
        it.clock_offset_s,
        int(it.has_stopped),
    )


def agent_of(row: Row) -> Agent:
    return Agent(row[0], row[1], _instant(row[2]), tuple(_load(row[3])), row[4], row[5], row[6], bool(row[7]))


def proxy_size_row(it: ProxySize) -> tuple[Any, ...]:
    return it.proxy, it.concurrency, micros(it.changed_at)


def proxy_size_of(row: Row) -> ProxySize:
    return ProxySize(row[0], row[1], _instant(row[2]))


def agent_key_row(it: AgentKey) -> tuple[Any, ...]:
    return it.kid, it.proxy, it.agent_id, int(it.is_revoked)


def agent_key_of(row: Row) -> AgentKey:
    return AgentKey(row[0], row[1], row[2], bool(row[3]))


def user_row(it: User) -> tuple[Any, ...]:
    return it.login, it.role, int(it.is_disabled)


def user_of(row: Row) -> User:
    return User(row[0], row[1], bool(row[2]))


def token_row(it: Token) -> tuple[Any, ...]:
    return it.token_id.bytes, it.token_sha256, it.login, micros(it.expires_at), int(it.is_revoked)


def token_of(row: Row) -> Token:
    return Token(UUID(bytes=row[0]), row[1], row[2], instant(row[3]), bool(row[4]))


def command_outcome_row(it: CommandOutcome) -> tuple[Any, ...]:
    about = None if it.job_invocation_id is None else it.job_invocation_id.bytes
    return it.command_id.bytes, it.decision, it.reason, it.detail, _dump(dict(it.counts)), about


def command_outcome_of(row: Row) -> CommandOutcome:
    counts: Mapping[str, int] = _load(row[4])
    about = None if row[5] is None else UUID(bytes=row[5])
    return CommandOutcome(UUID(bytes=row[0]), row[1], row[2], row[3], counts, about)
