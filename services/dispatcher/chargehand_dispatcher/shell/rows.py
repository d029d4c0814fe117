"""How job tasks and invocations stand in tables: columns, and values to and from them.

Owns the mapping. Times are microseconds since 1970, ids are text, lists are JSON: the same in both databases.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from chargehand_schemas.properties import ExecutionProperties
from chargehand_schemas.reasons import JobTaskStatus, Reason

from chargehand_dispatcher.core.invocation import Invocation
from chargehand_dispatcher.core.job_task import JobTask, State

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_us(moment: datetime | None) -> int | None:
    return None if moment is None else (moment - _EPOCH) // _MICROSECOND


def from_us(moment_us: int | None) -> datetime | None:
    return None if moment_us is None else _EPOCH + moment_us * _MICROSECOND


JOB_TASK_COLUMNS = (
    "job_task_id", "partition", "job_invocation_id", "host_id", "host_name", "proxy", "ordinal", "state", "due_at",
    "look_at", "is_cancelling", "attempt", "last_attempt", "tried", "unstarted", "first_dispatched_at", "issued_at",
    "not_after", "run_deadline", "journals", "could_not_connect", "release_refused", "detail", "holder",
    "holder_boot", "last_word_at", "asked", "asked_at", "unknown_ends", "status", "reason", "exit_status", "signal",
)  # fmt: skip


def job_task_row(job_task: JobTask, partition: int, look_at: datetime | None) -> tuple[Any, ...]:
    """The values of JOB_TASK_COLUMNS."""
    return (
        str(job_task.job_task_id), partition, str(job_task.job_invocation_id), str(job_task.host_id),
        job_task.host_name, job_task.proxy, job_task.ordinal, job_task.state.value, to_us(job_task.due_at),
        to_us(look_at), int(job_task.is_cancelling), job_task.attempt, job_task.last_attempt, job_task.tried,
        job_task.unstarted, to_us(job_task.first_dispatched_at), to_us(job_task.issued_at), to_us(job_task.not_after),
        to_us(job_task.run_deadline), _journals(job_task), int(job_task.could_not_connect),
        int(job_task.release_refused), job_task.detail, job_task.holder,
        None if job_task.holder_boot is None else str(job_task.holder_boot), to_us(job_task.last_word_at),
        job_task.asked, to_us(job_task.asked_at), json.dumps(job_task.unknown) if job_task.unknown else "",
        None if job_task.status is None else job_task.status.value,
        None if job_task.reason is None else job_task.reason.value, job_task.exit_status, job_task.signal,
    )  # fmt: skip


def _journals(job_task: JobTask) -> str:
    if not job_task.acceptors and not job_task.released:
        return ""
    return json.dumps([sorted(map(str, job_task.acceptors)), sorted(map(str, job_task.released))])


def _uuids(texts: Sequence[str]) -> frozenset[UUID]:
    return frozenset(map(UUID, texts))


def job_task_of(row: Sequence[Any]) -> JobTask:
    """The JobTask of a row in the order of JOB_TASK_COLUMNS."""
    (
        job_task_id, _, job_invocation_id, host_id, host_name, proxy, ordinal, state, due_at, _, is_cancelling, attempt,
        last_attempt, tried, unstarted, first_dispatched_at, issued_at, not_after, run_deadline, journals,
        could_not_connect, release_refused, detail, holder, holder_boot, last_word_at, asked, asked_at, unknown_ends,
        status, reason, exit_status, signal,
    ) = row  # fmt: skip
    acceptors, released = json.loads(journals) if journals else ((), ())
    return JobTask(
        job_task_id=UUID(job_task_id),
        job_invocation_id=UUID(job_invocation_id),
        host_id=UUID(host_id),
        host_name=host_name,
        proxy=proxy,
        ordinal=ordinal,
        due_at=_EPOCH + due_at * _MICROSECOND,
        state=State(state),
        is_cancelling=bool(is_cancelling),
        attempt=attempt,
        last_attempt=last_attempt,
        tried=tried,
        unstarted=unstarted,
        first_dispatched_at=from_us(first_dispatched_at),
        issued_at=from_us(issued_at),
        not_after=from_us(not_after),
        run_deadline=from_us(run_deadline),
        acceptors=_uuids(acceptors),
        released=_uuids(released),
        could_not_connect=bool(could_not_connect),
        release_refused=bool(release_refused),
        detail=detail,
        holder=holder,
        holder_boot=UUID(holder_boot) if holder_boot else None,
        last_word_at=from_us(last_word_at),
        asked=asked,
        asked_at=from_us(asked_at),
        unknown=tuple(json.loads(unknown_ends)) if unknown_ends else (),
        status=JobTaskStatus(status) if status else None,
        reason=Reason(reason) if reason else None,
        exit_status=exit_status,
        signal=signal,
    )


INVOCATION_COLUMNS = (
    "job_invocation_id", "partition", "start_at", "look_at", "concurrency", "released", "is_cancelled", "is_halted",
    "is_ended", "body",
)  # fmt: skip


def invocation_row(invocation: Invocation, partition: int, look_at: datetime | None) -> tuple[Any, ...]:
    """The values of INVOCATION_COLUMNS."""
    body = {
        "start_before": to_us(invocation.start_before),
        "properties": invocation.properties.model_dump_json(),
        "due_said_at": to_us(invocation.due_said_at),
        "chunks": invocation.chunks,
        "chunks_in": sorted(invocation.chunks_in),
        "total": invocation.total,
        "asked_for_chunks_at": to_us(invocation.asked_for_chunks_at),
        "counts": dict(invocation.counts),
        "reasons": dict(invocation.reasons),
    }
    return (
        str(invocation.job_invocation_id), partition, to_us(invocation.start_at), to_us(look_at),
        invocation.properties.concurrency, invocation.released, int(invocation.is_cancelled),
        int(invocation.is_halted), int(invocation.is_ended), json.dumps(body),
    )  # fmt: skip


def invocation_of(row: Sequence[Any]) -> Invocation:
    """The Invocation of a row in the order of INVOCATION_COLUMNS."""
    value = dict(zip(INVOCATION_COLUMNS, row, strict=True))
    body = json.loads(value["body"])
    return Invocation(
        job_invocation_id=UUID(value["job_invocation_id"]),
        start_at=from_us(value["start_at"]),
        start_before=from_us(body["start_before"]),
        properties=ExecutionProperties.model_validate_json(body["properties"]),
        due_said_at=from_us(body["due_said_at"]),
        chunks=body["chunks"],
        chunks_in=frozenset(body["chunks_in"]),
        total=body["total"],
        asked_for_chunks_at=from_us(body["asked_for_chunks_at"]),
        is_cancelled=bool(value["is_cancelled"]),
        is_halted=bool(value["is_halted"]),
        is_ended=bool(value["is_ended"]),
        counts=body["counts"],
        reasons=body["reasons"],
    )
