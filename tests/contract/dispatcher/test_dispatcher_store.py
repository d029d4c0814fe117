"""One suite over both stores of the dispatcher: SQLite and PostgreSQL. Slots, fences, inbox and outbox in one transaction."""

import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import psycopg
import pytest
from chargehand_dispatcher.core.engine import Surroundings
from chargehand_dispatcher.core.rules import Timers
from chargehand_dispatcher.shell.database import Database, PostgresDatabase, SqliteDatabase
from chargehand_dispatcher.shell.rows import as_us
from chargehand_dispatcher.shell.schema import STEPS
from chargehand_dispatcher.shell.store import DispatcherStore, InboxGroup, LostPartition
from chargehand_schemas.base import Item
from chargehand_schemas.dispatch import AttemptDue, JobInvocationEnded, JobTaskEnded, JobTaskStatusChanged
from chargehand_schemas.execution import AttemptAccepted, AttemptEnded, AttemptReleased, AttemptStarted
from chargehand_schemas.hosts import HostCheckedIn
from chargehand_schemas.ids import job_task_id
from chargehand_schemas.planning import (
    JobInvocationCancelRequested,
    JobInvocationEdited,
    JobInvocationScheduled,
    JobTasksPlanned,
    PlannedJobTask,
)
from chargehand_schemas.properties import ExecutionProperties
from chargehand_schemas.reasons import JobTaskStatus, ReleaseReason

INVOCATION = UUID(int=1)
TOPIC = "planning"
Word = TypeVar("Word", AttemptAccepted, AttemptStarted)


def around(**more: Any) -> Surroundings:
    return Surroundings(now=datetime.now(UTC), proxy_limit=50, **more)


@pytest.fixture(params=["sqlite", "postgresql"])
def connect(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Database]:
    """Opens the same database again at each call."""
    if request.param == "sqlite":
        return lambda: SqliteDatabase(tmp_path / "dispatcher.db")
    dsn = request.getfixturevalue("postgres")()
    return lambda: PostgresDatabase(dsn)


@pytest.fixture
def store(connect: Callable[[], Database]) -> Iterator[DispatcherStore]:
    made = DispatcherStore(connect())
    made.acquire(0)
    yield made
    made.close()


class Inbox:
    """Gives messages to a store, each at the next offset."""

    def __init__(self, store: DispatcherStore) -> None:
        self.store, self.offset = store, 0

    def take(self, *items: Item) -> int:
        self.offset += 1
        desk = self.store.take([InboxGroup(0, TOPIC, self.offset, items)], around())
        return len(desk.said)


def scheduled(**properties: Any) -> JobInvocationScheduled:
    moment = datetime.now(UTC)
    return JobInvocationScheduled(
        id=uuid4(),
        time=moment,
        job_invocation_id=INVOCATION,
        start_at=moment,
        properties=ExecutionProperties(**properties),
    )


def plan(count: int, proxy: str = "dmz") -> JobTasksPlanned:
    tasks = tuple(
        PlannedJobTask(
            job_task_id=job_task_id(INVOCATION, UUID(int=n)), host_id=UUID(int=n), host_name=f"web{n}", proxy=proxy,
            ordinal=n,
        )
        for n in range(count)
    )  # fmt: skip
    return JobTasksPlanned(
        id=uuid4(),
        time=datetime.now(UTC),
        job_invocation_id=INVOCATION,
        chunk=0,
        chunks=1,
        total=count,
        job_tasks=tasks,
    )


def edited(concurrency: int | None) -> JobInvocationEdited:
    return JobInvocationEdited(
        id=uuid4(), time=datetime.now(UTC), job_invocation_id=INVOCATION, command_id=uuid4(), actor="user:ada",
        concurrency=concurrency,
    )  # fmt: skip


def ended(n: int, attempt: int = 1, code: int = 0) -> AttemptEnded:
    return AttemptEnded(
        id=uuid4(), time=datetime.now(UTC), job_invocation_id=INVOCATION, attempt=attempt,
        job_task_id=job_task_id(INVOCATION, UUID(int=n)), host_id=UUID(int=n), proxy="dmz", agent_id="a1",
        agent_boot_id=UUID(int=6), journal_id=UUID(int=7), exit_status=code, ended_at=datetime.now(UTC),
    )  # fmt: skip


def word(model: type[Word], n: int, **more: Any) -> Word:
    return model(
        id=uuid4(), time=datetime.now(UTC), job_invocation_id=INVOCATION, attempt=1,
        job_task_id=job_task_id(INVOCATION, UUID(int=n)), host_id=UUID(int=n), proxy="dmz", agent_id="a1",
        agent_boot_id=UUID(int=6), journal_id=UUID(int=7), **more,
    )  # fmt: skip


def said(store: DispatcherStore) -> list[str]:
    return [type(item).__name__ for row in store.outbox() for item in row.items]


def models(store: DispatcherStore) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in said(store):
        counts[name] = counts.get(name, 0) + 1
    return counts


def test_slots_never_exceed_the_limit_of_the_invocation(store: DispatcherStore) -> None:
    inbox = Inbox(store)
    inbox.take(scheduled(concurrency=3), plan(10))
    assert store.claim(around()) == 3
    assert store.claim(around()) == 0
    inbox.take(ended(0), ended(1))
    assert store.claim(around()) == 2
    assert models(store)["AttemptDue"] == 5


def test_slots_never_exceed_the_size_of_the_proxy(store: DispatcherStore) -> None:
    Inbox(store).take(scheduled(), plan(120))
    assert store.claim(around()) == 50
    assert store.claim(around()) == 0


def test_the_size_of_a_proxy_may_change_while_a_job_runs(store: DispatcherStore) -> None:
    """S56: what runs, runs out; a lower limit binds new claims, and each claim names the limit in force."""
    inbox = Inbox(store)
    inbox.take(scheduled(), plan(120))
    assert store.claim(around(proxy_limits={"dmz": 4})) == 4
    store.look_for_slots()
    assert store.claim(around(proxy_limits={"dmz": 3})) == 0
    inbox.take(ended(0), ended(1))
    assert store.claim(around(proxy_limits={"dmz": 3})) == 1
    store.look_for_slots()
    assert store.claim(around(proxy_limits={"other": 1})) == 47
    limits = [item.proxy_limit for row in store.outbox() for item in row.items if isinstance(item, AttemptDue)]
    assert limits == [4] * 4 + [3] + [50] * 47


def test_an_edited_limit_binds_the_claims_after_it(store: DispatcherStore) -> None:
    """S56: it is said in dispatch-events before the first claim it binds, also of a store opened again."""
    inbox = Inbox(store)
    inbox.take(scheduled(concurrency=2), plan(20))
    assert store.claim(around()) == 2
    inbox.take(edited(5))
    assert store.claim(around()) == 3
    inbox.take(edited(1))
    inbox.take(ended(0))
    assert store.claim(around()) == 0
    inbox.take(edited(None))
    assert store.claim(around()) == 15
    spoken = [name for name in said(store) if name in ("ConcurrencyChanged", "AttemptDue")]
    due, changed = ["AttemptDue"], ["ConcurrencyChanged"]
    assert spoken == due * 2 + changed + due * 3 + changed * 2 + due * 15


def test_a_message_that_is_read_again_changes_nothing(store: DispatcherStore) -> None:
    inbox = Inbox(store)
    inbox.take(scheduled(), plan(2))
    store.claim(around())
    before = store.outbox()
    inbox.offset -= 1
    assert inbox.take(scheduled(), plan(2)) == 0
    assert store.outbox() == before


def test_everything_is_there_after_opening_it_again(store: DispatcherStore, connect: Callable[[], Database]) -> None:
    inbox = Inbox(store)
    inbox.take(scheduled(concurrency=2), plan(3))
    store.claim(around())
    again = DispatcherStore(connect())
    before = store.outbox()
    positions, _ = again.acquire(0)
    assert positions == {TOPIC: 1}
    assert again.outbox() == before
    assert again.claim(around()) == 0
    assert again.numbers() == {"outbox": 3, "due": 2, "waiting": 1}
    again.close()


def test_whoever_lost_the_partition_can_commit_nothing(store: DispatcherStore, connect: Callable[[], Database]) -> None:
    Inbox(store).take(scheduled(), plan(2))
    thief = DispatcherStore(connect())
    thief.acquire(0)
    with pytest.raises(LostPartition):
        store.take([InboxGroup(0, TOPIC, 9, (ended(0),))], around())
    assert store.claim(around()) == 0
    assert thief.claim(around()) == 2
    thief.close()


def test_a_cancel_of_a_large_invocation_ends_all_that_waits(store: DispatcherStore) -> None:
    inbox = Inbox(store)
    inbox.take(scheduled(concurrency=1), plan(500))
    store.claim(around())
    inbox.take(
        JobInvocationCancelRequested(
            id=uuid4(), time=datetime.now(UTC), job_invocation_id=INVOCATION, command_id=uuid4(), actor="user:ada"
        )
    )
    assert store.sweep(around()) == 500
    assert store.sweep(around()) == 0
    assert store.claim(around()) == 0
    counts = models(store)
    assert (counts["JobTaskEnded"], counts["CancelDue"]) == (499, 1)


def test_published_rows_are_gone_and_the_rest_keeps_its_order(
    store: DispatcherStore, connect: Callable[[], Database]
) -> None:
    Inbox(store).take(scheduled(), plan(5))
    store.claim(around())
    rows = store.outbox()
    store.published(rows[:1])
    assert store.outbox() == rows[1:]
    store.flush()
    again = DispatcherStore(connect())
    again.acquire(0)
    assert again.outbox() == rows[1:]
    again.close()


def test_a_future_start_is_the_next_instant_and_then_it_is_due(store: DispatcherStore) -> None:
    soon = scheduled().model_copy(update={"start_at": datetime.now(UTC) + timedelta(milliseconds=50)})
    Inbox(store).take(soon)
    assert store.next_instant() == soon.start_at
    while not store.pass_time(around()):
        assert datetime.now(UTC) < soon.start_at + timedelta(seconds=5)
    assert models(store) == {"JobInvocationDue": 1}


def test_a_retry_waits_for_its_interval(store: DispatcherStore) -> None:
    inbox = Inbox(store)
    inbox.take(scheduled(tries=2, retry_interval=timedelta(hours=1)), plan(1))
    store.claim(around())
    inbox.take(ended(0, code=1))
    assert store.claim(around()) == 0
    due = store.next_instant()
    assert due is not None
    assert timedelta(minutes=59) < due - datetime.now(UTC) <= timedelta(hours=1)


def test_check_ins_are_kept_as_values(store: DispatcherStore) -> None:
    """Rule CHK: the newest counts, also when it is read before an older one."""
    moment = datetime.now(UTC)
    for at in (moment, moment - timedelta(hours=1)):
        event = HostCheckedIn(id=uuid4(), time=at, host_id=UUID(int=0), proxy="dmz", agent_id="a1", checked_in_at=at)
        store.check_in({(event.host_id, event.proxy): event.checked_in_at}, around(), {})
    inbox = Inbox(store)
    inbox.take(scheduled(wait_for_check_in=True), plan(1))
    assert store.claim(around()) == 1


def unreachable(n: int) -> AttemptReleased:
    return AttemptReleased(
        id=uuid4(), time=datetime.now(UTC), job_invocation_id=INVOCATION, attempt=1,
        job_task_id=job_task_id(INVOCATION, UUID(int=n)), host_id=UUID(int=n), proxy="dmz", agent_id="a1",
        agent_boot_id=UUID(int=6), journal_id=UUID(int=7), why=ReleaseReason.COULD_NOT_CONNECT, proves_never_started=True,
    )  # fmt: skip


def in_state(connect: Callable[[], Database], state: str) -> int:
    database = connect()
    try:
        return int(database.execute("select count(*) from job_task where state = ?", (state,))[0][0])
    finally:
        database.close()


def test_only_the_proxy_that_a_slot_is_counted_for_wakes_what_waits_for_a_check_in(
    store: DispatcherStore, connect: Callable[[], Database]
) -> None:
    """An agent of another proxy, under its own name, speaks of a host that is not its own: nothing is tried before its time."""
    single = Surroundings(now=datetime.now(UTC), single_agent_proxies=frozenset({"dmz"}))
    store.take([InboxGroup(0, TOPIC, 1, (scheduled(wait_for_check_in=True), plan(2)))], around())
    store.claim(around())
    store.take([InboxGroup(0, TOPIC, 2, (unreachable(0), unreachable(1)))], single)
    assert in_state(connect, "check_in") == 2

    soon = datetime.now(UTC)
    store.check_in({(UUID(int=0), "lab"): soon, (UUID(int=1), "lab"): soon}, around(), {})
    assert in_state(connect, "check_in") == 2
    store.acquire(0)
    store.wake_checked_in(0, around())
    assert in_state(connect, "check_in") == 2

    store.check_in({(UUID(int=0), "dmz"): soon, (UUID(int=1), "lab"): soon}, around(), {})
    assert in_state(connect, "check_in") == 1
    assert store.claim(around()) == 1


def test_a_store_from_before_check_ins_had_a_proxy_reads_them_again(
    connect: Callable[[], Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose they were it cannot say: they are dropped with the position, and the topic has the latest of each host."""
    topic = "chargehand.host-events.v1"
    before = next(number for number, step in enumerate(STEPS) if "drop table check_in;" in step)
    monkeypatch.setattr("chargehand_dispatcher.shell.store.STEPS", STEPS[:before])
    old = DispatcherStore(connect())
    database = connect()
    with database.transaction():
        database.execute("insert into check_in values (?, ?)", (UUID(int=0).bytes, 5))
        database.execute(
            "insert into inbox (partition, topic, next_offset) values (0, ?, 70), (0, 'other', 7)", (topic,)
        )
    database.close()
    old.close()
    monkeypatch.undo()

    new = DispatcherStore(connect())
    assert new.positions(topic) == {}
    assert new.positions("other") == {0: 7}
    new.check_in({(UUID(int=0), "dmz"): datetime.now(UTC)}, around(), {(topic, 0): 9})
    assert new.positions(topic) == {0: 9}
    new.close()


def test_a_failed_transaction_leaves_everything_as_it_was(store: DispatcherStore) -> None:
    inbox = Inbox(store)
    inbox.take(scheduled(), plan(1))

    before = store.outbox(), store.numbers()
    groups = [InboxGroup(0, TOPIC, 9, (ended(0),)), InboxGroup(0, None, 9, ())]  # type: ignore[arg-type]
    with pytest.raises((sqlite3.IntegrityError, psycopg.IntegrityError)):
        store.take(groups, around())
    assert (store.outbox(), store.numbers()) == before
    assert store.acquire(0)[0] == {TOPIC: 1}


def test_a_store_of_an_older_schema_goes_on_with_what_it_holds(
    connect: Callable[[], Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chargehand_dispatcher.shell.store.STEPS", STEPS[:2])
    old = DispatcherStore(connect())
    old.acquire(0)
    Inbox(old).take(scheduled(concurrency=2), plan(5))
    old.close()
    monkeypatch.undo()
    new = DispatcherStore(connect())
    new.acquire(0)
    assert new.claim(around()) == 2
    assert new.numbers() == {"outbox": 3, "due": 2, "waiting": 3}
    new.close()


def test_how_many_wait_is_known_through_all_that_happens_to_them(
    store: DispatcherStore, connect: Callable[[], Database]
) -> None:
    inbox = Inbox(store)
    inbox.take(scheduled(concurrency=4, tries=2), plan(10))
    store.claim(around())
    inbox.take(ended(0), ended(1, code=1))
    assert {name: count for name, count in store.numbers().items() if name != "outbox"} == {"due": 2, "waiting": 7}
    again = DispatcherStore(connect())
    again.acquire(0)
    assert {name: count for name, count in again.numbers().items() if name != "outbox"} == {"due": 2, "waiting": 7}
    again.close()


def test_what_goes_on_in_its_slot_is_told_by_state_also_after_opening_it_again(
    store: DispatcherStore, connect: Callable[[], Database]
) -> None:
    inbox = Inbox(store)
    inbox.take(scheduled(), plan(4))
    store.claim(around())
    inbox.take(word(AttemptAccepted, 0), word(AttemptAccepted, 1), word(AttemptAccepted, 2))
    inbox.take(word(AttemptStarted, 1, started_at=datetime.now(UTC)))
    inbox.take(ended(2))
    again = DispatcherStore(connect())
    again.acquire(0)
    for one in (store, again):
        numbers = one.numbers()
        assert [numbers.get(state) for state in ("due", "accepted", "running", "waiting")] == [1, 1, 1, None]
    again.close()


def test_a_word_in_time_changes_no_instant_and_silence_after_it_is_asked_about(
    connect: Callable[[], Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row may say too early when to look at it, never too late."""
    database, began, passed = connect(), datetime.now(UTC), [0]
    monkeypatch.setattr(database, "now_us", lambda: as_us(began + timedelta(seconds=passed[0])))
    store = DispatcherStore(database)
    store.acquire(0)
    inbox = Inbox(store)

    def at(seconds: int) -> float | None:
        """Everything that is due then is done; the seconds until the next instant."""
        passed[0] = seconds
        store.work(around(timers=Timers(ask_after=timedelta(seconds=60))))
        instant = store.next_instant()
        return None if instant is None else round((instant - began).total_seconds())

    inbox.take(scheduled(), plan(1))
    assert at(1) == 36
    passed[0] = 30
    inbox.take(word(AttemptAccepted, 0))
    assert at(30) == 36
    assert at(36) == 90
    assert "ResumeDue" not in said(store)
    at(91)
    assert said(store)[-1] == "ResumeDue"
    store.close()


def test_a_slot_that_was_given_at_another_proxy_is_counted_there_after_a_restore(
    store: DispatcherStore, connect: Callable[[], Database]
) -> None:
    """Its own log tells of an attempt, and in a later part of another at the proxy that its host had moved to."""
    moment = datetime.now(UTC)

    def due(attempt: int, proxy: str) -> AttemptDue:
        at = moment + timedelta(seconds=attempt)
        return AttemptDue(
            id=uuid4(), time=at, job_invocation_id=INVOCATION, job_task_id=job_task_id(INVOCATION, UUID(int=0)), attempt=attempt,
            host_id=UUID(int=0), host_name="web0", proxy=proxy, issued_at=at, not_after=at, run_deadline=at, ordinal=0,
        )  # fmt: skip

    again = JobTaskStatusChanged(
        id=uuid4(), time=moment + timedelta(seconds=2), job_invocation_id=INVOCATION, attempt=1,
        job_task_id=job_task_id(INVOCATION, UUID(int=0)), host_id=UUID(int=0), status=JobTaskStatus.WAITING, tried=0,
        due_at=moment + timedelta(seconds=2),
    )  # fmt: skip
    store.acquire(0, is_whole=False)
    store.restore(0, [due(1, "dmz")], 1, around(), is_last=False)
    store.restore(0, [again, due(2, "site2")], 3, around())
    database = connect()
    assert database.execute("select proxy, due_at from job_task") == [("site2", as_us(again.time))]
    database.close()


def test_what_a_failed_transaction_did_is_not_remembered(store: DispatcherStore) -> None:
    """Job tasks that hold a slot are in memory too: as they are in the store."""
    inbox = Inbox(store)
    inbox.take(scheduled(), plan(1))
    store.claim(around())
    with pytest.raises((sqlite3.IntegrityError, psycopg.IntegrityError)):
        store.take([InboxGroup(0, TOPIC, 9, (ended(0),)), InboxGroup(0, None, 9, ())], around())  # type: ignore[arg-type]
    store.acquire(0)
    inbox.take(ended(0))
    assert models(store)["JobTaskEnded"] == 1


def test_a_cancel_of_very_many_has_one_verdict_for_each_also_of_those_that_were_tried(store: DispatcherStore) -> None:
    inbox = Inbox(store)
    inbox.take(scheduled(concurrency=3, tries=2, retry_interval=timedelta(hours=1)), plan(400))
    store.claim(around())
    inbox.take(ended(0, code=1), ended(1, code=1), ended(2))
    inbox.take(
        JobInvocationCancelRequested(
            id=uuid4(), time=datetime.now(UTC), job_invocation_id=INVOCATION, command_id=uuid4(), actor="user:ada"
        )
    )
    while store.sweep(around()):
        pass
    verdicts = [item for row in store.outbox() for item in row.items if isinstance(item, JobTaskEnded)]
    assert len({item.job_task_id for item in verdicts}) == len(verdicts) == 400
    assert sorted(item.attempts for item in verdicts) == [0] * 397 + [1] * 3
    (end,) = [item for row in store.outbox() for item in row.items if isinstance(item, JobInvocationEnded)]
    assert end.counts == {"cancelled": 399, "succeeded": 1}
