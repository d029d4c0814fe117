"""Messages of the topic `accumulated-progress-reports` (compacted): the present state of a job task with the tail of its output.

Owns shape only. Key: job_task_id; one item a message.
"""

from __future__ import annotations

from uuid import UUID

from pydantic import Field

from .base import Instant, JobTaskItem, Model
from .reasons import JobTaskStatus, Reason, Stream

TAIL_BYTES = 2048


class StreamSummary(Model):
    """What is known of one stream of the current attempt. `length` is what is stored without a hole, in bytes."""

    length: int = 0
    newlines: int = 0
    digest: str = ""
    complete: bool = False
    omitted: tuple[tuple[int, int], ...] = ()
    tail: bytes = b""


class AccumulatedProgressReport(JobTaskItem):
    """All ProgressReports and facts of a job task, folded. `position` grows with every change."""

    host_id: UUID
    host_name: str = ""
    status: JobTaskStatus
    reason: Reason | None = None
    exit_status: int | None = None
    signal: str | None = None
    attempt: int = 0
    tried: int = 0
    started_at: Instant | None = None
    ended_at: Instant | None = None
    position: int = 0
    streams: dict[Stream, StreamSummary] = Field(default_factory=dict)
    detail: str = ""
