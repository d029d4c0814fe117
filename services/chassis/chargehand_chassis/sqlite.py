"""SQLite as our stores use it: WAL, full sync, owner-only files, and numbered migrations. Owns opening and migrating."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from .errors import FatalFailure


def open_sqlite(path: Path, *, synchronous: str = "FULL", busy_timeout_ms: int = 10_000) -> sqlite3.Connection:
    """A connection without implicit transactions (`begin immediate` is the caller's). The file is made with mode 0600."""
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
    """Bring the schema to version len(steps), one transaction a step. FatalFailure if the file is newer than this program."""
    present = connection.execute("pragma user_version").fetchone()[0]
    if present > len(steps):
        raise FatalFailure(
            f"the store has schema version {present}, this program knows {len(steps)}: use a newer release"
        )
    for version, step in enumerate(steps[present:], start=present + 1):
        connection.executescript(f"begin immediate;\n{step}\n;pragma user_version = {version};\ncommit;")
