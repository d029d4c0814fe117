"""Rows of job tasks, and in memory those that hold a slot: what is said of a job task is nearly always said of one of these.

Owns how a changed job task is written at least cost (docs/adr/0029). Which change is made is the core's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple
from uuid import UUID

from chargehand_dispatcher.core.engine import Desk
from chargehand_dispatcher.core.job_task import SLOT_STATES, JobTask

from .database import Database
from .rows import (
    JOB_TASK_COLUMNS,
    JOB_TASK_FIXED,
    JOB_TASK_FIXED_IN_A_SLOT,
    as_us,
    job_task_row,
    job_task_rows_alike,
    to_us,
)

MOST_KEPT = 10_000
"""So many job tasks that hold a slot are kept in memory as well; of those that wait none is."""
IN_A_SLOT = "state in ('due', 'accepted', 'running')"


class _Kept(NamedTuple):
    """A job task that holds a slot, and when its row says to look at it, in microseconds: never later than need be."""

    job_task: JobTask
    look_us: int | None


class Slots:
    """Used within the transactions of the store, for partitions that it owns: nobody else changes their rows. Whatever shakes that
    is to be followed by `forget`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._kept: dict[UUID, _Kept] = {}

    def forget(self) -> None:
        """What was only remembered may be another's by now."""
        self._kept.clear()

    def known(self, job_task_ids: Iterable[UUID]) -> dict[UUID, JobTask]:
        """Those of them that are in memory."""
        return {one: self._kept[one].job_task for one in job_task_ids if one in self._kept}

    def write(self, desk: Desk, changed: Iterable[JobTask]) -> None:
        """Whole rows, but for what goes on in its slot and need not be looked at earlier than its row says: there no column changes
        that an index looks at."""
        now_us = as_us(desk.surroundings.now)
        whole: list[tuple[Any, ...]] = []
        going_on: list[tuple[Any, ...]] = []
        for job_task in changed:
            look_at = desk.look_at(job_task)
            look_us = to_us(look_at)
            row = job_task_row(job_task, desk.places[job_task.job_invocation_id], look_at)
            known = self._kept.get(job_task.job_task_id)
            if known and _goes_on(known.job_task, job_task) and _is_early(known.look_us, look_us, now_us):
                look_us = known.look_us
                going_on.append(row)
            else:
                whole.append(row)
            self._keep(job_task, look_us)
        for rows, fixed in ((whole, JOB_TASK_FIXED), (going_on, JOB_TASK_FIXED_IN_A_SLOT)):
            self._database.put("job_task", JOB_TASK_COLUMNS, ("job_task_id",), rows, fixed=fixed)
        self._let_go()

    def write_alike(self, desk: Desk, claimed: Sequence[JobTask]) -> None:
        """New ones that were given their slots. They are looked at no later than if an agent had spoken of them at once: then its
        word, which comes soon, changes no instant in their rows."""
        first = claimed[0]
        look_at = desk.look_at(first)
        look_at = look_at and min(look_at, desk.surroundings.now + desk.surroundings.timers.ask_after)
        rows = list(job_task_rows_alike(claimed, desk.places[first.job_invocation_id], look_at))
        self._database.put("job_task", JOB_TASK_COLUMNS, ("job_task_id",), rows, fixed=JOB_TASK_FIXED)
        for job_task in claimed:
            self._keep(job_task, to_us(look_at))
        self._let_go()

    def _keep(self, job_task: JobTask, look_us: int | None) -> None:
        if job_task.state in SLOT_STATES:
            self._kept[job_task.job_task_id] = _Kept(job_task, look_us)
        else:
            self._kept.pop(job_task.job_task_id, None)

    def _let_go(self) -> None:
        """The oldest give way."""
        for one in list(islice(self._kept, max(0, len(self._kept) - MOST_KEPT))):
            del self._kept[one]


def _goes_on(before: JobTask, after: JobTask) -> bool:
    """Whether it holds the slot that it held: all of JOB_TASK_FIXED_IN_A_SLOT are the same."""
    return after.state in SLOT_STATES and after.proxy == before.proxy and after.due_at == before.due_at


def _is_early(stored_us: int | None, look_us: int | None, now_us: int) -> bool:
    """Whether the instant in a row is still to come, and not too late."""
    return stored_us is not None and now_us < stored_us and (look_us is None or stored_us <= look_us)
