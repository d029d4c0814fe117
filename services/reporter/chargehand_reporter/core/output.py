"""The fold of output by range: repeats and differently cut repeats change nothing, a hole is seen (docs/protocol.md, RANGE).

Owns where the stored part of a stream ends and what waits beyond a hole. Bytes are never interpreted here, except that
newlines are counted. Offsets are those of the stream as the host wrote it; what a cap left out is stepped over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from chargehand_schemas.accumulated import TAIL_BYTES

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes of a stream from offset `start` on."""

    start: int
    data: bytes

    @property
    def end(self) -> int:
        return self.start + len(self.data)


@dataclass(frozen=True, slots=True)
class Omission:
    """Bytes [start, end) that a cap left out: nobody waits for them."""

    start: int
    end: int


Piece = Chunk | Omission


class Landing(NamedTuple):
    """Where bytes [start, end) of a stream stand in the log: when the agent saw them (us), when the broker took them (ms)."""

    start: int
    end: int
    seen_us: int
    heard_ms: int
    partition: int
    offset: int
    actor: str


@dataclass(frozen=True, slots=True)
class StreamState:
    """What is known of one stream without a hole.

    `end`: offset up to which everything is stored or omitted; `stored`: bytes kept of that, and so the length of the
    stream as it is read back; `newlines` in them; `tail`: their last 2 KiB; `omitted`: what a cap left out before `end`.
    `first` and `latest`: the reports that begin first and reach furthest, also beyond a hole.
    """

    end: int = 0
    stored: int = 0
    newlines: int = 0
    tail: bytes = b""
    omitted: tuple[Range, ...] = ()
    first: Landing | None = None
    latest: Landing | None = None


@dataclass(frozen=True, slots=True)
class Appended:
    """Bytes to be stored at `offset` of the stored stream."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class FoldedOutput:
    """The result of a fold: the new state, what is to be stored, what waits no more (starts), what is to be kept waiting,
    each piece unless a longer one from the same start waits already."""

    state: StreamState
    appended: tuple[Appended, ...] = ()
    held: tuple[Piece, ...] = ()
    released: tuple[int, ...] = ()


def may_close_hole(state: StreamState, arrivals: Iterable[Piece]) -> bool:
    """Whether these arrivals move the stored end, so that what waits beyond it must be looked at."""
    return any(piece.start <= state.end < piece.end for piece in arrivals)


def fold_output(
    state: StreamState, waiting: Sequence[Piece], arrivals: Iterable[Piece], landings: Sequence[Landing] = ()
) -> FoldedOutput:
    """Fold arrivals into a stream, which stand in the log at `landings`. `waiting`: all that waits beyond its hole; may be left
    out (empty) unless `may_close_hole`."""
    known = {piece.start: piece for piece in waiting}
    pieces = dict(known)
    for piece in arrivals:
        kept = pieces.get(piece.start)
        if piece.end > max(state.end, piece.start) and (kept is None or kept.end < piece.end):
            pieces[piece.start] = piece
    fold = _Fold(state)
    beyond = [piece for _, piece in sorted(pieces.items()) if not fold.take(piece)]
    return FoldedOutput(
        state=fold.state(landings),
        appended=tuple(fold.appended),
        held=tuple(piece for piece in beyond if known.get(piece.start) is not piece),
        released=tuple(start for start in known if start <= fold.end),
    )


class _Fold:
    """The stored end on its way forward."""

    def __init__(self, state: StreamState) -> None:
        self._before = state
        self.end = state.end
        self.stored = state.stored
        self.omitted = list(state.omitted)
        self.appended: list[Appended] = []

    def take(self, piece: Piece) -> bool:
        """Take what lies beyond the end. False: it lies beyond a hole, and waits."""
        if piece.start > self.end:
            return False
        if piece.end > self.end:
            if isinstance(piece, Chunk):
                self._append(piece.data[self.end - piece.start :])
            else:
                self._omit(piece.end)
            self.end = piece.end
        return True

    def _append(self, data: bytes) -> None:
        self.appended.append(Appended(self.stored, data))
        self.stored += len(data)

    def _omit(self, end: int) -> None:
        if self.omitted and self.omitted[-1][1] == self.end:
            self.omitted[-1] = (self.omitted[-1][0], end)
        else:
            self.omitted.append((self.end, end))

    def state(self, landings: Sequence[Landing]) -> StreamState:
        first, latest = _ends_of(self._before, landings)
        if (self.end, first, latest) == (self._before.end, self._before.first, self._before.latest):
            return self._before
        return StreamState(
            end=self.end,
            stored=self.stored,
            newlines=self._before.newlines + sum(piece.data.count(b"\n") for piece in self.appended),
            tail=self._tail(),
            omitted=tuple(self.omitted),
            first=first,
            latest=latest,
        )

    def _tail(self) -> bytes:
        parts: list[bytes] = []
        missing = TAIL_BYTES
        for piece in reversed(self.appended):
            if missing <= 0:
                break
            parts.append(piece.data[-missing:])
            missing -= len(parts[-1])
        if missing > 0:
            parts.append(self._before.tail[-missing:])
        return b"".join(reversed(parts))


def _ends_of(state: StreamState, landings: Sequence[Landing]) -> tuple[Landing | None, Landing | None]:
    """The first and the latest landing. Of equal ones the place that is first holds, so that repeats change nothing."""
    every = [*landings, *(known for known in (state.first, state.latest) if known is not None)]
    return min(every, key=_from_start, default=None), min(every, key=_from_end, default=None)


def _from_start(it: Landing) -> tuple[int, int, int, int]:
    return it.start, it.heard_ms, it.partition, it.offset


def _from_end(it: Landing) -> tuple[int, int, int, int]:
    return -it.end, it.heard_ms, it.partition, it.offset
