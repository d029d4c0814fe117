"""The AccumulatedProgressReport of a job task: all that was folded, with the last 2 KiB of each stream. Owns its making."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from chargehand_schemas.accumulated import AccumulatedProgressReport, StreamSummary
from chargehand_schemas.ids import item_id
from chargehand_schemas.reasons import Stream

from .job_task import JobTask


def accumulate(
    task: JobTask, position: int, tails: Mapping[Stream, bytes], moment: datetime
) -> AccumulatedProgressReport:
    """The present state of a job task. Its id follows from its position, so that a repeat is the same item."""
    return AccumulatedProgressReport(
        id=item_id("accumulated", task.job_task_id, position),
        time=moment,
        job_invocation_id=task.job_invocation_id,
        job_task_id=task.job_task_id,
        host_id=task.host_id,
        host_name=task.host_name,
        status=task.status,
        reason=task.reason,
        exit_status=task.exit_status,
        signal=task.signal,
        attempt=task.shown or task.attempts,
        tried=task.tried,
        started_at=task.started_at,
        ended_at=task.ended_at,
        position=position,
        streams={
            stream: StreamSummary(
                length=view.length,
                newlines=view.newlines,
                digest=view.digest,
                complete=view.complete,
                omitted=view.omitted,
                tail=tails.get(stream, b""),
            )
            for stream, view in task.streams.items()
        },
        detail=task.detail,
    )
