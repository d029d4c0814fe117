"""The plan of an invocation: its job tasks, in chunks that fit into a message each.

Owns the cut. A plan is made once and stored: a chunk asked for again is the same chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from chargehand_schemas.base import MAX_ITEMS_PER_MESSAGE
from chargehand_schemas.ids import item_id, job_task_id
from chargehand_schemas.planning import JobTasksPlanned, PlannedJobTask

MAX_CHUNK_BYTES = 192 * 1024
"""Below the 256 KiB of a message, with room for the rest of the item."""

_FRAME_BYTES = 170
"""Of one job task in JSON: two ids, the names of its fields, the ordinal."""


@dataclass(frozen=True, slots=True)
class PlannedHost:
    """A host of a plan. `proxy` is the one whose slot its job task takes."""

    host_id: UUID
    name: str
    proxy: str


def plan(
    job_invocation_id: UUID, hosts: Sequence[PlannedHost], now: datetime, causation_id: UUID | None = None
) -> tuple[JobTasksPlanned, ...]:
    """Chunks 0 to n-1 of at most 500 job tasks and 192 KiB each, in the order of the hosts."""
    rows = [_planned(job_invocation_id, ordinal, host) for ordinal, host in enumerate(hosts)]
    chunks = list(_cut(rows))
    return tuple(
        JobTasksPlanned(
            id=item_id("plan", job_invocation_id, number),
            time=now,
            causation_id=causation_id,
            job_invocation_id=job_invocation_id,
            chunk=number,
            chunks=len(chunks),
            total=len(rows),
            job_tasks=tuple(chunk),
        )
        for number, chunk in enumerate(chunks)
    )


def _planned(job_invocation_id: UUID, ordinal: int, host: PlannedHost) -> PlannedJobTask:
    return PlannedJobTask(
        job_task_id=job_task_id(job_invocation_id, host.host_id),
        host_id=host.host_id,
        host_name=host.name,
        proxy=host.proxy,
        ordinal=ordinal,
    )


def _cut(rows: Iterable[PlannedJobTask]) -> Iterator[list[PlannedJobTask]]:
    chunk: list[PlannedJobTask] = []
    filled = 0
    for row in rows:
        size = _FRAME_BYTES + len(row.host_name) + len(row.proxy)
        if chunk and (len(chunk) == MAX_ITEMS_PER_MESSAGE or filled + size > MAX_CHUNK_BYTES):
            yield chunk
            chunk, filled = [], 0
        chunk.append(row)
        filled += size
    if chunk:
        yield chunk
