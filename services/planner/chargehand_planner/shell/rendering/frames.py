"""What planner and worker say to each other: frames of a kind and a length, and bytes.

Owns the encoding. Requests are JSON; a script comes back as it is.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Any

HEAD = struct.Struct(">BI")
MAX_FRAME = 64 * 1024 * 1024


class Kind(IntEnum):
    """What a frame is."""

    REQUEST = 0
    SCRIPT = 1
    FAULT = 2
    ANALYSIS = 3


def frame(kind: Kind, payload: bytes) -> bytes:
    return HEAD.pack(kind, len(payload)) + payload


def json_frame(kind: Kind, value: Any) -> bytes:
    return frame(kind, json.dumps(value).encode())


class FrameReader:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Kind, bytes]]:
        """The frames that are complete now. ValueError if it is no frame."""
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= HEAD.size:
            kind, length = HEAD.unpack_from(self._buffer, start)
            if length > MAX_FRAME:
                raise ValueError(f"a frame of {length} bytes")
            end = start + HEAD.size + length
            if len(self._buffer) < end:
                break
            yield Kind(kind), bytes(self._buffer[start + HEAD.size : end])
            start = end
        del self._buffer[:start]
