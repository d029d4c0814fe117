"""What is shown of limits that changed, of batches and halts, what is done again, and what else can be cancelled."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from chargehand_reporter.core.again import CannotRerun, command_again, hosts_again
from chargehand_reporter.core.choices import choices_beside, over_in_words
from chargehand_reporter.core.invocation import JobInvocation, change_concurrency
from chargehand_reporter.core.job_task import JobTask
from chargehand_reporter.core.proxies import resize
from chargehand_reporter.core.timetable import timetable
from chargehand_schemas.api import RerunWhich
from chargehand_schemas.catalog import ProxyChanged
from chargehand_schemas.commands import InvokeJob
from chargehand_schemas.dispatch import ConcurrencyChanged, Halt
from chargehand_schemas.ids import job_task_id
from chargehand_schemas.planning import JobInvocationAccepted
from chargehand_schemas.plans import splay_offset
from chargehand_schemas.properties import ExecutionProperties, Rolling
from chargehand_schemas.reasons import JobTaskStatus

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
S = timedelta(seconds=1)
ID = UUID(int=1)


def accepted(**fields: Any) -> JobInvocationAccepted:
    return JobInvocationAccepted(
        id=uuid4(), time=NOON, job_invocation_id=ID, command_id=uuid4(), actor="user:ada", template_id=UUID(int=9),
        template_name="Run Command", template_version=1, job_category="Commands", provider_type="ssh",
        description="roll out", **{"inputs": {"command": "true"}, "properties": ExecutionProperties(tries=3), **fields},
    )  # fmt: skip


def job(**fields: Any) -> JobInvocation:
    known = {"definition": accepted(), "start_at": NOON, "total": 4, **fields}
    return JobInvocation(ID, NOON, **known)


def task(ordinal: int, status: JobTaskStatus = JobTaskStatus.SUCCEEDED) -> JobTask:
    host_id = UUID(int=100 + ordinal)
    rank = "x" if status.is_verdict else ""
    return JobTask(
        job_task_id(ID, host_id), ID, host_id, f"web{ordinal}", ordinal=ordinal, status=status, verdict_rank=rank
    )


MIXED = [
    task(0),
    task(1, JobTaskStatus.FAILED),
    task(2, JobTaskStatus.SUCCEEDED),
    task(3, JobTaskStatus.FAILED),
    task(4, JobTaskStatus.CANCELLED),
]


def changed(concurrency: int | None, after: float) -> ConcurrencyChanged:
    return ConcurrencyChanged(
        id=uuid4(), time=NOON + after * S, job_invocation_id=ID, command_id=uuid4(), concurrency=concurrency
    )


def test_s56_the_limit_in_force_is_the_last_one_said_in_whatever_order_it_is_read() -> None:
    first, last = changed(5, 1), changed(None, 2)
    for order in ((first, last), (last, first), (last, first, last)):
        invocation = job()
        for event in order:
            invocation = change_concurrency(invocation, event)
        assert invocation.properties == ExecutionProperties(tries=3), "the rest stays as it was accepted"
    only = change_concurrency(job(), first).properties
    assert only is not None and only.concurrency == 5


def test_s56_the_size_of_a_proxy_is_the_last_one_said() -> None:
    events = [ProxyChanged(id=uuid4(), time=NOON + n * S, proxy="dmz", concurrency=n) for n in (1, 2)]
    assert resize(resize(None, events[1]), events[0]).concurrency == 2


@pytest.mark.parametrize(
    ("which", "ordinals"),
    [(RerunWhich.ALL, [0, 1, 2, 3, 4]), (RerunWhich.FAILED, [1, 3, 4]), (RerunWhich.FROM_HALT, [3, 4])],
)
def test_s107_which_hosts_are_done_again(which: RerunWhich, ordinals: list[int]) -> None:
    """The failure of host 1 was allowed; it was halted in the batch that begins with host 2."""
    halt = Halt(
        host_id=UUID(int=103), host_name="web3", ordinal=3, batch=2, batch_begins=2, failures=2, failure_limit=1
    )
    assert hosts_again(job(halt=halt), MIXED, which) == tuple(UUID(int=100 + n) for n in ordinals)


def test_nothing_is_done_again_where_there_is_nothing() -> None:
    with pytest.raises(CannotRerun, match="not halted"):
        hosts_again(job(), MIXED, RerunWhich.FROM_HALT)
    with pytest.raises(CannotRerun, match="no host"):
        hosts_again(job(), [task(0)], RerunWhich.FAILED)


def again(invocation: JobInvocation, **sealed: str) -> InvokeJob:
    return command_again(
        invocation, (UUID(int=103), UUID(int=101)), sealed, command_id=uuid4(), job_invocation_id=UUID(int=2),
        actor="user:bob", now=NOON, expect_hosts=None,
    )  # fmt: skip


def test_a_job_done_again_is_the_same_job_with_the_limit_in_force() -> None:
    invocation = replace(job(), edit=(NOON, 7))
    command = again(invocation)
    assert command.targeting.host_ids == (UUID(int=103), UUID(int=101))
    assert (command.inputs, command.description, command.rerun_of) == ({"command": "true"}, "roll out", ID)
    assert (command.overrides.tries, command.overrides.concurrency, command.actor) == (3, 7, "user:bob")


def test_hidden_inputs_are_given_again_or_it_is_refused() -> None:
    invocation = job(definition=accepted(hidden_inputs=("password",)))
    with pytest.raises(CannotRerun, match="password"):
        again(invocation)
    assert again(invocation, password="sealed").sealed_inputs == {"password": "sealed"}


def test_s55_the_timetable_is_that_which_the_dispatcher_obeys() -> None:
    properties = ExecutionProperties(splay=60 * S, rolling=Rolling(batches=("1", "2")))
    rows = timetable(job(definition=accepted(properties=properties), total=5), MIXED)
    assert [row.batch for row in rows] == [1, 2, 2, 3, 3]
    assert all(row.due_at == NOON + splay_offset(row.job_task_id, 60 * S) for row in rows)
    assert rows[1].due_at <= rows[2].due_at


def test_s60_what_is_over_and_what_else_goes_on_is_said() -> None:
    counts = {JobTaskStatus.RUNNING: 2, JobTaskStatus.WAITING: 1, JobTaskStatus.FAILED: 1}
    (choice,) = choices_beside(job(counts=counts), [UUID(int=104)])
    assert (choice.what, choice.text) == ("whole_invocation", "the whole job: 2 other hosts go on")
    assert choice.path == f"/job-invocations/{ID}/cancel"
    assert choices_beside(job(counts={JobTaskStatus.RUNNING: 1}), [UUID(int=104)]) == ()
    assert over_in_words([task(5, JobTaskStatus.RUNNING)]) == ""
    assert over_in_words(MIXED[:2]) == "web0 (succeeded), web1 (failed) have ended before; that stays"
