"""The store from the event loop: blocking calls in threads, a sign after each commit, the points where a test ends the process.

Owns the threads. What is asked and written is the caller's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from chargehand_chassis.faults import FaultPoints

from .store import Change, PlannerStore

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 4


class StoreGate:
    """One store, used from one event loop."""

    def __init__(self, store: PlannerStore, faults: FaultPoints) -> None:
        self.store = store
        self.committed = asyncio.Event()
        self._faults = faults
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="store")

    async def ask(self, query: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """The answer of a blocking query of the store."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: query(*arguments, **named))

    async def record(self, change: Change, point: str) -> None:
        """Write a change; `point` names the fault points before and after it. Raises what the store raises."""
        self._faults.reach(f"planner.before_{point}_stored")
        await self.ask(self.store.record, change)
        self._faults.reach(f"planner.after_{point}_stored")
        self.committed.set()

    def close(self) -> None:
        """Wait for what is being asked, then close."""
        self._threads.shutdown(wait=True)
        self.store.close()
