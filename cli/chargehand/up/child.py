"""One child process: started, watched until it is ready, started again when it ends, stopped.

Owns its life. Why it ended is for its log; when it is started again is decided in `backoff`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..embedded.processes import mark_of
from .backoff import NEEDS_A_PERSON, is_crash_loop, is_news, restart_delay_s, why_it_ended
from .health import ask, until_ready
from .logs import last_words, open_log
from .ports import any_free, is_free
from .state import ChildState

STOP_WITHIN_S = 10.0
_ALIVE_EVERY_S = 15.0
_DEAD_AFTER = 8
_LONG_RUN_S = 300.0


@dataclass(frozen=True, slots=True)
class Program:
    """What to start: the whole environment is given. `address` is where people find it; `health_port` 0: ready at once."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    address: str = ""
    health_port: int = 0


Late = Callable[[], Awaitable[Mapping[str, str]]]


class Child:
    """A program kept running. `tell(text, is_grave)` is told what happens; grave things are for the person at the terminal."""

    def __init__(
        self,
        program: Program,
        tell: Callable[[str, bool], None],
        changed: Callable[[], None] = lambda: None,
        late: Late | None = None,
    ) -> None:
        """`late` gives settings that are not known yet when the program is started; it waits for them on its standard
        input, and imports what it needs meanwhile."""
        self.program = program
        self._late = late
        self.ready = asyncio.Event()
        self.gave_up = asyncio.Event()
        self._tell = tell
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        self._state: ChildState | None = None
        self._port = program.health_port
        self._ends: list[float] = []
        self._is_stopping = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def state(self) -> ChildState | None:
        """The running process, if there is one."""
        return self._state

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep_running(), name=f"keeps {self.program.name} running")

    async def stop(self) -> None:
        """SIGTERM, ten seconds, SIGKILL. Returns when the process is gone."""
        self._is_stopping = True
        self._wake.set()
        process = self._process
        if process is not None and process.returncode is None:
            _signal(process, signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_WITHIN_S):
                    await process.wait()
            except TimeoutError:
                self._tell(f"{self.program.name} did not stop within {STOP_WITHIN_S:g} s and is killed", True)
                _signal(process, signal.SIGKILL)
        if self._task is not None:
            await self._task

    async def _keep_running(self) -> None:
        while not self._is_stopping:
            status = await self._run_once()
            self._state = None
            self.ready.clear()
            self._changed()
            if self._is_stopping:
                return
            if status == NEEDS_A_PERSON:
                self._tell_with_log(f"{self.program.name} {why_it_ended(status)}. It is not started again.")
                self.gave_up.set()
                return
            await self._pause(status)

    async def _run_once(self) -> int:
        """Start it, see it ready, see it end. The exit status; negative: the signal."""
        began = time.monotonic()
        try:
            process = self._process = await self._spawn()
        except OSError as error:
            self._tell(f"{self.program.name} cannot be started: {error}", True)
            return 1
        if self._is_stopping:
            _signal(process, signal.SIGTERM)  # the wish to stop came while it was being made
        mark = mark_of(process.pid)
        health = f"http://127.0.0.1:{self._port}" if self._port else ""
        self._state = ChildState(
            self.program.name, process.pid, mark.began if mark else "", self.program.address, health
        )
        self._changed()
        watching = asyncio.create_task(self._watch(process), name=f"watches {self.program.name}")
        status = await process.wait()
        watching.cancel()
        await asyncio.wait({watching})
        if time.monotonic() - began > _LONG_RUN_S:
            self._ends.clear()
        return status

    async def _spawn(self) -> asyncio.subprocess.Process:
        if self._port and not is_free(self._port):
            self._port = any_free(1)[0]
        environment = dict(self.program.environment)
        if self._port:
            environment["CHARGEHAND_HEALTH_PORT"] = str(self._port)
        log = open_log(self.program.log)
        try:
            # A session of its own: Ctrl-C at our terminal is for us, and we stop our children in order.
            return await asyncio.create_subprocess_exec(
                *self.program.argv,
                stdin=asyncio.subprocess.DEVNULL if self._late is None else asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        finally:
            os.close(log)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Until it is ready, and then that it answers at all: a process that is stuck as a whole cannot end itself."""
        await self._tell_settings(process)
        await self._until_ready()
        silent = 0
        while self._port:
            await asyncio.sleep(_ALIVE_EVERY_S)
            silent = 0 if await ask(self._port, "/healthz") is not None else silent + 1
            if silent >= _DEAD_AFTER:
                self._tell(f"{self.program.name} does not answer any more and is killed", True)
                _signal(process, signal.SIGKILL)
                return

    async def _until_ready(self) -> None:
        """Also if a person is needed: then it is said, and it runs on with what it can do."""
        why = await until_ready(self._port) if self._port else ""
        if why:
            self._tell_with_log(f"{self.program.name} is not ready, and waiting does not help: {why}")
            self.gave_up.set()
        while why:
            await asyncio.sleep(_ALIVE_EVERY_S)
            why = await until_ready(self._port)
        self.ready.set()

    async def _tell_settings(self, process: asyncio.subprocess.Process) -> None:
        if self._late is None or process.stdin is None:
            return
        settings = await self._late()
        process.stdin.write("".join(f"{name}={value}\n" for name, value in settings.items()).encode() + b".\n")
        process.stdin.close()

    async def _pause(self, status: int) -> None:
        moment = time.monotonic()
        self._ends.append(moment)
        delay_s = restart_delay_s(self._ends, moment)
        text = f"{self.program.name} {why_it_ended(status)}; it is started again in {delay_s:.1f} s"
        if is_crash_loop(self._ends, moment) and is_news(len(self._ends)):
            self._tell_with_log(f"{text}. It ended {len(self._ends)} times.")
        else:
            self._tell(text, False)
        try:
            async with asyncio.timeout(delay_s):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _tell_with_log(self, text: str) -> None:
        lines = [f"    {line[:300]}" for line in last_words(self.program.log)]
        self._tell("\n".join([text, f"  its log, {self.program.log}, says:", *lines]), True)


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except ProcessLookupError:
        return
