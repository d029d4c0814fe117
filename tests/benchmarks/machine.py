"""Where figures were measured: processor, memory, versions, date, and how much others used of it.

Owns the words. No figure is made here.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil
from chargehand.embedded.jars import KAFKA_VERSION
from support.daemons import find_program


def describe() -> str:
    """One line for the whole run."""
    parts = [
        f"{datetime.now(UTC):%Y-%m-%d}",
        f"{os.cpu_count()} cores ({_processor()})",
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        f"Linux {platform.release().partition('-')[0]}",
        f"Python {platform.python_version()}",
        f"Apache Kafka {KAFKA_VERSION}",
        f"OpenSSH {_openssh()}",
        f"asyncssh {version('asyncssh')}",
        f"ansible-core {version('ansible-core')}",
    ]
    return ", ".join(parts)


class Bystanders:
    """How much of the processors others take while something is measured. What we start must have ended when it is asked."""

    def __init__(self) -> None:
        self._began, self._busy_s, self._ours_s = time.monotonic(), _busy_s(), _ours_s()

    def percent(self) -> float:
        """Of all cores since the beginning; at most so much, as a process of ours that nobody buried counts as another's."""
        others_s = _busy_s() - self._busy_s - (_ours_s() - self._ours_s)
        return max(0.0, 100 * others_s / (time.monotonic() - self._began) / (os.cpu_count() or 1))


def _busy_s() -> float:
    times = psutil.cpu_times()
    return float(sum(times[:8]) - times.idle - times.iowait - times.steal)


def _ours_s() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    match = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE)
    return match[1].strip() if match else platform.machine()


def _openssh() -> str:
    ssh = find_program("ssh")
    if ssh is None:
        return "none"
    said = subprocess.run([ssh, "-V"], capture_output=True, text=True, check=False).stderr
    match = re.search(r"OpenSSH_(\S+?),? ", said)
    return match[1] if match else said.strip()
