"""Rule REST and rolling: verdicts that the own log tells of before the plan is read count in the order of the plan."""

from typing import Any

from chargehand_dispatcher.core.engine import Desk
from chargehand_schemas.dispatch import JobTaskEnded
from chargehand_schemas.properties import Rolling
from chargehand_schemas.reasons import JobTaskStatus, Reason

from .test_invocations_and_desk import INVOCATION, NOON, desk, host, plan, scheduled, task

THREE = Rolling(batches=("1", "2"), failure_limit="0")


def ended(n: int, status: JobTaskStatus, reason: Reason | None = None) -> JobTaskEnded:
    return JobTaskEnded(
        id=task(n), time=NOON, job_invocation_id=INVOCATION, job_task_id=task(n), host_id=host(n), host_name=f"web{n}",
        status=status, reason=reason, ordinal=n,
    )  # fmt: skip


def restored(*verdicts: JobTaskEnded, **properties: Any) -> Desk:
    table = desk(5)
    for verdict in verdicts:
        table.restore(verdict)
    for item in (scheduled(**properties), plan(0, 1, 2)):
        table.take(item)
    table.settle()
    return table


def test_a_host_of_a_later_batch_that_was_cancelled_lets_no_batch_begin() -> None:
    table = restored(ended(2, JobTaskStatus.CANCELLED, Reason.CANCELLED), rolling=THREE)
    assert table.invocations[INVOCATION].released == 1


def test_a_batch_that_has_ended_lets_the_next_begin() -> None:
    table = restored(ended(0, JobTaskStatus.SUCCEEDED), rolling=THREE)
    assert table.invocations[INVOCATION].released == 3


def test_a_failure_too_many_halts() -> None:
    assert restored(ended(0, JobTaskStatus.FAILED, Reason.EXIT_STATUS), rolling=THREE).invocations[INVOCATION].is_halted


def test_what_is_not_rolling_keeps_no_order() -> None:
    known = restored(ended(2, JobTaskStatus.SUCCEEDED)).invocations[INVOCATION]
    assert known.released is None and known.ahead == frozenset() and not known.is_halted
