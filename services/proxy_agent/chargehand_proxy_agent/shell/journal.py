"""The agent's journal: SQLite, on disk before anything follows from it, many attempts in one transaction.

Owns storing entries and the journal's identity (docs/protocol.md, rules ACK, JID and ONE). What an entry means is the core's.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar
from uuid import UUID, uuid4

import structlog
from chargehand_chassis.errors import TransientFailure
from chargehand_chassis.sqlite import migrate, open_sqlite
from chargehand_schemas import execution
from chargehand_schemas.execution import AttemptFact
from chargehand_schemas.ids import AttemptId
from chargehand_schemas.proxy_commands import ResumeProxyCommand

from ..core.entry import Entry, Offsets, Phase

SCHEMA = (
    """
    create table identity(key text primary key, value text not null) without rowid;
    create table entry(
        id integer primary key,
        job_task_id blob not null,
        attempt integer not null,
        phase text not null,
        is_said integer not null,
        keep_until real not null,
        stdout_acked integer not null,
        stderr_acked integer not null,
        command text not null,
        report_type text,
        report text,
        unique (job_task_id, attempt)
    );
    create index entry_unsaid on entry(is_said) where is_said = 0;
    create index entry_keep on entry(keep_until);
    create table reachability(host_id blob primary key, is_reachable integer not null) without rowid;
    """,
)
MAX_ENTRIES_PER_TRANSACTION = 2000
PRUNED_AT_ONCE = 5000

_UPDATE = """update entry set phase = ?, is_said = ?, keep_until = ?, stdout_acked = ?, stderr_acked = ?, report_type = ?,
 report = ? where job_task_id = ? and attempt = ?"""
_INSERT = """insert into entry(phase, is_said, keep_until, stdout_acked, stderr_acked, report_type, report, job_task_id, attempt,
 command) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_COLUMNS = "job_task_id, attempt, phase, is_said, keep_until, stdout_acked, stderr_acked, command, report_type, report"
_REPORTS: dict[str, type[AttemptFact]] = {
    cls.__name__: cls
    for cls in vars(execution).values()
    if isinstance(cls, type) and issubclass(cls, AttemptFact) and cls is not AttemptFact
}

Answer = TypeVar("Answer")
Done = Callable[[bool], None]
_Row = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Identity:
    """Which journal this is, and when it began (None: no trusted clock was there yet)."""

    journal_id: UUID
    birth: datetime | None


class Journal:
    """Entries by attempt. Reads are at once; writes are grouped, and each is answered with whether it is on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log = structlog.get_logger()
        try:
            self._writer = open_sqlite(path, synchronous="FULL")
            migrate(self._writer, SCHEMA)
            self._reader = open_sqlite(path)
            self.identity = self._identify()
        except sqlite3.Error as error:
            raise TransientFailure(
                f"journal {path}: {error}; free space or mend permissions, it goes on then"
            ) from error
        self._thread = ThreadPoolExecutor(1, "journal")
        self._waiting: list[tuple[Entry, Done | None]] = []
        self._is_committing = False
        self._idle = asyncio.Event()
        self._idle.set()

    def _identify(self) -> Identity:
        self._writer.execute("insert or ignore into identity values ('journal_id', ?)", (str(uuid4()),))
        values = dict(self._writer.execute("select key, value from identity"))
        birth = values.get("birth")
        return Identity(UUID(values["journal_id"]), None if birth is None else datetime.fromisoformat(birth))

    def confirm_birth(self, now: datetime) -> Identity:
        """Set the birth, once, when the clock is known to be right. TransientFailure if it cannot be written."""
        if self.identity.birth is None:
            try:
                self._writer.execute("insert or ignore into identity values ('birth', ?)", (now.isoformat(),))
                self.identity = self._identify()
            except sqlite3.Error as error:
                raise TransientFailure(f"journal {self._path}: {error}") from error
        return self.identity

    # --- reading

    def find(self, attempt: AttemptId) -> Entry | None:
        """The entry of an attempt, None if it is not known (any more)."""
        row = self._reader.execute(
            f"select {_COLUMNS} from entry where job_task_id = ? and attempt = ?",  # noqa: S608 (our own names)
            (attempt.job_task_id.bytes, attempt.attempt),
        ).fetchone()
        return None if row is None else _entry(row)

    def unfinished(self) -> list[Entry]:
        """What was not over, or not acknowledged to be, when the journal was last written."""
        rows = self._reader.execute(f"select {_COLUMNS} from entry where is_said = 0 order by id")  # noqa: S608
        return [_entry(row) for row in rows]

    # --- writing

    def write(self, entry: Entry, done: Done | None = None) -> None:
        """Write an entry in the next transaction; `done` hears on the loop whether it is on disk."""
        self._waiting.append((entry, done))
        if not self._is_committing:
            self._is_committing = True
            self._idle.clear()
            asyncio.get_running_loop().call_soon(self._commit)

    def _commit(self) -> None:
        batch, self._waiting = (
            self._waiting[:MAX_ENTRIES_PER_TRANSACTION],
            self._waiting[MAX_ENTRIES_PER_TRANSACTION:],
        )
        rows = [entry for entry, _ in batch]
        future = asyncio.get_running_loop().run_in_executor(self._thread, self._store, rows)
        future.add_done_callback(lambda stored: self._committed(batch, stored.result()))

    def _committed(self, batch: list[tuple[Entry, Done | None]], is_stored: bool) -> None:
        for _, done in batch:
            if done is not None:
                done(is_stored)
        if self._waiting:
            self._commit()
        else:
            self._is_committing = False
            self._idle.set()

    def _store(self, entries: Iterable[Entry]) -> bool:
        try:
            self._writer.execute("begin immediate")
            for entry in entries:
                self._upsert(entry)
            self._writer.execute("commit")
        except sqlite3.Error as error:
            self._roll_back()
            self._log.error("journal_not_writable", path=str(self._path), error=str(error))
            return False
        return True

    def _upsert(self, entry: Entry) -> None:
        values = _values(entry)
        if self._writer.execute(_UPDATE, values).rowcount == 0:
            command = entry.order.model_dump_json(exclude={"script", "sealed", "sealed_effective_user_password"})
            self._writer.execute(_INSERT, (*values, command))

    def _roll_back(self) -> None:
        if self._writer.in_transaction:
            try:
                self._writer.execute("rollback")
            except sqlite3.Error:
                self._log.error("journal_rollback_failed", path=str(self._path))

    async def is_writable(self) -> bool:
        """Whether a write reaches the disk now."""
        return await self._ask(self._probe)

    def _probe(self) -> bool:
        try:
            # Larger than a page: a full disk may still have room for a byte.
            self._writer.execute(
                "insert or replace into identity values ('probe', ?)", (uuid4().hex + "." * 64 * 1024,)
            )
            self._writer.execute("delete from identity where key = 'probe'")
        except sqlite3.Error:
            self._roll_back()
            return False
        return True

    async def prune(self, now: datetime) -> int:
        """Drop what is over and whose command cannot come again; how many that were."""
        return await self._ask(lambda: self._prune(now.timestamp()))

    def _prune(self, moment: float) -> int:
        try:
            return self._writer.execute(
                "delete from entry where id in (select id from entry where keep_until < ? and is_said = 1 limit ?)",
                (moment, PRUNED_AT_ONCE),
            ).rowcount
        except sqlite3.Error:
            self._roll_back()
            return 0

    # --- reachability of hosts as last said

    def reachability(self) -> dict[UUID, bool]:
        rows = self._reader.execute("select host_id, is_reachable from reachability")
        return {UUID(bytes=host_id): bool(is_reachable) for host_id, is_reachable in rows}

    async def note_reachability(self, known: dict[UUID, bool]) -> bool:
        """Remember what was said of hosts."""
        rows = [(host_id.bytes, int(is_reachable)) for host_id, is_reachable in known.items()]
        return await self._ask(lambda: self._note(rows))

    def _note(self, rows: list[tuple[bytes, int]]) -> bool:
        try:
            self._writer.execute("begin immediate")
            self._writer.executemany("insert or replace into reachability values (?, ?)", rows)
            self._writer.execute("commit")
        except sqlite3.Error:
            self._roll_back()
            return False
        return True

    async def _ask(self, question: Callable[[], Answer]) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._thread, question)

    async def settled(self) -> None:
        """Wait until what was given is written."""
        await self._idle.wait()

    async def close(self) -> None:
        """Write what waits, and close."""
        await self.settled()
        self._thread.shutdown(wait=True)
        self._reader.close()
        self._writer.close()


def _values(entry: Entry) -> _Row:
    report = entry.report
    return (
        entry.phase.value,
        int(entry.is_said),
        entry.keep_until.timestamp(),
        entry.acked.stdout,
        entry.acked.stderr,
        None if report is None else type(report).__name__,
        None if report is None else report.model_dump_json(),
        entry.id.job_task_id.bytes,
        entry.id.attempt,
    )


def _entry(row: tuple[object, ...]) -> Entry:
    task, attempt, phase, is_said, keep_until, stdout, stderr, command, report_type, report = row
    assert isinstance(task, bytes) and isinstance(attempt, int)  # noqa: S101 (what the schema says)
    return Entry(
        id=AttemptId(UUID(bytes=task), attempt),
        order=ResumeProxyCommand.model_validate(json.loads(str(command)) | {"asked": 1}),
        phase=Phase(str(phase)),
        keep_until=datetime.fromtimestamp(float(str(keep_until)), UTC),
        report=None if report_type is None else _REPORTS[str(report_type)].model_validate_json(str(report)),
        is_said=bool(is_said),
        acked=Offsets(int(str(stdout)), int(str(stderr))),
    )
