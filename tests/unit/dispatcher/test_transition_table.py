"""The transition table row by row (docs/protocol.md section 1): one event, and the whole state after it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from chargehand_dispatcher.core.decision import Decision
from chargehand_dispatcher.core.job_task import JobTask, State
from chargehand_dispatcher.core.rules import Circumstances
from chargehand_dispatcher.core.table import (
    AgentRestarted,
    CancelRequested,
    CheckedIn,
    Claimed,
    Event,
    Halted,
    TimePassed,
    next_look_at,
    step,
)
from chargehand_schemas.dispatch import AttemptDue, CancelDue, JobTaskEnded, JobTaskStatusChanged, ResumeDue
from chargehand_schemas.execution import (
    AttemptAccepted,
    AttemptEnded,
    AttemptInterrupted,
    AttemptNeverStarted,
    AttemptReleased,
    AttemptStarted,
)
from chargehand_schemas.planning import AttemptRebound, AttemptRefused, AttemptVoided
from chargehand_schemas.properties import ExecutionProperties
from chargehand_schemas.reasons import EndCause, JobTaskStatus, NeverStartedWhy, Reason, ReleaseReason

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
INVOCATION, TASK, HOST = UUID(int=1), UUID(int=2), UUID(int=3)
JOURNAL, OTHER_JOURNAL, BOOT = UUID(int=4), UUID(int=5), UUID(int=6)
S = timedelta(seconds=1)

WAITING = JobTask(TASK, INVOCATION, HOST, "web1", "dmz", 0, due_at=NOON)


def at(after: float = 0, *, read: float | None = None, single: bool = False, **more: Any) -> Circumstances:
    """Circumstances `after` seconds after noon; the log read up to `read` seconds after noon."""
    properties = ExecutionProperties(**{k: more.pop(k) for k in list(more) if k in ExecutionProperties.model_fields})
    return Circumstances(
        NOON + after * S,
        properties,
        log_read_to=None if read is None else NOON + read * S,
        has_single_agent=single,
        **more,
    )


def about(attempt: int = 1, journal: UUID = JOURNAL, **fields: Any) -> dict[str, Any]:
    ids = {"id": uuid4(), "time": NOON, "job_invocation_id": INVOCATION, "job_task_id": TASK, "host_id": HOST}
    agent = {"proxy": "dmz", "agent_id": "a1", "agent_boot_id": BOOT, "journal_id": journal}
    return {**ids, **agent, "attempt": attempt, **fields}


def accepted(attempt: int = 1, journal: UUID = JOURNAL) -> AttemptAccepted:
    return AttemptAccepted(**about(attempt, journal))


def released(why: ReleaseReason, journal: UUID = JOURNAL, *, proof: bool = False) -> AttemptReleased:
    return AttemptReleased(**about(1, journal, why=why, detail="words", proves_never_started=proof))


def started(attempt: int = 1) -> AttemptStarted:
    return AttemptStarted(**about(attempt, started_at=NOON))


def ended(code: int | None = 0, cause: EndCause = EndCause.EXITED, attempt: int = 1) -> AttemptEnded:
    return AttemptEnded(**about(attempt, exit_status=code, cause=cause, ended_at=NOON))


def interrupted() -> AttemptInterrupted:
    return AttemptInterrupted(**about(detail="booted"))


def never(why: NeverStartedWhy = NeverStartedWhy.TOMBSTONE, by: int | None = None) -> AttemptNeverStarted:
    return AttemptNeverStarted(**about(why=why, fenced_by=by))


def story(*events: Event, start: JobTask = WAITING, **circumstances: Any) -> JobTask:
    """The job task after these events, all at noon."""
    for event in events:
        start = step(start, event, at(**circumstances)).job_task
    return start


DUE = story(Claimed())
ACCEPTED = story(Claimed(), accepted())
RUNNING = story(Claimed(), accepted(), started())
CHECK_IN = story(
    Claimed(), accepted(), released(ReleaseReason.COULD_NOT_CONNECT, proof=True), single=True, wait_for_check_in=True
)
SLOT_STATES = {"due": DUE, "accepted": ACCEPTED, "running": RUNNING}


def said(decision: Decision) -> list[str]:
    return [type(item).__name__ for item in decision.emits]


def verdict(decision: Decision) -> tuple[JobTaskStatus | None, Reason | None]:
    (item,) = decision.emits
    assert isinstance(item, JobTaskEnded)
    assert decision.job_task.state is State.ENDED
    assert (item.status, item.reason) == (decision.job_task.status, decision.job_task.reason)
    return item.status, item.reason


def test_a_claim_gives_the_attempt_its_times_and_a_slot() -> None:
    decision = step(WAITING, Claimed(), at(1))
    job_task = decision.job_task
    (due,) = decision.emits
    assert isinstance(due, AttemptDue)
    assert (job_task.state, job_task.attempt, job_task.state.holds_slot) == (State.DUE, 1, True)
    assert due.not_after == NOON + 31 * S
    assert due.run_deadline == NOON + (31 + 3600 + 10) * S
    assert (due.earlier, due.unknown, due.tried) == ((), (), 0)


def test_accepted_and_started_are_said_once() -> None:
    assert ACCEPTED.state is State.ACCEPTED
    assert ACCEPTED.acceptors == {JOURNAL}
    assert said(step(DUE, accepted(), at())) == ["JobTaskStatusChanged"]
    assert said(step(ACCEPTED, accepted(), at())) == []
    assert said(step(ACCEPTED, started(), at())) == ["JobTaskStatusChanged"]
    assert step(RUNNING, started(), at()).emits == ()


def test_a_start_that_overtakes_its_accept_is_believed() -> None:
    assert story(Claimed(), started()).state is State.RUNNING


@pytest.mark.parametrize("state", SLOT_STATES)
@pytest.mark.parametrize(
    ("event", "status", "reason"),
    [
        (ended(0), JobTaskStatus.SUCCEEDED, None),
        (ended(3), JobTaskStatus.FAILED, Reason.EXIT_STATUS),
        (ended(None, EndCause.TIMED_OUT), JobTaskStatus.FAILED, Reason.TIMED_OUT),
        (ended(None, EndCause.CANCELLED), JobTaskStatus.CANCELLED, Reason.CANCELLED),
        (interrupted(), JobTaskStatus.FAILED, Reason.INTERRUPTED),
    ],
)
def test_a_proved_end_is_the_verdict_of_the_last_try(
    state: str, event: Event, status: JobTaskStatus, reason: Reason | None
) -> None:
    decision = step(SLOT_STATES[state], event, at())
    assert verdict(decision) == (status, reason)
    assert not decision.job_task.state.holds_slot


LIMITS: list[tuple[JobTask, Event, dict[str, Any], str]] = [
    (
        RUNNING,
        ended(None, EndCause.TIMED_OUT),
        {"execution_timeout_interval": 90 * S},
        "execution_timeout_interval (1m30s)",
    ),
    (ACCEPTED, never(), {"time_to_pickup": 3600 * S}, "not started within time_to_pickup (1h): no agent"),
    (
        replace(CHECK_IN, detail="no route to it"),
        TimePassed(),
        {"time_to_pickup": 1.5 * S},
        "did not check in within time_to_pickup (1.5s): no route to it",
    ),
]


@pytest.mark.parametrize(("job_task", "event", "limit", "words"), LIMITS)
def test_a_verdict_of_a_time_limit_says_which_and_its_value(
    job_task: JobTask, event: Event, limit: dict[str, Any], words: str
) -> None:
    told = step(job_task, event, at(4000, **limit)).job_task
    assert told.state is State.ENDED
    assert words in told.detail


def test_what_hindered_the_last_attempt_is_told_with_the_limit() -> None:
    refused = story(Claimed(), accepted(), released(ReleaseReason.STOPPING))
    told = step(
        replace(refused, detail="the agent is stopping"), TimePassed(), at(99, read=99, time_to_pickup=60 * S)
    ).job_task
    assert (told.state, told.reason) == (State.ENDED, Reason.NOT_PICKED_UP)
    assert told.detail == "not started within time_to_pickup (1m): the agent is stopping"


def test_a_failed_try_is_followed_by_another_after_the_retry_interval() -> None:
    decision = step(RUNNING, ended(3), at(10, tries=2, retry_interval=20 * S))
    job_task = decision.job_task
    assert (job_task.state, job_task.tried, job_task.due_at) == (State.WAITING, 1, NOON + 30 * S)
    assert job_task.first_dispatched_at is None
    (news,) = decision.emits
    assert isinstance(news, JobTaskStatusChanged)
    assert (news.status, news.after, news.due_at) == (JobTaskStatus.WAITING, Reason.EXIT_STATUS, NOON + 30 * S)
    second = step(job_task, Claimed(), at(30, tries=2)).job_task
    assert verdict(step(second, ended(3, attempt=2), at(31, tries=2))) == (JobTaskStatus.FAILED, Reason.EXIT_STATUS)


@pytest.mark.parametrize("event", [interrupted(), ended(None, EndCause.TIMED_OUT)])
def test_interrupted_and_timed_out_are_retried_only_where_the_template_says_so(event: Event) -> None:
    assert step(RUNNING, event, at(tries=2)).job_task.state is State.ENDED
    more = (Reason.INTERRUPTED, Reason.TIMED_OUT)
    assert step(RUNNING, event, at(tries=2, retry_on=more)).job_task.state is State.WAITING


def test_acceptors_a_release_of_one_agent_proves_nothing_while_another_accepted() -> None:
    """Rule ACCEPTORS."""
    job_task = story(Claimed(), accepted(), accepted(journal=OTHER_JOURNAL), released(ReleaseReason.EXPIRED))
    assert job_task.state is State.ACCEPTED
    assert step(job_task, TimePassed(), at(600, read=600)).job_task.state is State.ACCEPTED
    both = story(released(ReleaseReason.EXPIRED, OTHER_JOURNAL), start=job_task)
    assert step(both, TimePassed(), at(600, read=600)).job_task.state is State.WAITING


def test_reopen_an_accept_after_a_release_of_the_same_journal_takes_it_back() -> None:
    job_task = story(Claimed(), accepted(), released(ReleaseReason.JOURNAL), accepted())
    assert job_task.released == frozenset()


def test_wm_nothing_is_concluded_from_silence_before_the_log_was_read_after_the_deadline() -> None:
    """Rule WM: not_after + margin is 35 s."""
    assert step(DUE, TimePassed(), at(34, read=34)).job_task is DUE
    assert step(DUE, TimePassed(), at(36)).job_task is DUE
    assert step(DUE, TimePassed(), at(36, read=34)).job_task is DUE
    assert step(DUE, TimePassed(), at(36, read=36)).job_task.state is State.WAITING


def test_one_a_proved_release_of_the_only_agent_is_a_verdict_at_once() -> None:
    """Rule ONE."""
    proof = released(ReleaseReason.COULD_NOT_CONNECT, proof=True)
    assert verdict(step(ACCEPTED, proof, at(1, single=True))) == (JobTaskStatus.FAILED, Reason.COULD_NOT_CONNECT)
    assert step(ACCEPTED, proof, at(1)).job_task.state is State.ACCEPTED
    unproved = released(ReleaseReason.COULD_NOT_CONNECT)
    assert step(ACCEPTED, unproved, at(1, single=True)).job_task.state is State.ACCEPTED


def test_jid_the_release_of_a_new_journal_is_not_that_of_the_one_that_accepted() -> None:
    """Rule JID."""
    fresh = released(ReleaseReason.EXPIRED, OTHER_JOURNAL, proof=True)
    job_task = step(ACCEPTED, fresh, at(1, single=True)).job_task
    assert job_task.state is State.ACCEPTED
    assert step(job_task, TimePassed(), at(600, read=600)).job_task.state is State.ACCEPTED


def test_a_host_that_refuses_is_a_verdict_with_the_reason() -> None:
    proof = released(ReleaseReason.HOST_REFUSED, proof=True)
    decision = step(ACCEPTED, proof, at(1, single=True))
    assert verdict(decision) == (JobTaskStatus.FAILED, Reason.REFUSED)
    assert decision.job_task.detail == "words"


@pytest.mark.parametrize("state", ["due", "accepted"])
def test_a_user_the_host_refuses_is_a_verdict_at_once_and_is_not_tried_again(state: str) -> None:
    """docs/adr/0025."""
    before = story(Claimed(), *([accepted()] if state == "accepted" else []))
    fact = AttemptNeverStarted(**about(why=NeverStartedWhy.TOMBSTONE, refusal="cannot run as app: wrong password"))
    decision = step(before, fact, at(1))
    assert verdict(decision) == (JobTaskStatus.FAILED, Reason.REFUSED)
    assert decision.job_task.detail == "cannot run as app: wrong password"


def test_try_what_never_started_is_no_try_and_is_claimed_anew() -> None:
    """Rule TRY; the second time with a wait, so that an agent that never can is not asked in a busy loop."""
    again = step(ACCEPTED, never(), at(10)).job_task
    assert (again.state, again.tried, again.due_at) == (State.WAITING, 0, NOON + 10 * S)
    third = story(Claimed(), start=again)
    waits = step(third, AttemptNeverStarted(**about(2, why=NeverStartedWhy.LATE)), at(20)).job_task
    assert waits.due_at == NOON + 20.5 * S


def test_pick_time_to_pickup_runs_from_the_first_dispatch_of_the_try() -> None:
    """Rule PICK."""
    assert verdict(step(ACCEPTED, never(), at(100, time_to_pickup=60 * S))) == (
        JobTaskStatus.FAILED,
        Reason.NOT_PICKED_UP,
    )


def test_fence_the_earlier_attempt_is_current_again() -> None:
    """Rule FENCE."""
    second = story(Claimed(), start=replace(WAITING, attempt=1, last_attempt=1, unknown=(1,)))
    fenced = AttemptNeverStarted(**about(2, why=NeverStartedWhy.FENCED, fenced_by=1))
    job_task = step(second, fenced, at(5)).job_task
    assert (job_task.state, job_task.attempt, job_task.last_attempt) == (State.RUNNING, 1, 2)
    assert job_task.run_deadline == NOON + (5 + 3610) * S
    assert verdict(step(job_task, ended(0), at(6))) == (JobTaskStatus.SUCCEEDED, None)


def test_one_an_attempt_that_nobody_looked_at_is_told_to_the_next_and_decides_if_it_ran_after_all() -> None:
    """Rules ONE and FENCE: its journal released it and was lost, and another one was given the command again."""
    proof = released(ReleaseReason.COULD_NOT_CONNECT, proof=True)
    waiting = step(ACCEPTED, proof, at(1, single=True, tries=2)).job_task
    assert (waiting.state, waiting.tried, waiting.unlooked) == (State.WAITING, 1, (1,))
    second = step(waiting, Claimed(), at(2, tries=2))
    assert [item.unlooked for item in second.emits if isinstance(item, AttemptDue)] == [(1,)]
    fenced = AttemptNeverStarted(**about(2, why=NeverStartedWhy.FENCED, fenced_by=1))
    followed = step(second.job_task, fenced, at(3, tries=2)).job_task
    assert (followed.state, followed.attempt, followed.unlooked) == (State.RUNNING, 1, ())
    assert verdict(step(waiting, ended(0), at(2, tries=2))) == (JobTaskStatus.SUCCEEDED, None)
    assert step(waiting, never(), at(2, tries=2)).job_task.unlooked == ()


def test_late_the_end_of_an_unknown_attempt_decides_while_its_retry_waits() -> None:
    """Rule LATE: and its try is given back."""
    waiting = replace(WAITING, attempt=1, last_attempt=1, tried=1, unknown=(1,))
    assert verdict(step(waiting, ended(0), at(tries=3))) == (JobTaskStatus.SUCCEEDED, None)
    failed = step(waiting, ended(2), at(tries=3)).job_task
    assert (failed.state, failed.tried, failed.unknown) == (State.WAITING, 1, ())


def test_late_an_end_that_comes_while_the_retry_is_due_is_met_by_whichever_retry_gets_to_the_host() -> None:
    """Rules LATE and FENCE: the retry never starts, and the next one must be told that nobody knew the end of the first."""
    waiting = replace(WAITING, attempt=1, last_attempt=1, tried=1, unknown=(1,))
    due = story(Claimed(), accepted(2), start=waiting, tries=3)
    told = step(due, ended(0), at(1, tries=3)).job_task
    again = step(told, AttemptNeverStarted(**about(2, why=NeverStartedWhy.TOMBSTONE)), at(2, tries=3)).job_task
    third = step(again, Claimed(), at(3, tries=3))
    assert [item.unknown for item in third.emits if isinstance(item, AttemptDue)] == [(1,)]
    started_on_top = story(started(2), start=due, tries=3)
    assert step(started_on_top, ended(0), at(1, tries=3)).job_task.unknown == ()


def test_lost_an_attempt_nobody_can_speak_for_is_unknown_after_being_asked_in_vain() -> None:
    """Rule LOST: run_deadline 3640 s, margin 5 s, asked, readable for 30 s."""
    assert said(step(RUNNING, TimePassed(), at(3646))) == ["ResumeDue"]  # silent anyway
    asked = step(RUNNING, TimePassed(), at(3646, read=3646)).job_task
    assert asked.asked_at == NOON + 3646 * S
    assert step(asked, TimePassed(), at(3660, read=3660)).job_task.state is State.RUNNING
    assert step(asked, TimePassed(), at(3680, read=3650)).job_task.state is State.RUNNING
    assert verdict(step(asked, TimePassed(), at(3680, read=3680))) == (JobTaskStatus.FAILED, Reason.UNKNOWN)


def test_lost_a_later_failure_says_unknown_while_an_attempts_end_is_unknown() -> None:
    """Rule LOST."""
    job_task = replace(RUNNING, attempt=2, last_attempt=2, unknown=(1,))
    assert verdict(step(job_task, ended(1, attempt=2), at())) == (JobTaskStatus.FAILED, Reason.UNKNOWN)


@pytest.mark.parametrize("state", ["accepted", "running"])
def test_ask_a_silent_attempt_is_asked_for_after_60_s_and_again_every_30_s(state: str) -> None:
    job_task = SLOT_STATES[state]
    assert step(job_task, TimePassed(), at(59)).emits == ()
    asked = step(job_task, TimePassed(), at(60))
    assert [type(item) for item in asked.emits] == [ResumeDue]
    assert step(asked.job_task, TimePassed(), at(89)).emits == ()
    again = step(asked.job_task, TimePassed(), at(90))
    assert [type(item) for item in again.emits] == [ResumeDue]
    assert again.emits[0].id != asked.emits[0].id
    assert step(job_task, TimePassed(), at(60, heard_at=NOON + 50 * S)).emits == ()


def test_an_agent_that_began_anew_is_asked_for_what_it_held() -> None:
    assert said(step(RUNNING, AgentRestarted("a1", uuid4()), at(1))) == ["ResumeDue"]
    assert said(step(RUNNING, AgentRestarted("a1", BOOT), at(1))) == []
    assert said(step(RUNNING, AgentRestarted("a2", uuid4()), at(1))) == []


@pytest.mark.parametrize("waiting", [WAITING, CHECK_IN], ids=["waiting", "check_in"])
def test_canc_what_waits_is_cancelled_at_once(waiting: JobTask) -> None:
    """Rule CANC."""
    assert verdict(step(waiting, CancelRequested(), at(1))) == (JobTaskStatus.CANCELLED, Reason.CANCELLED)


@pytest.mark.parametrize("state", SLOT_STATES)
def test_canc_what_was_dispatched_is_cancelling_until_its_end_is_proved(state: str) -> None:
    """Rule CANC: asked again every 30 s, and no second verdict of it."""
    cancelling = step(SLOT_STATES[state], CancelRequested(), at(1))
    assert [type(item) for item in cancelling.emits] == [JobTaskStatusChanged, CancelDue]
    assert cancelling.job_task.shown_status is JobTaskStatus.CANCELLING
    assert step(cancelling.job_task, CancelRequested(), at(2)).emits == ()
    assert said(step(cancelling.job_task, TimePassed(), at(31))) == ["CancelDue"]
    assert verdict(step(cancelling.job_task, never(), at(3))) == (JobTaskStatus.CANCELLED, Reason.CANCELLED)
    assert verdict(step(cancelling.job_task, ended(None, EndCause.CANCELLED), at(3)))[0] is JobTaskStatus.CANCELLED
    assert verdict(step(cancelling.job_task, ended(0), at(3))) == (JobTaskStatus.SUCCEEDED, None)
    assert verdict(step(cancelling.job_task, ended(7), at(3))) == (JobTaskStatus.FAILED, Reason.EXIT_STATUS)


def test_bind_a_refusal_of_the_binder_ends_this_job_task_as_failed() -> None:
    """Rule BIND."""
    refused = AttemptRefused(**_planned(reason=Reason.RENDER_FAILED, detail="line 3"))
    decision = step(DUE, refused, at(tries=5))
    assert verdict(decision) == (JobTaskStatus.FAILED, Reason.RENDER_FAILED)
    assert decision.job_task.detail == "line 3"


def test_a_rebound_attempt_never_started_and_waits_under_the_other_proxy() -> None:
    job_task = step(DUE, AttemptRebound(**_planned(proxy="site2")), at(1)).job_task
    assert (job_task.state, job_task.proxy, job_task.tried) == (State.WAITING, "site2", 0)


def test_a_voided_attempt_is_proof_of_never_started() -> None:
    cancelling = story(CancelRequested(), start=DUE)
    assert verdict(step(cancelling, AttemptVoided(**_planned()), at(1)))[0] is JobTaskStatus.CANCELLED
    assert step(DUE, AttemptVoided(**_planned()), at(1)).job_task.state is State.WAITING


def _planned(**fields: Any) -> dict[str, Any]:
    keys = ("id", "time", "job_invocation_id", "job_task_id", "host_id", "attempt")
    return {**{key: about()[key] for key in keys}, **fields}


def test_chk_a_check_in_after_the_issue_wakes_at_once_also_when_it_came_first() -> None:
    """Rule CHK."""
    assert CHECK_IN.state is State.CHECK_IN
    assert step(CHECK_IN, CheckedIn(), at(9, last_check_in=NOON - 1 * S)).job_task is CHECK_IN
    woken = step(CHECK_IN, CheckedIn(), at(9, last_check_in=NOON + 8 * S)).job_task
    assert (woken.state, woken.due_at) == (State.WAITING, NOON + 9 * S)
    proof = released(ReleaseReason.COULD_NOT_CONNECT, proof=True)
    early = at(9, single=True, wait_for_check_in=True, last_check_in=NOON + 5 * S)
    assert step(ACCEPTED, proof, early).job_task.state is State.WAITING


def test_the_wait_for_a_check_in_ends_with_time_to_pickup() -> None:
    late = at(3600, time_to_pickup=3600 * S)
    assert verdict(step(CHECK_IN, TimePassed(), late)) == (JobTaskStatus.FAILED, Reason.NOT_PICKED_UP)
    assert next_look_at(CHECK_IN, late) == NOON + 3600 * S


def test_a_halted_rolling_job_ends_what_waits_and_nothing_that_runs() -> None:
    assert verdict(step(WAITING, Halted("host 7"), at())) == (JobTaskStatus.FAILED, Reason.HALTED)
    assert step(RUNNING, Halted("host 7"), at()).job_task is RUNNING


def test_what_comes_back_to_a_halted_job_is_not_tried_again() -> None:
    """Its own failure when it was tried, halted when it never started: nothing would ever claim it."""
    halted = at(is_halted=True, tries=3, retry_interval=S, wait_for_check_in=True, single=True)
    assert verdict(step(RUNNING, ended(1), halted)) == (JobTaskStatus.FAILED, Reason.EXIT_STATUS)
    assert verdict(step(RUNNING, never(), halted)) == (JobTaskStatus.FAILED, Reason.HALTED)
    release = released(ReleaseReason.COULD_NOT_CONNECT, proof=True)
    assert verdict(step(ACCEPTED, release, halted)) == (JobTaskStatus.FAILED, Reason.COULD_NOT_CONNECT)


def test_a_claim_after_start_before_is_a_verdict_and_no_start() -> None:
    decision = step(WAITING, Claimed(), at(5, start_before=NOON + 4 * S))
    assert verdict(decision) == (JobTaskStatus.FAILED, Reason.NOT_PICKED_UP)


ENDED = step(RUNNING, ended(0), at()).job_task
ALL_EVENTS: list[Callable[[], Event]] = [
    Claimed, CancelRequested, CheckedIn, TimePassed, accepted, started, ended, interrupted, never,
    lambda: released(ReleaseReason.EXPIRED, proof=True), lambda: Halted("x"), lambda: AgentRestarted("a1", uuid4()),
    lambda: AttemptVoided(**_planned()), lambda: AttemptRefused(**_planned()),
    lambda: AttemptRebound(**_planned(proxy="x")),
]  # fmt: skip


@pytest.mark.parametrize("event", ALL_EVENTS)
def test_after_the_verdict_nothing_changes(event: Callable[[], Event]) -> None:
    decision = step(ENDED, event(), at(9999, read=9999, single=True))
    assert decision.job_task is ENDED
    assert decision.emits == ()


@pytest.mark.parametrize("state", SLOT_STATES)
@pytest.mark.parametrize("event", [accepted(9), started(9), ended(0, attempt=9)])
def test_a_message_about_another_attempt_is_a_fact_only(state: str, event: Event) -> None:
    assert step(SLOT_STATES[state], event, at()).job_task is SLOT_STATES[state]


@pytest.mark.parametrize("state", SLOT_STATES)
def test_a_job_task_that_holds_a_slot_is_looked_at_again(state: str) -> None:
    """Late is harmless, never is not."""
    instant = next_look_at(SLOT_STATES[state], at())
    assert instant is not None
    assert NOON < instant <= NOON + 61 * S
