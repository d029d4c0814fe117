"""What was recorded: every item of the topics in the order of its partition, sorted by what it is about.

Owns the shape of a recording and its indexes. Which promises hold is judged in promises.py; Kafka does not enter here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from chargehand_schemas.base import AttemptItem, InvocationItem, Item
from chargehand_schemas.dispatch import AttemptDue
from chargehand_schemas.execution import AttemptFact
from chargehand_schemas.ids import AttemptId
from chargehand_schemas.planning import JobInvocationScheduled, JobTasksPlanned, PlannedJobTask
from chargehand_schemas.progress import OutputOmitted, ProgressReport
from chargehand_schemas.topics import DISPATCH_EVENTS, EXECUTION_EVENTS, PLANNING_EVENTS, PROGRESS_REPORTS

RECORDED_TOPICS = (PLANNING_EVENTS.name, DISPATCH_EVENTS.name, EXECUTION_EVENTS.name, PROGRESS_REPORTS.name)


class Entry(NamedTuple):
    """One item as it stands in a topic. `raw` are the bytes of a ProgressReport."""

    topic: str
    partition: int
    offset: int
    append_time: datetime
    item: Item
    raw: bytes = b""

    @property
    def place(self) -> str:
        return f"{self.topic}/{self.partition}@{self.offset}"


@dataclass
class InvocationLog:
    """Everything recorded about one invocation, each list in log order, repeats (same item id) left out."""

    scheduled: JobInvocationScheduled | None = None
    planned: dict[UUID, PlannedJobTask] = field(default_factory=dict)
    total: int = 0
    dispatch: list[Entry] = field(default_factory=list)
    dues: dict[AttemptId, AttemptDue] = field(default_factory=dict)
    run_deadlines: dict[UUID, datetime] = field(default_factory=dict)
    planning: list[Entry] = field(default_factory=list)
    facts: dict[AttemptId, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    output: dict[AttemptId, list[Entry]] = field(default_factory=lambda: defaultdict(list))


@dataclass
class Recording:
    """A recording by invocation. `ended_at` is the instant up to which it reaches; `repeats` counts items seen before."""

    invocations: dict[UUID, InvocationLog]
    ended_at: datetime
    repeats: int = 0

    @classmethod
    def of(cls, entries: Iterable[Entry], ended_at: datetime) -> Recording:
        """Sort entries; those of one partition must come in offset order."""
        invocations: dict[UUID, InvocationLog] = defaultdict(InvocationLog)
        seen: dict[str, set[UUID]] = defaultdict(set)
        repeats = 0
        for entry in entries:
            item, ids = entry.item, seen[entry.topic]
            if isinstance(item, InvocationItem):
                known = len(ids)
                ids.add(item.id)
                if len(ids) == known:
                    repeats += 1
                else:
                    _file(invocations[item.job_invocation_id], entry)
        return cls(dict(invocations), ended_at, repeats)


def _file(log: InvocationLog, entry: Entry) -> None:
    item = entry.item
    match item:
        case JobInvocationScheduled():
            log.scheduled = item
        case JobTasksPlanned():
            log.total = item.total
            log.planned |= {planned.job_task_id: planned for planned in item.job_tasks}
        case AttemptFact():
            log.facts[_attempt(item)].append(entry)
        case ProgressReport() | OutputOmitted():
            log.output[_attempt(item)].append(entry)
        case _ if entry.topic == DISPATCH_EVENTS.name:
            log.dispatch.append(entry)
            _index(log, item)
        case _:
            log.planning.append(entry)


def _index(log: InvocationLog, item: Item) -> None:
    if isinstance(item, AttemptDue):
        log.dues[_attempt(item)] = item
        log.run_deadlines[item.job_task_id] = max(
            item.run_deadline, log.run_deadlines.get(item.job_task_id, item.run_deadline)
        )


def _attempt(item: AttemptItem) -> AttemptId:
    return AttemptId(item.job_task_id, item.attempt)
