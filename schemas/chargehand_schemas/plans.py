"""What anyone can reckon from a plan: when a job task is due by its splay, and which batch of a rolling invocation it is of.

Owns that arithmetic (docs/protocol.md section 3, item 11). Pure, and the same before and after any restart: the dispatcher obeys
it, and whoever shows a plan beforehand shows what will be.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta
from math import ceil
from typing import NamedTuple
from uuid import UUID

from .properties import Rolling

_SCALE = float(1 << 64)


def splay_offset(job_task_id: UUID, interval: timedelta) -> timedelta:
    """An offset in [0, interval), the same for whoever computes it, evenly spread over job tasks."""
    if not interval:
        return timedelta(0)
    drawn = int.from_bytes(hashlib.sha256(b"splay" + job_task_id.bytes).digest()[:8], "big")
    return interval * (drawn / _SCALE)


class Batch(NamedTuple):
    """A batch of ordered job tasks: its number from 1, and the ordinals it begins with and ends before."""

    number: int
    begins: int
    ends: int


def batch_of(rolling: Rolling, total: int, ordinal: int) -> Batch:
    """The batch that one of `total` ordered job tasks is of; the last size is repeated."""
    sizes = [max(1, _share_of(size, total, rounds_up=True)) for size in rolling.batches]
    begins = 0
    for number, size in enumerate(sizes[:-1], 1):
        if ordinal < begins + size:
            return Batch(number, begins, min(begins + size, total))
        begins += size
    more = max(0, ordinal - begins) // sizes[-1]
    begins += more * sizes[-1]
    return Batch(len(sizes) + more, begins, min(begins + sizes[-1], total))


def failures_allowed(rolling: Rolling, total: int) -> int:
    """The largest number of failures that does not halt it."""
    return _share_of(rolling.failure_limit, total, rounds_up=False)


def _share_of(share: str, total: int, *, rounds_up: bool) -> int:
    """`"5"` as 5, `"25%"` as a quarter of `total`."""
    if not share.endswith("%"):
        return int(share)
    return (ceil if rounds_up else int)(total * float(share[:-1]) / 100)
