"""Output of one stream by byte offset: what is new in it, what is published, what a cap leaves out, and its digest.

Owns counting and cutting (docs/protocol.md, rules RANGE and OUTORD). No message is built here, and nothing is decoded.

A digest cannot be stored half-way, so after a restart the stream is read again from its beginning: what was acknowledged
before is hashed and counted, and not published again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from hashlib import _Hash

_EMPTY = hashlib.sha256()


@dataclass(frozen=True, slots=True)
class OutputLimits:
    """Bytes: the longest report, and what is kept of each stream: its first `head_bytes` as they appear, its last
    `tail_bytes` at the end."""

    report_bytes: int = 64 * 1024
    head_bytes: int = 64 * 1024 * 1024
    tail_bytes: int = 256 * 1024


class Chunk(NamedTuple):
    """Bytes to publish, at their offset."""

    offset: int
    data: bytes

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


class Gap(NamedTuple):
    """Bytes [start, end) that nobody will get."""

    start: int
    end: int


Piece = Chunk | Gap


class StreamOutput(NamedTuple):
    """One stream so far, in bytes.

    [0, `seen`) was seen or is known to be left out; of it [0, `out`) was given out, and the last bytes are held in `tail`.
    Below `skip_to` an earlier process published, and up to `acked` the broker has acknowledged. `kept` were published in
    all, with `newlines` in them and `digest` over them.
    """

    seen: int = 0
    out: int = 0
    acked: int = 0
    kept: int = 0
    newlines: int = 0
    digest: _Hash = _EMPTY
    tail: bytes = b""
    skip_to: int = 0

    @property
    def unacknowledged(self) -> int:
        """Bytes given out and not acknowledged."""
        return max(0, self.out - max(self.acked, self.skip_to))

    def sha256(self) -> str:
        """Hex, over what was published."""
        return self.digest.hexdigest()


NOTHING = StreamOutput()


def resumed(acked: int) -> StreamOutput:
    """A stream of which an earlier process of this agent published the first `acked` bytes."""
    return StreamOutput(acked=acked, skip_to=acked)


def observe(
    stream: StreamOutput, offset: int, data: bytes, limits: OutputLimits
) -> tuple[StreamOutput, tuple[Piece, ...]]:
    """Bytes seen on the host. What was seen before is trimmed; what lies beyond a hole is not taken (it is read again)."""
    if offset > stream.seen or offset + len(data) <= stream.seen:
        return stream, ()
    fresh = data[stream.seen - offset :] if offset < stream.seen else data
    room = limits.head_bytes - stream.kept if stream.out == stream.seen else 0
    if len(fresh) <= room:
        return _give_out(stream, fresh, limits)
    stream, pieces = _give_out(stream, fresh[:room], limits) if room > 0 else (stream, ())
    return _hold(stream, fresh[max(0, room) :], limits), pieces


def leave_out(stream: StreamOutput, start: int, end: int) -> tuple[StreamOutput, tuple[Piece, ...]]:
    """The provider left out [start, end) by a cap of its own. Nothing changes if that does not go on from what was seen."""
    if start > stream.seen or end <= stream.seen:
        return stream, ()
    if stream.out < stream.seen:
        return stream._replace(seen=end, tail=b""), ()
    return _skip(stream, end)


def close(stream: StreamOutput, length: int, limits: OutputLimits) -> tuple[StreamOutput, tuple[Piece, ...]]:
    """The stream has ended with `length` bytes: what was held back is given out, and what is missing is named."""
    tail, end = stream.tail, stream.seen
    pieces: tuple[Piece, ...] = ()
    if stream.out < end - len(tail):
        stream, pieces = _skip(stream, end - len(tail))
    if tail:
        stream, held = _give_out(stream._replace(seen=stream.out, tail=b""), tail, limits)
        pieces += held
    if stream.seen < length:
        stream, missing = _skip(stream, length)
        pieces += missing
    return stream, pieces


def acknowledge(stream: StreamOutput, up_to: int) -> StreamOutput:
    """Everything given out below `up_to` was acknowledged by the broker."""
    return stream if up_to <= stream.acked else stream._replace(acked=up_to)


def _give_out(stream: StreamOutput, fresh: bytes, limits: OutputLimits) -> tuple[StreamOutput, tuple[Piece, ...]]:
    end = stream.seen + len(fresh)
    digest = stream.digest.copy()
    digest.update(fresh)
    kept, newlines = stream.kept + len(fresh), stream.newlines + fresh.count(b"\n")
    pieces = tuple(_cut(stream.seen, fresh, stream.skip_to, limits.report_bytes))
    return StreamOutput(end, end, stream.acked, kept, newlines, digest, b"", stream.skip_to), pieces


def _cut(offset: int, data: bytes, skip_to: int, size: int) -> Iterator[Chunk]:
    """Chunks of at most `size` bytes, of what lies beyond `skip_to`."""
    begin = max(0, skip_to - offset)
    if begin == 0 and len(data) <= size:
        yield Chunk(offset, data)
        return
    for start in range(begin, len(data), size):
        yield Chunk(offset + start, data[start : start + size])


def _hold(stream: StreamOutput, fresh: bytes, limits: OutputLimits) -> StreamOutput:
    tail = (stream.tail + fresh)[-limits.tail_bytes :] if limits.tail_bytes else b""
    return stream._replace(seen=stream.seen + len(fresh), tail=tail)


def _skip(stream: StreamOutput, end: int) -> tuple[StreamOutput, tuple[Piece, ...]]:
    gap = (Gap(stream.out, end),) if end > stream.skip_to else ()
    return stream._replace(seen=max(stream.seen, end), out=end), gap
