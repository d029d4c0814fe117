"""The planner's side of the rendering processes: starting the zygote, forking workers, talking to one, ending one.

Owns sockets and process ids. Which template goes to which worker is the renderer's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta

from chargehand_chassis.errors import TransientFailure

from .frames import FrameReader, Kind
from .zygote import FORK, KILL, PID, SLOW

_CHUNK = 1 << 18
_STARTED_WITHIN_S = 30.0


class WorkerEnded(Exception):
    """The worker is gone: it used too much time or memory, or crashed."""


class Worker:
    """One worker process; serves one request at a time."""

    def __init__(self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pid = pid
        self._reader = reader
        self._writer = writer
        self._frames = FrameReader()

    async def ask(self, request: bytes, answers: int, patience: timedelta) -> AsyncIterator[tuple[Kind, bytes]]:
        """Its answers, one by one. WorkerEnded when it dies, or gives none within `patience`."""
        self._writer.write(request)
        while answers:
            try:
                async with asyncio.timeout(patience.total_seconds()):
                    data = await self._reader.read(_CHUNK)
            except (TimeoutError, OSError) as error:
                raise WorkerEnded from error
            if not data:
                raise WorkerEnded
            for answer in self._frames.feed(data):
                answers -= 1
                yield answer

    def close(self) -> None:
        """It ends by itself when it reads the end."""
        self._writer.close()


class Zygote:
    """The process workers are forked from. Started when first needed, and again if it is gone."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._lock = asyncio.Lock()
        self.is_isolated = False

    async def start(self) -> None:
        """TransientFailure if it does not start."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            self._process = _spawn(theirs)
        self._control = ours
        self.is_isolated = await self._received(16) == b"isolated"

    async def stop(self) -> None:
        """It ends by itself when its socket is closed, and its workers with it."""
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            await asyncio.to_thread(self._wait)

    def _wait(self) -> None:
        process = self._process
        if process is None:
            return
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    async def fork(self) -> Worker:
        """A new worker. TransientFailure if neither this zygote nor a new one gives one."""
        async with self._lock:
            try:
                return await self._fork()
            except (OSError, TransientFailure):
                await self.stop()
                await self.start()
                return await self._fork()

    async def _fork(self) -> Worker:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with theirs:
                socket.send_fds(self._started(), [FORK], [theirs.fileno()])
                _, pid = PID.unpack(await self._received(PID.size))
        except BaseException:
            ours.close()
            raise
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        return Worker(pid, reader, writer)

    def end(self, worker: Worker) -> None:
        """Kill it, whatever it does."""
        worker.close()
        self._order(KILL, worker)

    def slow_down(self, worker: Worker) -> None:
        """Let everybody else go first."""
        self._order(SLOW, worker)

    def _order(self, order: bytes, worker: Worker) -> None:
        with contextlib.suppress(OSError, TransientFailure):
            self._started().send(PID.pack(order, worker.pid))

    def _started(self) -> socket.socket:
        if self._control is None or self._control.fileno() < 0:
            raise TransientFailure("the rendering process is not started, or stopped already")
        return self._control

    async def _received(self, size: int) -> bytes:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_STARTED_WITHIN_S):
                data = await loop.sock_recv(self._started(), size)
        except TimeoutError:
            data = b""
        if not data:
            raise TransientFailure(f"the rendering process {os.fspath(sys.executable)} ended, or does not answer")
        return data


def _spawn(control: socket.socket) -> subprocess.Popen[bytes]:
    """Started as a plain child: nothing is read from it, and it ends with its socket."""
    return subprocess.Popen(
        [sys.executable, "-I", "-m", "chargehand_planner.shell.rendering.zygote", str(control.fileno())],
        env={},
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(control.fileno(),),
    )
