"""Live streams: an invocation's changes and a job task's output as server-sent events, from a position on and without a gap.

Owns pace and end of a stream. A position is given to the client only when everything before it was sent.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from uuid import UUID

from chargehand_chassis.metrics import METRICS
from chargehand_schemas.reasons import Stream
from pydantic_core import to_json
from sse_starlette import EventSourceResponse, ServerSentEvent

from ...core.documents import job_invocation_document, job_task_document
from ...core.job_task import AttemptReport, JobTask, is_settled, outcome_of
from ..store.read_store import ReadStore
from .call import Call
from .output import GIVE_UP_AFTER_S, OutputView, find_output, read_output
from .problems import HttpProblem, not_found

ROWS_PER_EVENT = 200
BYTES_PER_EVENT = 256 * 1024
_HEARTBEAT_S = 15
_CHECK_VIEWER_S = 15.0
_SETTLE_WITHIN_S = 3.0
_BUSY_ROWS = 20
_BUSY_PAUSE_S, _PAUSE_S = 0.1, 0.005
_RETRY_MS = 1000
_OFFSETS = re.compile(r"stdout:(\d{1,15}),stderr:(\d{1,15})(?:,attempt:(\d{1,9}))?")


def event_response(call: Call, events: AsyncIterator[ServerSentEvent]) -> EventSourceResponse:
    """A stream that beats every 15 s and is not cached. HttpProblem 503 if too many are open."""
    if call.gateway.streams_open >= call.gateway.settings.max_streams:
        raise HttpProblem(503, "busy", f"{call.gateway.streams_open} event streams are open; close some, or try again")
    return EventSourceResponse(_counted(call, events), ping=_HEARTBEAT_S, sep="\n")


async def _counted(call: Call, events: AsyncIterator[ServerSentEvent]) -> AsyncIterator[ServerSentEvent]:
    call.gateway.streams_open += 1
    METRICS.streams_open.set(call.gateway.streams_open)
    try:
        async for event in events:
            yield event
    finally:
        call.gateway.streams_open -= 1
        METRICS.streams_open.set(call.gateway.streams_open)


def _event(name: str, data: Any, event_id: str) -> ServerSentEvent:
    return ServerSentEvent(data=to_json(data).decode(), event=name, id=event_id, retry=_RETRY_MS)


class _Pulse:
    """Waiting for the next change, and looking from time to time whether the viewer may still see it."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._number = call.gateway.changes.number
        self._checked_at = asyncio.get_running_loop().time()

    def before_reading(self) -> None:
        self._number = self._call.gateway.changes.number

    async def goes_on(self, timeout_s: float = _CHECK_VIEWER_S) -> bool:
        """Wait for a change. False: the process stops, or the viewer's login is over."""
        await self._call.gateway.changes.beyond(self._number, min(timeout_s, _CHECK_VIEWER_S))
        if self._call.gateway.is_stopping:
            return False
        moment = asyncio.get_running_loop().time()
        if moment - self._checked_at > _CHECK_VIEWER_S:
            self._checked_at = moment
            return await self._call.gateway.is_still(self._call.who)
        return True


async def job_invocation_events(
    call: Call, job_invocation_id: UUID, position: int, *, with_job_tasks: bool
) -> AsyncIterator[ServerSentEvent]:
    """`invocation` when it changed, `job_tasks` with rows that changed after `position`, `end` when nothing more will come."""
    pulse, shown, unsettled, ended_at = _Pulse(call), -1, set[UUID](), None
    loop = asyncio.get_running_loop()
    while True:
        pulse.before_reading()
        invocation = await call.read(lambda store: store.job_invocation(job_invocation_id))
        rows = await _changed(call, job_invocation_id, position) if with_job_tasks else []
        if invocation is None:
            return
        if invocation.position != shown:
            shown = invocation.position
            yield _event("invocation", job_invocation_document(invocation), str(position))
        if rows:
            position = rows[-1].position
            unsettled = (unsettled | {row.job_task_id for row in rows}) - {r.job_task_id for r in rows if is_settled(r)}
            yield _event("job_tasks", {"items": [job_task_document(row) for row in rows]}, str(position))
        if len(rows) == ROWS_PER_EVENT:
            continue
        if invocation.status.is_end:
            ended_at = ended_at or loop.time()
            if not rows and (not unsettled or loop.time() - ended_at > _SETTLE_WITHIN_S):
                yield _event("end", {"status": invocation.status}, str(position))
                return
        await asyncio.sleep(_BUSY_PAUSE_S if len(rows) > _BUSY_ROWS else _PAUSE_S)
        if not await pulse.goes_on(_CHECK_VIEWER_S if ended_at is None else 0.5):
            return


async def _changed(call: Call, job_invocation_id: UUID, position: int) -> list[JobTask]:
    return await call.read(lambda store: store.job_tasks_after(job_invocation_id, position, ROWS_PER_EVENT))


# --- output -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Offsets:
    """How far each stream of one attempt was sent."""

    attempt: int
    stdout: int = 0
    stderr: int = 0

    def of(self, stream: Stream) -> int:
        return self.stdout if stream is Stream.STDOUT else self.stderr

    def move(self, stream: Stream, to: int) -> None:
        if stream is Stream.STDOUT:
            self.stdout = to
        else:
            self.stderr = to

    def turned_to(self, attempt: int) -> _Offsets:
        """These, if they are of that attempt or of none; else its beginning."""
        return replace(self, attempt=attempt) if self.attempt in (0, attempt) else _Offsets(attempt)

    def __str__(self) -> str:
        return f"stdout:{self.stdout},stderr:{self.stderr},attempt:{self.attempt}"


@dataclass(frozen=True, slots=True)
class _Look:
    """A job task as a follower of its output finds it: the attempt to send, its streams, and whether a later one is shown."""

    task: JobTask
    attempt: int
    is_past: bool
    views: dict[Stream, OutputView]

    @property
    def is_over(self) -> bool:
        return all(view.is_over for view in self.views.values())


async def output_events(
    call: Call, job_task_id: UUID, last_id: str, *, with_bytes: bool, only: int | None = None
) -> AsyncIterator[ServerSentEvent]:
    """`output` with bytes of a stream (base64) as they come; `next_try` while another try is waited for; `attempt` when the next
    one that runs begins, after all of the one before; `end` when all is there.

    With `only` it is about that attempt, and ends with it.
    """
    pulse, offsets, loop = _Pulse(call), read_offsets(last_id), asyncio.get_running_loop()
    moved_at, told_of = loop.time(), 0
    while True:
        pulse.before_reading()
        look = await call.read(partial(_look, job_task_id=job_task_id, attempt=offsets.attempt, only=only))
        offsets = offsets.turned_to(look.attempt)
        is_sent = False
        async for event in _pieces_of_all(call, look.views, offsets, with_bytes):
            is_sent = True
            yield event
        moved_at = loop.time() if is_sent else moved_at
        if _is_all_sent(look.views, offsets) or (look.is_over and loop.time() - moved_at > GIVE_UP_AFTER_S):
            if not look.is_past:
                yield _event("end", {}, str(offsets))
                return
            earlier, following = await call.read(partial(_following, look=look))
            offsets, moved_at = _Offsets(following), loop.time()
            yield _event("attempt", {"attempt": following, "earlier": earlier}, str(offsets))
        elif look.task.next_try_at is not None and told_of != look.attempt and not is_sent and only is None:
            told_of = look.attempt
            earlier, _ = await call.read(partial(_following, look=look))
            yield _event("next_try", {"due_at": look.task.next_try_at, "earlier": earlier}, str(offsets))
        elif not is_sent and not await pulse.goes_on(0.5 if look.is_over else _CHECK_VIEWER_S):
            return


async def _pieces_of_all(
    call: Call, views: dict[Stream, OutputView], offsets: _Offsets, with_bytes: bool
) -> AsyncIterator[ServerSentEvent]:
    for stream, view in views.items():
        async for event in _pieces(call, view, stream, offsets, with_bytes):
            yield event


def _look(store: ReadStore, job_task_id: UUID, attempt: int, only: int | None) -> _Look:
    """The attempt that is followed now: the one in hand until all of it was sent, else the one that is shown."""
    task = store.job_task(job_task_id)
    if task is None:
        raise not_found("such job task")
    shown = task.shown or task.attempts
    number = only or min(attempt or shown, shown)
    is_past = number < shown and only is None
    asked = number if only or is_past else None
    found = {stream: find_output(store, job_task_id, stream, asked) for stream in Stream}
    return _Look(task, number, is_past, {stream: view for stream, view in found.items() if view is not None})


def _following(store: ReadStore, look: _Look) -> tuple[dict[str, Any], int]:
    """What became of the attempt in hand, and the next one that has run or is shown."""
    key, shown = look.task.job_task_id, look.task.shown or look.task.attempts
    known = store.attempt(key, look.attempt)
    told = (known.report if known is not None else None) or AttemptReport()
    outcome = outcome_of(known.decision, known.report) if known is not None else ("", "")
    earlier = {
        "attempt": look.attempt, "outcome": outcome[0], "detail": outcome[1], "exit_status": told.exit_status,
        "signal": told.signal,
    }  # fmt: skip
    for number in range(look.attempt + 1, shown):
        later = store.attempt(key, number)
        if later is not None and later.report is not None and later.report.has_run:
            return earlier, number
    return earlier, shown


def _is_all_sent(views: dict[Stream, OutputView], offsets: _Offsets) -> bool:
    return all(view.is_final and offsets.of(stream) >= view.stored for stream, view in views.items())


async def _pieces(
    call: Call, view: OutputView, stream: Stream, offsets: _Offsets, with_bytes: bool
) -> AsyncIterator[ServerSentEvent]:
    """What is stored of one stream beyond what was sent, at most 8 events of it; or only where it ends now."""
    for _ in range(8):
        start = offsets.of(stream)
        body = {"stream": stream, "offset": start, "attempt": view.attempt}
        if with_bytes:
            data = await read_output(call, view, start, min(view.stored, start + BYTES_PER_EVENT))
            body["data"] = base64.b64encode(data).decode()
            end = start + len(data)
        else:
            end = view.stored
        if end <= start:
            return
        offsets.move(stream, end)
        yield _event("output", body, str(offsets))


def read_offsets(text: str) -> _Offsets:
    """Where a client left off: `stdout:N,stderr:M`, with the attempt it was about."""
    if not text:
        return _Offsets(0)
    match = _OFFSETS.fullmatch(text)
    if match is None:
        raise HttpProblem(400, "malformed", "Last-Event-ID is not of the form stdout:N,stderr:M")
    return _Offsets(int(match[3] or 0), int(match[1]), int(match[2]))
