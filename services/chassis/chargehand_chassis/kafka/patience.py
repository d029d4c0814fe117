"""How long a fetch waits at the broker for records: short after some came, longer and longer while none do.

Owns that one number of a consumer. A record never waits for it: the broker answers as soon as it has one. What waits is whatever
else is asked on the same connection, e.g. a fetch of partitions that the waiting one leaves out because their records were not
taken yet; so a busy consumer waits briefly. An idle one wakes its service and the broker with each fetch, and waits long.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from aiokafka import AIOKafkaConsumer

SHORTEST_S = 0.1
LONGEST_S = 5.0


class Patience:
    """Of one consumer that is started; told each time when its records were asked for."""

    def __init__(self, consumer: AIOKafkaConsumer, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._consumer = consumer
        self._clock_s = clock_s
        self._quiet_since = clock_s()
        self.wait_s = SHORTEST_S

    def looked(self, has_news: bool) -> None:
        """Records were asked for, and some came or none. The next fetch waits half as long as it has been quiet."""
        moment = self._clock_s()
        if has_news:
            self._quiet_since = moment
        self.wait_s = min(LONGEST_S, max(SHORTEST_S, (moment - self._quiet_since) / 2))
        fetcher = self._consumer._fetcher
        fetcher._fetch_max_wait_ms = round(1000 * self.wait_s)
        # The fetcher looks round by itself as well; what it waits for wakes it, and its fetch is over before this.
        fetcher._fetcher_timeout = 2 * self.wait_s
