"""When a reporter that runs reads nothing any more, and must begin anew.

Owns that judgement, of what is seen every few seconds. What Faust's client thinks of itself is not asked: after a broker was killed
at the wrong moment it has waited for ever, for its group or for a fetch, and called itself well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Place = tuple[str, int]
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Seen:
    """At `moment_s` on some clock: how many partitions are assigned, the next offset of each that was read, and how many records
    are folded and not acknowledged yet."""

    moment_s: float
    assigned: int
    positions: Mapping[Place, int]
    unacknowledged: int


class Stalls:
    """Judges one look after the other."""

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._positions: dict[Place, int] = {}
        self._moved_at_s: float | None = None
        self._assigned_at_s: float | None = None

    def judge(self, seen: Seen) -> str:
        """Why it must begin anew; empty: nothing is known against it."""
        if seen.assigned or self._assigned_at_s is None:
            self._assigned_at_s = seen.moment_s
        if seen.moment_s - self._assigned_at_s > self._after_s:
            return f"no partition was assigned for {self._after_s:g} s, and so nothing is read"
        return ""

    def is_to_be_asked(self, seen: Seen) -> bool:
        """Whether nothing has moved for so long that the logs themselves are to be asked (`behind`); then not again for as long."""
        has_moved = dict(seen.positions) != self._positions or seen.unacknowledged > 0
        if has_moved or self._moved_at_s is None:
            self._positions, self._moved_at_s = dict(seen.positions), seen.moment_s
        if seen.moment_s - self._moved_at_s <= self._after_s:
            return False
        self._moved_at_s = seen.moment_s
        return True


def behind(ends: Mapping[Place, int], stored: Mapping[Place, int]) -> str:
    """Why it must begin anew, of the ends of its logs and the next offsets that its store has folded; empty: it has read them all."""
    waiting = {place: end - stored.get(place, 0) for place, end in ends.items() if end > stored.get(place, 0)}
    if not waiting:
        return ""
    shown = ", ".join(f"{topic}/{number}: {count}" for (topic, number), count in sorted(waiting.items())[:_SHOWN])
    return f"{sum(waiting.values())} records wait and none arrives ({shown})"
