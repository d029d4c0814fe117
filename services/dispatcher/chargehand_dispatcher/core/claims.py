"""Which waiting job tasks may be claimed: as many as there are free slots, the invocation that holds fewest first.

Owns the choice. A queue is what waits in one invocation for one proxy; stores find the heads of the queues, and no limit of one
keeps another waiting.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from .job_task import JobTask


@dataclass(frozen=True, slots=True)
class Queue:
    """The due job tasks at the head of a queue, by (due_at, ordinal). `held`: slots its invocation holds, of `limit` (None: no
    limit); `free_of_proxy`: free slots of every proxy."""

    job_invocation_id: UUID
    proxy: str
    head: tuple[JobTask, ...]
    held: int
    limit: int | None
    free_of_proxy: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.head)


def choose(queues: Sequence[Queue], most: int) -> list[JobTask]:
    """At most `most` job tasks, in the order in which they are claimed. No limit is exceeded, and none that could be claimed is
    left while there is room."""
    filled = [queue for queue in queues if queue.head]
    if len(filled) == 1:
        return _choose_of_one(filled[0], most)
    held = {queue.job_invocation_id: queue.held for queue in queues}
    free: dict[str, int] = {proxy: number for queue in queues for proxy, number in queue.free_of_proxy.items()}
    heap = [(_rank(queue, 0, held), number, 0) for number, queue in enumerate(queues) if queue.head]
    heapq.heapify(heap)
    chosen: list[JobTask] = []
    while heap and len(chosen) < most:
        rank, number, place = heapq.heappop(heap)
        queue = queues[number]
        if rank[0] != held[queue.job_invocation_id]:
            heapq.heappush(heap, (_rank(queue, place, held), number, place))
            continue
        is_full = queue.limit is not None and held[queue.job_invocation_id] >= queue.limit
        if is_full or free.get(queue.proxy, 0) <= 0:
            continue
        chosen.append(queue.head[place])
        held[queue.job_invocation_id] += 1
        free[queue.proxy] -= 1
        if place + 1 < len(queue.head):
            heapq.heappush(heap, (_rank(queue, place + 1, held), number, place + 1))
    return chosen


def _choose_of_one(queue: Queue, most: int) -> list[JobTask]:
    of_invocation = most if queue.limit is None else queue.limit - queue.held
    return list(queue.head[: max(0, min(most, of_invocation, queue.free_of_proxy.get(queue.proxy, 0)))])


def _rank(queue: Queue, place: int, held: Mapping[UUID, int]) -> tuple[int, datetime, int]:
    """The least served invocation first, then what is due first."""
    job_task = queue.head[place]
    return held[queue.job_invocation_id], job_task.due_at, job_task.ordinal
