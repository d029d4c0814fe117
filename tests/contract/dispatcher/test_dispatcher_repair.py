"""Repairing both stores of the dispatcher: what it said is kept for a while, and said again where the log lost it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from chargehand_chassis.errors import FatalFailure
from chargehand_chassis.kafka import Cut, Mark
from chargehand_chassis.repair import Finding
from chargehand_dispatcher.core.engine import Surroundings
from chargehand_dispatcher.core.rules import Timers
from chargehand_dispatcher.shell import store as rules
from chargehand_dispatcher.shell.database import open_database
from chargehand_dispatcher.shell.repair import DispatcherRepair
from chargehand_dispatcher.shell.settings import DispatcherSettings
from chargehand_dispatcher.shell.store import DispatcherStore, InboxGroup
from chargehand_schemas.base import Item
from chargehand_schemas.dispatch import JobTaskEnded, ResumeDue
from chargehand_schemas.execution import AttemptEnded
from chargehand_schemas.ids import item_id, job_task_id
from chargehand_schemas.planning import JobInvocationScheduled, JobTasksPlanned, PlannedJobTask
from chargehand_schemas.properties import ExecutionProperties
from chargehand_schemas.reasons import JobTaskStatus
from chargehand_schemas.topics import DISPATCH_EVENTS, EXECUTION_EVENTS, PLANNING_EVENTS

INVOCATION = UUID(int=1)
PARTITION = 0
HOSTS = 3


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> DispatcherSettings:
    url = request.getfixturevalue("postgres")() if request.param == "postgresql" else ""
    return DispatcherSettings(data=tmp_path, key_file=tmp_path, planner_key_file=tmp_path, store_url=url)


@pytest.fixture
def repair(settings: DispatcherSettings) -> Iterator[DispatcherRepair]:
    made = DispatcherRepair(settings)
    yield made
    made.close()


@pytest.fixture
def open_store(settings: DispatcherSettings) -> Iterator[Callable[[], DispatcherStore]]:
    """Opens the store and takes its partition."""
    opened: list[DispatcherStore] = []

    def make() -> DispatcherStore:
        opened.append(DispatcherStore(open_database(settings.store_url, settings.data)))
        opened[-1].acquire(PARTITION)
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def around() -> Surroundings:
    return Surroundings(now=datetime.now(UTC))


def plan() -> list[Item]:
    moment = datetime.now(UTC)
    tasks = tuple(
        PlannedJobTask(
            job_task_id=job_task_id(INVOCATION, UUID(int=n)),
            host_id=UUID(int=n),
            host_name=f"web{n}",
            proxy="dmz",
            ordinal=n,
        )
        for n in range(HOSTS)
    )
    common = {"id": uuid4(), "time": moment, "job_invocation_id": INVOCATION}
    return [
        JobInvocationScheduled(**common, start_at=moment, properties=ExecutionProperties()),
        JobTasksPlanned(**{**common, "id": uuid4()}, chunk=0, chunks=1, total=HOSTS, job_tasks=tasks),
    ]


def ended(n: int) -> AttemptEnded:
    return AttemptEnded(
        id=uuid4(), time=datetime.now(UTC), job_invocation_id=INVOCATION, attempt=1, proxy="dmz", agent_id="a1",
        job_task_id=job_task_id(INVOCATION, UUID(int=n)), host_id=UUID(int=n), agent_boot_id=UUID(int=6),
        journal_id=UUID(int=7), exit_status=0, ended_at=datetime.now(UTC),
    )  # fmt: skip


def take(store: DispatcherStore, topic: str, offset: int, *items: Item) -> None:
    store.take([InboxGroup(PARTITION, topic, offset, tuple(items), append_ms=offset * 1000)], around())


def publish(store: DispatcherStore, end: int) -> list[Item]:
    """Everything that waits, as if the log ended there afterwards; it is noted at once."""
    rows = store.outbox()
    store.published(rows, {PARTITION: Mark(end, end * 1000)})
    store.flush()
    return [item for row in rows for item in row.items]


def cut(topic: str, position: int, held: int) -> Finding:
    return Finding("dispatcher", Cut(topic, PARTITION, position, 0, held, held), "something")


def waiting(store: DispatcherStore) -> list[Item]:
    return [item for row in store.outbox() for item in row.items]


def ids(items: list[Item]) -> list[UUID]:
    return [item.id for item in items]


def dispatched(store: DispatcherStore) -> list[Item]:
    """Three job tasks are dispatched; what is said of it, up to offset 10."""
    take(store, PLANNING_EVENTS.name, 2, *plan())
    store.claim(late())
    return publish(store, 10)


def the_others_end(store: DispatcherStore) -> list[Item]:
    """The second is said to have ended, up to offset 16; of the third that waits to be published."""
    take(store, EXECUTION_EVENTS.name, 2, ended(1))
    said = publish(store, 16)
    take(store, EXECUTION_EVENTS.name, 3, ended(2))
    return [*said, *waiting(store)]


def one_ran(store: DispatcherStore) -> tuple[list[Item], list[Item]]:
    """Three job tasks are dispatched, one of them ends: what is said up to offset 10, and from there up to 14."""
    first = dispatched(store)
    take(store, EXECUTION_EVENTS.name, 1, ended(0))
    return first, publish(store, 14)


async def test_what_was_said_beyond_the_cut_is_said_again_in_order_by_the_next_start(
    repair: DispatcherRepair, open_store: Callable[[], DispatcherStore]
) -> None:
    first, then = one_ran(open_store())
    done = await repair.mend([cut(DISPATCH_EVENTS.name, 14, 10)])
    again = open_store()
    assert waiting(again) == then
    assert [type(item) for item in then] == [JobTaskEnded]
    assert again.marks(PARTITION)[DISPATCH_EVENTS.name] == Mark(10, 0)
    assert any("1 events are said again from 10 on" in words for words in done)
    await repair.mend([cut(DISPATCH_EVENTS.name, 14, 0)])
    assert waiting(open_store()) == [*first, *then]


async def test_a_published_row_is_kept_until_it_is_old_and_far_from_the_end(
    repair: DispatcherRepair, open_store: Callable[[], DispatcherStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    one_ran(store)
    store.tidy()
    monkeypatch.setattr(rules, "KEEP_RECORDS", 4)
    store.tidy()
    await repair.mend([cut(DISPATCH_EVENTS.name, 14, 0)])
    store = open_store()
    assert len(waiting(store)) == 1 + HOSTS + 1
    publish(store, 14)
    monkeypatch.setattr(rules, "KEEP_FOR", timedelta(0))
    store.take([], around())
    publish(store, 14)
    store.tidy()
    assert waiting(store) == []


async def test_what_is_not_kept_any_more_is_said_as_the_store_knows_it(
    repair: DispatcherRepair, open_store: Callable[[], DispatcherStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    first, then = one_ran(store)
    monkeypatch.setattr(rules, "KEEP_RECORDS", 0)
    monkeypatch.setattr(rules, "KEEP_FOR", timedelta(0))
    store.tidy()
    await repair.mend([cut(DISPATCH_EVENTS.name, 14, 0)])
    said = {item.id for item in waiting(open_store())}
    assert said == {item.id for item in [*first, *then]} - {item.id for item in first if _is_about(item, 0)}


async def test_what_a_successor_found_in_the_log_is_kept_as_well(
    repair: DispatcherRepair, open_store: Callable[[], DispatcherStore]
) -> None:
    store = open_store()
    first = dispatched(store)
    take(store, EXECUTION_EVENTS.name, 1, ended(0))
    found = waiting(store)
    successor = open_store()
    successor.restore(PARTITION, found, 14, around())
    assert waiting(successor) == []
    then = the_others_end(successor)
    await repair.mend([cut(DISPATCH_EVENTS.name, 16, 4)])
    assert ids(waiting(open_store())) == ids([*first, *found, *then])


async def test_what_only_the_log_has_told_is_said_between_what_is_kept_from_before_and_from_after(
    repair: DispatcherRepair, open_store: Callable[[], DispatcherStore]
) -> None:
    """As after a restore from a backup: the store knows it, and nobody keeps the words."""
    store = open_store()
    first = dispatched(store)
    told = JobTaskEnded(
        id=item_id("ended", job_task_id(INVOCATION, UUID(int=0))), time=datetime.now(UTC), job_invocation_id=INVOCATION,
        job_task_id=job_task_id(INVOCATION, UUID(int=0)), host_id=UUID(int=0), host_name="web0", ordinal=0,
        status=JobTaskStatus.SUCCEEDED, attempts=1,
    )  # fmt: skip
    restored = open_store()
    restored.restore(PARTITION, [told], 14, around())
    then = the_others_end(restored)
    await repair.mend([cut(DISPATCH_EVENTS.name, 16, 4)])
    assert ids(waiting(open_store())) == ids([*first, told, *then])


def _is_about(item: Item, n: int) -> bool:
    return getattr(item, "job_task_id", None) == job_task_id(INVOCATION, UUID(int=n))


async def test_positions_go_back_and_what_is_read_again_changes_nothing(
    repair: DispatcherRepair, open_store: Callable[[], DispatcherStore]
) -> None:
    store = open_store()
    items = plan()
    take(store, PLANNING_EVENTS.name, 2, *items)
    store.claim(around())
    publish(store, 10)
    await repair.mend([cut(PLANNING_EVENTS.name, 2, 0)])
    again = open_store()
    assert again.marks(PARTITION)[PLANNING_EVENTS.name] == Mark(0, 0)
    take(again, PLANNING_EVENTS.name, 2, *items)
    assert waiting(again) == []
    assert again.numbers() == {"outbox": 0, "due": HOSTS}


async def test_whoever_runs_while_it_is_mended_can_write_nothing_any_more(
    repair: DispatcherRepair, open_store: Callable[[], DispatcherStore]
) -> None:
    store = open_store()
    one_ran(store)
    await repair.mend([cut(EXECUTION_EVENTS.name, 1, 0)])
    with pytest.raises(rules.LostPartition):
        take(store, EXECUTION_EVENTS.name, 2, ended(1))


async def test_attempts_in_flight_are_not_given_up_for_silence_after_a_cut(
    repair: DispatcherRepair, open_store: Callable[[], DispatcherStore]
) -> None:
    one_ran(open_store())
    done = await repair.mend([])
    assert done == [f"{HOSTS - 1} attempts in flight are asked for on their hosts"]
    store = open_store()
    store.pass_time(late())
    assert store.numbers() == {"outbox": HOSTS - 1, "due": HOSTS - 1}
    assert [type(item) for item in waiting(store)] == [ResumeDue] * (HOSTS - 1)


def test_without_a_cut_silence_is_a_proof(open_store: Callable[[], DispatcherStore]) -> None:
    store = open_store()
    one_ran(store)
    store.pass_time(late())
    assert store.numbers() == {"outbox": HOSTS - 1, "waiting": HOSTS - 1}


def late() -> Surroundings:
    """As if not_after were over, and the log read since then, and the time to ask had come."""
    moment = datetime.now(UTC)
    timers = Timers(margin=timedelta(minutes=-1), ask_after=timedelta(0))
    return Surroundings(now=moment, timers=timers, log_read_to={PARTITION: moment}, readable_since=moment)


async def test_what_was_deleted_unread_is_not_mended(repair: DispatcherRepair) -> None:
    below = Finding("dispatcher", Cut(EXECUTION_EVENTS.name, PARTITION, 3, 8, 3, 9), "")
    with pytest.raises(FatalFailure, match="nothing was mended"):
        await repair.mend([below])
