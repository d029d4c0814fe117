"""The dispatcher's messages, made from a job task. Ids follow from what is said, so that a repeat repeats the id.

Owns the wording of dispatch-events.
"""

from __future__ import annotations

from datetime import datetime

from chargehand_schemas.dispatch import AttemptDue, CancelDue, JobTaskEnded, JobTaskStatusChanged, ResumeDue
from chargehand_schemas.ids import item_id
from chargehand_schemas.reasons import JobTaskStatus, Reason

from .job_task import JobTask


def attempt_due(job_task: JobTask, now: datetime, proxy_limit: int | None = None) -> AttemptDue:
    assert job_task.issued_at and job_task.not_after and job_task.run_deadline  # noqa: S101 (a dispatched one has them)
    return AttemptDue(
        id=item_id("attempt-due", job_task.job_task_id, job_task.attempt),
        time=now,
        job_invocation_id=job_task.job_invocation_id,
        job_task_id=job_task.job_task_id,
        attempt=job_task.attempt,
        host_id=job_task.host_id,
        host_name=job_task.host_name,
        proxy=job_task.proxy,
        issued_at=job_task.issued_at,
        not_after=job_task.not_after,
        run_deadline=job_task.run_deadline,
        earlier=job_task.earlier,
        unknown=job_task.unknown,
        unlooked=job_task.unlooked,
        tried=job_task.tried,
        proxy_limit=proxy_limit,
        ordinal=job_task.ordinal,
    )


def asking(job_task: JobTask, now: datetime) -> ResumeDue | CancelDue:
    """Ask for the attempt, or ask to end it; each asking has its own id, for it must have an effect of its own."""
    assert job_task.issued_at and job_task.run_deadline  # noqa: S101 (a dispatched one has them)
    model = CancelDue if job_task.is_cancelling else ResumeDue
    return model(
        id=item_id(model.__name__, job_task.job_task_id, job_task.attempt, job_task.asked),
        time=now,
        job_invocation_id=job_task.job_invocation_id,
        job_task_id=job_task.job_task_id,
        attempt=job_task.attempt,
        host_id=job_task.host_id,
        proxy=job_task.proxy,
        issued_at=job_task.issued_at,
        run_deadline=job_task.run_deadline,
        asked=job_task.asked,
    )


def status_changed(job_task: JobTask, now: datetime, after: Reason | None = None) -> JobTaskStatusChanged:
    status = job_task.shown_status
    return JobTaskStatusChanged(
        id=item_id(
            "status", job_task.job_task_id, job_task.last_attempt, job_task.attempt, status.value, job_task.tried
        ),
        time=now,
        job_invocation_id=job_task.job_invocation_id,
        job_task_id=job_task.job_task_id,
        host_id=job_task.host_id,
        status=status,
        attempt=job_task.attempt,
        tried=job_task.tried,
        due_at=job_task.due_at if status is JobTaskStatus.WAITING else None,
        after=after,
        detail=job_task.detail[:2048] if after else "",
    )


def ended(job_task: JobTask, now: datetime) -> JobTaskEnded:
    assert job_task.status is not None  # noqa: S101 (said of ended ones only)
    return JobTaskEnded(
        id=item_id("ended", job_task.job_task_id),
        time=now,
        job_invocation_id=job_task.job_invocation_id,
        job_task_id=job_task.job_task_id,
        host_id=job_task.host_id,
        host_name=job_task.host_name,
        status=job_task.status,
        reason=job_task.reason,
        exit_status=job_task.exit_status,
        signal=job_task.signal,
        attempts=job_task.last_attempt,
        tried=job_task.tried,
        detail=job_task.detail[:2048],
        ordinal=job_task.ordinal,
    )
