"""Processes as the launcher needs them: one that dies with us, and one that is recognised again by whoever comes later.

Owns both; no Kafka enters here. On Linux a `BoundProcess` is killed by the kernel when our process ends, however it ends, so
that nothing stays behind after a kill -9. Elsewhere there is no such thing: there the mark in a file is how the next start
finds it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_LOOK_AGAIN_S = 0.02

# Runs between fork and exec of the real program, as a program of its own: code in a forked copy of a process with threads
# may find a lock held for ever. PR_SET_PDEATHSIG is 1. A parent that died before the call is seen by the changed getppid.
_BIND = """
import ctypes, os, signal, sys
if ctypes.CDLL(None, use_errno=True).prctl(1, int(signal.SIGKILL), 0, 0, 0) != 0 or os.getppid() != int(sys.argv[1]):
    sys.exit(70)
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True)
class ProcessMark:
    """A process, told apart from a later one with the same number by when it began."""

    pid: int
    began: str

    def is_running(self) -> bool:
        """Whether this very process is still there (a zombie is not)."""
        return mark_of(self.pid) == self


def mark_of(pid: int) -> ProcessMark | None:
    """The mark of a running process; None if there is none, or only its zombie."""
    began = _began_by_proc(pid) if _BOOT_ID.exists() else _began_by_ps(pid)
    return None if began is None else ProcessMark(pid, began)


def own_mark() -> ProcessMark:
    """The mark of the process this runs in."""
    mark = mark_of(os.getpid())
    if mark is None:
        raise OSError("this process is not listed among the processes of the system")
    return mark


def end(mark: ProcessMark, within: timedelta) -> bool:
    """Ask a process to end (SIGTERM) and kill it when it has not by then. Returns whether it ended by itself."""
    asked = _signal(mark, signal.SIGTERM) and _is_gone(mark, within)
    if not asked and _signal(mark, signal.SIGKILL):
        _is_gone(mark, within)
    return asked


class BoundProcess:
    """A child in a session of its own (Ctrl-C at our terminal is not for it) that does not outlive us.

    The kernel binds a child to the *thread* that made it. So this one is made by a thread that does nothing else and waits
    for it to the end.
    """

    def __init__(self, argv: Sequence[str], *, directory: Path, environment: Mapping[str, str], output: Path) -> None:
        """Start it; `output` takes both its streams, mode 0600. OSError if it cannot be started."""
        made: Future[subprocess.Popen[bytes]] = Future()
        arguments = (made, _bound(argv), directory, environment, output)
        self._thread = threading.Thread(target=_live, args=arguments, name=f"waits for {argv[0]}", daemon=True)
        self._thread.start()
        self._child = made.result()

    @property
    def pid(self) -> int:
        return self._child.pid

    def exit_status(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._child.poll()

    def wait(self, within: timedelta) -> int:
        """Its exit status once it has ended; it is killed when it has not by then."""
        self._thread.join(within.total_seconds())
        self.stop(timedelta())
        return self._child.returncode

    def stop(self, within: timedelta, asked_by: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end, kill it when it has not by then, and wait until it is gone."""
        self._child.send_signal(asked_by)
        self._thread.join(within.total_seconds())
        if self._thread.is_alive():
            self._child.kill()
            self._thread.join()


def _live(
    made: Future[subprocess.Popen[bytes]],
    argv: Sequence[str],
    directory: Path,
    environment: Mapping[str, str],
    output: Path,
) -> None:
    try:
        with open(output, "wb", opener=_owner_only) as stream:
            child = subprocess.Popen(
                argv,
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        made.set_exception(error)
        return
    made.set_result(child)
    child.wait()


def _bound(argv: Sequence[str]) -> Sequence[str]:
    if not sys.platform.startswith("linux"):
        return argv
    return [sys.executable, "-I", "-S", "-c", _BIND, str(os.getpid()), *argv]


def _owner_only(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _began_by_proc(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        boot_id = _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return None
    # The name of the program stands in brackets and may hold anything; the state and the 19th field after it are fixed.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else f"{boot_id} {fields[19]}"


def _began_by_ps(pid: int) -> str | None:
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    in_english = os.environ | {"LC_ALL": "C"}
    answer = subprocess.run(command, capture_output=True, text=True, env=in_english, check=False).stdout.strip()
    return None if not answer or answer.startswith("Z") else answer.partition(" ")[2].strip()


def _signal(mark: ProcessMark, number: signal.Signals) -> bool:
    if not mark.is_running():
        return False
    try:
        os.kill(mark.pid, number)
    except ProcessLookupError:
        return False
    return True


def _is_gone(mark: ProcessMark, within: timedelta) -> bool:
    deadline = time.monotonic() + within.total_seconds()
    while mark.is_running() and time.monotonic() < deadline:
        time.sleep(_LOOK_AGAIN_S)
    return not mark.is_running()
