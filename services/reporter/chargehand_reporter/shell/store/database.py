"""One way to speak to SQLite and to PostgreSQL: the same SQL with `?`, rows as tuples, errors named by what to do about them.

Owns connections, transactions and migrations. SQLite keeps the read model in `reporter.db` and output in `output.db`, so that
one can be deleted and built anew without the other; PostgreSQL keeps them in two schemas. No name of a table is in both.
"""

# ruff: noqa: S608 (the names in these statements are constants)

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import psycopg
from chargehand_chassis.errors import FatalFailure, TransientFailure
from chargehand_chassis.sqlite import migrate, open_sqlite, unusable

from .schema import OUTPUT, OUTPUT_STEPS, READ_MODEL, READ_MODEL_STEPS, postgres_ddl, sqlite_ddl

Row = tuple[Any, ...]
Values = Sequence[Any]

OUTPUT_PAGE_BYTES = 16_384
_AT_ONCE = 400
_SERVER = "the store in PostgreSQL"
_JOURNAL_BYTES = 64 << 20


class StoreUnavailable(TransientFailure):
    """The database is locked, full, away or restarting: nothing was stored, try again."""


class Database(Protocol):
    """An open database; used by one thread at a time."""

    def query(self, sql: str, values: Values = ()) -> list[Row]:
        """All rows."""

    def execute(self, sql: str, values: Values = ()) -> int:
        """The number of rows changed."""

    def execute_many(self, sql: str, rows: Sequence[Values]) -> None:
        """The same statement for each row."""

    def transaction(self) -> Any:
        """A context in which all happens or nothing. StoreUnavailable if it did not happen and may later."""

    def version(self) -> int:
        """A number that changes when somebody else has changed the database; -1 if that cannot be seen."""

    def close(self) -> None: ...


def open_database(store_url: str, directory: Path, *, is_writer: bool) -> Database:
    """The database of a store URL; empty: SQLite in `directory`. The writer brings the schema up to date."""
    if store_url:
        return PostgresDatabase(store_url, is_writer=is_writer)
    return SqliteDatabase(directory, is_writer=is_writer)


class SqliteDatabase:
    """`output.db` with `reporter.db` attached.

    A transaction over both files becomes visible in the first one first: nobody reads of output that cannot be read yet. A
    process that dies in between leaves output that the read model does not know, and the repeat of the messages mends it.
    """

    def __init__(self, directory: Path, *, is_writer: bool) -> None:
        self._place = f"{directory / 'output.db'} or reporter.db"
        try:
            self._connection = self._open_writer(directory) if is_writer else self._open_reader(directory)
        except (sqlite3.OperationalError, OSError) as error:
            raise StoreUnavailable(unusable(directory, error)) from error
        except TransientFailure as error:
            raise StoreUnavailable(str(error)) from error

    @staticmethod
    def _open_writer(directory: Path) -> sqlite3.Connection:
        output, read_model = directory / "output.db", directory / "reporter.db"
        connection = open_sqlite(read_model)
        migrate(connection, [sqlite_ddl(step) for step in READ_MODEL_STEPS])
        connection.close()
        if not output.exists():
            _make_with_pages(output)
        connection = open_sqlite(output)
        migrate(connection, [sqlite_ddl(step) for step in OUTPUT_STEPS])
        connection.execute(f"attach ? as {READ_MODEL}", (str(read_model),))
        connection.execute(f"pragma {READ_MODEL}.synchronous = full")
        connection.execute(f"pragma journal_size_limit = {_JOURNAL_BYTES}")
        return connection

    @staticmethod
    def _open_reader(directory: Path) -> sqlite3.Connection:
        for file in (directory / "reporter.db", directory / "output.db"):
            if not file.exists():
                raise StoreUnavailable(f"{file} is not there yet: the reporter makes it when it starts")
        connection = open_sqlite(directory / "output.db")
        connection.execute(f"attach ? as {READ_MODEL}", (str(directory / "reporter.db"),))
        connection.execute("pragma query_only = on")
        connection.execute("pragma case_sensitive_like = on")
        versions = [connection.execute(f"pragma {name}.user_version").fetchone()[0] for name in ("main", READ_MODEL)]
        if versions != [len(OUTPUT_STEPS), len(READ_MODEL_STEPS)]:
            connection.close()
            raise StoreUnavailable("the store has another version: the reporter brings it up to date when it starts")
        return connection

    def query(self, sql: str, values: Values = ()) -> list[Row]:
        with _translated(self._place):
            return self._connection.execute(sql, values).fetchall()

    def execute(self, sql: str, values: Values = ()) -> int:
        with _translated(self._place):
            return self._connection.execute(sql, values).rowcount

    def execute_many(self, sql: str, rows: Sequence[Values]) -> None:
        with _translated(self._place):
            self._connection.executemany(sql, rows)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with _translated(self._place):
            self._connection.execute("begin immediate")
            try:
                yield
                self._connection.execute("commit")
            except BaseException:
                self._connection.rollback()
                raise

    def version(self) -> int:
        """Of both files: a transaction becomes visible in one after the other."""
        output = self._connection.execute("pragma data_version").fetchone()[0]
        read_model = self._connection.execute(f"pragma {READ_MODEL}.data_version").fetchone()[0]
        return int(read_model) << 32 | int(output)

    def close(self) -> None:
        self._connection.close()


def _make_with_pages(path: Path) -> None:
    """The page size can only be chosen before the first page is written; larger pages store output faster."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)
    connection = sqlite3.connect(path)
    connection.execute(f"pragma page_size = {OUTPUT_PAGE_BYTES}")
    connection.execute("vacuum")
    connection.close()


class PostgresDatabase:
    """One connection; opened again by the next statement after it was lost. Time-outs below the Kafka session (protocol.md
    section 3, item 9), so that a stopped process holds no lock for long."""

    def __init__(self, url: str, *, is_writer: bool) -> None:
        self._url = url
        self._is_writer = is_writer
        self._connection: psycopg.Connection[Row] | None = None
        if is_writer:
            self._migrate()

    def _opened(self) -> psycopg.Connection[Row]:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(
                self._url,
                autocommit=True,
                connect_timeout=5,
                application_name="chargehand-reporter",
                options=f"-c search_path={READ_MODEL},{OUTPUT} -c idle_in_transaction_session_timeout=5000 -c lock_timeout=5000",
            )
            if not self._is_writer:
                self._connection.execute("set default_transaction_read_only = on")
        return self._connection

    def _migrate(self) -> None:
        with self.transaction():
            self.execute("select pg_advisory_xact_lock(7461002)")
            for schema, steps in ((READ_MODEL, READ_MODEL_STEPS), (OUTPUT, OUTPUT_STEPS)):
                self._migrate_schema(schema, steps)

    def _migrate_schema(self, schema: str, steps: Sequence[str]) -> None:
        connection = self._opened()
        connection.execute(f"create schema if not exists {schema}")
        connection.execute(f"create table if not exists {schema}.schema_version (version integer not null)")
        found = self.query(f"select version from {schema}.schema_version")
        present = found[0][0] if found else 0
        if present > len(steps):
            raise FatalFailure(
                f"the store has schema version {present}, this program knows {len(steps)}: use a newer release"
            )
        connection.execute(f"set local search_path = {schema}")
        for step in steps[present:]:
            connection.execute(postgres_ddl(step))
        connection.execute(f"delete from {schema}.schema_version")
        self.execute(f"insert into {schema}.schema_version values (?)", (len(steps),))
        connection.execute(f"set local search_path = {READ_MODEL}, {OUTPUT}")

    def query(self, sql: str, values: Values = ()) -> list[Row]:
        with _translated(_SERVER):
            return self._opened().execute(_dollar(sql), values).fetchall()

    def execute(self, sql: str, values: Values = ()) -> int:
        with _translated(_SERVER):
            return self._opened().execute(_dollar(sql), values).rowcount

    def execute_many(self, sql: str, rows: Sequence[Values]) -> None:
        with _translated(_SERVER), self._opened().cursor() as cursor:
            cursor.executemany(_dollar(sql), rows)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with _translated(_SERVER):
            connection = self._opened()
            try:
                with connection.transaction():
                    yield
            except psycopg.OperationalError:
                if connection.broken:
                    connection.close()
                raise

    def version(self) -> int:
        return int(self.query("select value from meta where name = 'position'")[0][0])

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


@contextmanager
def _translated(place: str) -> Iterator[None]:
    try:
        yield
    except (sqlite3.OperationalError, psycopg.OperationalError) as error:
        why = " ".join(str(error).split()) or repr(error)
        raise StoreUnavailable(
            f"{place} cannot be used: {why}; free space or mend permissions, it goes on then"
        ) from error
    except psycopg.errors.UndefinedTable as error:
        raise StoreUnavailable("the tables are not there yet: the reporter makes them when it starts") from error


@lru_cache(maxsize=1024)
def _dollar(sql: str) -> str:
    """psycopg's placeholders; no statement of ours has a question mark or a per cent sign of its own."""
    return sql.replace("?", "%s")


def in_slices(keys: Iterable[Values]) -> Iterator[tuple[str, list[Any]]]:
    """Keys as the rows of a VALUES list, some hundred at a time: its text and the values in it."""
    rows = list(keys)
    for start in range(0, len(rows), _AT_ONCE):
        part = rows[start : start + _AT_ONCE]
        row = f"({','.join('?' * len(part[0]))})"
        yield ",".join([row] * len(part)), [value for key in part for value in key]


class Connections:
    """Connections for readers: one for each thread that asks, opened at its first question, and anew when the read model
    was built anew."""

    def __init__(self, store_url: str, directory: Path) -> None:
        self._store_url = store_url
        self._directory = directory
        self._local = threading.local()
        self._all: list[Database] = []
        self._lock = threading.Lock()

    def mine(self) -> Database:
        """The connection of this thread. StoreUnavailable if there is no store yet."""
        file = self._file()
        if getattr(self._local, "database", None) is None or self._local.file != file:
            with _translated(_SERVER):
                database = open_database(self._store_url, self._directory, is_writer=False)
            self._keep(getattr(self._local, "database", None), database)
            self._local.database, self._local.file = database, file
        found: Database = self._local.database
        return found

    def _file(self) -> int:
        """Which file it is: another one has another number."""
        if self._store_url:
            return 0
        try:
            return (self._directory / "reporter.db").stat().st_ino
        except OSError as error:
            raise StoreUnavailable("there is no read model yet: the reporter makes it when it starts") from error

    def _keep(self, old: Database | None, new: Database) -> None:
        with self._lock:
            if old is not None:
                self._all.remove(old)
                old.close()
            self._all.append(new)

    def close(self) -> None:
        with self._lock:
            for database in self._all:
                database.close()
            self._all.clear()
