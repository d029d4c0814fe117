"""The store while the planner is down, for `chargehand repair`: how far what it said stands in a log that was cut, and going back.

Owns those queries and changes (docs/adr/0023). What they mean is told in repair.py of the shell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chargehand_schemas.base import Item

from ...core.bindings import Binding
from . import reading
from .engines import SCHEMA, PostgresEngine, SQLiteEngine, Transaction
from .planner_store import FILE_NAME, PlannerStore
from .records import Position
from .writing import position_name, write_outbox


@dataclass(frozen=True, slots=True)
class Said:
    """What surely stands below an offset of a log: events up to a notification, and items of the binder up to a row of the
    outbox. `is_whole`: everything that was said after it is kept."""

    notification_id: int = 0
    outbox_id: int = 0
    is_whole: bool = False


class RepairStore(PlannerStore):
    """What only a repair does."""

    @classmethod
    def open(cls, directory: Path, url: str = "", schema: str = SCHEMA) -> RepairStore:
        """As `open_store`."""
        return cls(PostgresEngine(url, schema) if url else SQLiteEngine(directory / FILE_NAME))

    def said_below(self, partition: Position, offset: int) -> Said:
        """What is known to stand below an offset of a partition; nothing, if that is longer ago than is kept."""
        with self._engine.read() as tx:
            rows = tx.rows(
                "select notification_id, outbox_id from sendings where partition_name = ? and next_offset <= ? "
                "order by next_offset desc limit 1",
                position_name(partition), offset,
            )  # fmt: skip
            last = tx.rows("select max(outbox_id) as id from sendings")[0]["id"] or 0
            kept = tx.rows("select min(id) as id from outbox where is_sent = 1")[0]["id"] or last + 1
        if not rows:
            return Said(is_whole=kept <= 1)
        notification_id, outbox_id = rows[0]["notification_id"], rows[0]["outbox_id"]
        return Said(notification_id, outbox_id, is_whole=kept <= outbox_id + 1 or outbox_id >= last)

    def events_after(self, notification_id: int) -> int:
        """How many events came later; at most."""
        return max(0, int(self._engine.recorder.max_notification_id() or 0) - notification_id)

    def all_bindings(self) -> list[Binding]:
        """Every decision for an attempt that is kept, the oldest first."""
        with self._engine.read() as tx:
            rows = tx.rows("select * from bindings order by bound_at")
        return [reading.binding(row) for row in rows]

    def go_back(
        self,
        positions: Mapping[Position, int],
        own: Mapping[Position, Said],
        held: Mapping[Position, int],
        again: Sequence[Item],
    ) -> None:
        """Read `positions` on from these offsets; publish again what does not surely stand in `own` partitions, which hold what
        this planner said up to `held`, and after that the items of `again`. One transaction."""

        def after(transaction: Transaction) -> None:
            for partition, offset in positions.items():
                _read_from(transaction, position_name(partition), offset)
            for partition, offset in held.items():
                _own_log_ends(transaction, position_name(partition), offset)
            if own:
                position = min(said.notification_id for said in own.values())
                transaction.run("update relay set position = ? where id = 1 and position > ?", position, position)
                row = min(said.outbox_id for said in own.values())
                transaction.run("update outbox set is_sent = 0 where id > ?", row)
            write_outbox(transaction, again)

        self._engine.write([], [], _nothing, after)


def _read_from(transaction: Transaction, name: str, offset: int) -> None:
    transaction.run("update {tracking} set notification_id = ? where application_name = ?", offset, name)
    transaction.run("delete from heard where partition_name = ?", name)


def _own_log_ends(transaction: Transaction, name: str, offset: int) -> None:
    transaction.run("update marks set next_offset = ?, append_ms = 0 where partition_name = ?", offset, name)
    transaction.run("delete from sendings where partition_name = ? and next_offset > ?", name, offset)


def _nothing(transaction: Transaction) -> None:
    """No check."""
