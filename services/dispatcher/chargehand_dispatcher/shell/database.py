"""SQLite or PostgreSQL behind one small door: a transaction, statements with `?`, and the store's clock.

Owns the differences between the two. Tables and rules do not enter here.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import psycopg
from chargehand_chassis.errors import FatalFailure, TransientFailure
from chargehand_chassis.sqlite import explained, open_sqlite

Row = tuple[Any, ...]

# Below the session time-out of Kafka, so that a stopped process keeps no other waiting (docs/protocol.md section 3, item 9).
_SESSION_LIMITS = (
    "set idle_in_transaction_session_timeout = '4s'",
    "set statement_timeout = '30s'",
    "set lock_timeout = '4s'",
)


class Database(Protocol):
    """What the store needs of a database; used from one thread."""

    kind: str
    is_shared: bool
    row_id: str | None
    """The column by which a row is found at once, while the transaction that read it lasts; None: by its key."""

    def transaction(self) -> Any:
        """A context: all or nothing. TransientFailure when the database cannot be used now."""

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """One statement; its rows."""

    def put(
        self,
        table: str,
        columns: Sequence[str],
        key: Sequence[str],
        rows: Sequence[Sequence[Any]],
        *,
        fixed: Collection[str] = (),
    ) -> None:
        """Insert rows, or change those whose `key` (columns of `columns`) is there: all of it but `fixed` columns, which never
        change, so that no index on them is touched."""

    def mark(self, table: str, column: str, mark: str, key: str, keys: Iterable[Any]) -> None:
        """Put the same word into a column of all rows with these keys."""

    def find(self, question: str, column: str, values: Iterable[Any]) -> Iterator[Row]:
        """The rows of `question`, which ends in `where` or `and`, whose `column` is among these values."""

    def now_us(self) -> int:
        """The store's clock: microseconds since 1970 (rule CLK)."""

    def close(self) -> None: ...


_AT_ONCE = 500


def _chunks(values: Iterable[Any]) -> Iterator[list[Any]]:
    listed = list(values)
    for start in range(0, len(listed), _AT_ONCE):
        yield listed[start : start + _AT_ONCE]


@lru_cache(maxsize=64)
def _changes(columns: tuple[str, ...], key: tuple[str, ...], fixed: tuple[str, ...]) -> str:
    changed = [column for column in columns if column not in (*key, *fixed)]
    if not changed:
        return f"on conflict ({', '.join(key)}) do nothing"
    return f"on conflict ({', '.join(key)}) do update set " + ", ".join(f"{c} = excluded.{c}" for c in changed)


class SqliteDatabase:
    """One file, one writer."""

    kind = "sqlite"
    is_shared = False
    row_id: str | None = "rowid"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = open_sqlite(path)
        self._connection.execute("pragma cache_size = -16384")
        self._connection.execute("pragma wal_autocheckpoint = 4000")
        self._connection.execute("pragma journal_size_limit = 67108864")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with explained(self._path):
            self._connection.execute("begin immediate")
            try:
                yield
                self._connection.execute("commit")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("rollback")
                raise

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        return self._connection.execute(sql, parameters).fetchall()

    def put(
        self,
        table: str,
        columns: Sequence[str],
        key: Sequence[str],
        rows: Sequence[Sequence[Any]],
        *,
        fixed: Collection[str] = (),
    ) -> None:
        marks = ", ".join("?" for _ in columns)
        changes = _changes(tuple(columns), tuple(key), tuple(fixed))
        statement = f"insert into {table} ({', '.join(columns)}) values ({marks}) {changes}"  # noqa: S608 (our own names)
        self._connection.executemany(statement, rows)

    def mark(self, table: str, column: str, mark: str, key: str, keys: Iterable[Any]) -> None:
        for some in _chunks(keys):
            places = ", ".join("?" for _ in some)
            statement = f"update {table} set {column} = ? where {key} in ({places})"  # noqa: S608 (our own names)
            self._connection.execute(statement, (mark, *some))

    def find(self, question: str, column: str, values: Iterable[Any]) -> Iterator[Row]:
        for some in _chunks(values):
            marks = ", ".join("?" for _ in some)
            yield from self._connection.execute(f"{question} {column} in ({marks})", some)

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def close(self) -> None:
        self._connection.close()


class PostgresDatabase:
    """One connection to PostgreSQL."""

    kind = "postgresql"
    is_shared = True
    row_id: str | None = None

    def __init__(self, dsn: str) -> None:
        try:
            self._connection = psycopg.connect(dsn, autocommit=True, application_name="chargehand-dispatcher")
        except psycopg.OperationalError as error:
            raise TransientFailure(f"PostgreSQL cannot be reached: {error}") from error
        for statement in _SESSION_LIMITS:
            self._connection.execute(statement)
        self._types: dict[str, dict[str, str]] = {}

    @contextmanager
    def transaction(self) -> Iterator[None]:
        try:
            with self._connection.transaction():
                yield
        except psycopg.OperationalError as error:
            raise TransientFailure(f"the store cannot be written: {error}") from error

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        cursor = self._connection.execute(_percent(sql), parameters)
        return cursor.fetchall() if cursor.description else []

    def put(
        self,
        table: str,
        columns: Sequence[str],
        key: Sequence[str],
        rows: Sequence[Sequence[Any]],
        *,
        fixed: Collection[str] = (),
    ) -> None:
        """One statement whatever the number of rows: an array for each column."""
        if not rows:
            return
        types = self._types_of(table)
        arrays = ", ".join(f"%b::{types[column]}[]" for column in columns)
        changes = _changes(tuple(columns), tuple(key), tuple(fixed))
        statement = f"insert into {table} ({', '.join(columns)}) select * from unnest({arrays}) {changes}"  # noqa: S608 (our own names)
        self._connection.execute(statement, [list(values) for values in zip(*rows, strict=True)])

    def mark(self, table: str, column: str, mark: str, key: str, keys: Iterable[Any]) -> None:
        statement = f"update {table} set {column} = %s where {key} = any(%b)"  # noqa: S608 (our own names)
        self._connection.execute(statement, (mark, list(keys)))

    def _types_of(self, table: str) -> dict[str, str]:
        if table not in self._types:
            rows = self._connection.execute(
                "select column_name, data_type from information_schema.columns "
                "where table_name = %s and table_schema = current_schema()",
                (table,),
            )
            self._types[table] = {str(name): str(kind) for name, kind in rows.fetchall()}
        return self._types[table]

    def find(self, question: str, column: str, values: Iterable[Any]) -> Iterator[Row]:
        for some in _chunks(values):
            yield from self._connection.execute(f"{_percent(question)} {column} = any(%b)", (some,)).fetchall()

    def now_us(self) -> int:
        return int(self.execute("select (extract(epoch from clock_timestamp()) * 1000000)::bigint")[0][0])

    def close(self) -> None:
        self._connection.close()


@lru_cache(maxsize=256)
def _percent(sql: str) -> str:
    return sql.replace("?", "%s")


def open_database(store_url: str, data: Path) -> Database:
    """The database a setting names: `postgresql://…`, or empty for a file in the data directory."""
    if store_url.startswith(("postgresql://", "postgres://")):
        return PostgresDatabase(store_url)
    if store_url:
        raise FatalFailure(
            f"CHARGEHAND_STORE_URL begins with neither postgresql:// nor is it empty: {store_url[:20]!r}…"
        )
    return SqliteDatabase(data / "dispatcher.db")
