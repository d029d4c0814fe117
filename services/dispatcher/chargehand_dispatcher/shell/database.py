"""SQLite or PostgreSQL behind one small door: a transaction, statements with `?`, and the store's clock.

Owns the differences between the two. Tables and rules do not enter here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import psycopg
from chargehand_chassis.errors import FatalFailure, TransientFailure
from chargehand_chassis.sqlite import open_sqlite

Row = tuple[Any, ...]

_SESSION_LIMITS = (
    "set idle_in_transaction_session_timeout = '5s'",
    "set statement_timeout = '30s'",
    "set lock_timeout = '5s'",
)


class Database(Protocol):
    """What the store needs of a database; used from one thread."""

    def transaction(self) -> Any:
        """A context: all or nothing. TransientFailure when the database cannot be used now."""

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """One statement; its rows."""

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """One statement for many rows."""

    def now_us(self) -> int:
        """The store's clock: microseconds since 1970 (rule CLK)."""

    def close(self) -> None: ...


class SqliteDatabase:
    """One file, one writer."""

    def __init__(self, path: Path) -> None:
        self._connection = open_sqlite(path)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        try:
            self._connection.execute("begin immediate")
            try:
                yield
            except BaseException:
                self._connection.execute("rollback")
                raise
            self._connection.execute("commit")
        except sqlite3.OperationalError as error:
            raise TransientFailure(f"the store cannot be written: {error}") from error

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        return self._connection.execute(sql, parameters).fetchall()

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        self._connection.executemany(sql, rows)

    def now_us(self) -> int:
        import time

        return time.time_ns() // 1000

    def close(self) -> None:
        self._connection.close()


class PostgresDatabase:
    """One connection to PostgreSQL."""

    def __init__(self, dsn: str) -> None:
        try:
            self._connection = psycopg.connect(dsn, autocommit=True)
        except psycopg.OperationalError as error:
            raise TransientFailure(f"PostgreSQL cannot be reached: {error}") from error
        for statement in _SESSION_LIMITS:
            self._connection.execute(statement)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        try:
            with self._connection.transaction():
                yield
        except psycopg.OperationalError as error:
            raise TransientFailure(f"the store cannot be written: {error}") from error

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        cursor = self._connection.execute(sql.replace("?", "%s"), parameters)
        return cursor.fetchall() if cursor.description else []

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        with self._connection.cursor() as cursor:
            cursor.executemany(sql.replace("?", "%s"), rows)

    def now_us(self) -> int:
        return int(self.execute("select (extract(epoch from clock_timestamp()) * 1000000)::bigint")[0][0])

    def close(self) -> None:
        self._connection.close()


def open_database(store_url: str, data: Path) -> Database:
    """The database a setting names: `postgresql://…`, or empty for a file in the data directory."""
    if store_url.startswith(("postgresql://", "postgres://")):
        return PostgresDatabase(store_url)
    if store_url:
        raise FatalFailure(
            f"CHARGEHAND_STORE_URL begins with neither postgresql:// nor is it empty: {store_url[:20]!r}…"
        )
    return SqliteDatabase(data / "dispatcher.db")
