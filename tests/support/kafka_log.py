"""A partition of a stopped Kafka, as it lies on disk: its batches, and what a crash of the machine does to the end of it.

Owns the layout of segment files. Kafka must not run; at its next start it recovers from what is left.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_HEADER = struct.Struct(">qii")
_LENGTH_ENDS = 12
_LAST_OFFSET_DELTA = 23
_DERIVED = ("*.index", "*.timeindex", "*.txnindex", "*.snapshot", "leader-epoch-checkpoint")


@dataclass(frozen=True)
class Batch:
    """One batch of records: where it begins in its file, how long it is, and its offsets."""

    position: int
    size: int
    first: int
    last: int


def segments(partition: Path) -> list[Path]:
    """The segment files of a partition, in order."""
    return sorted(partition.glob("*.log"))


def batches(segment: Path) -> Iterator[Batch]:
    """The batches of a segment. What is written in part at its end is none."""
    content = segment.read_bytes()
    position = 0
    while position + _LAST_OFFSET_DELTA + 4 <= len(content):
        first, length, _ = _HEADER.unpack_from(content, position)
        size = _LENGTH_ENDS + length
        if length <= 0 or position + size > len(content):
            return
        (delta,) = struct.unpack_from(">i", content, position + _LAST_OFFSET_DELTA)
        yield Batch(position, size, first, first + delta)
        position += size


def end_of(partition: Path) -> int:
    """The offset after the last record."""
    last = segments(partition)[-1]
    return max((batch.last + 1 for batch in batches(last)), default=int(last.stem))


def cut_end(partition: Path, records: int) -> int:
    """Take away the last batch, and others before it while that is no more than so many records; where the log ends then."""
    segment = segments(partition)[-1]
    found = list(batches(segment))
    end, kept = end_of(partition), len(found)
    while kept and (kept == len(found) or end - found[kept - 1].first <= records):
        kept -= 1
    with segment.open("r+b") as file:
        file.truncate(found[kept].position if kept < len(found) else segment.stat().st_size)
    for pattern in _DERIVED:
        for path in partition.glob(pattern):
            path.unlink()
    return end_of(partition)
