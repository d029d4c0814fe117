"""Noticing that the read model changed: looked at often while somebody waits for something soon, and not at all otherwise.

Owns when it is looked at. What changed is asked by who waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

SOON_S = 0.004
IDLE_S = 0.025
_SOON_FOR_S = 2.0


class Changes:
    """A number that grows with every change that was noticed.

    Take the number, then read, then wait beyond the number: nothing that came between is missed.
    """

    def __init__(self, look: Callable[[], Awaitable[int]]) -> None:
        self._look = look
        self._seen: int | None = None
        self._changed_at = 0.0
        self._waiting: set[asyncio.Future[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self.number = 0

    async def beyond(self, number: int, timeout_s: float) -> int:
        """Wait until something changed after `number` was read, or for so long; the number then."""
        if self.number > number:
            return self.number
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch(), name="changes")
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(future, timeout_s)
        finally:
            self._waiting.discard(future)
        return self.number

    def hurry(self) -> None:
        """Something is about to happen: look more often for a while."""
        self._changed_at = time.monotonic()

    def wake_all(self) -> None:
        """Let everybody look again: the process stops."""
        self.number += 1
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def _watch(self) -> None:
        """Ends by itself when nobody waits any more."""
        while self._waiting:
            seen = await self._look()
            if seen != self._seen:
                self._seen = seen
                self._changed_at = time.monotonic()
                self.wake_all()
            is_soon = time.monotonic() - self._changed_at < _SOON_FOR_S
            await asyncio.sleep(SOON_S if is_soon else IDLE_S)
