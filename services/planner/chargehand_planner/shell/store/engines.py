"""The two engines under the store: a transaction that takes the same SQL on both, recorders that write with it, opening, locks.

Owns everything that differs between SQLite and PostgreSQL.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

import psycopg
from chargehand_chassis.errors import FatalFailure, TransientFailure
from chargehand_chassis.sqlite import explained, migrate, open_sqlite
from eventsourcing.persistence import IntegrityError, PersistenceError, StoredEvent, Tracking
from eventsourcing.postgres import PostgresDatastore, PostgresProcessRecorder
from eventsourcing.sqlite import SQLiteConnection, SQLiteConnectionPool, SQLiteDatastore, SQLiteProcessRecorder
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL, Identifier

from .records import Conflict
from .schema import STEPS

SCHEMA = "planner"
CHANNEL = "stored_events"
RELAY_LOCK = 0x63686172_67650001
MIGRATION_LOCK = 0x63686172_67650002
PATIENCE_S = 10
LEASE = timedelta(seconds=6)
_SERVER = "the store in PostgreSQL"

T = TypeVar("T")
Row: TypeAlias = Any


class Transaction:
    """An open transaction. SQL is written with `?`; `{in}` stands before a list parameter, `{bytes}`, `{serial}` in tables;
    `{tracking}` is where the recorder keeps positions."""

    def __init__(self, cursor: Any, translate: Callable[[str], str], as_list: Callable[[Iterable[str]], Any]) -> None:
        self._cursor = cursor
        self._translate = translate
        self.as_list = as_list

    def rows(self, sql: str, *parameters: Any) -> list[Row]:
        """All rows; columns by name."""
        self._cursor.execute(self._translate(sql), parameters)
        return list(self._cursor.fetchall())

    def run(self, sql: str, *parameters: Any) -> int:
        """How many rows were touched."""
        self._cursor.execute(self._translate(sql), parameters)
        return int(self._cursor.rowcount)

    def many(self, sql: str, parameters: Sequence[tuple[Any, ...]]) -> None:
        if parameters:
            self._cursor.executemany(self._translate(sql), parameters)


Work: TypeAlias = Callable[[Transaction], None]


class Recorder(Protocol):
    """What the store needs of an `eventsourcing` recorder."""

    def select_events(self, originator_id: Any, *, gt: int | None, lte: int | None) -> Sequence[StoredEvent]: ...
    def select_notifications(self, start: int | None, limit: int, *, inclusive_of_start: bool) -> Sequence[Any]: ...
    def max_tracking_id(self, application_name: str) -> int | None: ...
    def max_notification_id(self) -> int | None: ...


class Engine(Protocol):
    """An opened database."""

    is_shared: bool

    @property
    def recorder(self) -> Recorder: ...

    def read(self) -> contextlib.AbstractContextManager[Transaction]: ...
    def write(
        self, events: Sequence[StoredEvent], trackings: Sequence[Tracking], before: Work, after: Work
    ) -> None: ...
    def take_relay_lock(self) -> bool: ...
    def keep_relay_lock(self) -> None: ...
    def wait_for_commit(self, timeout_s: float) -> bool: ...
    def close(self) -> None: ...


# SQLite


@cache
def _to_sqlite(sql: str) -> str:
    return (
        sql.replace("{in}", "in (select value from json_each(?))")
        .replace("{bytes}", "blob")
        .replace("{serial}", "integer primary key autoincrement")
        .replace("{share}", "")
        .replace("{tracking}", "tracking")
    )


def _sqlite_transaction(cursor: Any) -> Transaction:
    return Transaction(cursor, _to_sqlite, lambda values: json.dumps(list(values)))


class _SQLitePool(SQLiteConnectionPool):
    def _create_connection(self) -> SQLiteConnection:
        connection = super()._create_connection()
        cursor = connection.cursor()
        cursor.execute("pragma synchronous = full")
        cursor.execute("pragma cache_size = -16000")
        return connection


class _SQLiteRecorder(SQLiteProcessRecorder):
    def _insert_events(self, c: Any, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        transaction = _sqlite_transaction(c.sqlite_cursor)
        kwargs["before"](transaction)
        for tracking in kwargs["trackings"]:
            self._insert_tracking(c, tracking)
        identities = super()._insert_events(c, stored_events)
        kwargs["after"](transaction)
        return identities


class SQLiteEngine:
    """One file, one process: a lock beside it keeps a second one out."""

    is_shared = False

    def __init__(self, path: Path) -> None:
        self._place = str(path)
        self._lock: int | None = _take_file_lock(path.with_suffix(".lock"))
        try:
            self._open(path)
        except BaseException:
            os.close(self._lock)
            raise

    def _open(self, path: Path) -> None:
        with contextlib.closing(open_sqlite(path)) as connection:
            migrate(connection, [_to_sqlite(step) for step in STEPS])
        self._datastore = SQLiteDatastore(str(path), pool_size=4, max_overflow=4, pool_timeout=60.0)
        self._datastore.pool = _SQLitePool(
            db_name=str(path), lock_timeout=PATIENCE_S, pool_size=4, max_overflow=4, pool_timeout=60.0
        )
        self.recorder = _SQLiteRecorder(self._datastore)
        with _explained(self._place):
            self.recorder.create_table()

    @contextlib.contextmanager
    def read(self) -> Iterator[Transaction]:
        with _explained(self._place), self._datastore.transaction(commit=False) as cursor:
            yield _sqlite_transaction(cursor.sqlite_cursor)

    def write(self, events: Sequence[StoredEvent], trackings: Sequence[Tracking], before: Work, after: Work) -> None:
        with _explained(self._place):
            self.recorder.insert_events(events, trackings=trackings, before=before, after=after)

    def take_relay_lock(self) -> bool:
        return True  # the file's lock is it

    def keep_relay_lock(self) -> None:
        """A file's lock is held until the process ends."""

    def wait_for_commit(self, timeout_s: float) -> bool:
        return False  # nobody else commits

    def close(self) -> None:
        self._datastore.close()
        if self._lock is not None:
            os.close(self._lock)
        self._lock = None


def _take_file_lock(path: Path) -> int:
    with explained(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise TransientFailure(
            f"{path.parent}: another planner uses this store; SQLite is for one process, PostgreSQL for more"
        ) from error
    return descriptor


# PostgreSQL


@cache
def _to_postgres(sql: str) -> str:
    return (
        sql.replace("?", "%s")
        .replace("{in}", "= any(%s)")
        .replace("{bytes}", "bytea")
        .replace("{serial}", "bigserial primary key")
        .replace("{share}", "for share")
        .replace("{tracking}", "notification_tracking")
    )


def _postgres_transaction(cursor: Any) -> Transaction:
    return Transaction(cursor, _to_postgres, list)


class _PostgresDatastore(PostgresDatastore):
    def after_connect_func(self) -> Callable[[psycopg.Connection[Any]], None]:
        configure = super().after_connect_func()
        path = SQL("set search_path to {}").format(Identifier(self.schema))

        def after_connect(connection: psycopg.Connection[Any]) -> None:
            configure(connection)
            connection.execute(path)
            # A process that stands still in mid-transaction must not keep the others waiting (docs/protocol.md, section 3).
            connection.execute(f"set statement_timeout = '{PATIENCE_S}s'")
            connection.execute(f"set lock_timeout = '{PATIENCE_S // 2}s'")

        return after_connect


class _PostgresRecorder(PostgresProcessRecorder):
    def write(self, events: Sequence[StoredEvent], trackings: Sequence[Tracking], before: Work, after: Work) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            transaction = _postgres_transaction(cursor)
            before(transaction)
            for tracking in trackings:
                self._insert_tracking(cursor, tracking)
            if events:
                self._insert_stored_events(cursor, events)
            after(transaction)
            self._notify_channel(cursor)


class PostgresEngine:
    """A database for several planners. Two connections of its own hold the relay's lock and hear of commits.

    A holder that stands still for `lease` loses the lock: the server ends its session. What it publishes when it goes on are
    repeats of what its successor has published."""

    is_shared = True

    def __init__(self, url: str, schema: str = SCHEMA, lease: timedelta = LEASE) -> None:
        if os.environ.get("POSTGRES_ENABLE_DB_FUNCTIONS"):
            raise FatalFailure(
                "POSTGRES_ENABLE_DB_FUNCTIONS is set: with it the relay would miss events; unset it and start again"
            )
        self._url, self._schema = url, schema
        with _explained(_SERVER):
            _migrate_postgres(url, schema)
        parts = conninfo_to_dict(url)
        self._datastore = _PostgresDatastore(
            dbname=str(parts.get("dbname", "")),
            host=str(parts.get("host", "")),
            port=str(parts.get("port") or 5432),
            user=str(parts.get("user", "")),
            password=str(parts.get("password", "")),
            pool_size=2,
            max_overflow=6,
            connect_timeout=PATIENCE_S,
            idle_in_transaction_session_timeout=PATIENCE_S,
            lock_timeout=PATIENCE_S // 2,
            schema=schema,
        )
        self.recorder = _PostgresRecorder(self._datastore, events_table_name=CHANNEL)
        with _explained(_SERVER):
            self.recorder.create_table()
        self._lock = _Session(url, idle=lease)
        self._listener = _Session(url)
        self._has_lock = False

    @contextlib.contextmanager
    def read(self) -> Iterator[Transaction]:
        with _explained(_SERVER), self._datastore.transaction(commit=False) as cursor:
            yield _postgres_transaction(cursor)

    def write(self, events: Sequence[StoredEvent], trackings: Sequence[Tracking], before: Work, after: Work) -> None:
        with _explained(_SERVER):
            self.recorder.write(events, trackings, before, after)

    def take_relay_lock(self) -> bool:
        """Whether this process holds the lock now; it is given back when its connection ends."""
        if self._lock.is_new():
            self._has_lock = False
        statement = "select true" if self._has_lock else f"select pg_try_advisory_lock({RELAY_LOCK})"
        row = self._lock.run(lambda connection: connection.execute(statement.encode()).fetchone())
        self._has_lock = bool(row and row[0])
        return self._has_lock

    def keep_relay_lock(self) -> None:
        """Show that its holder goes on; to be called well within the lease."""
        if self._has_lock and not self._lock.is_new():
            self._lock.run(lambda connection: connection.execute(b"select true"))

    def wait_for_commit(self, timeout_s: float) -> bool:
        """Whether somebody committed within this time."""
        if self._listener.is_new():
            listen = SQL("listen {}").format(Identifier(CHANNEL))
            self._listener.run(lambda connection: connection.execute(listen))
            return True  # what came before is not told
        return self._listener.run(lambda connection: bool(list(connection.notifies(timeout=timeout_s, stop_after=1))))

    def close(self) -> None:
        self._lock.close()
        self._listener.close()
        self._datastore.close()


class _Session:
    """A connection that is kept for what it holds or hears, and opened anew after a failure. `idle`: the server ends it when it
    was not used for so long. Safe to use from several threads."""

    def __init__(self, url: str, idle: timedelta | None = None) -> None:
        self._url, self._idle = url, idle
        self._connection: psycopg.Connection[Any] | None = None
        self._turn = threading.RLock()

    def is_new(self) -> bool:
        return self._connection is None

    def run(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        """TransientFailure when the server does not answer."""
        with self._turn:
            try:
                if self._connection is None:
                    self._connection = self._connect()
                return work(self._connection)
            except psycopg.Error as error:
                self.close()
                raise TransientFailure(f"PostgreSQL does not answer: {error}") from error

    def _connect(self) -> psycopg.Connection[Any]:
        connection = psycopg.connect(self._url, autocommit=True, connect_timeout=PATIENCE_S)
        if self._idle is not None:
            milliseconds = round(self._idle.total_seconds() * 1000)
            connection.execute(f"set idle_session_timeout = {milliseconds}".encode())
        return connection

    def close(self) -> None:
        with self._turn:
            if self._connection is not None:
                self._connection.close()
            self._connection = None


def _migrate_postgres(url: str, schema: str) -> None:
    with psycopg.connect(url, autocommit=True, connect_timeout=PATIENCE_S) as connection:
        connection.execute("select pg_advisory_lock(%s)", (MIGRATION_LOCK,))
        connection.execute(SQL("create schema if not exists {}").format(Identifier(schema)))
        connection.execute(SQL("set search_path to {}").format(Identifier(schema)))
        connection.execute("create table if not exists schema_version (version integer not null)")
        row = connection.execute("select max(version) from schema_version").fetchone()
        present = int(row[0] or 0) if row else 0
        if present > len(STEPS):
            raise FatalFailure(
                f"the store has schema version {present}, this program knows {len(STEPS)}: use a newer release"
            )
        for version, step in enumerate(STEPS[present:], start=present + 1):
            with connection.transaction():
                connection.execute(_to_postgres(step).encode())
                connection.execute("insert into schema_version values (%s)", (version,))


@contextlib.contextmanager
def _explained(place: str) -> Iterator[None]:
    """Failures of the engines as the loop's own: a taken place is a Conflict, all else may work later."""
    try:
        yield
    except (IntegrityError, psycopg.IntegrityError) as error:
        raise Conflict(str(error)[:500]) from error
    except (PersistenceError, psycopg.Error) as error:
        why = " ".join(str(error).split())[:500]
        raise TransientFailure(
            f"{place} cannot be used: {why}; free space or mend what it says, it goes on then"
        ) from error
