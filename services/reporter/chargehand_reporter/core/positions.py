"""How far each partition was read. Owns what a jump in it means: messages between were never seen (docs/protocol.md, RET)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Gap:
    """Offsets [start, end) of a partition that were not read."""

    topic: str
    partition: int
    start: int
    end: int


def advance(read: Iterable[tuple[str, int, int]]) -> dict[Place, int]:
    """The next offset of each partition after reading these (topic, partition, offset)."""
    positions: dict[Place, int] = {}
    for topic, partition, offset in read:
        place = (topic, partition)
        positions[place] = max(positions.get(place, 0), offset + 1)
    return positions


def find_gaps(known: Mapping[Place, int], read: Iterable[tuple[str, int, int]], compacted: frozenset[str]) -> list[Gap]:
    """Offsets that were jumped over. A compacted topic has gaps by nature; a partition read for the first time has none."""
    next_offsets = dict(known)
    gaps: list[Gap] = []
    for topic, partition, offset in sorted(read):
        place = (topic, partition)
        expected = next_offsets.get(place)
        if expected is not None and offset > expected and topic not in compacted:
            gaps.append(Gap(topic, partition, expected, offset))
        next_offsets[place] = max(expected or 0, offset + 1)
    return gaps
