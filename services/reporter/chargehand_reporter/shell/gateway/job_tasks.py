"""Job tasks over HTTP: one with its attempts, its output as bytes, as it grows, and as a page. Owns these answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chargehand_schemas.reasons import Stream
from markupsafe import Markup
from starlette.responses import Response

from ...core.documents import history_document, job_invocation_document
from ...core.terminal import Style, render, style_of, text_of
from .answers import document_response
from .call import Call
from .output import OutputView, find_output, read_output
from .pages import page
from .problems import not_found
from .streams import event_response, output_events, read_offsets

PAGE_BYTES = 256 * 1024


async def show_job_task(call: Call) -> Response:
    """`GET /job-tasks/ID`."""
    job_task_id = await call.job_task_id()
    history = await call.read(lambda store: store.history(job_task_id))
    if history is None:
        raise not_found("such job task")
    task, document = history.task, history_document(history)
    if not call.wants_html:
        return document_response(document)
    number = call.number("attempt", None, 1, 10**9)
    shown = [await _shown(call, stream, number) for stream in Stream]
    return page(
        call,
        "job_task.html",
        task=document,
        invocation=job_invocation_document(history.invocation),
        outputs=shown,
        attempt=number or task.shown or task.attempts,
        chosen=number,
        ladder_is_open=call.is_set("ladder"),
        is_settled=all(one.view.is_final for one in shown),
    )


@dataclass(frozen=True, slots=True)
class ShownOutput:
    """A window of one stream as HTML: bytes [start, end) of `view.stored`; `style` goes on in the next piece."""

    stream: Stream
    view: OutputView
    start: int
    end: int
    html: Markup
    style: str


async def _shown(call: Call, stream: Stream, attempt: int | None) -> ShownOutput:
    """The window that is asked for; without one the last 256 KiB."""
    job_task_id = await call.job_task_id()
    view = await call.read(lambda store: find_output(store, job_task_id, stream, attempt))
    if view is None:
        raise not_found(f"attempt {attempt} of this job task")
    start = call.number(f"{stream.value}_offset", max(0, view.stored - PAGE_BYTES)) or 0
    return await _window(call, stream, view, start, Style())


async def _window(call: Call, stream: Stream, view: OutputView, start: int, style: Style) -> ShownOutput:
    end = min(view.stored, start + PAGE_BYTES)
    data = bytearray()
    while start + len(data) < end:
        part = await read_output(call, view, start + len(data), end)
        if not part:
            break
        data += part
    kept = _whole_characters(bytes(data), is_last=view.is_final and start + len(data) >= view.stored)
    html, style = await call.gateway.apart(lambda: render(kept, style))
    # Markup: `render` escaped every byte of the host and put in nothing but spans with classes of ours.
    return ShownOutput(stream, view, start, start + len(kept), Markup(html), text_of(style))  # noqa: S704


def _whole_characters(data: bytes, *, is_last: bool) -> bytes:
    """Without a character or an escape sequence that was cut off at the end; it comes with the next piece."""
    if is_last or not data:
        return data
    cut = len(data)
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            if back < (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4):
                cut = len(data) - back
            break
        if byte < 0x80:
            break
    escape = data.rfind(b"\x1b", max(0, cut - 80), cut)
    if escape >= 0 and b"m" not in data[escape:cut] and data[escape + 1 : escape + 2] in (b"", b"["):
        cut = escape
    return data[:cut] if cut else data


async def show_fragment(call: Call) -> Response:
    """`GET /job-tasks/ID/output/fragment`: HTML of what was stored from an offset on, for a page that follows."""
    job_task_id = await call.job_task_id()
    stream = call.word("stream", Stream) or Stream.STDOUT
    attempt, start = call.number("attempt", None, 1, 10**9), call.number("offset", 0) or 0
    view = await call.read(lambda store: find_output(store, job_task_id, stream, attempt))
    if view is None:
        raise not_found("such attempt")
    shown = await _window(call, stream, view, min(start, view.stored), style_of(call.text("style", at_most=64)))
    headers: dict[str, Any] = {
        "Chargehand-Offset": str(shown.end),
        "Chargehand-Length": str(view.stored),
        "Chargehand-Attempt": str(view.attempt),
        "Chargehand-Final": "true" if view.is_final else "false",
        "Chargehand-Style": shown.style,
    }
    return Response(str(shown.html), media_type="text/html; charset=utf-8", headers=headers)


async def watch_output(call: Call) -> Response:
    """`GET /job-tasks/ID/output/events`."""
    job_task_id = await call.job_task_id()
    last_id = call.request.headers.get("last-event-id") or call.text("after", at_most=80)
    read_offsets(last_id)
    with_bytes, only = call.text("only") != "offsets", call.number("attempt", None, 1, 10**9)
    if only is not None and await call.read(lambda store: store.attempt(job_task_id, only)) is None:
        raise not_found(f"attempt {only} of this job task")
    return event_response(call, output_events(call, job_task_id, last_id, with_bytes=with_bytes, only=only))
