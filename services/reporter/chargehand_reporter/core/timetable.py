"""The timetable of an invocation: when each job task is due, and in which batch, shown before it is so.

Owns the rows. The arithmetic is that which the dispatcher obeys (chargehand_schemas.plans).
"""

from __future__ import annotations

from collections.abc import Iterable

from chargehand_schemas.api import PlannedJobTaskDocument
from chargehand_schemas.plans import batch_of, splay_offset
from chargehand_schemas.properties import ExecutionProperties

from .invocation import JobInvocation
from .job_task import JobTask


def timetable(invocation: JobInvocation, job_tasks: Iterable[JobTask]) -> list[PlannedJobTaskDocument]:
    """Rows in the order in which they are due. The job tasks must be planned: without a start there is no timetable."""
    if invocation.start_at is None:
        return []
    properties = invocation.properties or ExecutionProperties()
    rows = [
        PlannedJobTaskDocument(
            job_task_id=task.job_task_id,
            host_id=task.host_id,
            host=task.host_name,
            proxy=task.proxy,
            ordinal=task.ordinal,
            batch=properties.rolling and batch_of(properties.rolling, invocation.total, task.ordinal).number,
            due_at=invocation.start_at + splay_offset(task.job_task_id, properties.splay),
            status=task.status,
        )
        for task in job_tasks
    ]
    return sorted(rows, key=lambda row: (row.batch or 0, row.due_at, row.ordinal))
