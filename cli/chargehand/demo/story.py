"""What the demonstration registers and runs. Pure: hosts and a command line, no request is made here.

Owns the plot: 200 simulated hosts and three real ones, one job on all of them, failures of several kinds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chargehand_schemas.commands import HostRecord

SIMULATED = 200
CONCURRENCY = 40
DESCRIPTION = "Check the release on every host"
COMMAND = 'echo release 4.2 is installed; test "$DEMO_HOST" != ssh-gamma || exit 4'
"""Succeeds on two of the real hosts and on most of the simulated ones, whose parameters say how they end."""

_UNREACHABLE = frozenset({193, 196, 199})
"""Near the end: an agent that has just been born cannot prove yet that it never started something (docs/protocol.md, rule ONE)."""
_EXITS = {17: "3", 18: "3", 19: "3", 88: "1", 140: "1", 141: "1"}


def hosts(real: Sequence[Mapping[str, Any]], proxy: str) -> list[HostRecord]:
    """Every host: the three real ones, as they say they are, and the simulated ones."""
    rows = [HostRecord.model_validate({**row, "proxy": proxy}) for row in real]
    return rows + [_simulated(number, proxy) for number in range(1, SIMULATED + 1)]


def _simulated(number: int, proxy: str) -> HostRecord:
    return HostRecord(
        name=f"sim-{number:03d}",
        proxy=proxy,
        groups=("demo", "simulated"),
        parameters={"provider": "simulated", **_behaviour(number)},
    )


def _behaviour(number: int) -> dict[str, str]:
    """How long a simulated host takes, and what becomes of those few that fail."""
    duration = {"sim.duration_s": f"{0.4 + number * 7 % 10 / 8:.1f}"}
    if number in _UNREACHABLE:
        return {"sim.unreachable": "yes"}
    return duration | ({"sim.exit_status": _EXITS[number]} if number in _EXITS else {})


def next_commands(program: str) -> list[tuple[str, str]]:
    """Five commands that work on this data, each with what it shows."""
    return [
        (f"{program} exec --host ssh-alpha -- 'uname -sr; uptime'", "a command on one real host"),
        (f"{program} job show @last", "the last job, host by host"),
        (f"{program} job output @last", "what it printed"),
        (f"{program} host import ~/.ssh/config --dry-run", "your own hosts"),
        (f"{program} event tail notifications --from beginning --no-follow", "what programs are told"),
    ]
