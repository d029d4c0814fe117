"""SQLite as our stores use it: WAL, full sync, owner-only files, numbered migrations, and failures that name the file.

Owns opening, migrating, and what is said when a disk is full or may not be written.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .errors import FatalFailure, TransientFailure


def open_sqlite(path: Path, *, synchronous: str = "FULL", busy_timeout_ms: int = 10_000) -> sqlite3.Connection:
    """A connection without implicit transactions (`begin immediate` is the caller's). The file is made with mode 0600.
    TransientFailure if it cannot be had now."""
    with explained(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        connection.execute(f"pragma busy_timeout = {busy_timeout_ms}")
        connection.execute("pragma journal_mode = wal")
        connection.execute(f"pragma synchronous = {synchronous}")
        connection.execute("pragma foreign_keys = on")
    return connection


def migrate(connection: sqlite3.Connection, steps: Sequence[str]) -> None:
    """Bring the schema to version len(steps), one transaction a step. FatalFailure if the file is newer than this program,
    TransientFailure if it cannot be written now."""
    with explained(_file_of(connection)):
        present = connection.execute("pragma user_version").fetchone()[0]
        if present > len(steps):
            raise FatalFailure(
                f"the store has schema version {present}, this program knows {len(steps)}: use a newer release"
            )
        for version, step in enumerate(steps[present:], start=present + 1):
            connection.executescript(f"begin immediate;\n{step}\n;pragma user_version = {version};\ncommit;")


def unusable(path: Path, error: Exception) -> str:
    """What is said of a file that cannot be read or written now: which, why, what to do."""
    return f"{path} cannot be used: {error}; free space or mend permissions, it goes on then"


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Failures of a file as the loop's own, with its name."""
    try:
        yield
    except (sqlite3.OperationalError, OSError) as error:
        raise TransientFailure(unusable(path, error)) from error


def _file_of(connection: sqlite3.Connection) -> Path:
    return Path(connection.execute("pragma database_list").fetchone()[2])
