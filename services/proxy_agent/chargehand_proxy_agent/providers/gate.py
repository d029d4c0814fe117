"""A bound on how many do something at once, which those that only wait cannot fill.

Owns that one rule. What is bounded by it stays with who bounds: connections being set up (shell/visits.py), handshakes (ssh).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta


@dataclass(slots=True)
class Gate:
    """Lets a bounded number through at once, and forgets those that stay longer than `patience`."""

    slots: asyncio.Semaphore
    patience: timedelta

    @asynccontextmanager
    async def entered(self) -> AsyncIterator[None]:
        """Held for a handshake, or for `patience` if that is shorter."""
        await self.slots.acquire()
        is_held = True

        def leave() -> None:
            nonlocal is_held
            if is_held:
                is_held = False
                self.slots.release()

        timer = asyncio.get_running_loop().call_later(self.patience.total_seconds(), leave)
        try:
            yield
        finally:
            timer.cancel()
            leave()
