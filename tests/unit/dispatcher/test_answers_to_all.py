"""What is said to very many job tasks at once is what the rule says to each of them."""

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from chargehand_dispatcher.core.alike import ManyEnded, Same, answer_to_all, claim_of_all, is_new
from chargehand_dispatcher.core.invocation import Invocation, count, count_alike
from chargehand_dispatcher.core.job_task import SLOT_STATES, JobTask, State
from chargehand_dispatcher.core.rules import Circumstances
from chargehand_dispatcher.core.table import CancelRequested, Claimed, Halted, step
from chargehand_dispatcher.shell.rows import (
    CANCELLED_UNSENT,
    HOLDS_A_SLOT,
    OutboxRow,
    job_task_of,
    job_task_row,
    job_task_rows_alike,
    messages_of,
    never_dispatched,
    outbox_rows,
)
from chargehand_schemas.base import MAX_MESSAGE_BYTES
from chargehand_schemas.dispatch import JobTaskEnded
from chargehand_schemas.frozen import replace
from chargehand_schemas.properties import ExecutionProperties
from hypothesis import given
from hypothesis import strategies as st

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
INVOCATION = UUID(int=7)
AT = Circumstances(NOON, ExecutionProperties())
names = st.text(st.characters(codec="utf-8"), max_size=40)
words = st.sampled_from((CancelRequested(), Halted('halted at "web1", 100% of {it}')))


def waiting(job_task_id: UUID, host_id: UUID, host_name: str, ordinal: int) -> JobTask:
    return JobTask(job_task_id, INVOCATION, host_id, host_name, "dmz", ordinal, NOON + timedelta(hours=1))


@given(st.lists(st.tuples(st.uuids(), st.uuids(), names, st.integers(0, 10**6)), min_size=1, max_size=5), words)
def test_each_verdict_and_each_row_is_what_the_rule_makes_of_that_job_task(
    hosts: list[tuple[UUID, UUID, str, int]], word: CancelRequested | Halted
) -> None:
    job_tasks = [waiting(*host) for host in hosts]
    rows = [job_task_row(one, 0, None) for one in job_tasks]
    same = [never_dispatched(row[0], row[3], row[5], row[10]) for row in rows]
    answer = answer_to_all(INVOCATION, word, AT)
    known = [one for one in same if one is not None]
    said = answer.said_of(known)
    by_rule = [step(one, word, AT) for one in job_tasks]
    assert [JobTaskEnded.model_validate_json(document) for document in said.documents] == [
        item for decision in by_rule for item in decision.emits
    ]
    cancelled = [job_task_of((*row[:6], CANCELLED_UNSENT, *row[7:])) for row in rows]
    if isinstance(word, CancelRequested):
        assert cancelled == [decision.job_task for decision in by_rule]
    assert said.documents == tuple(i.model_dump_json().encode() for d in by_rule for i in d.emits)


@given(st.lists(st.tuples(st.uuids(), st.uuids(), names, st.integers(0, 10**6)), min_size=1, max_size=5))
def test_each_dispatch_and_each_row_is_what_the_rule_makes_of_that_job_task(
    hosts: list[tuple[UUID, UUID, str, int]],
) -> None:
    job_tasks = [waiting(*host) for host in hosts]
    assert all(map(is_new, job_tasks))
    answer = claim_of_all(INVOCATION, "dmz", AT)
    assert answer is not None
    by_rule = [step(one, Claimed(), AT) for one in job_tasks]
    claimed = [answer.of(one) for one in job_tasks]
    assert claimed == [decision.job_task for decision in by_rule]
    said = answer.said_of(job_tasks)
    assert said.documents == tuple(i.model_dump_json().encode() for d in by_rule for i in d.emits)
    assert said.ids == (str(by_rule[0].emits[0].id), str(by_rule[-1].emits[0].id))
    assert list(job_task_rows_alike(claimed, 3, NOON)) == [job_task_row(one, 3, NOON) for one in claimed]
    assert not any(map(is_new, claimed))


def test_what_gets_no_slot_any_more_is_no_claim_of_all() -> None:
    assert claim_of_all(INVOCATION, "dmz", AT._replace(start_before=NOON)) is None


@given(names)
def test_a_job_task_that_was_dispatched_before_is_not_one_of_them(name: str) -> None:
    tried = replace(waiting(UUID(int=1), UUID(int=2), name, 3), last_attempt=1)
    row = job_task_row(tried, 0, None)
    assert never_dispatched(row[0], row[3], row[5], row[10]) is None


@pytest.mark.parametrize("state", sorted(SLOT_STATES))
def test_a_row_of_an_earlier_release_tells_its_state_in_its_column(state: State) -> None:
    flying = replace(waiting(UUID(int=1), UUID(int=2), "web", 3), state=state, attempt=1, last_attempt=1)
    row = job_task_row(flying, 0, None)
    assert (row[6], job_task_of(row)) == (HOLDS_A_SLOT, flying)
    *body, said = json.loads(row[10])
    assert said == state
    assert job_task_of((*row[:6], state.value, *row[7:10], json.dumps(body))) == flying


def test_a_row_too_large_for_a_message_becomes_several_with_ids_of_their_own() -> None:
    answer = answer_to_all(INVOCATION, Halted("x" * 2000), AT)
    many = answer.said_of([Same(UUID(int=n).bytes, bytes(16), '"web"', n) for n in range(300)])
    (row,) = outbox_rows(0, [many], 1, 1)
    messages = list(messages_of([row]))
    ids = [[item["id"] for item in json.loads(message.document)["items"]] for message in messages]
    assert len(messages) > 1 and [one for some in ids for one in some] == [str(item.id) for item in row.items]
    assert [message.id for message in messages] == [f"{some[0]}+{len(some)}+{some[-1]}" for some in ids]


def test_many_verdicts_count_as_one_after_another() -> None:
    one = answer_to_all(INVOCATION, CancelRequested(), AT).verdict
    known = Invocation(INVOCATION, total=9, counts={"succeeded": 2})
    assert count_alike(known, one.status, one.reason, 3) == count(known, [one] * 3)


def test_the_outbox_takes_them_apart_in_their_place() -> None:
    answer = answer_to_all(INVOCATION, CancelRequested(), AT)
    many = [answer.said_of([Same(bytes([n]) * 16, bytes(16), '"web"', n)]) for n in (1, 2)]
    before, after = (step(waiting(UUID(int=n), UUID(int=2), "a", n), CancelRequested(), AT).emits[0] for n in (5, 6))
    rows = outbox_rows(0, [before, *many, after], 1, 10)
    assert [row.number for row in rows] == [10, 11, 12, 13]
    assert [item.ordinal for row in rows for item in row.items if isinstance(item, JobTaskEnded)] == [5, 1, 2, 6]
    (message,) = messages_of(rows)
    assert (message.count, message.id) == (4, f"{before.id}+4+{after.id}")


@pytest.mark.parametrize("length", [10, 2000])
def test_messages_keep_the_limits_of_a_batch_and_the_order(length: int) -> None:
    word = Halted("x" * length)
    items = [item for n in range(600) for item in step(waiting(UUID(int=n), UUID(int=n), "web", n), word, AT).emits]
    messages = list(messages_of(outbox_rows(0, items, 1, 1)))
    assert all(message.count <= 500 and len(message.document) <= MAX_MESSAGE_BYTES for message in messages)
    found = [item["id"] for message in messages for item in json.loads(message.document)["items"]]
    assert found == [str(item.id) for item in items]


def test_rows_of_different_kinds_are_different_messages() -> None:
    row = OutboxRow(0, 1, 1, JobTaskEnded, "key", ("a", "b"), (b"{}",))
    other = OutboxRow(0, 2, 1, ManyEnded, "key", ("c", "d"), (b"{}",))
    elsewhere = OutboxRow(1, 2, 1, JobTaskEnded, "key", ("c", "d"), (b"{}",))
    assert len(list(messages_of([row, elsewhere]))) == 2
    assert not list(messages_of([]))
    assert [row.place, other.place] == [(0, 1), (0, 2)]
