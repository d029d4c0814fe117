"""The transition table of a JobTask (docs/protocol.md section 1), whole: state and message, guard, next state, what is said.

Owns which rule applies. A message about another attempt than the current one is a fact only, but for the two marked rows;
a message no row is for changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from chargehand_schemas.execution import (
    AttemptAccepted,
    AttemptEnded,
    AttemptInterrupted,
    AttemptNeverStarted,
    AttemptReleased,
    AttemptStarted,
)
from chargehand_schemas.frozen import replace
from chargehand_schemas.planning import AttemptRebound, AttemptRefused, AttemptVoided
from chargehand_schemas.reasons import JobTaskStatus, NeverStartedWhy, Reason, ReleaseReason

from . import limits
from .decision import Decision
from .job_task import SLOT_STATES, JobTask, State
from .over import How, Outcome, end_waiting, has_checked_in, is_pickup_over, outcome_of, over
from .rules import Circumstances
from .speech import asking, attempt_due, status_changed


@dataclass(frozen=True, slots=True)
class Claimed:
    """The job task was given a free slot (claims.py)."""


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """Its invocation, or this job task of it, is to be cancelled."""


@dataclass(frozen=True, slots=True)
class CheckedIn:
    """The host of the job task has checked in; when, is in the circumstances."""


@dataclass(frozen=True, slots=True)
class AgentRestarted:
    """An agent began anew: what it held is asked for."""

    agent_id: str
    agent_boot_id: UUID


@dataclass(frozen=True, slots=True)
class AgentLost:
    """An agent is silent or has stopped: what it held is asked for, whoever may answer."""

    agent_id: str


@dataclass(frozen=True, slots=True)
class TimePassed:
    """A moment at which a deadline of the job task may be over."""


@dataclass(frozen=True, slots=True)
class Halted:
    """A rolling invocation halted before this job task."""

    detail: str


@dataclass(frozen=True, slots=True)
class PlanLost:
    """Its part of the plan came after it was given up, and counted as lost."""


Fact = AttemptAccepted | AttemptReleased | AttemptStarted | AttemptEnded | AttemptInterrupted | AttemptNeverStarted
FromBinder = AttemptRefused | AttemptRebound | AttemptVoided
Event = (
    Claimed
    | PlanLost
    | CancelRequested
    | CheckedIn
    | AgentRestarted
    | AgentLost
    | TimePassed
    | Halted
    | Fact
    | FromBinder
)

_WAITS = frozenset({State.WAITING, State.CHECK_IN})
_UNDECIDED = frozenset({State.DUE, State.ACCEPTED})
_HELD = frozenset({State.ACCEPTED, State.RUNNING})
_UNENDED = _WAITS | SLOT_STATES


def step(job_task: JobTask, event: Event, at: Circumstances) -> Decision:
    """Apply the row for this state and event, if there is one."""
    for row in TABLE.get(type(event), ()):
        if job_task.state in row.states and row.guard(job_task, event, at):
            return row.apply(job_task, event, at)
    return Decision(job_task)


Guard = Callable[[JobTask, "Event", Circumstances], bool]
Apply = Callable[[JobTask, "Event", Circumstances], Decision]


@dataclass(frozen=True, slots=True)
class Row:
    """One row: in these states, if the guard holds, do this."""

    states: frozenset[State]
    guard: Guard
    apply: Apply


# --- guards


def _always(job_task: JobTask, event: Event, at: Circumstances) -> bool:
    return True


def _is_current(job_task: JobTask, event: Event, at: Circumstances) -> bool:
    """About the current attempt; an agent only of the proxy whose slot it holds, the binder whatever the proxy."""
    return getattr(event, "attempt", None) == job_task.attempt and not is_foreign(job_task, event)


def is_foreign(job_task: JobTask, event: Event) -> bool:
    """Whether an agent of another proxy speaks of this job task, which has no effect (docs/explanation/trust.md)."""
    return isinstance(event, Fact) and event.proxy != job_task.proxy


def _is_of_unknown_end(job_task: JobTask, event: Event, at: Circumstances) -> bool:
    """Also one that is over by the word of a journal that may be lost by now (rule ONE)."""
    attempt = getattr(event, "attempt", None)
    return attempt in (*job_task.unknown, *job_task.unlooked) and not is_foreign(job_task, event)


def _is_release(job_task: JobTask, event: Event, at: Circumstances) -> bool:
    """After a reboot it may have run before: that is answered from the host, never from a journal (rules JID and BOOT)."""
    assert isinstance(event, AttemptReleased)  # noqa: S101 (the row is for it)
    return event.why is not ReleaseReason.HOST_REBOOTED and _is_current(job_task, event, at)


def _is_of_lost_agent(job_task: JobTask, event: Event, at: Circumstances) -> bool:
    assert isinstance(event, AgentLost)  # noqa: S101 (the row is for it)
    return job_task.holder == event.agent_id and _may_be_asked(job_task, at)


def _is_held_by(job_task: JobTask, event: Event, at: Circumstances) -> bool:
    assert isinstance(event, AgentRestarted)  # noqa: S101 (the row is for it)
    is_other_boot = job_task.holder_boot is not None and job_task.holder_boot != event.agent_boot_id
    return job_task.holder == event.agent_id and is_other_boot and _may_be_asked(job_task, at)


def _has_checked_in(job_task: JobTask, event: Event, at: Circumstances) -> bool:
    return has_checked_in(job_task, at)


# --- rows


def _claim(job_task: JobTask, event: Event, at: Circumstances) -> Decision:
    if at.start_before is not None and job_task.last_attempt == 0 and at.now >= at.start_before:
        detail = f"a slot was free only after start_before ({at.start_before.isoformat()})"
        return end_waiting(job_task, JobTaskStatus.FAILED, Reason.NOT_PICKED_UP, at.now, detail)
    number = job_task.last_attempt + 1
    not_after = at.now + at.properties.not_after
    due = replace(
        job_task,
        state=State.DUE,
        attempt=number,
        last_attempt=number,
        issued_at=at.now,
        not_after=not_after,
        run_deadline=not_after + at.properties.execution_timeout_interval + at.properties.grace,
        first_dispatched_at=job_task.first_dispatched_at or at.now,
        detail="",
    )
    return Decision(due, (attempt_due(due, at.now, at.proxy_limit),))


def _cancel_waiting(job_task: JobTask, event: Event, at: Circumstances) -> Decision:
    return end_waiting(job_task, JobTaskStatus.CANCELLED, Reason.CANCELLED, at.now)


def _halt(job_task: JobTask, event: Event, at: Circumstances) -> Decision:
    assert isinstance(event, Halted)  # noqa: S101 (the row is for it)
    return end_waiting(job_task, JobTaskStatus.FAILED, Reason.HALTED, at.now, event.detail)


def _lose(job_task: JobTask, event: Event, at: Circumstances) -> Decision:
    detail = "its part of the plan came after it was given up"
    return end_waiting(job_task, JobTaskStatus.FAILED, Reason.LOST_MESSAGE, at.now, detail)


def _begin_cancelling(job_task: JobTask, event: Event, at: Circumstances) -> Decision:
    if job_task.is_cancelling:
        return Decision(job_task)
    return _ask(replace(job_task, is_cancelling=True, asked=0), at, is_news=True)


def _wake(job_task: JobTask, event: Event, at: Circumstances) -> Decision:
    waiting = replace(job_task, state=State.WAITING, due_at=at.now)
    return Decision(waiting, (status_changed(waiting, at.now),))


def _accept(job_task: JobTask, event: Event, at: Circumstances) -> Decision:
    """Rules JID and REOPEN: with the last release taken back, what was said with it is taken back too."""
    assert isinstance(event, AttemptAccepted)  # noqa: S101 (the row is for it)
    released = job_task.released - {event.journal_id}
    accepted = replace(
        job_task,
        state=State.ACCEPTED,
        acceptors=job_task.acceptors | {event.journal_id},
        released=released,
        could_not_connect=job_task.could_not_connect and bool(released),
        release_refused=job_task.release_refused and bool(released),
        holder=event.agent_id,
        holder_boot=event.agent_boot_id,
        last_word_at=at.now,
    )
    return _said(job_task, accepted, at.now)


def _release(job_task: JobTask, event: Event, at: Circumstances) -> Decision:
    assert isinstance(event, AttemptReleased)  # noqa: S101 (the row is for it)
    released = replace(
        job_task,
        released=job_task.released | {event.journal_id},
        could_not_connect=job_task.could_not_connect or event.why is ReleaseReason.COULD_NOT_CONNECT,
        release_refused=job_task.release_refused or event.why in _REFUSALS,
        detail=event.detail or job_task.detail,
    )
    if at.has_single_agent and event.proves_never_started and released.acceptors <= {event.journal_id}:
        unlooked = replace(released, unlooked=(*released.unlooked, released.attempt))
        return over(unlooked, _released_outcome(unlooked), at)
    return Decision(released)


_REFUSALS = frozenset(
    {ReleaseReason.HOST_REFUSED, ReleaseReason.POLICY, ReleaseReason.NOT_SUPPORTED, ReleaseReason.NOT_VALID}
)


def _released_outcome(job_task: JobTask) -> Outcome:
    if job_task.could_not_connect:
        return Outcome(How.COULD_NOT_CONNECT, detail=job_task.detail)
    if job_task.release_refused:
        return Outcome(How.REFUSED, detail=job_task.detail)
    return Outcome(How.NEVER_STARTED, detail=job_task.detail)


def _start(job_task: JobTask, event: Event, at: Circumstances) -> Decision:
    assert isinstance(event, AttemptStarted)  # noqa: S101 (the row is for it)
    running = replace(
        job_task,
        state=State.RUNNING,
        holder=event.agent_id,
        holder_boot=event.agent_boot_id,
        last_word_at=at.now,
        asked=job_task.asked if job_task.is_cancelling else 0,
    )
    return _said(job_task, running, at.now)


def _end(job_task: JobTask, event: Event, at: Circumstances) -> Decision:
    assert isinstance(event, AttemptEnded)  # noqa: S101 (the row is for it)
    return over(job_task, outcome_of(event, at.properties), at)


def _end_late(job_task: JobTask, event: Event, at: Circumstances) -> Decision:
    """Rule LATE: the end of an attempt given up as unknown decides while its retry waits; its try is given back."""
    assert isinstance(event, AttemptEnded)  # noqa: S101 (the row is for it)
    return over(_given_back(job_task, event.attempt), outcome_of(event, at.properties), at)


def _given_back(job_task: JobTask, attempt: int) -> JobTask:
    """Its end is known now, and the try that it was counted as while it was unknown is given back."""
    known = _of_known_end(job_task, attempt)
    return replace(known, tried=max(0, known.tried - 1)) if attempt in job_task.unknown else known


def _of_known_end(job_task: JobTask, attempt: int) -> JobTask:
    unknown = tuple(n for n in job_task.unknown if n != attempt)
    unlooked = tuple(n for n in job_task.unlooked if n != attempt)
    return replace(job_task, unknown=unknown, unlooked=unlooked)


def _note_end(job_task: JobTask, event: Event, at: Circumstances) -> Decision:
    """Rule LATE, while another attempt goes on: the end of this one is known now, a fact that changes no state."""
    attempt = getattr(event, "attempt", 0)
    if isinstance(event, AttemptNeverStarted):
        return Decision(_given_back(job_task, attempt))
    return Decision(_of_known_end(job_task, attempt))


def _interrupt(job_task: JobTask, event: Event, at: Circumstances) -> Decision:
    assert isinstance(event, AttemptInterrupted)  # noqa: S101 (the row is for it)
    return over(job_task, Outcome(How.INTERRUPTED, detail=event.detail), at)


def _never_started(job_task: JobTask, event: Event, at: Circumstances) -> Decision:
    assert isinstance(event, AttemptNeverStarted)  # noqa: S101 (the row is for it)
    k = event.fenced_by
    if event.why is NeverStartedWhy.FENCED and k is not None and 1 <= k < job_task.attempt:
        return _follow_fencing(job_task, k, event, at)
    if event.refusal:
        return over(job_task, Outcome(How.REFUSED, detail=event.refusal), at)
    return over(job_task, Outcome(How.NEVER_STARTED, detail=job_task.detail), at)


def _follow_fencing(job_task: JobTask, earlier: int, event: AttemptNeverStarted, at: Circumstances) -> Decision:
    """Rule FENCE: the earlier attempt is the current one again, with a deadline anew; its try is given back (LATE)."""
    running = replace(
        _given_back(job_task, earlier),
        state=State.RUNNING,
        attempt=earlier,
        run_deadline=at.now + at.properties.execution_timeout_interval + at.properties.grace,
        acceptors=frozenset(),
        released=frozenset(),
        holder=event.agent_id,
        holder_boot=event.agent_boot_id,
        last_word_at=at.now,
        asked_at=job_task.asked_at if job_task.is_cancelling else None,
    )
    return _said(job_task, running, at.now, is_news=True)


def _refuse(job_task: JobTask, event: Event, at: Circumstances) -> Decision:
    assert isinstance(event, AttemptRefused)  # noqa: S101 (the row is for it)
    how = How.RENDER_FAILED if event.reason is Reason.RENDER_FAILED else How.REFUSED
    return over(job_task, Outcome(how, detail=event.detail), at)


def _rebind(job_task: JobTask, event: Event, at: Circumstances) -> Decision:
    """Never started, and claimed anew under the other proxy."""
    assert isinstance(event, AttemptRebound)  # noqa: S101 (the row is for it)
    moved = replace(job_task, proxy=event.proxy)
    return over(moved, Outcome(How.NEVER_STARTED, detail=f"its host belongs to proxy {event.proxy} now"), at)


def _void(job_task: JobTask, event: Event, at: Circumstances) -> Decision:
    return over(job_task, Outcome(How.NEVER_STARTED), at)


# --- time


def _look_at_the_clock(job_task: JobTask, event: Event, at: Circumstances) -> Decision:
    if job_task.state in _UNDECIDED and at.is_past(job_task.not_after) and job_task.is_released_by_all:
        return over(job_task, _released_outcome(job_task), at)
    if _is_asked_a_last_time(job_task, at):
        if at.is_past(job_task.run_deadline) and _was_asked_in_vain(job_task, at):
            return over(job_task, Outcome(How.UNKNOWN, detail=limits.unknown_end(at.properties)), at)
        return Decision(job_task)
    if _is_followed(job_task, at):
        return Decision(replace(job_task, last_word_at=at.heard_at))
    if _should_ask(job_task, at):
        return _ask(job_task, at)
    return Decision(job_task)


def _is_followed(job_task: JobTask, at: Circumstances) -> bool:
    """An agent said that it follows it. That is a word, but beyond the deadline no answer: it may not reach the host (LOST)."""
    deadline, word = job_task.run_deadline, job_task.last_word_at
    is_late = deadline is not None and at.now >= deadline + at.timers.margin
    is_news = at.heard_at is not None and (word is None or at.heard_at > word)
    return _is_held(job_task) and is_news and not is_late


def _is_held(job_task: JobTask) -> bool:
    """An agent has accepted it; a due one, if the log has lost the word of one that may have (repair.py)."""
    return job_task.state in _HELD or (job_task.state is State.DUE and bool(job_task.acceptors))


def _is_asked_a_last_time(job_task: JobTask, at: Circumstances) -> bool:
    """Asked after the deadline, and nobody has said since that it runs on."""
    asked, word = job_task.asked_at, job_task.last_word_at
    if asked is None or job_task.run_deadline is None or asked < job_task.run_deadline + at.timers.margin:
        return False
    return word is None or word <= asked


def _was_asked_in_vain(job_task: JobTask, at: Circumstances) -> bool:
    """Rule LOST: the log was readable for 30 s after the last question; time in which it was not does not count (WM)."""
    if job_task.asked_at is None or at.log_read_to is None:
        return False
    since = max(filter(None, (job_task.asked_at, at.readable_since)))
    return at.log_read_to >= since + at.timers.readable_for


def _should_ask(job_task: JobTask, at: Circumstances) -> bool:
    if not _may_be_asked(job_task, at):
        return False
    if job_task.is_cancelling or at.is_past(job_task.run_deadline):
        return True
    word = job_task.last_word_at
    return _is_held(job_task) and (word is None or at.now >= word + at.timers.ask_after)


def _may_be_asked(job_task: JobTask, at: Circumstances) -> bool:
    return job_task.asked_at is None or at.now >= job_task.asked_at + at.timers.ask_again


def _ask(job_task: JobTask, at: Circumstances, is_news: bool = False) -> Decision:
    asked = replace(job_task, asked=job_task.asked + 1, asked_at=at.now)
    news = (status_changed(asked, at.now),) if is_news else ()
    return Decision(asked, (*news, asking(asked, at.now)))


def _ask_again(job_task: JobTask, event: Event, at: Circumstances) -> Decision:
    return _ask(job_task, at)


def _give_up_check_in(job_task: JobTask, event: Event, at: Circumstances) -> Decision:
    if not is_pickup_over(job_task, at):
        return Decision(job_task)
    detail = limits.no_check_in(at.properties, job_task.detail)
    return end_waiting(job_task, JobTaskStatus.FAILED, Reason.NOT_PICKED_UP, at.now, detail)


def _said(before: JobTask, after: JobTask, now: datetime, *, is_news: bool = False) -> Decision:
    """A change of the shown status is said, anything else only if it is news."""
    is_news = is_news or before.shown_status is not after.shown_status
    return Decision(after, (status_changed(after, now),) if is_news else ())


def _row(states: frozenset[State], apply: Apply, guard: Guard = _is_current) -> Row:
    return Row(states, guard, apply)


TABLE: dict[type, tuple[Row, ...]] = {
    Claimed: (_row(frozenset({State.WAITING}), _claim, _always),),
    CancelRequested: (_row(_WAITS, _cancel_waiting, _always), _row(SLOT_STATES, _begin_cancelling, _always)),
    Halted: (_row(_WAITS, _halt, _always),),
    PlanLost: (_row(_WAITS, _lose, _always),),
    CheckedIn: (_row(frozenset({State.CHECK_IN}), _wake, _has_checked_in),),
    AttemptAccepted: (_row(_UNDECIDED, _accept),),
    AttemptReleased: (_row(_UNDECIDED, _release, _is_release),),
    AttemptRefused: (_row(frozenset({State.DUE}), _refuse),),
    AttemptRebound: (_row(frozenset({State.DUE}), _rebind),),
    AttemptVoided: (_row(frozenset({State.DUE}), _void),),
    AttemptStarted: (_row(SLOT_STATES, _start),),
    AttemptEnded: (
        _row(SLOT_STATES, _end),
        _row(_WAITS, _end_late, _is_of_unknown_end),
        # Before it starts, another attempt meets this one on the host and does not (FENCE): only if it is told that nobody knew its end.
        _row(frozenset({State.RUNNING}), _note_end, _is_of_unknown_end),
    ),
    AttemptInterrupted: (_row(SLOT_STATES, _interrupt), _row(_UNENDED, _note_end, _is_of_unknown_end)),
    AttemptNeverStarted: (_row(SLOT_STATES, _never_started), _row(_UNENDED, _note_end, _is_of_unknown_end)),
    AgentRestarted: (_row(_HELD, _ask_again, _is_held_by),),
    AgentLost: (_row(_HELD, _ask_again, _is_of_lost_agent),),
    TimePassed: (
        _row(SLOT_STATES, _look_at_the_clock, _always),
        _row(frozenset({State.CHECK_IN}), _give_up_check_in, _always),
    ),
}


def next_look_at(job_task: JobTask, at: Circumstances) -> datetime | None:
    """The next instant at which time alone may change this job task; None if it cannot. Late is harmless, never is not."""
    if job_task.state is State.CHECK_IN and job_task.first_dispatched_at:
        return job_task.first_dispatched_at + at.properties.time_to_pickup
    if job_task.state not in SLOT_STATES:
        return None
    instants = [instant for instant in _instants(job_task, at) if instant is not None]
    return min(instants, default=None)


def _instants(job_task: JobTask, at: Circumstances) -> tuple[datetime | None, ...]:
    timers = at.timers
    asked_again = job_task.asked_at and job_task.asked_at + timers.ask_again
    undecided = job_task.state in _UNDECIDED and job_task.is_released_by_all and job_task.not_after
    is_last = _is_asked_a_last_time(job_task, at)
    is_asked_for = _is_held(job_task) and not is_last
    silent = is_asked_for and job_task.last_word_at and job_task.last_word_at + timers.ask_after
    return (
        _end_of_patience(job_task, at),
        asked_again if job_task.is_cancelling and not is_last else None,
        undecided + timers.margin if isinstance(undecided, datetime) else None,
        max(silent, asked_again or silent) if isinstance(silent, datetime) else None,
    )


def _end_of_patience(job_task: JobTask, at: Circumstances) -> datetime | None:
    """The deadline, or how long an answer to the last question is waited for."""
    if job_task.run_deadline is None:
        return None
    over_at = job_task.run_deadline + at.timers.margin
    asked = job_task.asked_at
    if asked is None or asked < over_at:
        return over_at
    wait = at.timers.readable_for if _is_asked_a_last_time(job_task, at) else at.timers.ask_again
    return asked + wait
