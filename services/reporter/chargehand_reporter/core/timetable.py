"""The timetable of an invocation: when each job task is due, and in which batch, shown before it is so.

Owns the rows. The arithmetic is that which the dispatcher obeys (chargehand_schemas.plans).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from chargehand_schemas.api import PlannedJobTaskDocument
from chargehand_schemas.ids import job_task_id
from chargehand_schemas.plans import batch_of, splay_offset
from chargehand_schemas.properties import ExecutionProperties

from .catalog import Host
from .invocation import JobInvocation
from .job_task import JobTask


def foreseen(invocation: JobInvocation, hosts: Sequence[Host], default_proxy: str) -> list[JobTask]:
    """The job tasks of an invocation that is not planned yet, as its hosts are now: what is planned when it is due may differ in
    names and proxies, and in nothing else."""
    return [
        JobTask(
            job_task_id(invocation.job_invocation_id, host.host_id),
            invocation.job_invocation_id,
            host.host_id,
            host.name,
            ordinal=ordinal,
            proxy=(host.record and host.record.proxy) or default_proxy,
        )
        for ordinal, host in enumerate(hosts)
    ]


def timetable(invocation: JobInvocation, job_tasks: Iterable[JobTask]) -> list[PlannedJobTaskDocument]:
    """Rows in the order in which they are due. The job tasks must be planned: without a start there is no timetable."""
    if invocation.start_at is None:
        return []
    properties = invocation.properties or ExecutionProperties()
    tasks = list(job_tasks)
    total = invocation.total or len(tasks)
    rows = [
        PlannedJobTaskDocument(
            job_task_id=task.job_task_id,
            host_id=task.host_id,
            host=task.host_name,
            proxy=task.proxy,
            ordinal=task.ordinal,
            batch=properties.rolling and batch_of(properties.rolling, total, task.ordinal).number,
            due_at=invocation.start_at + splay_offset(task.job_task_id, properties.splay),
            status=task.status,
        )
        for task in tasks
    ]
    return sorted(rows, key=lambda row: (row.batch or 0, row.due_at, row.ordinal))
