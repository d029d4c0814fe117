"""How job tasks, invocations and the outbox stand in tables: values to and from columns.

Owns the mapping. What is looked for has a column of its own, the rest of a row is JSON; times are microseconds since 1970,
ids are their 16 bytes: the same in both databases.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any
from uuid import UUID

from chargehand_schemas import dispatch
from chargehand_schemas.base import MAX_ITEMS_PER_MESSAGE, MAX_MESSAGE_BYTES, InvocationItem, Item
from chargehand_schemas.batches import Packed, put_together
from chargehand_schemas.properties import ExecutionProperties
from chargehand_schemas.reasons import JobTaskStatus, Reason
from chargehand_schemas.topics import DISPATCH_EVENTS
from pydantic_core import from_json, to_json

from chargehand_dispatcher.core.alike import Many, Same
from chargehand_dispatcher.core.invocation import Invocation
from chargehand_dispatcher.core.job_task import SLOT_STATES, JobTask, State

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def as_us(moment: datetime) -> int:
    """Microseconds since 1970."""
    span = moment - _EPOCH
    return (span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds


def at_us(moment_us: int) -> datetime:
    return _EPOCH + moment_us * _MICROSECOND


def to_us(moment: datetime | None) -> int | None:
    return None if moment is None else as_us(moment)


def from_us(moment_us: int | None) -> datetime | None:
    return None if moment_us is None else at_us(moment_us)


def _hex(ids: Collection[UUID]) -> str:
    return ",".join(sorted(one.hex for one in ids)) if ids else ""


def _ids(text: str) -> frozenset[UUID]:
    return frozenset(UUID(one) for one in text.split(",")) if text else frozenset()


_FRAME_BYTES = 16

JOB_TASK_COLUMNS = (
    "job_task_id", "partition", "job_invocation_id", "host_id", "proxy", "ordinal", "state", "due_at", "look_at",
    "is_cancelling", "body",
)  # fmt: skip

JOB_TASKS = f"select {', '.join(JOB_TASK_COLUMNS)} from job_task where "  # noqa: S608 (our own names)
"""The beginning of a question for rows of job tasks."""

JOB_TASK_FIXED = frozenset({"partition", "job_invocation_id", "host_id", "ordinal"})
"""Those that never change."""

HOLDS_A_SLOT = State.DUE.value
"""The column `state` of all that hold a slot. Which of its states it is stands in the body: so what goes on in a slot changes no
column that an index looks at, and costs a sixth (docs/adr/0029)."""

JOB_TASK_FIXED_IN_A_SLOT = frozenset(JOB_TASK_COLUMNS) - {"job_task_id", "is_cancelling", "body"}
"""Those that do not change while a job task holds its slot, but for `look_at`, which may be left as it is."""

STATE_OF_A_SLOT = (
    "case when substr(body, length(body) - 11) = ',\"accepted\"]' then 'accepted' "
    "when substr(body, length(body) - 10) = ',\"running\"]' then 'running' else state end"
)
"""The same in SQL; rows of before say it in the column."""

CANCELLED_UNSENT = "cancelled"
"""Instead of a state: of a job task that waits and was never dispatched, and was cancelled with all others of its invocation. The
rest of its row stays as it was: it takes a third of the time of writing a verdict into it."""

_WAITS_FOR_ITS_FIRST, _ENDED_UNDISPATCHED, _SAYS_ITS_STATE = 1, 4, 26
"""Lengths of bodies: two that are shorter than the others, as a row that grows little stays on its page, and the longest."""


def _dump(document: Any) -> str:
    return to_json(document).decode()


def job_task_row(
    job_task: JobTask, partition: int, look_at: datetime | None, body: str | None = None
) -> tuple[Any, ...]:
    """The values of JOB_TASK_COLUMNS; `body`: the last of them, where it is known."""
    return (
        job_task.job_task_id.bytes,
        partition,
        job_task.job_invocation_id.bytes,
        job_task.host_id.bytes,
        job_task.proxy,
        job_task.ordinal,
        HOLDS_A_SLOT if job_task.state in SLOT_STATES else job_task.state.value,
        as_us(job_task.due_at),
        to_us(look_at),
        int(job_task.is_cancelling),
        _job_task_body(job_task) if body is None else body,
    )


def job_task_rows_alike(
    job_tasks: Sequence[JobTask], partition: int, look_at: datetime | None
) -> Iterator[tuple[Any, ...]]:
    """job_task_row of job tasks that differ in nothing but who they are and when they were due."""
    first = job_tasks[0]
    rest = _job_task_body(first).removeprefix(f"[{_dump(first.host_name)}")
    for one in job_tasks:
        yield job_task_row(one, partition, look_at, f"[{_dump(one.host_name)}{rest}")


def never_dispatched(job_task_id: bytes, host_id: bytes, ordinal: int, body: str) -> Same | None:
    """What a row tells of a job task that was never dispatched; None: it was."""
    may_be_longer = '",' in body
    if may_be_longer and len(from_json(body)) != _WAITS_FOR_ITS_FIRST:
        return None
    return Same(job_task_id, host_id, body[1:-1], ordinal)


def _job_task_body(job_task: JobTask) -> str:
    body: list[Any] = [job_task.host_name]
    if _has_ended_undispatched(job_task):
        body += (job_task.status, job_task.reason, job_task.detail)
    elif job_task.last_attempt or job_task.status is not None:
        body += (
            job_task.attempt, job_task.last_attempt, job_task.tried, job_task.unstarted,
            to_us(job_task.first_dispatched_at), to_us(job_task.issued_at), to_us(job_task.not_after),
            to_us(job_task.run_deadline), _hex(job_task.acceptors), _hex(job_task.released),
            int(job_task.could_not_connect), int(job_task.release_refused), job_task.detail, job_task.holder,
            job_task.holder_boot.hex if job_task.holder_boot else "", to_us(job_task.last_word_at), job_task.asked,
            to_us(job_task.asked_at), job_task.unknown, job_task.status, job_task.reason, job_task.exit_status,
            job_task.signal, job_task.unlooked, *((job_task.state,) if job_task.state in SLOT_STATES else ()),
        )  # fmt: skip
    return _dump(body)


def _has_ended_undispatched(job_task: JobTask) -> bool:
    """It has its verdict, and nothing else happened to it."""
    counts = (job_task.last_attempt, job_task.attempt, job_task.tried, job_task.unstarted, job_task.asked)
    facts = (job_task.first_dispatched_at, job_task.exit_status, job_task.signal)
    return job_task.status is not None and not any(counts) and all(fact is None for fact in facts)


def job_task_of(row: Sequence[Any]) -> JobTask:
    """The JobTask of a row in the order of JOB_TASK_COLUMNS."""
    job_task_id, _, job_invocation_id, host_id, proxy, ordinal, state, due_at, _, is_cancelling, text = row
    body = from_json(text)
    is_unsent = state == CANCELLED_UNSENT
    known = (
        UUID(bytes=job_task_id), UUID(bytes=job_invocation_id), UUID(bytes=host_id), body[0], proxy, ordinal,
        at_us(due_at), State.ENDED if is_unsent else State(body[-1] if len(body) == _SAYS_ITS_STATE else state),
        bool(is_cancelling),
    )  # fmt: skip
    if is_unsent:
        return JobTask(*known, status=JobTaskStatus.CANCELLED, reason=Reason.CANCELLED)
    if len(body) == _WAITS_FOR_ITS_FIRST:
        return JobTask(*known)
    if len(body) == _ENDED_UNDISPATCHED:
        _, status, reason, detail = body
        return JobTask(*known, detail=detail, status=JobTaskStatus(status), reason=Reason(reason) if reason else None)
    (
        _, attempt, last_attempt, tried, unstarted, first_dispatched_at, issued_at, not_after, run_deadline, acceptors,
        released, could_not_connect, release_refused, detail, holder, holder_boot, last_word_at, asked, asked_at,
        unknown, status, reason, exit_status, signal, *added,
    ) = body  # fmt: skip
    return JobTask(
        *known,
        attempt=attempt,
        last_attempt=last_attempt,
        tried=tried,
        unstarted=unstarted,
        first_dispatched_at=from_us(first_dispatched_at),
        issued_at=from_us(issued_at),
        not_after=from_us(not_after),
        run_deadline=from_us(run_deadline),
        acceptors=_ids(acceptors),
        released=_ids(released),
        could_not_connect=bool(could_not_connect),
        release_refused=bool(release_refused),
        detail=detail,
        holder=holder,
        holder_boot=UUID(holder_boot) if holder_boot else None,
        last_word_at=from_us(last_word_at),
        asked=asked,
        asked_at=from_us(asked_at),
        unknown=tuple(unknown),
        unlooked=tuple(added[0]) if added else (),
        status=JobTaskStatus(status) if status else None,
        reason=Reason(reason) if reason else None,
        exit_status=exit_status,
        signal=signal,
    )


INVOCATION_COLUMNS = ("job_invocation_id", "partition", "look_at", "is_ended", "is_swept", "body")


def invocation_row(
    invocation: Invocation, partition: int, look_at: datetime | None, *, is_swept: bool
) -> tuple[Any, ...]:
    """The values of INVOCATION_COLUMNS. `is_swept`: nothing is left to be said to all its job tasks."""
    body = {
        "start_at": to_us(invocation.start_at),
        "start_before": to_us(invocation.start_before),
        "properties": invocation.properties.model_dump_json(),
        "due_said_at": to_us(invocation.due_said_at),
        "chunks": invocation.chunks,
        "chunks_in": sorted(invocation.chunks_in),
        "lost_chunks": sorted(invocation.lost_chunks),
        "planned": invocation.planned,
        "total": invocation.total,
        "asks": invocation.asks,
        "cancelled_job_tasks": _hex(invocation.cancelled_job_tasks),
        "asked_for_chunks_at": to_us(invocation.asked_for_chunks_at),
        "is_cancelled": invocation.is_cancelled,
        "is_halted": invocation.is_halted,
        "halt": None if invocation.halt is None else invocation.halt.model_dump(mode="json"),
        "edited_by": None if invocation.edited_by is None else invocation.edited_by.hex,
        "edits": sorted(one.hex for one in invocation.edits),
        "ahead": sorted(invocation.ahead),
        "is_ended": invocation.is_ended,
        "counts": dict(invocation.counts),
        "reasons": dict(invocation.reasons),
        "traceparent": invocation.traceparent,
    }
    return (
        invocation.job_invocation_id.bytes,
        partition,
        to_us(look_at),
        int(invocation.is_ended),
        int(is_swept),
        _dump(body),
    )


def invocation_of(row: Sequence[Any]) -> Invocation:
    """The Invocation of a row in the order of INVOCATION_COLUMNS."""
    body = from_json(row[5])
    return Invocation(
        job_invocation_id=UUID(bytes=row[0]),
        start_at=from_us(body["start_at"]),
        start_before=from_us(body["start_before"]),
        properties=ExecutionProperties.model_validate_json(body["properties"]),
        due_said_at=from_us(body["due_said_at"]),
        chunks=body["chunks"],
        chunks_in=frozenset(body["chunks_in"]),
        lost_chunks=frozenset(body["lost_chunks"]),
        planned=body["planned"],
        total=body["total"],
        asks=body["asks"],
        cancelled_job_tasks=_ids(body["cancelled_job_tasks"]),
        asked_for_chunks_at=from_us(body["asked_for_chunks_at"]),
        is_cancelled=body["is_cancelled"],
        is_halted=body["is_halted"],
        halt=None if body.get("halt") is None else dispatch.Halt.model_validate(body["halt"]),
        edited_by=UUID(body["edited_by"]) if body.get("edited_by") else None,
        edits=frozenset(map(UUID, body.get("edits", ()))),
        ahead=frozenset(body.get("ahead", ())),
        is_ended=body["is_ended"],
        counts=body["counts"],
        reasons=body["reasons"],
        traceparent=body["traceparent"],
    )


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """Items of one type of one partition, in the order in which they are to be published; decided at `at_us`. They are kept as the
    JSON that goes to the store and to the topic, written once. `key` and `ids`: the invocation of the first item, the ids of the
    first and of the last."""

    partition: int
    number: int
    at_us: int
    model: type[Item]
    key: str
    ids: tuple[str, str]
    documents: tuple[bytes, ...]

    @classmethod
    def of(cls, partition: int, number: int, at_us: int, items: Sequence[Item]) -> OutboxRow:
        """Of items of one type."""
        documents = [item.model_dump_json().encode() for item in items]
        return cls.written(partition, number, at_us, items, documents)

    @classmethod
    def written(
        cls, partition: int, number: int, at_us: int, items: Sequence[Item], documents: Sequence[bytes]
    ) -> OutboxRow:
        """Of items whose JSON is there."""
        first, last = items[0], items[-1]
        key = str(first.job_invocation_id) if isinstance(first, InvocationItem) else str(first.id)
        ids = (str(first.id), str(last.id))
        return cls(partition, number, at_us, type(first), key, ids, tuple(documents))

    @classmethod
    def of_many(cls, partition: int, number: int, at_us: int, many: Many) -> OutboxRow:
        return cls(partition, number, at_us, many.model, str(many.job_invocation_id), many.ids, many.documents)

    @property
    def place(self) -> tuple[int, int]:
        return self.partition, self.number

    @property
    def items(self) -> tuple[Item, ...]:
        """Read again."""
        return tuple(self.model.model_validate_json(document) for document in self.documents)


def outbox_rows(partition: int, items: Iterable[Item], at_us: int, first: int) -> list[OutboxRow]:
    """Items of one partition in their order, a row for each message to be; numbered from `first` on."""
    rows: list[OutboxRow] = []
    for kind, run in groupby(items, key=type):
        some = list(run)
        if issubclass(kind, Many):
            rows += [OutboxRow.of_many(partition, first + len(rows) + n, at_us, one) for n, one in enumerate(some)]  # type: ignore[arg-type]
            continue
        documents = [item.model_dump_json().encode() for item in some]
        for start, end in _cuts(documents):
            row = OutboxRow.written(partition, first + len(rows), at_us, some[start:end], documents[start:end])
            rows.append(row)
    return rows


def _cuts(documents: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """From where to where documents fit into one message; one that is too large is alone."""
    start = filled = 0
    for place, document in enumerate(documents):
        size = len(document) + 1
        if place > start and (
            place - start == MAX_ITEMS_PER_MESSAGE or filled + size + _FRAME_BYTES > MAX_MESSAGE_BYTES
        ):
            yield start, place
            start, filled = place, 0
        filled += size
    yield start, len(documents)


OUTBOX_COLUMNS = ("partition", "number", "at", "model", "items")


def outbox_values(row: OutboxRow) -> tuple[Any, ...]:
    """The values of OUTBOX_COLUMNS."""
    items = b",".join(row.documents).decode()
    return row.partition, row.number, row.at_us, row.model.__name__, f"[{items}]"


def outbox_row_of(values: Sequence[Any]) -> OutboxRow:
    """The row of values in the order of OUTBOX_COLUMNS."""
    partition, number, at, model, items = values
    kind: type[Item] = getattr(dispatch, model)
    return OutboxRow.of(partition, number, at, [kind.model_validate(item) for item in from_json(items)])


def messages_of(rows: Iterable[OutboxRow]) -> Iterator[Packed]:
    """The messages of rows that stand one after another in their partitions: as few as the limits of a batch allow."""
    gathered: list[OutboxRow] = []
    count = filled = 0
    for row in rows:
        size = sum(map(len, row.documents)) + len(row.documents)
        fits = count + len(row.documents) <= MAX_ITEMS_PER_MESSAGE and filled + size + _FRAME_BYTES <= MAX_MESSAGE_BYTES
        if gathered and not (fits and _is_alike(gathered[-1], row)):
            yield from _message(gathered)
            gathered, count, filled = [], 0, 0
        gathered.append(row)
        count, filled = count + len(row.documents), filled + size
    yield from _message(gathered)


def _is_alike(before: OutboxRow, row: OutboxRow) -> bool:
    return (before.partition, before.model) == (row.partition, row.model)


def _message(rows: Sequence[OutboxRow]) -> Iterator[Packed]:
    """One, or as many as one row that is too large for one needs."""
    documents = [document for row in rows for document in row.documents]
    if not documents:
        return
    first, last = rows[0], rows[-1]
    for start, end in _cuts(documents):
        ids = (
            first.ids[0] if start == 0 else _id_of(documents[start]),
            last.ids[1] if end == len(documents) else _id_of(documents[end - 1]),
        )
        yield put_together(DISPATCH_EVENTS.name, first.partition, first.key, first.model, documents[start:end], ids)


def _id_of(document: bytes) -> str:
    found: str = from_json(document)["id"]
    return found
