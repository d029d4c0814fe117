"""What the agent says, on its way to the broker: at once when idle, in growing batches under load, again until acknowledged.

Owns order and bounds. Facts go one batch after the other, so that they stand in the log in order; output goes in several batches
at once, acknowledged in order, and whoever produces it waits when too much of it is on its way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import structlog
from chargehand_chassis.errors import PublishFailed
from chargehand_chassis.kafka import Publisher
from chargehand_chassis.metrics import METRICS
from chargehand_schemas.base import AttemptItem
from chargehand_schemas.batches import Outgoing
from chargehand_schemas.topics import EXECUTION_EVENTS, PROGRESS_REPORTS

FACTS_AT_ONCE = 4000
OUTPUT_AT_ONCE = 4000
OUTPUT_BYTES_AT_ONCE = 4 * 1024 * 1024
OUTPUT_BATCHES = 3
_ITEM_BYTES = 512
_FIRST_RETRY_S = 0.2
_LONGEST_RETRY_S = 5.0

Acked = Callable[[], None]


class _Waiting(NamedTuple):
    outgoing: Outgoing
    acked: Acked | None
    size: int


class Lane:
    """Items in order. `batches`: how many groups of them may be on their way at once."""

    def __init__(self, publisher: Publisher, *, items: int, size: int, batches: int) -> None:
        self._publisher = publisher
        self._items, self._size = items, size
        self._slots = asyncio.Semaphore(batches)
        self._queue: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._room: list[asyncio.Future[None]] = []
        self._on_the_way = 0
        self._log = structlog.get_logger()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._queue) + self._on_the_way

    def put(self, outgoing: Outgoing, acked: Acked | None) -> None:
        """Take an item; `acked` is called when the broker has it."""
        size = _ITEM_BYTES + len(outgoing.raw or b"")
        self._queue.append(_Waiting(outgoing, acked, size))
        self.size_bytes += size
        self._wake.set()
        self._empty.clear()

    async def carry(self) -> None:
        """Publish what comes, until cancelled."""
        previous: asyncio.Future[None] | None = None
        async with asyncio.TaskGroup() as group:
            while True:
                await self._wake.wait()
                await self._slots.acquire()
                batch = self._take()
                previous = group.create_task(self._publish(batch, previous))

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        while self._queue and len(batch) < self._items and size < self._size:
            batch.append(self._queue.popleft())
            size += batch[-1].size
        self._on_the_way += len(batch)
        if not self._queue:
            self._wake.clear()
        return batch

    async def _publish(self, batch: list[_Waiting], previous: asyncio.Future[None] | None) -> None:
        await self._until_acknowledged([one.outgoing for one in batch])
        if previous is not None and not previous.done():
            await asyncio.wait({previous})
        self._slots.release()
        self._on_the_way -= len(batch)
        for one in batch:
            self.size_bytes -= one.size
            if one.acked is not None:
                one.acked()
        self.give_room()
        if not self._queue and not self._on_the_way:
            self._empty.set()

    async def _until_acknowledged(self, outgoing: list[Outgoing]) -> None:
        delay = _FIRST_RETRY_S
        while True:
            try:
                await self._publisher.publish(outgoing)
            except PublishFailed as error:
                self._log.warning("not_acknowledged", items=len(outgoing), error=str(error), again_in_s=delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2, _LONGEST_RETRY_S)
            else:
                return

    async def flushed(self) -> None:
        """Wait until nothing is on its way."""
        await self._empty.wait()

    async def room(self) -> None:
        """Wait until something was acknowledged."""
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._room.append(waiting)
        await waiting

    def give_room(self) -> None:
        """Let those who wait look again."""
        waiting, self._room = self._room, []
        for one in waiting:
            if not one.done():
                one.set_result(None)


class Outbox:
    """Facts and output of attempts, each in its lane and with its producer: a fact does not wait behind output."""

    def __init__(self, facts: Publisher, output: Publisher) -> None:
        self.facts = Lane(facts, items=FACTS_AT_ONCE, size=OUTPUT_BYTES_AT_ONCE, batches=1)
        self.output = Lane(output, items=OUTPUT_AT_ONCE, size=OUTPUT_BYTES_AT_ONCE, batches=OUTPUT_BATCHES)

    def say(self, item: AttemptItem, acked: Acked | None = None) -> None:
        """A fact of an attempt."""
        self.facts.put(Outgoing(EXECUTION_EVENTS.name, str(item.job_invocation_id), item), acked)

    def show(self, item: AttemptItem, raw: bytes | None, acked: Acked) -> None:
        """A piece of output."""
        self.output.put(Outgoing(PROGRESS_REPORTS.name, str(item.job_task_id), item, raw), acked)

    async def carry(self) -> None:
        """Publish, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.facts.carry(), name="facts")
            group.create_task(self.output.carry(), name="output")

    async def flushed(self) -> None:
        """Wait until everything is acknowledged."""
        while len(self.facts) or len(self.output):
            await self.output.flushed()
            await self.facts.flushed()

    def measure(self) -> None:
        METRICS.outbox_depth.set(len(self.facts) + len(self.output))
