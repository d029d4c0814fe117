"""Output of a job task as bytes: from an offset, by Range, whole or as it grows; never more than a window of it in memory.

Owns the headers of these answers. What is complete follows from the facts of the attempt.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

from chargehand_schemas.reasons import Stream
from starlette.responses import Response, StreamingResponse

from ...core.cursors import ByteRange, read_range
from ...core.job_task import AttemptReport, is_settled
from ..store.output_store import OutputReader
from ..store.read_store import ReadStore
from .call import Call
from .problems import HttpProblem, not_found

WINDOW_BYTES = 1 << 20
GIVE_UP_AFTER_S = 10.0
_LOOK_AGAIN_S = 5.0
_REST_S = 0.05
"""Between two looks at a stream that moves: each costs two questions, and every fold of any stream wakes all who follow one."""


@dataclass(frozen=True, slots=True)
class OutputView:
    """One stream of one attempt now. `stored` bytes can be read; `is_final`: no more will come; `is_over`: its job task has
    its verdict, or goes on with a later attempt; `stream_id` 0: nothing is stored. `omitted`: ranges of what was printed that a
    cap left out."""

    attempt: int
    stream_id: int
    stored: int
    is_complete: bool
    is_final: bool
    is_over: bool
    omitted: tuple[tuple[int, int], ...] = ()


def find_output(store: ReadStore, job_task_id: UUID, stream: Stream, attempt: int | None) -> OutputView | None:
    """A stream of an attempt; without one, of the attempt the job task shows. None if there is no such job task or attempt."""
    task = store.job_task(job_task_id)
    if task is None:
        return None
    number = attempt or task.shown or task.attempts
    found = store.attempt(job_task_id, number) if number else None
    if found is None and attempt:
        return None
    decision, report = (found.decision, found.report) if found is not None else (None, None)
    told = report or AttemptReport()
    row = OutputReader(store.database).find((job_task_id, number, decision.proxy, stream)) if decision else None
    stored = row[1].stored if row is not None else 0
    kept = told.kept.get(stream, 0 if told.ended_rank else None)
    is_past = number < (task.shown or task.attempts)
    is_over = bool(task.verdict_rank) or is_past
    never_ran = is_over and not told.has_run
    is_complete = never_ran or (kept is not None and stored >= kept)
    is_known = bool(told.ended_rank or told.interrupted_rank or told.never_started)
    return OutputView(
        attempt=number,
        stream_id=row[0] if row is not None else 0,
        stored=stored,
        is_complete=is_complete,
        is_final=is_complete and (is_settled(task) or (bool(attempt) and (is_past or is_known))),
        is_over=is_over,
        omitted=row[1].omitted if row is not None else (),
    )


async def read_output(call: Call, view: OutputView, start: int, end: int) -> bytes:
    """Bytes from `start` on, at most to `end` and about a window of them; empty if none are stored there."""
    if start >= end or not view.stream_id:
        return b""
    return await call.read(lambda store: OutputReader(store.database).read(view.stream_id, start, end, WINDOW_BYTES))


async def serve_output(call: Call) -> Response:
    """`GET /job-tasks/ID/output`."""
    job_task_id = await call.job_task_id()
    stream = call.word("stream", Stream) or Stream.STDOUT
    attempt, offset = call.number("attempt", None, 1, 10**9), call.number("offset", 0) or 0
    view = await call.read(lambda store: find_output(store, job_task_id, stream, attempt))
    if view is None:
        raise not_found(f"attempt {attempt} of this job task")
    if call.is_set("follow"):
        return StreamingResponse(
            _follow(call, job_task_id, stream, view.attempt, offset),
            media_type="text/plain; charset=utf-8",
            headers=_headers(view, offset),
        )
    return _stored(call, view, offset)


def _stored(call: Call, view: OutputView, offset: int) -> Response:
    """What is stored from `offset` on, or the range of that which is asked for."""
    if offset > view.stored:
        raise _beyond(f"byte {offset} is asked for, there are {view.stored}", view.stored)
    length = view.stored - offset
    wanted = read_range(call.request.headers.get("range"), length)
    if isinstance(wanted, str):
        raise _beyond(wanted, length)
    span = wanted or ByteRange(0, length)
    headers = {**_headers(view, offset + span.start), "Content-Length": str(span.end - span.start)}
    if wanted is not None:
        headers["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{length}"
    body = _windows(call, view, offset + span.start, offset + span.end)
    return StreamingResponse(
        body, 200 if wanted is None else 206, media_type="text/plain; charset=utf-8", headers=headers
    )


def _beyond(why: str, length: int) -> HttpProblem:
    return HttpProblem(416, "range_not_satisfiable", why, {"Content-Range": f"bytes */{length}"})


def _headers(view: OutputView, offset: int) -> dict[str, str]:
    headers = {
        "Accept-Ranges": "bytes",
        "Chargehand-Attempt": str(view.attempt),
        "Chargehand-Offset": str(offset),
        "Chargehand-Length": str(view.stored),
        "Chargehand-Complete": "true" if view.is_complete else "false",
    }
    if view.omitted:
        # First and last byte of each, as in Content-Range.
        headers["Chargehand-Omitted"] = ", ".join(f"{start}-{end - 1}" for start, end in view.omitted)
    return headers


async def _windows(call: Call, view: OutputView, start: int, end: int) -> AsyncIterator[bytes]:
    """Window by window; the next one is read while this one is sent."""
    waiting = asyncio.ensure_future(read_output(call, view, start, end))
    try:
        while data := await waiting:
            start += len(data)
            waiting = asyncio.ensure_future(read_output(call, view, start, end))
            yield data
    finally:
        waiting.cancel()


async def _follow(call: Call, job_task_id: UUID, stream: Stream, attempt: int, start: int) -> AsyncIterator[bytes]:
    """What is stored, then what comes, until it is complete; given up when nothing came for 10 s after the verdict."""
    loop, changes = asyncio.get_running_loop(), call.gateway.changes
    moved_at = loop.time()
    looked_at = moved_at - _REST_S
    while not call.gateway.is_stopping:
        await asyncio.sleep(looked_at + _REST_S - loop.time())
        number, looked_at = changes.number, loop.time()
        view = await call.read(lambda store: find_output(store, job_task_id, stream, attempt or None))
        if view is None:
            return
        has_moved = False
        while data := await read_output(call, view, start, view.stored):
            start, moved_at, has_moved = start + len(data), loop.time(), True
            yield data
        if has_moved:
            continue
        if view.is_final or (view.is_over and loop.time() - moved_at > GIVE_UP_AFTER_S):
            return
        await changes.beyond(number, _LOOK_AGAIN_S)
