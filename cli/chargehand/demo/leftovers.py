"""What the demonstration's hosts have left running, found by the mark in its environment and ended. Owns the search.

Only Linux shows environments of processes; elsewhere a job ends with its own time limit.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

from .mark import MARK


def end_marked(value: str) -> int:
    """SIGKILL to every process of ours that carries this mark; how many there were."""
    count = 0
    for pid in marked(value):
        try:
            os.kill(pid, signal.SIGKILL)
            count += 1
        except ProcessLookupError:
            continue
    return count


def marked(value: str) -> Iterator[int]:
    """Processes, other than this one, with the mark."""
    wanted = f"{MARK}={value}".encode()
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            environment = (directory / "environ").read_bytes()
        except OSError:
            continue  # gone, or somebody else's
        if wanted in environment.split(b"\0") and int(directory.name) != os.getpid():
            yield int(directory.name)
