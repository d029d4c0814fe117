"""An invocation as a whole: its time, its plan, its counts, its end; splay; rolling; and what the desk says in order."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from chargehand_dispatcher.core.engine import Claimed, Desk, Surroundings, beyond, word_to_all
from chargehand_dispatcher.core.invocation import Invocation, count, uncount
from chargehand_dispatcher.core.job_task import JobTask, State
from chargehand_dispatcher.core.rules import Timers
from chargehand_dispatcher.core.table import Halted
from chargehand_schemas.base import Item
from chargehand_schemas.dispatch import (
    AttemptDue,
    JobInvocationDue,
    JobInvocationEnded,
    JobTaskEnded,
    JobTaskStatusChanged,
    PlanChunkMissing,
)
from chargehand_schemas.execution import AttemptAccepted, AttemptEnded, AttemptStarted
from chargehand_schemas.ids import job_task_id
from chargehand_schemas.planning import (
    JobInvocationCancelRequested,
    JobInvocationScheduled,
    JobTasksPlanned,
    PlannedJobTask,
)
from chargehand_schemas.plans import batch_of, failures_allowed, splay_offset
from chargehand_schemas.properties import ExecutionProperties, Rolling
from chargehand_schemas.reasons import JobInvocationStatus, JobTaskStatus, Reason

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
INVOCATION = UUID(int=1)
S = timedelta(seconds=1)


def desk(after: float = 0, before: Desk | None = None) -> Desk:
    """A desk at `after` seconds after noon, with the rows of the one before."""
    fresh = Desk(Surroundings(NOON + after * S))
    if before is not None:
        fresh.invocations, fresh.job_tasks = dict(before.invocations), dict(before.job_tasks)
    return fresh


def scheduled(start: float = 0, **properties: Any) -> JobInvocationScheduled:
    return JobInvocationScheduled(
        id=uuid4(), time=NOON, job_invocation_id=INVOCATION, start_at=NOON + start * S,
        properties=ExecutionProperties(**properties),
    )  # fmt: skip


def host(n: int) -> UUID:
    return UUID(int=100 + n)


def task(n: int) -> UUID:
    return job_task_id(INVOCATION, host(n))


def plan(*numbers: int, chunk: int = 0, chunks: int = 1, total: int | None = None) -> JobTasksPlanned:
    tasks = tuple(
        PlannedJobTask(job_task_id=task(n), host_id=host(n), host_name=f"web{n}", proxy="dmz", ordinal=n)
        for n in numbers
    )
    return JobTasksPlanned(
        id=uuid4(), time=NOON, job_invocation_id=INVOCATION, chunk=chunk, chunks=chunks,
        total=len(numbers) if total is None else total, job_tasks=tasks,
    )  # fmt: skip


def cancel(*numbers: int) -> JobInvocationCancelRequested:
    return JobInvocationCancelRequested(
        id=uuid4(), time=NOON, job_invocation_id=INVOCATION, command_id=uuid4(), actor="user:ada",
        job_task_ids=tuple(map(task, numbers)),
    )  # fmt: skip


def fact(model: type[Item], n: int, **fields: Any) -> Item:
    return model(
        id=uuid4(), time=NOON, job_invocation_id=INVOCATION, job_task_id=task(n), host_id=host(n), attempt=1,
        proxy="dmz", agent_id="a1", agent_boot_id=UUID(int=6), journal_id=UUID(int=7), **fields,
    )  # fmt: skip


def types(items: list[Item]) -> list[type[Item]]:
    return [type(item) for item in items]


def test_an_invocation_whose_time_has_come_is_due_at_once_and_once() -> None:
    table = desk()
    table.take(scheduled())
    table.take(scheduled())
    assert types(table.outgoing()) == [JobInvocationDue]


def test_an_invocation_of_the_future_is_looked_at_when_it_starts() -> None:
    table = desk()
    table.take(scheduled(start=60))
    known = table.invocations[INVOCATION]
    assert table.outgoing() == []
    assert table.look_at_next(known) == NOON + 60 * S
    later = desk(60, table)
    later.look_at_invocation(INVOCATION)
    assert types(later.outgoing()) == [JobInvocationDue]


def test_the_last_verdict_ends_the_invocation_with_its_counts() -> None:
    table = desk()
    table.take(scheduled())
    table.take(plan(0, 1))
    for n, code in ((0, 0), (1, 3)):
        table.apply(task(n), Claimed())
        table.take(fact(AttemptEnded, n, exit_status=code, ended_at=NOON))
    last = table.outgoing()[-1]
    assert isinstance(last, JobInvocationEnded)
    assert (last.status, last.total) == (JobInvocationStatus.FAILED, 2)
    assert (last.counts, last.reasons) == ({"succeeded": 1, "failed": 1}, {"exit_status": 1})


def test_states_that_were_passed_through_within_one_transaction_are_not_said() -> None:
    table = desk()
    table.take(scheduled())
    table.take(plan(0))
    table.apply(task(0), Claimed())
    table.take(fact(AttemptAccepted, 0))
    table.take(fact(AttemptStarted, 0, started_at=NOON))
    assert [i.status.value for i in table.outgoing() if isinstance(i, JobTaskStatusChanged)] == ["running"]
    table.take(fact(AttemptEnded, 0, exit_status=0, ended_at=NOON))
    assert JobTaskStatusChanged not in types(table.outgoing())


def test_an_invocation_does_not_end_before_all_chunks_of_its_plan_are_in() -> None:
    table = desk()
    table.take(scheduled())
    table.take(plan(0, chunk=0, chunks=2, total=2))
    table.apply(task(0), Claimed())
    table.take(fact(AttemptEnded, 0, exit_status=0, ended_at=NOON))
    assert JobInvocationEnded not in types(table.outgoing())
    table.take(plan(1, chunk=1, chunks=2, total=2))
    table.apply(task(1), Claimed())
    table.take(fact(AttemptEnded, 1, exit_status=0, ended_at=NOON))
    assert types(table.outgoing())[-1] is JobInvocationEnded


def test_a_chunk_that_does_not_come_is_asked_for_and_then_counts_as_lost() -> None:
    table = desk()
    table.take(scheduled())
    table.take(plan(0, chunk=0, chunks=2, total=2))
    later = desk(60, table)
    later.look_at_invocation(INVOCATION)
    (asked,) = later.outgoing()
    assert isinstance(asked, PlanChunkMissing)
    assert asked.chunks == (1,)
    for minute in range(2, 1 + Timers().chunk_asks):
        later = desk(60 * minute, later)
        later.look_at_invocation(INVOCATION)
        assert types(later.outgoing()) == [PlanChunkMissing], "it is asked for again, several times"
    last = desk(60 * (1 + Timers().chunk_asks), later)
    last.look_at_invocation(INVOCATION)
    assert last.outgoing() == [], "what did come goes on to its own verdict"
    last.apply(task(0), Claimed())
    last.take(fact(AttemptEnded, 0, exit_status=0, ended_at=NOON))
    ended = last.outgoing()[-1]
    assert isinstance(ended, JobInvocationEnded)
    assert ended.status is JobInvocationStatus.FAILED
    assert (ended.counts, ended.reasons) == ({"succeeded": 1, "failed": 1}, {"lost_message": 1})


def test_a_plan_of_which_nothing_came_is_asked_for_until_the_planner_is_back() -> None:
    """Its job tasks are not known yet: there is nothing that could be given up."""
    table = desk()
    table.take(scheduled())
    for minute in range(1, 2 * Timers().chunk_asks):
        table = desk(60 * minute, table)
        table.look_at_invocation(INVOCATION)
        assert types(table.outgoing()) == [PlanChunkMissing]
    table.take(plan(0))
    assert table.job_tasks[task(0)].state is State.WAITING


def test_a_cancel_that_comes_before_the_invocation_leaves_a_mark() -> None:
    table = desk()
    table.take(cancel())
    table.take(scheduled())
    assert types(table.outgoing()) == [JobInvocationEnded]
    table.take(plan(0))
    assert JobInvocationDue not in types(table.outgoing())
    assert table.job_tasks[task(0)].state is State.ENDED


def test_one_job_task_is_cancelled_and_the_others_go_on() -> None:
    table = desk()
    table.take(scheduled())
    table.take(plan(0, 1))
    table.take(cancel(1))
    assert table.job_tasks[task(0)].state is State.WAITING
    assert [i.status.value for i in table.outgoing() if isinstance(i, JobTaskEnded)] == ["cancelled"]


def test_a_message_about_an_unknown_job_task_changes_nothing() -> None:
    table = desk()
    table.take(scheduled())
    table.take(fact(AttemptStarted, 5, started_at=NOON))
    assert table.job_tasks == {}


def test_rest_the_own_log_brings_back_what_a_restored_store_forgot() -> None:
    """Rule REST: slots, tries, verdicts; and the plan that is read again leaves them alone."""
    first = desk()
    first.take(scheduled())
    first.take(plan(0, 1))
    first.apply(task(0), Claimed())
    first.apply(task(1), Claimed())
    first.take(fact(AttemptEnded, 1, exit_status=0, ended_at=NOON))
    log = first.outgoing()
    restored = desk(5)
    for item in log:
        restored.restore(item)
    for item in (scheduled(), plan(0, 1)):
        restored.take(item)
    assert restored.job_tasks[task(0)].state is State.DUE
    assert restored.job_tasks[task(0)].last_attempt == 1
    assert restored.job_tasks[task(1)].state is State.ENDED
    assert not [i for i in restored.outgoing() if isinstance(i, AttemptDue | JobTaskEnded | JobInvocationDue)]


def test_splay_is_the_same_for_whoever_computes_it_and_lies_in_the_interval() -> None:
    offsets = [splay_offset(UUID(int=n), 60 * S) for n in range(10_000)]
    assert offsets == [splay_offset(UUID(int=n), 60 * S) for n in range(10_000)]
    assert all(timedelta(0) <= offset < 60 * S for offset in offsets)
    buckets = [sum(1 for o in offsets if n * 6 * S <= o < (n + 1) * 6 * S) for n in range(10)]
    chi_square = sum((bucket - 1000) ** 2 / 1000 for bucket in buckets)
    assert chi_square < 27.9, "9 degrees of freedom, 0.1 %"


@pytest.mark.parametrize(
    ("batches", "verdicts", "released"),
    [(("1",), 0, 1), (("1",), 1, 2), (("1", "5", "25%"), 0, 1), (("1", "5", "25%"), 1, 6), (("1", "5", "25%"), 6, 11),
     (("1", "5", "25%"), 5, 6), (("50%",), 10, 20), (("100",), 0, 20)],
)  # fmt: skip
def test_rolling_the_next_batch_is_released_when_the_one_before_has_its_verdicts(
    batches: tuple[str, ...], verdicts: int, released: int
) -> None:
    properties = ExecutionProperties(rolling=Rolling(batches=batches))
    invocation = Invocation(INVOCATION, properties=properties, total=20, counts={"succeeded": verdicts})
    assert invocation.released == released


@pytest.mark.parametrize(("limit", "largest"), [("0", 0), ("3", 3), ("10%", 2)])
def test_rolling_halts_above_its_limit_of_failures(limit: str, largest: int) -> None:
    assert failures_allowed(Rolling(failure_limit=limit), 20) == largest


def verdict(ordinal: int, status: JobTaskStatus, reason: Reason | None = None) -> JobTaskEnded:
    return JobTaskEnded(
        id=uuid4(), time=NOON, job_invocation_id=INVOCATION, job_task_id=task(ordinal), host_id=UUID(int=ordinal),
        host_name=f"web{ordinal}", status=status, reason=reason, ordinal=ordinal,
    )  # fmt: skip


def test_rolling_what_is_cancelled_ahead_lets_no_batch_go_early() -> None:
    """S107: the verdict of a later host says nothing about the batch that runs."""
    properties = ExecutionProperties(rolling=Rolling(batches=("1", "2")))
    invocation = Invocation(INVOCATION, properties=properties, total=7)
    for ordinal in (2, 5):
        invocation = count(invocation, [verdict(ordinal, JobTaskStatus.CANCELLED, Reason.CANCELLED)])
    assert invocation.released == 1
    invocation = count(invocation, [verdict(0, JobTaskStatus.SUCCEEDED)])
    assert invocation.released == 3
    invocation = count(invocation, [verdict(1, JobTaskStatus.SUCCEEDED)])
    assert invocation.released == 5
    invocation = count(invocation, [verdict(n, JobTaskStatus.SUCCEEDED) for n in (3, 4, 6)])
    assert (invocation.released, invocation.ahead) == (7, frozenset())


def test_rolling_a_halt_says_where_and_why() -> None:
    """S107: the first failure that was one too many, its host, its batch."""
    properties = ExecutionProperties(rolling=Rolling(batches=("1", "5"), failure_limit="1"))
    invocation = Invocation(INVOCATION, properties=properties, total=20)
    outcomes = [(0, True), (1, False), (2, True), (4, False), (3, False)]
    for ordinal, is_good in outcomes:
        invocation = count(
            invocation,
            [
                verdict(ordinal, JobTaskStatus.SUCCEEDED)
                if is_good
                else verdict(ordinal, JobTaskStatus.FAILED, Reason.EXIT_STATUS)
            ],
        )
    halt = invocation.halt
    assert invocation.is_halted and halt is not None
    assert (halt.host_name, halt.ordinal, halt.batch, halt.batch_begins) == ("web4", 4, 2, 1)
    assert (halt.failures, halt.failure_limit) == (2, 1)
    said = word_to_all(invocation)
    assert isinstance(said, Halted) and said.detail == "web4, host 5 of 20, was failure 2; at most 1 are allowed"


@pytest.mark.parametrize(
    ("batches", "ordinal", "batch"),
    [(("1",), 0, (1, 0, 1)), (("1",), 99_999, (100_000, 99_999, 100_000)), (("1", "5", "25%"), 5, (2, 1, 6)),
     (("1", "5", "25%"), 6, (3, 6, 25_006)), (("1", "5", "25%"), 99_999, (6, 75_006, 100_000))],
)  # fmt: skip
def test_rolling_a_batch_is_reckoned_and_not_counted_through(
    batches: tuple[str, ...], ordinal: int, batch: tuple[int, int, int]
) -> None:
    assert batch_of(Rolling(batches=batches), 100_000, ordinal) == batch


def test_rest_what_was_said_later_takes_the_place_of_what_nobody_heard() -> None:
    """Rule REST: a backup holds a verdict and a dispatch that were never published; another history was."""
    backup = desk()
    backup.take(scheduled())
    backup.take(plan(0, 1))
    backup.apply(task(0), Claimed())
    backup.take(fact(AttemptEnded, 0, exit_status=0, ended_at=NOON))
    backup.apply(task(1), Claimed())
    backup.settle()
    other = desk(40)
    other.take(scheduled())
    other.take(plan(0, 1))
    other.apply(task(0), Claimed())
    other.apply(task(1), Claimed())
    for item in other.outgoing():
        backup.restore(item)
    assert backup.job_tasks[task(0)].state is State.DUE and not backup.invocations[INVOCATION].counts
    for one in (task(0), task(1)):
        assert backup.job_tasks[one].not_after == other.job_tasks[one].not_after
    assert backup.told == {task(0), task(1)}


def test_rest_a_repeat_in_its_own_log_brings_nothing_back() -> None:
    first = desk(5)
    first.take(scheduled())
    first.take(plan(0))
    first.apply(task(0), Claimed())
    dispatched = first.outgoing()
    first.said.clear()
    later = desk(9, first)
    later.take(fact(AttemptEnded, 0, exit_status=0, ended_at=NOON))
    ended = later.outgoing()
    log = [*dispatched, *ended, *dispatched]
    assert beyond(log, NOON, NOON) == [*dispatched, *ended]
    assert beyond(log, NOON + 5 * S, NOON + 5 * S) == ended


def test_rest_an_invocation_whose_last_verdict_is_in_the_log_ends() -> None:
    first = desk()
    first.take(scheduled())
    first.take(plan(0))
    first.apply(task(0), Claimed())
    first.take(fact(AttemptEnded, 0, exit_status=0, ended_at=NOON))
    log = [item for item in first.outgoing() if not isinstance(item, JobInvocationEnded)]
    restored = desk(5)
    for item in log:
        restored.restore(item)
    for item in (scheduled(), plan(0)):
        restored.take(item)
    restored.end_restored([INVOCATION])
    assert [type(item) for item in restored.outgoing()].count(JobInvocationEnded) == 1


@pytest.mark.parametrize(("failures", "is_halted"), [(2, True), (1, False)])
def test_a_verdict_taken_back_halts_no_less_than_the_others_do(failures: int, is_halted: bool) -> None:
    properties = ExecutionProperties(rolling=Rolling(failure_limit="1"))
    halted = Invocation(
        INVOCATION, properties=properties, total=9, counts={"failed": failures + 1}, reasons={"exit_status": failures + 1},
        is_halted=True,
    )  # fmt: skip
    taken_back = JobTask(
        task(1), INVOCATION, UUID(int=1), "web1", "dmz", 1, NOON, status=JobTaskStatus.FAILED, reason=Reason.EXIT_STATUS
    )
    left = uncount(halted, taken_back)
    assert (left.failures, left.is_halted) == (failures, is_halted)
