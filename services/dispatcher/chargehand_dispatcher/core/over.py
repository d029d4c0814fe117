"""What becomes of a job task when an attempt is proved to be over (docs/protocol.md section 1, `over`).

Owns the outcomes and the choice between another attempt and a verdict. The slot is free in the same step: a job task that
is not due, accepted or running holds none.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from chargehand_schemas.execution import AttemptEnded
from chargehand_schemas.frozen import replace
from chargehand_schemas.properties import ExecutionProperties
from chargehand_schemas.reasons import EndCause, JobTaskStatus, Reason

from . import limits
from .decision import Decision
from .job_task import JobTask, State
from .rules import Circumstances
from .speech import ended, status_changed


class How(StrEnum):
    """The ways in which an attempt can be over."""

    EXITED = "exited"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    NEVER_STARTED = "never_started"
    COULD_NOT_CONNECT = "could_not_connect"
    REFUSED = "refused"
    RENDER_FAILED = "render_failed"
    UNKNOWN = "unknown"


_REASONS = {
    How.EXITED: Reason.EXIT_STATUS,
    How.TIMED_OUT: Reason.TIMED_OUT,
    How.CANCELLED: Reason.CANCELLED,
    How.INTERRUPTED: Reason.INTERRUPTED,
    How.COULD_NOT_CONNECT: Reason.COULD_NOT_CONNECT,
    How.REFUSED: Reason.REFUSED,
    How.RENDER_FAILED: Reason.RENDER_FAILED,
    How.UNKNOWN: Reason.UNKNOWN,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended, with its number or signal, and words for people."""

    how: How
    exit_status: int | None = None
    signal: str | None = None
    detail: str = ""

    @property
    def is_success(self) -> bool:
        return self.how is How.EXITED and self.exit_status == 0


_CAUSES = {EndCause.EXITED: How.EXITED, EndCause.TIMED_OUT: How.TIMED_OUT, EndCause.CANCELLED: How.CANCELLED}


def outcome_of(fact: AttemptEnded, properties: ExecutionProperties) -> Outcome:
    """The outcome an exit file tells."""
    detail = limits.ran_too_long(properties) if fact.cause is EndCause.TIMED_OUT else ""
    return Outcome(_CAUSES[fact.cause], fact.exit_status, fact.signal, detail)


def over(job_task: JobTask, outcome: Outcome, at: Circumstances) -> Decision:
    """The current attempt is over: another attempt, the wait for a check-in, or the verdict."""
    job_task = _without_attempt(job_task, outcome)
    if outcome.is_success:
        return _verdict(job_task, JobTaskStatus.SUCCEEDED, None, outcome, at.now)
    if job_task.is_cancelling:
        return _over_while_cancelling(job_task, outcome, at.now)
    match outcome.how:
        case How.REFUSED | How.RENDER_FAILED:
            return _failed(job_task, outcome, at.now)
        case How.CANCELLED:
            return _verdict(job_task, JobTaskStatus.CANCELLED, Reason.CANCELLED, outcome, at.now)
        case How.NEVER_STARTED:
            return _never_started(job_task, outcome, at)
        case How.COULD_NOT_CONNECT if at.properties.wait_for_check_in and not at.is_halted:
            return _wait_for_check_in(job_task, outcome, at)
        case _:
            return _try_again_or_fail(job_task, outcome, at)


def _without_attempt(job_task: JobTask, outcome: Outcome) -> JobTask:
    unknown = job_task.unknown
    if outcome.how is How.UNKNOWN and job_task.attempt not in unknown:
        unknown = (*unknown, job_task.attempt)
    return replace(
        job_task,
        state=State.WAITING,
        acceptors=frozenset(),
        released=frozenset(),
        could_not_connect=False,
        release_refused=False,
        holder="",
        holder_boot=None,
        last_word_at=None,
        asked=0,
        asked_at=None,
        unknown=unknown,
        detail=outcome.detail,
    )


def _over_while_cancelling(job_task: JobTask, outcome: Outcome, now: datetime) -> Decision:
    """Rule CANC: what ended by itself first keeps its own verdict."""
    if outcome.how is How.EXITED:
        return _failed(job_task, outcome, now)
    return _verdict(job_task, JobTaskStatus.CANCELLED, Reason.CANCELLED, outcome, now)


def _never_started(job_task: JobTask, outcome: Outcome, at: Circumstances) -> Decision:
    """Rules TRY and PICK: no try, no retry_interval; but not for ever, and not in a busy loop."""
    if is_pickup_over(job_task, at):
        late = dataclasses.replace(outcome, detail=limits.not_started(at.properties, outcome.detail))
        return _verdict(job_task, JobTaskStatus.FAILED, Reason.NOT_PICKED_UP, late, at.now)
    if at.is_halted:
        return _verdict(job_task, JobTaskStatus.FAILED, Reason.HALTED, outcome, at.now)
    count = job_task.unstarted + 1
    waiting = replace(job_task, unstarted=count, due_at=at.now + unstarted_wait(count, at))
    return Decision(waiting, (status_changed(waiting, at.now, Reason.NOT_PICKED_UP),))


def unstarted_wait(count: int, at: Circumstances) -> timedelta:
    """None the first time, then doubled from half a second to a minute: an agent that never can is not asked in a loop."""
    if count <= 1:
        return timedelta(0)
    return min(at.timers.longest_unstarted_wait, at.timers.first_unstarted_wait * (1 << min(count - 2, 20)))


def is_pickup_over(job_task: JobTask, at: Circumstances) -> bool:
    """time_to_pickup runs from the first dispatch of each try (rule PICK)."""
    first = job_task.first_dispatched_at
    return first is not None and at.now >= first + at.properties.time_to_pickup


def _wait_for_check_in(job_task: JobTask, outcome: Outcome, at: Circumstances) -> Decision:
    if is_pickup_over(job_task, at):
        late = dataclasses.replace(outcome, detail=limits.no_check_in(at.properties, outcome.detail))
        return _verdict(job_task, JobTaskStatus.FAILED, Reason.NOT_PICKED_UP, late, at.now)
    is_awake = has_checked_in(job_task, at)
    waiting = replace(job_task, due_at=at.now) if is_awake else replace(job_task, state=State.CHECK_IN)
    return Decision(waiting, (status_changed(waiting, at.now, Reason.COULD_NOT_CONNECT),))


def has_checked_in(job_task: JobTask, at: Circumstances) -> bool:
    """Rule CHK: a check-in is a value, judged against the attempt's issue."""
    return at.last_check_in is not None and job_task.issued_at is not None and at.last_check_in >= job_task.issued_at


def _try_again_or_fail(job_task: JobTask, outcome: Outcome, at: Circumstances) -> Decision:
    reason = _REASONS[outcome.how]
    tried = replace(job_task, tried=job_task.tried + 1)
    if at.is_halted or tried.tried >= at.properties.tries or reason not in at.properties.retry_on:
        return _failed(tried, outcome, at.now)
    waiting = replace(tried, due_at=at.now + at.properties.retry_interval, first_dispatched_at=None, unstarted=0)
    return Decision(waiting, (status_changed(waiting, at.now, reason),))


def _failed(job_task: JobTask, outcome: Outcome, now: datetime) -> Decision:
    """Rule LOST: while any attempt's end is unknown, a failed verdict says unknown."""
    reason = Reason.UNKNOWN if job_task.unknown else _REASONS[outcome.how]
    return _verdict(job_task, JobTaskStatus.FAILED, reason, outcome, now)


def _verdict(
    job_task: JobTask, status: JobTaskStatus, reason: Reason | None, outcome: Outcome, now: datetime
) -> Decision:
    done = replace(
        job_task,
        state=State.ENDED,
        is_cancelling=False,
        status=status,
        reason=reason,
        exit_status=outcome.exit_status,
        signal=outcome.signal,
        detail=outcome.detail,
    )
    return Decision(done, (ended(done, now),))


def end_waiting(job_task: JobTask, status: JobTaskStatus, reason: Reason, now: datetime, detail: str = "") -> Decision:
    """The verdict of a job task of which nothing runs."""
    return _verdict(job_task, status, reason, Outcome(How.CANCELLED, detail=detail), now)
