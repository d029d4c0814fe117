"""Output as it is kept: zstd chunks by stream and offset, and what waits beyond a hole.

Owns the tables of output. It is the primary copy of output: it outlives a read model that is built anew. Offsets are those
of the stored stream, in bytes.
"""

# ruff: noqa: S608 (the names in these statements are constants, the values are bound)

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

import zstandard
from chargehand_schemas.reasons import Stream
from pydantic_core import from_json, to_json

from ...core.output import Appended, Chunk, FoldedOutput, Landing, Omission, Piece, StreamState
from ...core.read_model import AttemptKey, ReportKey, StreamKey
from .database import Database, Row, in_slices

CHUNK_BYTES = 128 * 1024
_WORTH_IT_BYTES = 256
_PLAIN, _ZSTD = 0, 1
_STREAM = "job_task_id, attempt, proxy, stream, stream_end, stored, newlines, tail, omitted, landings"


class OutputStore:
    """Streams and chunks within the transaction of its caller."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._compressor = zstandard.ZstdCompressor(level=1)

    def load(self, attempts: Iterable[AttemptKey]) -> dict[StreamKey, StreamState]:
        """The streams of these attempts, whoever said them."""
        found: dict[StreamKey, StreamState] = {}
        for text, values in in_slices((key[0].bytes, key[1]) for key in attempts):
            rows = self._database.query(
                f"with wanted (a, b) as (values {text}) select {_STREAM} from wanted cross join "
                "streams where job_task_id = a and attempt = b",
                values,
            )
            found |= map(_stream_of, rows)
        return found

    def load_waiting(self, keys: Iterable[StreamKey]) -> dict[StreamKey, Sequence[Piece]]:
        """What waits beyond the holes of these streams."""
        return {key: pieces for key in keys if (pieces := self._waiting(key))}

    def _waiting(self, key: StreamKey) -> list[Piece]:
        rows = self._database.query(
            "select h.start, h.until, h.data from streams s "
            "join held h on h.stream_id = s.stream_id "
            "where s.job_task_id = ? and s.attempt = ? and s.proxy = ? and s.stream = ?",
            _values(key),
        )
        return [Omission(start, until) if data is None else Chunk(start, data) for start, until, data in rows]

    def save(self, folded: Mapping[StreamKey, FoldedOutput]) -> int:
        """Store what was appended and what waits; the number of bytes appended."""
        if not folded:
            return 0
        ids = self._save_streams(folded)
        chunks: list[tuple[Any, ...]] = []
        for key, result in folded.items():
            chunks += self._chunks(ids[key], result.appended)
            self._save_held(ids[key], result)
        self._database.execute_many(
            "insert into chunks (stream_id, start, length, codec, data) values (?, ?, ?, ?, ?)", chunks
        )
        return sum(chunk[2] for chunk in chunks)

    def _save_streams(self, folded: Mapping[StreamKey, FoldedOutput]) -> dict[StreamKey, int]:
        rows = [
            (*_values(key), s.end, s.stored, s.newlines, s.tail, json.dumps(s.omitted), _landings_text(s))
            for key, s in ((key, result.state) for key, result in folded.items())
        ]
        self._database.execute_many(
            f"insert into streams ({_STREAM}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "on conflict (job_task_id, attempt, proxy, stream) do update set stream_end = excluded.stream_end, "
            "stored = excluded.stored, newlines = excluded.newlines, tail = excluded.tail, omitted = excluded.omitted, "
            "landings = excluded.landings",
            rows,
        )
        return self._ids(folded)

    def _ids(self, keys: Iterable[StreamKey]) -> dict[StreamKey, int]:
        found: dict[StreamKey, int] = {}
        for text, values in in_slices({(key[0].bytes, key[1]) for key in keys}):
            rows = self._database.query(
                f"with wanted (a, b) as (values {text}) select job_task_id, attempt, proxy, stream, stream_id "
                "from wanted cross join streams where job_task_id = a and attempt = b",
                values,
            )
            found |= {(UUID(bytes=row[0]), row[1], row[2], Stream(row[3])): row[4] for row in rows}
        return found

    def _chunks(self, stream_id: int, appended: Sequence[Appended]) -> Iterator[tuple[Any, ...]]:
        """Chunks of at most 128 KiB; small pieces that follow each other are joined."""
        if not appended:
            return
        start = appended[0].offset
        data = appended[0].data if len(appended) == 1 else b"".join(piece.data for piece in appended)
        for low in range(0, len(data), CHUNK_BYTES):
            part = data[low : low + CHUNK_BYTES]
            codec, packed = self._packed(part)
            yield stream_id, start + low, len(part), codec, packed

    def _packed(self, part: bytes) -> tuple[int, bytes]:
        if len(part) < _WORTH_IT_BYTES:
            return _PLAIN, part
        packed = self._compressor.compress(part)
        return (_ZSTD, packed) if len(packed) < len(part) else (_PLAIN, part)

    def _save_held(self, stream_id: int, result: FoldedOutput) -> None:
        if result.released:
            self._database.execute_many(
                "delete from held where stream_id = ? and start = ?",
                [(stream_id, start) for start in result.released],
            )
        if result.held:
            self._database.execute_many(
                "insert into held (stream_id, start, until, data) values (?, ?, ?, ?) "
                "on conflict (stream_id, start) do update set until = excluded.until, data = excluded.data "
                "where excluded.until > held.until",
                [(stream_id, p.start, p.end, p.data if isinstance(p, Chunk) else None) for p in result.held],
            )

    def drop(self, reports: Sequence[ReportKey]) -> None:
        """Forget what a proxy said of an attempt that is not its own."""
        for key in reports:
            values = (key[0].bytes, key[1], key[2])
            where = "where job_task_id = ? and attempt = ? and proxy = ?"
            for table in ("chunks", "held"):
                self._database.execute(
                    f"delete from {table} where stream_id in (select stream_id from streams {where})",
                    values,
                )
            self._database.execute(f"delete from streams {where}", values)


class OutputReader:
    """Reading one stream back, from any offset."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, key: StreamKey) -> tuple[int, StreamState] | None:
        """The number of a stream and its state; None if nothing is stored of it."""
        rows = self._database.query(
            f"select {_STREAM}, stream_id from streams "
            "where job_task_id = ? and attempt = ? and proxy = ? and stream = ?",
            _values(key),
        )
        return (rows[0][-1], _stream_of(rows[0])[1]) if rows else None

    def of_job_task(self, job_task_id: UUID) -> dict[StreamKey, StreamState]:
        """All streams of a job task, whoever said them."""
        rows = self._database.query(f"select {_STREAM} from streams where job_task_id = ?", (job_task_id.bytes,))
        return dict(map(_stream_of, rows))

    def read(self, stream_id: int, start: int, end: int, at_most: int) -> bytes:
        """Bytes [start, end) of what is stored, or the first of them: at least one chunk, about `at_most`. Empty: none there."""
        first = self._database.query(
            "select start, length, codec, data from chunks where stream_id = ? and start <= ? "
            "order by start desc limit 1",
            (stream_id, start),
        )
        if not first or first[0][0] + first[0][1] <= start:
            return b""
        parts = [_unpacked(first[0])[start - first[0][0] :]]
        size = len(parts[0])
        position = start + size
        if position < end and size < at_most:
            for row in self._database.query(
                "select start, length, codec, data from chunks where stream_id = ? and start >= ? "
                "and start < ? order by start limit ?",
                (stream_id, position, min(end, position + at_most - size), 4096),
            ):
                parts.append(_unpacked(row))
                size += len(parts[-1])
                if size >= at_most:
                    break
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        return data[: end - start] if len(data) > end - start else data


def _unpacked(row: Row) -> bytes:
    return zstandard.ZstdDecompressor().decompress(row[3], max_output_size=row[1]) if row[2] == _ZSTD else row[3]


def _values(key: StreamKey) -> tuple[Any, ...]:
    return key[0].bytes, key[1], key[2], key[3].value


def _stream_of(row: Row) -> tuple[StreamKey, StreamState]:
    key = (UUID(bytes=row[0]), row[1], row[2], Stream(row[3]))
    omitted = tuple((start, end) for start, end in json.loads(row[8]))
    first, latest = _landings_of(row[9])
    return key, StreamState(row[4], row[5], row[6], row[7], omitted, first, latest)


def _landings_text(state: StreamState) -> str:
    """One landing where the first report is the latest too; none for output from before they were noted."""
    found = [state.first] if state.first == state.latest else [state.first, state.latest]
    return "" if state.first is None else to_json(found).decode()


def _landings_of(text: str) -> tuple[Landing | None, Landing | None]:
    if not text:
        return None, None
    found = [Landing(*row) for row in from_json(text)]
    return found[0], found[-1]
