"""Runs one service: loop, signals, watchdogs, health, exit codes. The one place that catches everything, and exits.

Owns the life of a process. What it does is the service's `main`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import structlog
import uvloop

from .errors import FatalFailure
from .faults import FaultPoints
from .health import Health
from .logs import configure_logs
from .settings import ServiceSettings, WrongSettings, read_settings

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_STALLED = 70
EXIT_FATAL = 78
_CANCELLED_WITHIN_S = 2.0

S = TypeVar("S", bound=ServiceSettings)


class Watchdog:
    """A loop's sign of life. A beat is due at least every `stall_after`, else the process ends and is restarted."""

    def __init__(self, name: str, stall_after_s: float) -> None:
        self.name = name
        self._stall_after_s = stall_after_s
        self._last = time.monotonic()
        self._is_idle = False

    def beat(self) -> None:
        """The loop came round."""
        self._last, self._is_idle = time.monotonic(), False

    def idle(self) -> None:
        """Nothing is expected until the next beat."""
        self._is_idle = True

    def has_stalled(self) -> bool:
        return not self._is_idle and time.monotonic() - self._last > self._stall_after_s


class Context(Generic[S]):
    """What the runner gives to a service: settings, log, health, watchdogs, and the wish to stop."""

    def __init__(self, name: str, settings: S, log: structlog.stdlib.BoundLogger) -> None:
        self.name = name
        self.settings = settings
        self.log = log
        self.health = Health()
        self.stopping = asyncio.Event()
        self.faults = FaultPoints(settings.fault_point)
        self._watchdogs: list[Watchdog] = []

    def watch(self, name: str) -> Watchdog:
        """A new watchdog."""
        watchdog = Watchdog(name, self.settings.stall_after.total_seconds())
        self._watchdogs.append(watchdog)
        return watchdog

    def stalled(self) -> list[str]:
        return [watchdog.name for watchdog in self._watchdogs if watchdog.has_stalled()]


def run_service(name: str, kind: type[S], main: Callable[[Context[S]], Awaitable[None]]) -> int:
    """Run `main`, with the settings of the environment, until it returns, SIGTERM or SIGINT. The exit status: 0 clean, 1 failed,
    70 stalled, 78 needs a person."""
    try:
        settings = read_settings(kind)
    except WrongSettings as wrong:
        print(f"{name} cannot start: {wrong}", file=sys.stderr)
        return EXIT_FATAL
    log = configure_logs(name, settings.instance, settings.log_level, settings.log_format)
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_supervise(Context(name, settings, log), main))


def calm_garbage_collector() -> None:
    """For services whose work makes many short-lived values and few cycles, to be called when they have started: what is there
    stays, and what comes is looked at ten times as rarely. Else what grows with the number of job tasks in hand is looked at again
    and again: a quarter of an agent's processor time with 10,000 of them done and as many more waiting."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def _supervise(context: Context[S], main: Callable[[Context[S]], Awaitable[None]]) -> int:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, context.stopping.set)
    _watch_from_a_thread(context, loop)
    try:
        context.health.serve(context.settings.health_host, context.settings.health_port)
        await _run_until_stopped(context, main)
    except Exception as error:  # noqa: BLE001 (the one place that catches everything, and exits)
        return _exit_status(context, error)
    finally:
        context.health.set_ready(False, "stopped")
        context.health.close()
    context.log.info("service_stopped")
    return EXIT_OK


def _exit_status(context: Context[S], error: Exception) -> int:
    leaves = _leaves(error)
    if any(isinstance(leaf, FatalFailure) for leaf in leaves):
        context.log.critical("fatal_failure", errors=[str(leaf) for leaf in leaves])
        return EXIT_FATAL
    context.log.error("service_failed", errors=[repr(leaf) for leaf in leaves], exc_info=error)
    return EXIT_FAILED


async def _run_until_stopped(context: Context[S], main: Callable[[Context[S]], Awaitable[None]]) -> None:
    """`main` sees `stopping` and returns; what has not returned in time is cancelled."""
    working = asyncio.ensure_future(main(context))
    stopping = asyncio.ensure_future(context.stopping.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not working.done():
        await asyncio.wait({working}, timeout=context.settings.stop_within.total_seconds())
    if not working.done():
        context.log.error("stop_took_too_long", seconds=context.settings.stop_within.total_seconds())
        working.cancel()
        await asyncio.wait({working}, timeout=_CANCELLED_WITHIN_S)
    if working.done() and not working.cancelled():
        working.result()


def _watch_from_a_thread(context: Context[S], loop: asyncio.AbstractEventLoop) -> None:
    """A thread sees a blocked loop, which the loop itself cannot; a supervisor that is gone; and a stop that hangs."""

    def watch() -> None:
        stop_by: float | None = None
        while True:
            time.sleep(1.0)
            stalled = context.stalled()
            if stalled:
                _exit_at_once(context, "stalled", watchdogs=stalled)
            is_orphan = context.settings.parent_pid and os.getppid() != context.settings.parent_pid
            if stop_by is None and (is_orphan or context.stopping.is_set()):
                stop_by = time.monotonic() + context.settings.stop_within.total_seconds() + _CANCELLED_WITHIN_S
                with contextlib.suppress(RuntimeError):  # the loop is closed: it has stopped already
                    loop.call_soon_threadsafe(context.stopping.set)
            if stop_by is not None and time.monotonic() > stop_by:
                _exit_at_once(context, "stop_hangs")

    threading.Thread(target=watch, name="watchdog", daemon=True).start()


def _exit_at_once(context: Context[S], why: str, **more: object) -> None:
    """As kill -9 would, which every service is made for: all that was said is stored."""
    context.log.critical(why, **more)
    sys.stderr.flush()
    os._exit(EXIT_STALLED)


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
