"""When a service that ended is started again. Pure: times are given.

Owns the delays and what counts as a crash loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 30.0
WINDOW = timedelta(seconds=60)
LOOP_OF = 4
NEEDS_A_PERSON = 78
"""Exit status of a service that a restart does not help (the chassis' EXIT_FATAL)."""


def restart_delay_s(ends: Sequence[float], now: float) -> float:
    """Seconds to wait after the last of these ends (on one clock): doubled for each further one within the last minute."""
    recent = sum(1 for end in ends if now - end <= WINDOW.total_seconds())
    return min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** max(0, recent - 1))


def is_crash_loop(ends: Sequence[float], now: float) -> bool:
    """Whether it ended so often within the last minute that a person must be told."""
    return sum(1 for end in ends if now - end <= WINDOW.total_seconds()) >= LOOP_OF


def is_news(count: int) -> bool:
    """Whether a person is told of the nth end of a crash loop: when it is seen to be one, and at every tenth."""
    return count == LOOP_OF or count % 10 == 0


def why_it_ended(status: int) -> str:
    """An exit status in words; negative ones are signals."""
    if status < 0:
        return f"was ended by signal {-status}"
    if status == NEEDS_A_PERSON:
        return f"ended with status {status}: something must be set right first"
    return f"ended with status {status}"
