"""Server-sent events, from bytes. Pure: the HTML standard's parser, limited in size.

Owns the format. Lines end only where the standard says so: U+2028 within JSON is text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_EVENT_BYTES = 16 * 1024 * 1024
_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event; `id` is the last one given so far, also by events before it."""

    event: str
    data: str
    id: str


class EventParser:
    """Feed it pieces of a response; it gives the events that are complete. ValueError if one is larger than 16 MiB."""

    def __init__(self, last_id: str = "") -> None:
        self.last_id = last_id
        self._held = b""
        self._event = ""
        self._data: list[str] = []
        self._size = 0

    def feed(self, piece: bytes) -> Iterator[ServerEvent]:
        self._held += piece
        while (found := _LINE_END.search(self._held)) is not None:
            if found.group() == b"\r" and found.end() == len(self._held):
                return  # its newline may come with the next piece
            line, self._held = self._held[: found.start()], self._held[found.end() :]
            event = self._take(line.decode("utf-8", "replace"))
            if event is not None:
                yield event
        self._check(len(self._held))

    def _take(self, line: str) -> ServerEvent | None:
        if not line:
            return self._finish()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._event = value
        elif name == "data":
            self._data.append(value)
            self._size += len(value)
            self._check(self._size)
        elif name == "id" and "\0" not in value:
            self.last_id = value
        return None

    def _finish(self) -> ServerEvent | None:
        event, data = self._event, self._data
        self._event, self._data, self._size = "", [], 0
        return ServerEvent(event or "message", "\n".join(data), self.last_id) if data else None

    def _check(self, size: int) -> None:
        if size > MAX_EVENT_BYTES:
            raise ValueError(f"an event of more than {MAX_EVENT_BYTES} bytes")
