"""Logins by link: single-use codes and the sessions they are exchanged for, as digests only.

Owns `gateway.db` in the gateway's data directory. What a person may do is looked up in the read model at every request.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from datetime import datetime, timedelta
from pathlib import Path

from chargehand_chassis.sqlite import migrate, open_sqlite

from ..store.mapping import micros

_STEPS = (
    """
create table login_links (code_sha256 text primary key, login text not null, expires_at integer not null);
create table sessions (session_sha256 text primary key, login text not null, expires_at integer not null);
""",
)
_SECRET_BYTES = 32


def digest(secret: str) -> str:
    """SHA-256 (hex) of a token, code or cookie: what is stored and looked up."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


class Sessions:
    """Codes and sessions; safe to use from several threads."""

    def __init__(self, directory: Path) -> None:
        self._lock = threading.Lock()
        self._database = open_sqlite(directory / "gateway.db", synchronous="NORMAL")
        migrate(self._database, _STEPS)

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def issue_code(self, login: str, moment: datetime, lifetime: timedelta) -> str:
        """A code that logs in once. Codes and sessions that are over are swept away on this occasion."""
        code = secrets.token_urlsafe(_SECRET_BYTES)
        with self._lock:
            for table in ("login_links", "sessions"):
                self._database.execute(f"delete from {table} where expires_at <= ?", (micros(moment),))  # noqa: S608
            self._database.execute(
                "insert into login_links values (?, ?, ?)", (digest(code), login, micros(moment + lifetime))
            )
        return code

    def exchange(self, code: str, moment: datetime, lifetime: timedelta) -> tuple[str, str] | None:
        """The login and a new session's secret for a code that was not used yet and is still good; else None."""
        with self._lock:
            found = self._database.execute(
                "delete from login_links where code_sha256 = ? returning login, expires_at", (digest(code),)
            ).fetchone()
            if found is None or found[1] <= (micros(moment) or 0):
                return None
            session = secrets.token_urlsafe(_SECRET_BYTES)
            self._database.execute(
                "insert into sessions values (?, ?, ?)", (digest(session), found[0], micros(moment + lifetime))
            )
        return found[0], session

    def login_of(self, session_digest: str, moment: datetime) -> str | None:
        """Whose living session this is."""
        with self._lock:
            found = self._database.execute(
                "select login from sessions where session_sha256 = ? and expires_at > ?",
                (session_digest, micros(moment)),
            ).fetchone()
        return None if found is None else str(found[0])

    def end(self, session_digest: str) -> None:
        """Log out."""
        with self._lock:
            self._database.execute("delete from sessions where session_sha256 = ?", (session_digest,))
