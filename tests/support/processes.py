"""Processes that tests start: remembered with when they began, and found again whoever their parent has become.

Owns the register and the mark in the environment which every descendant inherits. Only what is ours is ever looked for.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta

import psutil

from support.waiting import wait_until

SESSION_VARIABLE = "CHARGEHAND_TEST_SESSION"
"""Set for the whole run; a process whose value begins with ours is ours, also after its parent is gone."""

HOST_VARIABLE = "CHARGEHAND_TEST_HOST"
"""Set in every session of an ssh host of a test: its name."""

FLEET_VARIABLE = "CHARGEHAND_TEST_FLEET"
"""Set in every session of an ssh host of a test: which fleet it belongs to."""

_KILLED_WITHIN = timedelta(seconds=5)
# Of the standard library: it lives as long as the interpreter and ends with it.
_OF_THE_INTERPRETER = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")

_tracked: set[psutil.Process] = set()


def track(pid: int) -> None:
    """Remember a process that may change its parent and does not have our environment."""
    try:
        _tracked.add(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return


def ours() -> list[psutil.Process]:
    """Every living process this run has started: descendants, tracked ones, and those with our mark."""
    me, mark = psutil.Process(), os.environ.get(SESSION_VARIABLE, "")
    with_mark = _with(SESSION_VARIABLE, lambda value: value.startswith(mark)) if mark else ()
    found = {*me.children(recursive=True), *_tracked, *with_mark}
    return [process for process in found if process != me and _is_alive(process) and not _is_of_interpreter(process)]


def marked(variable: str, value: str) -> Iterator[psutil.Process]:
    """Processes of the system that have this variable with this value."""
    return _with(variable, lambda found: found == value) if value else iter(())


def _with(variable: str, is_meant: Callable[[str], bool]) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            found = process.environ().get(variable)
            if found is not None and is_meant(found):
                yield process
        except (psutil.Error, OSError):
            continue


def describe(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {' '.join(process.cmdline())[:160] or process.name()}"
    except psutil.Error:
        return str(process.pid)


def kill(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL to each, and wait until none runs; who has to bury a zombie may take its time."""
    doomed = list(processes)
    for process in doomed:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    wait_until(lambda: not any(map(_is_alive, doomed)), within=_KILLED_WITHIN)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_of_interpreter(process: psutil.Process) -> bool:
    try:
        command = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return any(part in command for part in _OF_THE_INTERPRETER)
