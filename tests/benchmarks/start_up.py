"""How long people wait for words: `chargehand --help`, and a second `chargehand up` to its login link.

Owns the stop watch. Beside the help runs a bare interpreter, which nothing written in Python can beat.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import Figure, at_most
from benchmarks.place import Place, Size, WrongResult

_TIMES = {Size.SHORT: 2, Size.SMALL: 10, Size.FULL: 10}
_HELP_WITHIN_MS = 150
_LINK_WITHIN_S = 6
_HELP = (str(Path(sys.executable).with_name("chargehand")), "--help")
_NOTHING = (sys.executable, "-c", "pass")


def measure(place: Place) -> list[Figure]:
    """The help in milliseconds (a run is the median of ten), the link in seconds."""
    _milliseconds(_HELP)
    runs = [_help_and_nothing(_TIMES[place.size]) for _ in range(place.size.runs)]
    return [
        Figure("`chargehand --help`", "ms", tuple(run[0] for run in runs), at_most(_HELP_WITHIN_MS)),
        Figure("`python -c pass` beside it", "ms", tuple(run[1] for run in runs)),
        Figure("second `chargehand up` to its login link", "s", _second_starts(place), at_most(_LINK_WITHIN_S)),
    ]


def _help_and_nothing(times: int) -> tuple[float, float]:
    pairs = [(_milliseconds(_HELP), _milliseconds(_NOTHING)) for _ in range(times)]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def _milliseconds(argv: Sequence[str]) -> float:
    began = time.perf_counter()
    done = subprocess.run(argv, capture_output=True, check=True)
    took_ms = 1000 * (time.perf_counter() - began)
    if argv is _HELP and b"Usage" not in done.stdout:
        raise WrongResult(f"no help: {done.stdout[:200]!r}")
    return took_ms


def _second_starts(place: Place) -> tuple[float, ...]:
    """Starts on a data directory that was used before, until the banner with the link is out."""
    taken: list[float] = []
    with place.installation() as installation:
        for _ in range(place.size.runs):
            installation.stop()
            began = time.perf_counter()
            installation.start()
            taken.append(time.perf_counter() - began)
            if "/login" not in installation.banner["login_url"]:
                raise WrongResult(f"no login link: {installation.banner}")
    return tuple(taken)
