"""How far this clock is from the broker's: measured by the append times of our own heartbeats (docs/protocol.md, rule CLK).

Owns the estimate. Times are given; nothing is read here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

TOO_VAGUE = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """The offset (this clock minus the broker's) when it was measured, and by how much wall clock and monotonic clock differed
    then: a step of the wall clock since shows as a change of that difference."""

    offset: timedelta
    drift: timedelta

    def now(self, drift: timedelta) -> timedelta:
        """The offset now, with every step of our clock since the measurement."""
        return self.offset + (drift - self.drift)


def measured(
    previous: ClockOffset | None, sent: datetime, appended: datetime, acked: datetime, drift: timedelta
) -> ClockOffset | None:
    """The estimate after a heartbeat `sent` and `acked` by this clock and `appended` by the broker's.

    The append lies somewhere between; an acknowledgement that took long says too little, and the previous estimate stays.
    """
    if acked - sent > TOO_VAGUE or acked < sent:
        return previous
    return ClockOffset(sent + (acked - sent) / 2 - appended, drift)
