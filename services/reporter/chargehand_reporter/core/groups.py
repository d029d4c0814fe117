"""Job tasks that ended alike: the same status, reason, exit status and output digests make one group.

Owns what makes two ends alike, and which groups are read first. Job tasks without a verdict are grouped by status only.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache

from chargehand_schemas.reasons import JobTaskStatus, Reason, Stream

from .job_task import JobTask

_ORDER = (
    JobTaskStatus.FAILED,
    JobTaskStatus.CANCELLED,
    JobTaskStatus.SUCCEEDED,
    JobTaskStatus.RUNNING,
    JobTaskStatus.CANCELLING,
    JobTaskStatus.ACCEPTED,
    JobTaskStatus.DUE,
    JobTaskStatus.WAITING_FOR_CHECK_IN,
    JobTaskStatus.WAITING,
)


@dataclass(frozen=True, slots=True)
class Group:
    """What the job tasks of a group have in common. Lengths in bytes."""

    status: JobTaskStatus
    reason: Reason | None = None
    exit_status: int | None = None
    digests: tuple[tuple[Stream, str], ...] = ()
    lengths: tuple[tuple[Stream, int], ...] = ()

    @property
    def order(self) -> int:
        """Failures first, then verdicts, then what is under way."""
        return _ORDER.index(self.status)


@lru_cache(maxsize=4096)
def group_id(group: Group) -> bytes:
    """Sixteen bytes that name the group within its invocation."""
    words = [group.status, group.reason, group.exit_status, group.digests]
    return hashlib.blake2b(json.dumps(words).encode(), digest_size=16).digest()


def group_of(task: JobTask) -> Group:
    """The group a job task belongs to now."""
    if not task.verdict_rank:
        return Group(task.status)
    streams = sorted(task.streams.items())
    return Group(
        status=task.status,
        reason=task.reason,
        exit_status=task.exit_status,
        digests=tuple((stream, view.digest) for stream, view in streams if view.digest),
        lengths=tuple((stream, view.length) for stream, view in streams if view.digest),
    )
