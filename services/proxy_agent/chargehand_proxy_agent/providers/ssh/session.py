"""One session on an open connection: its bytes in, its bytes out, never more of them in memory than a fixed amount.

Owns the channel. What the bytes mean is wrapper.py's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import timedelta
from typing import cast

import asyncssh

MAX_WAITING_BYTES = 512 * 1024
_RESUME_BYTES = 128 * 1024
_MAX_STDERR_BYTES = 2048
_WINDOW_BYTES = 1024 * 1024


class SessionLost(Exception):
    """The session cannot be opened, or is gone before its end. The text is not yet harmless."""


class Session(asyncssh.SSHClientSession[bytes]):
    """A running command. Reading stops at the host's side when nobody takes what has come."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._is_paused = False
        self._is_over = False
        self._failure: Exception | None = None
        self._news = asyncio.Event()
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self.stderr = bytearray()

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if datatype is not None:
            self.stderr += data[: _MAX_STDERR_BYTES - len(self.stderr)]
            return
        self._chunks.append(data)
        self._waiting_bytes += len(data)
        self._news.set()
        if self._waiting_bytes > MAX_WAITING_BYTES and not self._is_paused and self._channel is not None:
            self._is_paused = True
            self._channel.pause_reading()

    def eof_received(self) -> bool:
        self._end(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc)

    def write(self, data: bytes) -> None:
        """Raises SessionLost when the channel is closed."""
        if self._channel is None or self._is_over:
            raise SessionLost("the session is closed")
        try:
            self._channel.write(data)
        except OSError as error:
            raise SessionLost(str(error)) from error

    def write_last(self, data: bytes) -> None:
        """Write, and nothing after it. Raises SessionLost when the channel is closed."""
        self.write(data)
        if self._channel is not None:
            self._channel.write_eof()

    async def read(self, within: timedelta) -> bytes:
        """What has come, at least one byte; empty at the session's end. Raises SessionLost, also when nothing comes in time."""
        while not self._chunks:
            if self._failure is not None:
                raise SessionLost(str(self._failure) or "the connection was cut")
            if self._is_over:
                return b""
            self._news.clear()
            try:
                async with asyncio.timeout(within.total_seconds()):
                    await self._news.wait()
            except TimeoutError:
                raise SessionLost(f"nothing was heard for {within.total_seconds():g} s") from None
        data = self._chunks.popleft()
        self._waiting_bytes -= len(data)
        if self._is_paused and self._waiting_bytes < _RESUME_BYTES and self._channel is not None:
            self._is_paused = False
            self._channel.resume_reading()
        return data

    def close(self) -> None:
        """Let go of it. What it started on the host runs on."""
        self._chunks.clear()
        if self._channel is not None:
            self._channel.abort()

    def _end(self, failure: Exception | None) -> None:
        self._is_over = True
        self._failure = self._failure or failure
        self._news.set()


_UNCHANGED = dict.fromkeys(
    (
        asyncssh.PTY_ECHO, asyncssh.PTY_ICANON, asyncssh.PTY_ISIG, asyncssh.PTY_IEXTEN, asyncssh.PTY_ICRNL,
        asyncssh.PTY_IXON, asyncssh.PTY_IXANY, asyncssh.PTY_OPOST, asyncssh.PTY_ONLCR,
    ),
    0,
)  # fmt: skip


async def open_session(
    connection: asyncssh.SSHClientConnection, command: str, within: timedelta, *, has_terminal: bool = False
) -> Session:
    """Run a command, on a terminal that changes no byte if asked. Raises SessionLost: nothing was run, or nothing was heard of it."""
    try:
        async with asyncio.timeout(within.total_seconds()):
            _, session = await connection.create_session(
                Session, command, encoding=None, window=_WINDOW_BYTES, request_pty=has_terminal,
                term_type="dumb" if has_terminal else None, term_modes=_UNCHANGED if has_terminal else {}, send_env=None, env=None,
            )  # fmt: skip
            return cast(Session, session)
    except TimeoutError:
        raise SessionLost(f"no session within {within.total_seconds():g} s") from None
    except (asyncssh.Error, OSError) as error:
        raise SessionLost(str(error) or type(error).__name__) from error
