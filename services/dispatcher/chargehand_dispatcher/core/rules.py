"""What the rules depend on besides the job task: the invocation's properties, margins, and facts of the proxy.

Owns these values and their defaults (docs/protocol.md, docs/glossary.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from chargehand_schemas.properties import ExecutionProperties


@dataclass(frozen=True, slots=True)
class Timers:
    """Margins and intervals; settings, so that tests may shorten them."""

    margin: timedelta = timedelta(seconds=5)
    ask_after: timedelta = timedelta(seconds=60)
    ask_again: timedelta = timedelta(seconds=30)
    readable_for: timedelta = timedelta(seconds=30)
    chunk_missing_after: timedelta = timedelta(seconds=60)
    chunk_asks: int = 5
    first_unstarted_wait: timedelta = timedelta(milliseconds=500)
    longest_unstarted_wait: timedelta = timedelta(seconds=60)


class Circumstances(NamedTuple):
    """What holds while one event is judged: the time of the store's clock; up to which instant the log has been read, and since
    when it could be read without a break (rule WM); the properties; the last check-in of the host (rule CHK); whether its
    proxy has exactly one agent (rule ONE); when the attempt was last said to be followed; whether its invocation is halted (rolling);
    how many attempts its proxy takes at once.
    """

    now: datetime
    properties: ExecutionProperties
    timers: Timers = Timers()
    log_read_to: datetime | None = None
    readable_since: datetime | None = None
    last_check_in: datetime | None = None
    has_single_agent: bool = False
    heard_at: datetime | None = None
    start_before: datetime | None = None
    is_halted: bool = False
    proxy_limit: int | None = None

    def is_past(self, deadline: datetime | None) -> bool:
        """Whether a deadline and the margin are over, and the log was read to an end fetched after that (rule WM)."""
        if deadline is None:
            return False
        bound = deadline + self.timers.margin
        return self.now >= bound and self.log_read_to is not None and self.log_read_to >= bound
