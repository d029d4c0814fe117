"""What a dispatcher may still conclude, and can say again, when its log was cut."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from chargehand_dispatcher.core.invocation import Invocation
from chargehand_dispatcher.core.job_task import JobTask, State
from chargehand_dispatcher.core.repair import (
    LOST_JOURNAL,
    LostVerdicts,
    between,
    lost_verdicts,
    say_again,
    with_lost_word,
)
from chargehand_dispatcher.core.rules import Circumstances
from chargehand_dispatcher.core.speech import attempt_due, ended, status_changed
from chargehand_dispatcher.core.table import TimePassed, next_look_at, step
from chargehand_schemas.dispatch import (
    AttemptDue,
    JobInvocationDue,
    JobInvocationEnded,
    JobTaskEnded,
    JobTaskStatusChanged,
    ResumeDue,
)
from chargehand_schemas.execution import AttemptNeverStarted, AttemptReleased
from chargehand_schemas.planning import AttemptVoided
from chargehand_schemas.properties import ExecutionProperties
from chargehand_schemas.reasons import JobInvocationStatus, JobTaskStatus, NeverStartedWhy, ReleaseReason

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
S = timedelta(seconds=1)
INVOCATION, JOURNAL = UUID(int=1), UUID(int=4)
WAITING = JobTask(UUID(int=2), INVOCATION, UUID(int=3), "web1", "dmz", 0, due_at=NOON)
DUE = replace(
    WAITING,
    state=State.DUE,
    attempt=1,
    last_attempt=1,
    issued_at=NOON,
    first_dispatched_at=NOON,
    not_after=NOON + 30 * S,
    run_deadline=NOON + 3600 * S,
)
ACCEPTED = replace(DUE, state=State.ACCEPTED, acceptors=frozenset({JOURNAL}), last_word_at=NOON + S)
ENDED = replace(DUE, state=State.ENDED, status=JobTaskStatus.SUCCEEDED, exit_status=0)


def at(after: float, *, single: bool = False) -> Circumstances:
    moment = NOON + after * S
    return Circumstances(moment, ExecutionProperties(), log_read_to=moment, has_single_agent=single)


def fact(model: type, **more: object) -> object:
    return model(
        id=uuid4(), time=NOON, job_invocation_id=INVOCATION, job_task_id=DUE.job_task_id, attempt=1, host_id=DUE.host_id,
        **more,
    )  # fmt: skip


BY_AGENT = {"proxy": "dmz", "agent_id": "a1", "agent_boot_id": UUID(int=6), "journal_id": JOURNAL}


def test_silence_ends_a_due_attempt_unless_the_word_of_an_agent_may_be_lost() -> None:
    assert step(DUE, TimePassed(), at(100)).job_task.state is State.WAITING
    assert step(with_lost_word(DUE), TimePassed(), at(50)).job_task == with_lost_word(DUE)


def test_what_may_have_been_accepted_is_asked_for_after_a_minute_and_again() -> None:
    lost = with_lost_word(DUE)
    assert next_look_at(lost, at(1)) == NOON + 60 * S
    asked = step(lost, TimePassed(), at(60))
    assert [type(item) for item in asked.emits] == [ResumeDue]
    assert step(asked.job_task, TimePassed(), at(70)).emits == ()
    assert [type(item) for item in step(asked.job_task, TimePassed(), at(90)).emits] == [ResumeDue]


@pytest.mark.parametrize("job_task", [DUE, ACCEPTED])
def test_a_release_proves_nothing_where_another_acceptance_may_be_lost(job_task: JobTask) -> None:
    release = fact(AttemptReleased, why=ReleaseReason.EXPIRED, proves_never_started=True, **BY_AGENT)
    assert step(job_task, release, at(5, single=True)).job_task.state is State.WAITING  # type: ignore[arg-type]
    left = step(with_lost_word(job_task), release, at(5, single=True)).job_task  # type: ignore[arg-type]
    assert left.state is job_task.state
    assert step(left, TimePassed(), at(50)).job_task.state is job_task.state


def test_proofs_count_as_before() -> None:
    lost = with_lost_word(DUE)
    for proof in (fact(AttemptNeverStarted, why=NeverStartedWhy.TOMBSTONE, **BY_AGENT), fact(AttemptVoided)):
        assert step(lost, proof, at(5)).job_task.state is State.WAITING  # type: ignore[arg-type]


@pytest.mark.parametrize("job_task", [WAITING, ENDED, replace(ACCEPTED, state=State.RUNNING)])
def test_what_waits_runs_or_has_ended_is_left_as_it_is(job_task: JobTask) -> None:
    assert with_lost_word(job_task) is job_task


def test_a_lost_journal_stands_beside_those_that_are_known() -> None:
    assert with_lost_word(ACCEPTED).acceptors == {JOURNAL, LOST_JOURNAL}
    assert with_lost_word(ACCEPTED).last_word_at == ACCEPTED.last_word_at


ASLEEP = Invocation(INVOCATION, start_at=NOON, chunks=1, chunks_in=frozenset({0}), planned=1, total=1)
AWAKE = replace(ASLEEP, due_said_at=NOON)


def test_what_is_in_flight_is_said_again_as_it_was_and_as_it_is() -> None:
    due, attempt, status = say_again(AWAKE, [ACCEPTED], NOON + 9 * S)
    assert isinstance(due, JobInvocationDue) and due.time == NOON
    assert attempt == attempt_due(ACCEPTED, NOON)
    assert isinstance(status, JobTaskStatusChanged) and status.status is JobTaskStatus.ACCEPTED
    assert status.id == status_changed(ACCEPTED, NOON).id


def test_a_retry_is_said_again_as_of_the_end_of_its_attempt() -> None:
    waits = replace(WAITING, attempt=1, last_attempt=1, tried=1, due_at=NOON + 600 * S)
    patient = replace(AWAKE, properties=ExecutionProperties(tries=2, retry_interval=590 * S))
    _, status = say_again(patient, [waits], NOON + 300 * S)
    assert isinstance(status, JobTaskStatusChanged)
    assert (status.time, status.due_at) == (NOON + 10 * S, NOON + 600 * S)


def test_an_ended_invocation_says_its_verdicts_and_its_end_again_under_the_same_ids() -> None:
    done = replace(AWAKE, is_ended=True, counts={"succeeded": 1})
    items = say_again(done, [ENDED], NOON + 9 * S)
    assert [type(item) for item in items] == [JobInvocationDue, JobTaskEnded, JobInvocationEnded]
    assert items[1].id == ended(ENDED, NOON).id
    assert isinstance(items[2], JobInvocationEnded)
    assert (items[2].status, items[2].counts) == (JobInvocationStatus.SUCCEEDED, {"succeeded": 1})


def test_what_never_was_dispatched_has_nothing_to_say_again() -> None:
    assert say_again(ASLEEP, [WAITING], NOON) == []


def test_what_is_kept_tells_better_than_what_the_store_knows_of_now() -> None:
    other = replace(ENDED, job_task_id=UUID(int=9))
    again = say_again(AWAKE, [ENDED, other], NOON)
    kept = [again[0], attempt_due(DUE, NOON)]
    assert between([], again, kept) == [ended(other, NOON)]
    assert between([again[0]], again, []) == [ended(ENDED, NOON), ended(other, NOON)]
    assert [type(item) for item in kept] == [JobInvocationDue, AttemptDue]


def test_only_verdicts_of_ended_invocations_that_nobody_has_are_lost() -> None:
    done = replace(AWAKE, is_ended=True, planned=3, total=5)
    assert lost_verdicts([AWAKE, done], {INVOCATION: 1}) == [LostVerdicts(INVOCATION, 2, 3)]
    assert lost_verdicts([done], {INVOCATION: 3}) == []
    assert str(LostVerdicts(INVOCATION, 2, 3)) == f"job {INVOCATION}: 2 of 3 verdicts"
