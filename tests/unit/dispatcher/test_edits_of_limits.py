"""Edits of a concurrency limit: each is obeyed once and said once, in whatever part of both logs it is read again."""

from uuid import uuid4

from chargehand_dispatcher.core.engine import Claimed, Desk, State, is_given_way, overtaken
from chargehand_schemas.base import Item
from chargehand_schemas.dispatch import ConcurrencyChanged
from chargehand_schemas.planning import JobInvocationEdited

from .test_invocations_and_desk import INVOCATION, NOON, desk, plan, scheduled, task


def edit(concurrency: int | None) -> JobInvocationEdited:
    return JobInvocationEdited(
        id=uuid4(),
        time=NOON,
        job_invocation_id=INVOCATION,
        command_id=uuid4(),
        actor="user:ada",
        concurrency=concurrency,
    )


def limit(table: Desk) -> int | None:
    return table.invocations[INVOCATION].properties.concurrency


def said(table: Desk) -> list[ConcurrencyChanged]:
    return [item for item in table.outgoing() if isinstance(item, ConcurrencyChanged)]


def taken(*items: Item) -> Desk:
    table = desk()
    for item in items:
        table.take(item)
    return table


def test_an_edit_that_is_read_again_after_a_later_one_takes_nothing_back() -> None:
    first, second = edit(6), edit(2)
    table = taken(scheduled(), first, second, first)
    assert limit(table) == 2
    assert [item.concurrency for item in said(table)] == [6, 2]


def test_an_edit_to_the_limit_in_force_is_said_too() -> None:
    """Else a restored dispatcher would say it later, under an id that nobody has heard, after the next one."""
    table = taken(scheduled(concurrency=1), edit(1), edit(3))
    assert [item.concurrency for item in said(table)] == [1, 3]


def test_rest_a_limit_that_the_own_log_tells_of_stays_when_schedule_and_edits_are_read_again() -> None:
    when, first, second = scheduled(concurrency=4), edit(3), edit(1)
    log = said(taken(when, first, second))
    restored = desk(5)
    for item in log:
        restored.restore(item)
    for read_again in (when, first, second):
        restored.take(read_again)
    assert limit(restored) == 1
    assert restored.invocations[INVOCATION].edits == {first.command_id, second.command_id}
    assert said(restored) == []


def test_rest_a_dispatch_that_nobody_heard_is_taken_back_when_the_own_log_tells_of_another_limit() -> None:
    """A backup of a time line that was given up: said after the edit, its dispatch might exceed the limit."""
    restored = taken(scheduled(concurrency=4), plan(0))
    restored.apply(task(0), Claimed())
    unheard = restored.outgoing()
    later = said(taken(scheduled(concurrency=4), edit(1)))
    (due,) = overtaken(unheard, later, later)
    assert overtaken(unheard, later, []) == [] and overtaken(unheard, [due, *later], later) == []
    restored.take_back(due)
    known = restored.job_tasks[task(0)]
    assert (known.state, known.attempt, known.last_attempt, known.first_dispatched_at) == (State.WAITING, 0, 0, None)
    assert is_given_way(due, restored.told, set())


def test_rest_an_edit_that_the_own_log_repeats_takes_nothing_back() -> None:
    """Two edits said in one instant, and the first one appended again by a relay."""
    first, second = said(taken(scheduled(concurrency=4), edit(3), edit(1)))
    restored = taken(scheduled(concurrency=4))
    for item in (first, second, first):
        restored.restore(item)
    assert limit(restored) == 1
