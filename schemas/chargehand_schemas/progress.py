"""Messages of the topic `progress-reports`: output as it appears. Key: job_task_id.

Owns the shape and the layout of the value: one JSON line, a newline, then the raw bytes of all items in order. Output is
bytes, never assumed to be UTF-8.
"""

from __future__ import annotations

from uuid import UUID

from pydantic import Field

from .base import AttemptItem, Instant
from .reasons import Stream


class ProgressReport(AttemptItem):
    """`length` bytes at `offset` of the stream as the host wrote it, with `newlines` in them. The bytes follow the JSON line."""

    host_id: UUID
    stream: Stream
    offset: int = Field(ge=0)
    length: int = Field(ge=0)
    newlines: int = Field(0, ge=0)
    observed_at: Instant


class OutputOmitted(AttemptItem):
    """A cap left out bytes [start, end) of a stream, so that no reader waits for them."""

    host_id: UUID
    stream: Stream
    start: int = Field(ge=0)
    end: int = Field(ge=0)
