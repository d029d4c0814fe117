"""What is judged when a run has come to its end: the recorded topics, the read model, the output.

Owns that judgement. What must hold at every instant is judged in promises.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from uuid import UUID

from chargehand_reporter.core.output import Chunk, Omission, Piece, StreamState, fold_output
from chargehand_reporter.core.read_model import ReadModel, Said
from chargehand_schemas.execution import AttemptEnded
from chargehand_schemas.progress import OutputOmitted, ProgressReport
from chargehand_schemas.reasons import Role, Stream
from chargehand_schemas.topics import DISPATCH_EVENTS, EXECUTION_EVENTS, PLANNING_EVENTS, PROGRESS_REPORTS

from ..checker import Entry, Recording, check
from .agent import LIMITS, PROXY
from .bus import Bus, Place, Record
from .planner import PlannerStore
from .promises import BrokenPromise, Promises
from .scenario import Scenario

_BY_REPORTED_TIMES = frozenset({"due times", "two at once", "nothing after the verdict"})
"""Judged by the hosts themselves in promises.py, which need no report."""
LONGEST_S = 4 * 3600.0
MOST_ITEMS = 100
_RECORDED = (PLANNING_EVENTS.name, DISPATCH_EVENTS.name, EXECUTION_EVENTS.name, PROGRESS_REPORTS.name)
_ROLES = {
    PLANNING_EVENTS.name: (Role.PLANNER, ""),
    DISPATCH_EVENTS.name: (Role.DISPATCHER, ""),
    EXECUTION_EVENTS.name: (Role.AGENT, PROXY),
    PROGRESS_REPORTS.name: (Role.AGENT, PROXY),
}


class Judgement:
    """Over one run that has ended. `stopped`: partitions on which somebody stands still because a log was cut (rule RET): nothing
    more is promised of them than that nothing is done on a guess."""

    def __init__(
        self,
        scenario: Scenario,
        bus: Bus,
        promises: Promises,
        planned: PlannerStore,
        ids: Sequence[UUID],
        job_tasks: int,
        stopped: Collection[int],
    ) -> None:
        self._scenario, self._bus, self._world, self._promises = scenario, bus, bus.world, promises
        self._planned, self._ids, self._job_tasks, self._stopped = planned, ids, job_tasks, stopped

    def judge(self) -> list[BrokenPromise]:
        ended_at = self._world.instant()
        entries = [
            Entry(place.topic, place.partition, *record)
            for place in sorted(self._bus.logs)
            if place.topic in _RECORDED
            for record in self._bus.logs[place]
        ]
        found = [
            BrokenPromise(v.promise, v.subject, v.detail)
            for v in check(Recording.of(entries, ended_at))
            if not (self._has_late_reports() and v.promise in _BY_REPORTED_TIMES)
            and not (self._stopped and v.promise == "no lost job")
        ]
        if len(self._promises.verdicts) != self._job_tasks and not self._was_never_planned() and not self._stopped:
            found.append(
                BrokenPromise("no lost job", "run", f"{len(self._promises.verdicts)} of {self._job_tasks} verdicts")
            )
        if self._world.now >= LONGEST_S:
            found.append(BrokenPromise("no lost job", "run", f"not at rest after {LONGEST_S:.0f} s"))
        return found + self._judge_decisions() + self._judge_read_model() + self._judge_output()

    def _judge_decisions(self) -> list[BrokenPromise]:
        """Promise 6: what the planner takes for published stands in the log."""
        stand = {
            record.item.id
            for number in range(self._bus.partitions)
            for record in self._bus.logs[Place(PLANNING_EVENTS.name, number)]
        }
        return [
            BrokenPromise("everything is a fact", item.id, f"{type(item).__name__} is decided, and stands in no log")
            for place, item in self._planned.log[: self._planned.published]
            if place.topic == PLANNING_EVENTS.name and item.id not in stand
        ]

    def _has_late_reports(self) -> bool:
        """Whether times may be reported wrong, by a clock that is off, or late, by an agent that stood still or a host without a
        lock."""
        margin_s = self._promises.margin_s
        return not self._scenario.has_host_lock or any(
            fault.kind == "stop" or (fault.kind == "clock" and abs(fault.size) > margin_s)
            for fault in self._scenario.faults
        )

    def _was_never_planned(self) -> bool:
        return any(one not in self._planned.plans for one in self._ids)

    def _judge_read_model(self) -> list[BrokenPromise]:
        """The reporter's fold, topics in any order and with repeats, shows what the dispatcher said."""
        model = ReadModel()
        places = [place for place in sorted(self._bus.logs) if place.topic in _RECORDED]
        self._world.random.shuffle(places)
        for place in [*places, *places[:1]]:
            for records in self._messages(self._bus.logs[place]):
                model.apply(_said(place, records))
        for place in places:
            log = self._bus.logs[place]
            for number in self._world.random.sample(range(len(log)), (len(log) + 49) // 50):
                model.apply(_said(place, log[number : number + 1]))
        model.finish()
        found = []
        for one, verdict in self._promises.verdicts.items():
            if self._planned.places[verdict.job_invocation_id] in self._stopped:
                continue  # what was said before its log was cut is said again when it goes on
            shown = model.job_tasks.get(one)
            if shown is None or shown.status is not verdict.status or shown.reason is not verdict.reason:
                said_of = None if shown is None else (shown.status, shown.reason)
                found.append(
                    BrokenPromise("one verdict", one, f"the read model shows {said_of}, it ended {verdict.status}")
                )
        return found

    def _messages(self, log: Sequence[Record]) -> Iterator[Sequence[Record]]:
        """A log as messages: items of one type that follow each other, as many as chance has it."""
        begin = 0
        while begin < len(log):
            end, most = begin + 1, begin + self._world.random.randint(1, MOST_ITEMS)
            while end < len(log) and end < most and type(log[end].item) is type(log[begin].item):
                end += 1
            yield log[begin:end]
            begin = end

    def _judge_output(self) -> list[BrokenPromise]:
        """The reporter's fold of output, in parts of any size and with repeats, holds what the host said was published."""
        pieces: dict[UUID, dict[int, list[Piece]]] = {}
        for record in self._bus.logs[Place(PROGRESS_REPORTS.name, 0)]:
            item = record.item
            if isinstance(item, ProgressReport | OutputOmitted):
                of_task = pieces.setdefault(item.job_task_id, {}).setdefault(item.attempt, [])
                is_report = isinstance(item, ProgressReport)
                of_task.append(Chunk(item.offset, record.raw) if is_report else Omission(item.start, item.end))  # type: ignore[union-attr]
        found = []
        for place in sorted(self._bus.logs):
            for record in self._bus.logs[place] if place.topic == EXECUTION_EVENTS.name else ():
                if isinstance(record.item, AttemptEnded):
                    found += self._compare(
                        record.item, pieces.get(record.item.job_task_id, {}).get(record.item.attempt, [])
                    )
        return found

    def _compare(self, ended: AttemptEnded, pieces: Sequence[Piece]) -> list[BrokenPromise]:
        state, waiting, stored = StreamState(), dict[int, Piece](), b""
        arrivals = [*pieces, *self._world.random.sample(pieces, len(pieces) // 3)]
        self._world.random.shuffle(arrivals)
        while arrivals:
            size = self._world.random.randint(1, len(arrivals))
            folded = fold_output(state, list(waiting.values()), arrivals[:size])
            state, arrivals = folded.state, arrivals[size:]
            stored += b"".join(one.data for one in folded.appended)
            for start in folded.released:
                waiting.pop(start, None)
            waiting.update((one.start, one) for one in folded.held)
        said, subject = ended.digests.get(Stream.STDOUT, ""), f"{ended.job_task_id}/{ended.attempt}"
        if hashlib.sha256(stored).hexdigest() != said or len(stored) != state.stored:
            detail = f"{len(stored)} bytes are folded, {ended.kept} were published"
            return [BrokenPromise("no lost output", subject, detail)]
        printed = prints(ended.job_task_id, ended.attempt)[: ended.lengths.get(Stream.STDOUT, 0)]
        head, tail = stored[: LIMITS.head_bytes], stored[LIMITS.head_bytes :]
        if head != printed[: LIMITS.head_bytes] or not printed.endswith(tail):
            return [BrokenPromise("no lost output", subject, "what is folded is not what the job printed")]
        return []


def _said(place: Place, records: Sequence[Record]) -> Said:
    role, subject = _ROLES[place.topic]
    first = records[0]
    raw = b"".join([record.raw for record in records])
    items = tuple([record.item for record in records])
    return Said(place.topic, place.partition, first.offset, role, subject, "", first.appended_at, items, raw)


def prints(job_task_id: UUID, attempt: int) -> bytes:
    """What a job prints: a digest of what it is, so that a repeat would print the same."""
    drawn = hashlib.sha256(b"prints" + job_task_id.bytes + attempt.to_bytes(4, "big")).digest()
    return (drawn * 11)[: drawn[0] + drawn[1] // 4 if drawn[2] < 128 else 0] + b"\n"
