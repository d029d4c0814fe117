"""A delivery ladder as it is shown: the steps of a job task and of each attempt, in the order in which the broker took them.

Owns that order, what is late, what counts as no reply, and where output stands among the steps. How steps are kept is
ladder.py's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from chargehand_schemas.api import StepDocument
from chargehand_schemas.reasons import StepKind, Stream
from chargehand_schemas.topics import DISPATCH_EVENTS, EXECUTION_EVENTS, PLANNING_EVENTS, PROGRESS_REPORTS

from .invocation import JobInvocation
from .job_task import AttemptDecision, AttemptReport, JobTask
from .ladder import Fact, Ladder, Step, read_ladder
from .output import Landing, StreamState

_KINDS = {kind.value: place for place, kind in enumerate(StepKind)}
_ENDS = frozenset({"ended", "interrupted", "never_started", "refused", "rebound", "voided"})
_WAITS = frozenset({"next_try", "waiting_for_check_in", "no_reply"})
_TOPICS = {
    **dict.fromkeys(
        ("accepted", "planned", "cancel_requested", "bound", "refused", "rebound", "voided"), PLANNING_EVENTS.name
    ),
    **dict.fromkeys(
        ("delivered", "released", "started", "ended", "interrupted", "never_started"), EXECUTION_EVENTS.name
    ),
    "output": PROGRESS_REPORTS.name,
}
_FACT_NAMES = {"started": "started_at", "ended": "ended_at"}
"""What `at`, the host's time, is called in the steps that have it."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt as the store has it: what was decided, what its proxy's agents said, and its streams."""

    number: int
    decision: AttemptDecision
    report: AttemptReport | None = None
    streams: Mapping[Stream, StreamState] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobTaskHistory:
    """All that belongs to the ladder of one job task. `cancels`: steps kept apart from the job task, as ladder.py keeps them."""

    task: JobTask
    invocation: JobInvocation
    attempts: Sequence[Attempt] = ()
    cancels: str = ""

    @property
    def verdict(self) -> Step | None:
        """The verdict as it was said first."""
        found = [step for step in read_ladder(self.task.steps).steps if step.kind == "verdict"]
        return min(found, key=lambda step: step[:3], default=None)


def steps_of_job_task(history: JobTaskHistory) -> tuple[StepDocument, ...]:
    """Steps of no single attempt: accepted, planned, cancels, the verdict."""
    kept = (history.invocation.steps, history.task.steps, history.cancels)
    return _documents(map(read_ladder, kept), (), None)


def steps_of_attempt(history: JobTaskHistory, attempt: Attempt) -> tuple[StepDocument, ...]:
    """Its steps. What the broker took after the verdict is late."""
    kept = [read_ladder(attempt.decision.steps), read_ladder(attempt.report.steps if attempt.report else "")]
    verdict = history.verdict
    more = [*_output_steps(attempt), *_no_reply(attempt, kept, history.task.attempts, verdict)]
    return _documents(kept, more, verdict)


def is_end_late(steps: Iterable[StepDocument]) -> bool:
    """Whether its end became known only after the verdict."""
    ends = [step.late for step in steps if step.kind in (StepKind.ENDED, StepKind.INTERRUPTED, StepKind.NEVER_STARTED)]
    return bool(ends) and all(ends)


def _output_steps(attempt: Attempt) -> Iterator[Step]:
    """The first report of each stream, and the one that reaches furthest."""
    for stream, state in attempt.streams.items():
        if state.first is not None and state.latest is not None:
            first, latest = state.first, state.latest
            facts: dict[str, Fact] = {"stream": stream.value}
            stored: dict[str, Fact] = {"bytes": state.stored}
            if state.omitted:
                stored["left_out"] = sum(end - start for start, end in state.omitted)
            if first != latest:
                yield _landed(first, {**facts, "from": first.start, "to": first.end})
            yield _landed(latest, {**facts, "from": latest.start, "to": latest.end, **stored})


def _landed(it: Landing, facts: Mapping[str, Fact]) -> Step:
    return Step("output", it.seen_us, 0, it.heard_ms, it.partition, it.offset, it.actor, facts)


def _no_reply(attempt: Attempt, kept: Sequence[Ladder], last: int, verdict: Step | None) -> Iterator[Step]:
    """What the verdict says of the last attempt where nobody had told its end until then."""
    if verdict is None or attempt.number != last:
        return
    until = [step for ladder in kept for step in ladder.steps if step.heard_ms <= verdict.heard_ms]
    kinds = {step.kind for step in until}
    released = {step.actor for step in until if step.kind == "released"}
    silent = {step.actor for step in until if step.kind == "delivered"} - released
    if kinds & _ENDS or kinds & _WAITS or (released and not silent):
        return
    asked = [int(step.facts.get("asked", 0)) for step in until if step.kind == "asked_for"]
    facts: dict[str, Fact] = {"asked": max(asked, default=0)}
    detail = verdict.facts.get("detail")
    yield verdict._replace(kind="no_reply", facts=facts | ({"detail": detail} if detail else {}))


def _documents(kept: Iterable[Ladder], others: Iterable[Step], verdict: Step | None) -> tuple[StepDocument, ...]:
    ladders = list(kept)
    steps = sorted([*(step for ladder in ladders for step in ladder.steps), *others], key=_order)
    more = {kind for ladder in ladders for kind in ladder.more}
    last = {step.kind: n for n, step in enumerate(steps)}
    return tuple(
        _document(step, is_more=step.kind in more and last[step.kind] == n, verdict=verdict)
        for n, step in enumerate(steps)
    )


def _order(step: Step) -> tuple[int, int, int, int]:
    """By the one clock that all have in common; what it cannot tell apart, by the course of things."""
    return step.heard_ms, _KINDS.get(step.kind, 0), step.partition, step.offset


def _document(step: Step, *, is_more: bool, verdict: Step | None) -> StepDocument:
    is_late = verdict is not None and step.kind != "no_reply" and step.heard_ms > verdict.heard_ms
    return StepDocument(
        kind=StepKind(step.kind),
        time=_EPOCH + timedelta(microseconds=step.time_us),
        heard_at=_EPOCH + timedelta(milliseconds=step.heard_ms),
        topic=_TOPICS.get(step.kind, DISPATCH_EVENTS.name),
        partition=step.partition,
        offset=step.offset,
        actor=step.actor,
        late=is_late,
        more=is_more,
        facts={
            _FACT_NAMES.get(step.kind, name) if name == "at" else name: _fact(name, v) for name, v in step.facts.items()
        },
    )


def _fact(name: str, value: Fact) -> Fact:
    """Instants are kept as microseconds."""
    if name in ("at", "due_at") and isinstance(value, int):
        return (_EPOCH + timedelta(microseconds=value)).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return value
