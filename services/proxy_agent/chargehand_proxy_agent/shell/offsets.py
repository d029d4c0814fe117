"""Which commands need not be read again: positions that may be committed. Owns that arithmetic, per partition."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from chargehand_chassis.kafka import TopicPartition


class Taken:
    """One record: how many of its commands are not taken yet, and whether one could not be."""

    __slots__ = ("_offsets", "left", "offset")

    def __init__(self, offsets: Offsets, offset: int, commands: int) -> None:
        self._offsets, self.offset, self.left = offsets, offset, commands

    def done(self) -> None:
        """One command of it is journaled, or has no effect."""
        self.left -= 1

    def fail(self) -> None:
        """One command of it could not be journaled: the record is to be read again."""
        self._offsets.has_failed = True


class Offsets:
    """Records in the order in which they were read. A position goes on over what is done, never over what is not."""

    def __init__(self) -> None:
        self._records: dict[TopicPartition, deque[Taken]] = {}
        self._done: dict[TopicPartition, int] = {}
        self._committed: dict[TopicPartition, int] = {}
        self.has_failed = False

    def begin(self, partition: TopicPartition, offset: int, commands: int) -> Taken:
        """A record with so many commands was read."""
        record = Taken(self, offset, commands)
        self._records.setdefault(partition, deque()).append(record)
        self._done.setdefault(partition, offset)
        return record

    def fresh(self) -> dict[TopicPartition, int]:
        """Positions that went on since they were last committed."""
        for partition, records in self._records.items():
            while records and records[0].left <= 0:
                self._done[partition] = records.popleft().offset + 1
        return {tp: offset for tp, offset in self._done.items() if self._committed.get(tp, -1) < offset}

    def committed(self, positions: Mapping[TopicPartition, int]) -> None:
        self._committed.update(positions)

    def rewind(self) -> dict[TopicPartition, int]:
        """Where to read on after a failure: before the first record that is not done. Everything after it is forgotten here."""
        self.fresh()
        positions = dict(self._done)
        self._records.clear()
        self.has_failed = False
        return positions

    def drop(self, partitions: Iterable[TopicPartition]) -> None:
        """Others read these now."""
        for partition in partitions:
            self._records.pop(partition, None)
            self._done.pop(partition, None)
            self._committed.pop(partition, None)
