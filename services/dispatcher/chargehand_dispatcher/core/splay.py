"""Splay: when in the interval a job task is due. A digest of its id, so that it can be shown beforehand and survives all."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from uuid import UUID

_SCALE = float(1 << 64)


def splay_offset(job_task_id: UUID, interval: timedelta) -> timedelta:
    """An offset in [0, interval), the same for whoever computes it, evenly spread over job tasks."""
    if not interval:
        return timedelta(0)
    drawn = int.from_bytes(hashlib.sha256(b"splay" + job_task_id.bytes).digest()[:8], "big")
    return interval * (drawn / _SCALE)
