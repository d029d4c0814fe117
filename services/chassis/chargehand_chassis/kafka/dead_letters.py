"""Dead letters: what had no effect is kept with its reason, counted, and alarmed about when there are many.

Owns the shape of the copy and the alarm's limit.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

import structlog
from chargehand_schemas.batches import Outgoing
from chargehand_schemas.dead_letters import MAX_KEPT_BYTES, DeadLetter
from chargehand_schemas.ids import item_id
from chargehand_schemas.topics import DEAD_LETTERS

from ..clock import now
from ..metrics import METRICS
from .publisher import Publisher
from .records import Rejected

ALARM_PER_MINUTE = 60


class DeadLetters:
    """Puts rejected messages on the topic of dead letters, under the service's own signature."""

    def __init__(self, publisher: Publisher, service: str) -> None:
        self._publisher = publisher
        self._service = service
        self._log = structlog.get_logger()
        self._recent: deque[float] = deque(maxlen=ALARM_PER_MINUTE)
        self._alarmed_at = 0.0

    async def put(self, rejected: Sequence[Rejected]) -> None:
        """Returns when acknowledged: only then may the position go on."""
        if not rejected:
            return
        for one in rejected:
            METRICS.dead_letters.labels(one.topic, one.reason.value).inc()
            self._log.warning(
                "dead_letter", topic=one.topic, partition=one.partition, offset=one.offset, reason=one.reason.value
            )
            self._alarm()
        await self._publisher.publish([self._letter(one) for one in rejected])

    def _letter(self, one: Rejected) -> Outgoing:
        value = one.record.value or b""
        letter = DeadLetter(
            id=item_id("dead-letter", self._service, one.topic, one.partition, one.offset),
            time=now(),
            service=self._service,
            reason=one.reason,
            detail=one.detail[:2048],
            topic=one.topic,
            partition=one.partition,
            offset=one.offset,
            key=(one.record.key or b"")[:1024],
            headers=tuple((name[:128], (header or b"")[:1024]) for name, header in list(one.record.headers)[:32]),
            value=value[:MAX_KEPT_BYTES],
            value_length=len(value),
        )
        return Outgoing(DEAD_LETTERS.name, (one.record.key or b"")[:1024].decode("utf-8", "replace"), letter)

    def _alarm(self) -> None:
        moment = time.monotonic()
        self._recent.append(moment)
        is_many = len(self._recent) == ALARM_PER_MINUTE and moment - self._recent[0] < 60
        if is_many and moment - self._alarmed_at > 60:
            self._alarmed_at = moment
            self._log.error("many_dead_letters", in_last_minute_at_least=ALARM_PER_MINUTE)
