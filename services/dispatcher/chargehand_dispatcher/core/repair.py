"""What a dispatcher does about a log that was cut (docs/adr/0023): what may have been lost, and what can be said again.

Owns both, as values. Which records are gone is found by the shell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from chargehand_schemas.base import Item, JobTaskItem
from chargehand_schemas.frozen import replace

from .invocation import Invocation, end, say_concurrency, say_due
from .job_task import JobTask, State
from .speech import attempt_due, ended, status_changed

LOST_JOURNAL = UUID(int=0)
"""Stands for a journal whose word the log has lost. It never releases: only a look at the host, or the deadline, ends the attempt."""


def with_lost_word(job_task: JobTask) -> JobTask:
    """An agent may have accepted the attempt, and started it, and the log has lost its word: silence proves nothing any more
    (rules ACK and ACCEPTORS), and so it is asked for."""
    if job_task.state not in (State.DUE, State.ACCEPTED):
        return job_task
    acceptors = job_task.acceptors | {LOST_JOURNAL}
    return replace(job_task, acceptors=acceptors, last_word_at=job_task.last_word_at or job_task.issued_at)


def say_again(invocation: Invocation, job_tasks: Iterable[JobTask], now: datetime) -> list[Item]:
    """What this store still knows of an invocation, as it was or would be said: under the same ids, so that whoever has it
    drops it. What was said of states that are over is not known any more."""
    items: list[Item] = []
    if invocation.due_said_at is not None and invocation.start_at is not None:
        asleep = replace(invocation, due_said_at=None, is_cancelled=False, is_ended=False)
        items += say_due(asleep, invocation.due_said_at)[1]
    items += say_concurrency(invocation, now)
    for job_task in job_tasks:
        items += _say_again(job_task, _said_at(job_task, invocation, now))
    if invocation.is_ended:
        items += end(replace(invocation, is_ended=False), now)[1]
    return items


def _said_at(job_task: JobTask, invocation: Invocation, now: datetime) -> datetime:
    """That a retry waits was said at the end of its attempt, from which on its interval runs."""
    is_retry = job_task.state is State.WAITING and job_task.tried > 0 and not job_task.unstarted
    return min(now, job_task.due_at - invocation.properties.retry_interval) if is_retry else now


def _say_again(job_task: JobTask, now: datetime) -> list[Item]:
    if job_task.state is State.ENDED:
        return [ended(job_task, now)]
    said: list[Item] = []
    if job_task.state.holds_slot and job_task.issued_at is not None:
        said.append(attempt_due(job_task, job_task.issued_at))
    if job_task.last_attempt and job_task.state is not State.DUE:
        said.append(status_changed(job_task, now))
    return said


def between(before: Iterable[Item], items: Iterable[Item], after: Iterable[Item]) -> list[Item]:
    """Items that may stand in a gap of what is kept: those of job tasks of which the `after` ones tell more are left out, and what
    they or the `before` ones repeat."""
    told = list(after)
    ids = {item.id for item in (*before, *told)}
    job_tasks = {item.job_task_id for item in told if isinstance(item, JobTaskItem)}
    return [
        item
        for item in items
        if item.id not in ids and not (isinstance(item, JobTaskItem) and item.job_task_id in job_tasks)
    ]


@dataclass(frozen=True, slots=True)
class LostVerdicts:
    """Verdicts of an ended invocation that neither the log nor the store has."""

    job_invocation_id: UUID
    lost: int
    total: int

    def __str__(self) -> str:
        return f"job {self.job_invocation_id}: {self.lost} of {self.total} verdicts"


def lost_verdicts(invocations: Iterable[Invocation], known: Mapping[UUID, int]) -> list[LostVerdicts]:
    """Of ended invocations: what is left of their verdicts is `known`, by invocation. Job tasks whose part of the plan never
    came have none."""
    return [
        LostVerdicts(one.job_invocation_id, one.planned - known.get(one.job_invocation_id, 0), one.planned)
        for one in invocations
        if one.is_ended and one.planned > known.get(one.job_invocation_id, 0)
    ]
