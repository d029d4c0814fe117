"""A job task as readers see it: its status from the dispatcher's events only, its attempts from everybody's facts.

Owns what each event changes. Every fold here is monotonic: repeats and reorderings across topics change nothing
(docs/adr/0018-the-dispatcher-says-every-state.md). Whose word counts for an attempt is decided here too: an agent's
report counts once the dispatcher or the binder named its proxy for that attempt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import assert_never
from uuid import UUID

from chargehand_schemas.dispatch import AttemptDue, JobTaskEnded, JobTaskStatusChanged
from chargehand_schemas.execution import (
    AttemptAccepted,
    AttemptEnded,
    AttemptFact,
    AttemptInterrupted,
    AttemptNeverStarted,
    AttemptReleased,
    AttemptStarted,
)
from chargehand_schemas.frozen import replace
from chargehand_schemas.planning import (
    AttemptBound,
    AttemptRebound,
    AttemptRefused,
    AttemptVoided,
    PlannedJobTask,
)
from chargehand_schemas.reasons import JobTaskStatus, Reason, Stream

from .ladder import Place, add_step
from .output import StreamState

BinderEvent = AttemptBound | AttemptRefused | AttemptRebound | AttemptVoided

_STAGES = {
    JobTaskStatus.DUE: 1,
    JobTaskStatus.ACCEPTED: 2,
    JobTaskStatus.RUNNING: 3,
    JobTaskStatus.CANCELLING: 4,
    JobTaskStatus.WAITING_FOR_CHECK_IN: 5,
    JobTaskStatus.WAITING: 6,
}


@dataclass(frozen=True, slots=True)
class StreamView:
    """One stream of an attempt as shown: bytes stored, lines, what a cap left out, the digest, and whether it is all there."""

    length: int = 0
    newlines: int = 0
    omitted: tuple[tuple[int, int], ...] = ()
    digest: str = ""
    complete: bool = False


@dataclass(frozen=True, slots=True)
class AttemptDecision:
    """What the dispatcher and the binder decided about one attempt. `proxy` is who may speak for it; empty: not known yet.

    `steps`: what they said, as ladder.py keeps it.
    """

    proxy: str = ""
    due_at: datetime | None = None
    not_after: datetime | None = None
    is_bound: bool = False
    script_digest: str = ""
    effective_user: str = ""
    outcome: str = ""
    detail: str = ""
    steps: str = ""


@dataclass(frozen=True, slots=True)
class AttemptReport:
    """What the agents of one proxy said about one attempt, and what is stored of its output. `steps` as in AttemptDecision."""

    accepted_at: datetime | None = None
    accepted_by: str = ""
    started_at: datetime | None = None
    started_by: str = ""
    script_digest: str = ""
    released_at: datetime | None = None
    released: str = ""
    released_detail: str = ""
    never_started: str = ""
    interrupted_rank: str = ""
    interrupted_detail: str = ""
    ended_rank: str = ""
    ended_at: datetime | None = None
    cause: str = ""
    exit_status: int | None = None
    signal: str | None = None
    kept: dict[Stream, int] = field(default_factory=dict)
    digests: dict[Stream, str] = field(default_factory=dict)
    streams: dict[Stream, StreamView] = field(default_factory=dict)
    steps: str = ""

    @property
    def agent_id(self) -> str:
        return self.started_by or self.accepted_by

    @property
    def has_run(self) -> bool:
        """Whether it ever started, as far as its proxy says."""
        return bool(self.started_at or self.ended_rank or self.interrupted_rank or self.streams)


@dataclass(frozen=True, slots=True)
class JobTask:
    """One job task. `shown` is the attempt whose facts and output it shows.

    `steps`: those of no single attempt, as ladder.py keeps them. `group` (what it ended like, groups.py) and `position` (of its
    last change) are as the store had them.
    """

    job_task_id: UUID
    job_invocation_id: UUID
    host_id: UUID
    host_name: str = ""
    is_planned: bool = False
    ordinal: int = 0
    proxy: str = ""
    proxy_from: int = -1
    rank: str = ""
    verdict_rank: str = ""
    status: JobTaskStatus = JobTaskStatus.WAITING
    reason: Reason | None = None
    exit_status: int | None = None
    signal: str | None = None
    attempts: int = 0
    tried: int = 0
    detail: str = ""
    due_at: datetime | None = None
    verdict_at: datetime | None = None
    shown: int = 0
    started_at: datetime | None = None
    attempt_ended_at: datetime | None = None
    streams: Mapping[Stream, StreamView] = field(default_factory=dict)
    steps: str = ""
    group: bytes = b""
    position: int = 0

    @property
    def next_try_at(self) -> datetime | None:
        """When the next try is due, while it is waited for."""
        return self.due_at if self.status is JobTaskStatus.WAITING and self.attempts else None

    @property
    def ended_at(self) -> datetime | None:
        """When it ended: on its host if that is known, else when the verdict was given. None before the verdict."""
        return (self.attempt_ended_at or self.verdict_at) if self.verdict_rank else None


def rank_of(moment: datetime, attempt: int, stage: int, item_id: UUID) -> str:
    """Where an event stands among the dispatcher's events about one job task; text that sorts.

    First by the dispatcher's clock, which never goes back within a partition (docs/protocol.md, rule CLK), then by attempt
    and stage, for what one transaction said at one instant. A repeat carries the same time and id, and so the same rank.
    """
    micros = (moment.astimezone(UTC) - _EPOCH) // _MICROSECOND
    return f"{micros:016x}{attempt:06x}{stage:x}{item_id.hex}"


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = datetime.resolution


# --- the plan and the dispatcher ------------------------------------------------------------------------------------


def plan(task: JobTask, planned: PlannedJobTask, steps: str) -> JobTask:
    """The planner's word on who the host is; the proxy only until an attempt names one. `steps`: its ladder with that."""
    proxy, proxy_from = (planned.proxy, 0) if task.proxy_from < 0 else (task.proxy, task.proxy_from)
    return replace(
        task,
        host_name=planned.host_name,
        is_planned=True,
        ordinal=planned.ordinal,
        proxy=proxy,
        proxy_from=proxy_from,
        steps=steps,
    )


def make_due(task: JobTask, due: AttemptDue) -> JobTask:
    """An attempt holds its slot: status due, unless later is known."""
    rank = rank_of(due.time, due.attempt, _STAGES[JobTaskStatus.DUE], due.id)
    is_newest, is_first = rank > task.rank, due.attempt > task.proxy_from
    is_shown = is_newest and not task.verdict_rank
    return replace(
        task,
        host_name=task.host_name or due.host_name,
        attempts=max(task.attempts, due.attempt),
        proxy=due.proxy if is_first else task.proxy,
        proxy_from=due.attempt if is_first else task.proxy_from,
        rank=rank if is_newest else task.rank,
        status=JobTaskStatus.DUE if is_shown else task.status,
        tried=due.tried if is_shown else task.tried,
        due_at=due.issued_at if is_shown else task.due_at,
        detail="" if is_shown else task.detail,
    )


def change_status(task: JobTask, changed: JobTaskStatusChanged) -> JobTask:
    """The dispatcher's status between verdicts; the highest rank holds."""
    rank = rank_of(changed.time, changed.attempt, _STAGES.get(changed.status, 0), changed.id)
    attempts = max(task.attempts, changed.attempt)
    if rank <= task.rank:
        return task if attempts == task.attempts else replace(task, attempts=attempts)
    if task.verdict_rank or changed.status.is_verdict:
        return replace(task, rank=rank, attempts=attempts)
    return replace(
        task,
        rank=rank,
        attempts=attempts,
        status=changed.status,
        tried=changed.tried,
        due_at=changed.due_at,
        detail=changed.detail or (f"after {changed.after.value}" if changed.after else ""),
    )


def end(task: JobTask, ended: JobTaskEnded, steps: str) -> JobTask:
    """The verdict. There is one; should a log hold two, the first by the dispatcher's clock holds in every order of reading.
    `steps`: its ladder with that."""
    host_name, attempts = task.host_name or ended.host_name, max(task.attempts, ended.attempts)
    rank = rank_of(ended.time, ended.attempts, 0, ended.id)
    if task.verdict_rank and task.verdict_rank <= rank:
        return replace(task, host_name=host_name, attempts=attempts, steps=steps)
    return replace(
        task,
        host_name=host_name,
        attempts=attempts,
        steps=steps,
        verdict_rank=rank,
        status=ended.status,
        reason=ended.reason,
        exit_status=ended.exit_status,
        signal=ended.signal,
        tried=ended.tried,
        detail=ended.detail,
        due_at=None,
        verdict_at=ended.time,
    )


def contradicts(task: JobTask, ended: JobTaskEnded) -> bool:
    """Whether a verdict differs from the one that is known: the first promise of docs/explanation/architecture.md is broken."""
    return bool(task.verdict_rank) and (task.status, task.reason, task.exit_status) != (
        ended.status,
        ended.reason,
        ended.exit_status,
    )


# --- one attempt ----------------------------------------------------------------------------------------------------


def decide_due(decision: AttemptDecision, due: AttemptDue, place: Place) -> AttemptDecision:
    """The dispatcher names the proxy that may speak for this attempt."""
    steps = add_step(decision.steps, due, place)
    return replace(decision, proxy=due.proxy, due_at=due.issued_at, not_after=due.not_after, steps=steps)


def decide_binding(decision: AttemptDecision, event: BinderEvent, place: Place) -> AttemptDecision:
    """The binder's one decision for this attempt."""
    steps = add_step(decision.steps, event, place)
    match event:
        case AttemptBound():
            return replace(
                decision,
                is_bound=True,
                proxy=decision.proxy or event.proxy,
                script_digest=event.script_digest,
                effective_user=event.effective_user,
                steps=steps,
            )
        case AttemptRefused():
            return replace(decision, outcome=f"refused: {event.reason.value}", detail=event.detail, steps=steps)
        case AttemptRebound():
            return replace(decision, outcome=f"rebound to {event.proxy}", steps=steps)
        case AttemptVoided():
            return replace(decision, outcome="voided", steps=steps)
        case _:
            assert_never(event)


def report(known: AttemptReport, fact: AttemptFact, place: Place) -> AttemptReport:
    """One fact of an agent of this report's proxy. Of facts that two agents tell, the earlier one is kept; all are steps."""
    steps = add_step(known.steps, fact, place)
    match fact:
        case AttemptAccepted():
            told = _accepted(known, fact, steps)
        case AttemptReleased():
            told = _released(known, fact, steps)
        case AttemptStarted():
            told = _started(known, fact, steps)
        case AttemptEnded():
            told = _ended(known, fact, steps)
        case AttemptInterrupted():
            told = _interrupted(known, fact, steps)
        case AttemptNeverStarted():
            fenced = f" by attempt {fact.fenced_by}" if fact.fenced_by is not None else ""
            words = fact.refusal or f"{fact.why.value}{fenced}"
            told = replace(known, never_started=max(known.never_started, words), steps=steps)
        case _:
            told = known
    return told if told.steps == steps else replace(told, steps=steps)


def _accepted(known: AttemptReport, fact: AttemptAccepted, steps: str) -> AttemptReport:
    if known.accepted_at is not None and (known.accepted_at, known.accepted_by) <= (fact.time, fact.agent_id):
        return known
    return replace(known, accepted_at=fact.time, accepted_by=fact.agent_id, steps=steps)


def _released(known: AttemptReport, fact: AttemptReleased, steps: str) -> AttemptReport:
    told = (fact.time, fact.why.value, fact.detail)
    if known.released_at is not None and told <= (known.released_at, known.released, known.released_detail):
        return known
    return replace(known, released_at=fact.time, released=fact.why.value, released_detail=fact.detail, steps=steps)


def _started(known: AttemptReport, fact: AttemptStarted, steps: str) -> AttemptReport:
    if known.started_at is not None and (known.started_at, known.started_by) <= (fact.started_at, fact.agent_id):
        return known
    return replace(
        known, started_at=fact.started_at, started_by=fact.agent_id, script_digest=fact.script_digest, steps=steps
    )


def _ended(known: AttemptReport, fact: AttemptEnded, steps: str) -> AttemptReport:
    rank = rank_of(fact.time, fact.attempt, 0, fact.id)
    if known.ended_rank and known.ended_rank <= rank:
        return known
    return replace(
        known,
        ended_rank=rank,
        ended_at=fact.ended_at,
        cause=fact.cause.value,
        exit_status=fact.exit_status,
        signal=fact.signal,
        kept=fact.kept,
        digests=fact.digests,
        steps=steps,
    )


def _interrupted(known: AttemptReport, fact: AttemptInterrupted, steps: str) -> AttemptReport:
    rank = rank_of(fact.time, fact.attempt, 0, fact.id)
    if known.interrupted_rank and known.interrupted_rank <= rank:
        return known
    kept, digests = (known.kept, known.digests) if known.ended_rank else (fact.kept, fact.digests)
    return replace(
        known, interrupted_rank=rank, interrupted_detail=fact.detail, kept=kept, digests=digests, steps=steps
    )


def show_stream(known: AttemptReport, stream: Stream, state: StreamState) -> AttemptReport:
    """What is stored of one stream now."""
    view = StreamView(length=state.stored, newlines=state.newlines, omitted=state.omitted)
    return known if known.streams.get(stream) == view else replace(known, streams={**known.streams, stream: view})


def views(known: AttemptReport) -> dict[Stream, StreamView]:
    """The streams with digests, and complete where all that was kept on the host is stored (docs/protocol.md, OUTORD)."""
    found: dict[Stream, StreamView] = {}
    for stream in Stream:
        if stream in known.streams or stream in known.kept:
            view = known.streams.get(stream, StreamView())
            kept = known.kept.get(stream)
            is_complete = kept is not None and view.length >= kept
            found[stream] = replace(view, digest=known.digests.get(stream, ""), complete=is_complete)
    return found


def show_attempt(task: JobTask, attempt: int, known: AttemptReport) -> JobTask:
    """Let the task show this attempt's facts, if it is the latest that ran."""
    if not known.has_run or attempt < task.shown:
        return task
    return replace(
        task,
        shown=attempt,
        started_at=known.started_at,
        attempt_ended_at=known.ended_at,
        streams=views(known),
    )


def outcome_of(decision: AttemptDecision, known: AttemptReport | None) -> tuple[str, str]:
    """One word for where an attempt is or how it ended, and the detail. What is proved outweighs what was decided."""
    if known is not None:
        if known.ended_rank:
            return known.cause, ""
        if known.interrupted_rank:
            return "interrupted", known.interrupted_detail
        if known.never_started:
            return "never_started", known.never_started
        if known.started_at is not None or known.streams:
            return "running", ""
        if known.released_at is not None and (known.accepted_at is None or known.released_at >= known.accepted_at):
            return f"released: {known.released}", known.released_detail
    if decision.outcome:
        return decision.outcome, decision.detail
    if known is not None and known.accepted_at is not None:
        return "accepted", ""
    return ("bound" if decision.is_bound else "due"), ""


def may_speak(decision: AttemptDecision, proxy: str) -> bool | None:
    """Whether agents of `proxy` may speak for this attempt. None: nobody has named its proxy yet."""
    return None if not decision.proxy else decision.proxy == proxy


def is_settled(task: JobTask) -> bool:
    """Whether nothing more is expected of it: a verdict, and where something ran, all of its output."""
    if not task.verdict_rank:
        return False
    has_exited = task.exit_status is not None or task.status is JobTaskStatus.SUCCEEDED
    return all(view.complete for view in task.streams.values()) and (bool(task.streams) or not has_exited)
