"""Repairing both stores of the planner: events are published again from where the log surely has them, positions go back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from chargehand_chassis.errors import FatalFailure
from chargehand_chassis.kafka import Cut, Mark, partition_of
from chargehand_chassis.repair import Finding
from chargehand_planner.core.bindings import Binding, BindingKind, announced
from chargehand_planner.core.outcomes import Append
from chargehand_planner.shell.repair import PlannerRepair
from chargehand_planner.shell.settings import PlannerSettings
from chargehand_planner.shell.store import Change, Fenced, PlannerStore, RepairStore, Said, open_store
from chargehand_schemas.base import AttemptItem, Item
from chargehand_schemas.catalog import HostRegistered
from chargehand_schemas.commands import HostRecord
from chargehand_schemas.planning import AttemptVoided
from chargehand_schemas.topics import CATALOG_EVENTS, COMMANDS, DISPATCH_EVENTS, PLANNING_EVENTS

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
LATER = NOON + timedelta(minutes=2)
INVOCATION = UUID(int=1)
NUMBER = partition_of(str(INVOCATION), 4)
CATALOG, PLANNING = (CATALOG_EVENTS.name, 0), (PLANNING_EVENTS.name, NUMBER)
DISPATCH, ASKED = (DISPATCH_EVENTS.name, 2), (COMMANDS.name, 1)


class Stores:
    """One database, opened by a planner or for a repair; on SQLite by one at a time."""

    def __init__(self, settings: PlannerSettings) -> None:
        self._settings = settings
        self._close: Callable[[], None] = lambda: None

    def planner(self) -> PlannerStore:
        self.close()
        store = open_store(self._settings.data, self._settings.store_url)
        self._close = store.close
        return store

    def repair(self) -> PlannerRepair:
        self.close()
        repair = PlannerRepair(self._settings)
        self._close = repair.close
        return repair

    def raw(self) -> RepairStore:
        self.close()
        store = RepairStore.open(self._settings.data, self._settings.store_url)
        self._close = store.close
        return store

    def close(self) -> None:
        self._close()
        self._close = lambda: None


@pytest.fixture(params=["sqlite", "postgresql"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stores]:
    url = request.getfixturevalue("postgres")() if request.param == "postgresql" else ""
    made = Stores(PlannerSettings(data=tmp_path, key_file=tmp_path, planner_key_file=tmp_path, store_url=url))
    yield made
    made.close()


def register(store: PlannerStore, name: str) -> HostRegistered:
    event = HostRegistered(id=uuid4(), time=NOON, host_id=uuid4(), version=1, host=HostRecord(name=name))
    store.record(Change([Append(event.host_id, 1, event)], moment=NOON))
    return event


def void(store: PlannerStore, attempt: int) -> AttemptItem:
    """A decision about an attempt, as the binder makes one."""
    binding = Binding(INVOCATION, UUID(int=2), attempt, UUID(int=3), BindingKind.VOIDED)
    about = AttemptItem(
        id=uuid4(), time=NOON, job_invocation_id=INVOCATION, job_task_id=UUID(int=2), attempt=attempt
    )  # fmt: skip
    item = announced(binding, about, NOON)
    store.record(Change(bindings=[binding], items=[item], moment=NOON))
    return item


def publish(store: PlannerStore, moment: datetime = NOON, **ends: int) -> list[Item]:
    """What waits, as if the logs ended there afterwards."""
    places = {"catalog": CATALOG, "planning": PLANNING}
    sending = store.next_sending()
    store.note_sent(sending, {places[name]: Mark(end, end * 1000) for name, end in ends.items()}, moment)
    assert store.next_sending().is_empty
    return [out.item for out in sending.outgoing]


def waiting(store: PlannerStore) -> list[Item]:
    return [out.item for out in store.next_sending().outgoing]


def cut(place: tuple[str, int], position: int, held: int) -> Finding:
    return Finding("planner", Cut(*place, position, 0, held, held), "something")


async def test_events_and_decisions_beyond_a_cut_are_published_again_in_order(stores: Stores) -> None:
    store = stores.planner()
    first = register(store, "web1")
    publish(store, catalog=5)
    second, third = register(store, "web2"), void(store, 1)
    publish(store, catalog=6, planning=3)
    await stores.repair().mend([cut(CATALOG, 6, 5)])
    store = stores.planner()
    assert waiting(store) == [second, third]
    assert store.marks([CATALOG, PLANNING]) == {CATALOG: Mark(5, 0), PLANNING: Mark(3, 3000)}
    assert store.unpublished_ids() == {second.id, third.id}
    publish(store, catalog=6, planning=4)
    await stores.repair().mend([cut(CATALOG, 6, 4)])
    assert waiting(stores.planner()) == [first, second, third], "further back than anything that is noted: all of it"


async def test_decisions_that_are_not_kept_for_publishing_are_told_again(stores: Stores) -> None:
    store = stores.planner()
    items = [void(store, attempt) for attempt in (1, 2)]
    publish(store, planning=3)
    void(store, 3)
    publish(store, LATER, planning=400)
    void(store, 4)
    publish(store, LATER + timedelta(minutes=2), planning=800)
    assert not stores.raw().said_below(PLANNING, 2).is_whole
    (finding,) = [stores.repair()._finding(Cut(*PLANNING, 800, 0, 2, 2))]
    assert finding.gone
    await stores.repair().mend([cut(PLANNING, 800, 2)])
    said = waiting(stores.planner())
    assert {item.id for item in items} <= {item.id for item in said}
    assert len({item.id for item in said}) == 4
    assert all(isinstance(item, AttemptVoided) for item in said)


async def test_what_surely_stands_below_an_offset_is_known_for_the_last_records(stores: Stores) -> None:
    store = stores.planner()
    for number in range(1, 5):
        void(store, number)
        publish(store, planning=number)
    raw = stores.raw()
    assert [raw.said_below(PLANNING, offset) for offset in (0, 2, 9)] == [
        Said(0, 0, is_whole=True), Said(0, 2, is_whole=True), Said(0, 4, is_whole=True)
    ]  # fmt: skip


async def test_a_store_of_before_knows_nothing_of_what_it_published(stores: Stores) -> None:
    raw = stores.raw()
    void(raw, 1)
    raw.note_sent(raw.next_sending())
    assert raw.said_below(PLANNING, 0) == Said(is_whole=True)


async def test_positions_go_back_and_may_go_on_from_there(stores: Stores) -> None:
    store = stores.planner()
    store.record(Change(positions={DISPATCH: 9, ASKED: 7}, times={DISPATCH: 9000, ASKED: 7000}))
    assert store.heard([DISPATCH, ASKED]) == {DISPATCH: Mark(9, 9000), ASKED: Mark(7, 7000)}
    done = await stores.repair().mend([cut(DISPATCH, 9, 4)])
    store = stores.planner()
    assert store.heard([DISPATCH, ASKED]) == {DISPATCH: Mark(4, 0), ASKED: Mark(7, 7000)}
    store.record(Change(positions={DISPATCH: 5}, times={DISPATCH: 8888}))
    assert store.heard([DISPATCH]) == {DISPATCH: Mark(5, 8888)}
    assert done == [f"{DISPATCH[0]}/{DISPATCH[1]} goes on at 4"]


async def test_whoever_owned_a_partition_before_writes_nothing_of_it_any_more(stores: Stores) -> None:
    store = stores.planner()
    _, tokens = store.take([DISPATCH])
    store.record(Change(positions={DISPATCH: 9}, tokens=tokens))
    await stores.repair().mend([cut(DISPATCH, 9, 4)])
    with pytest.raises(Fenced):
        stores.planner().record(Change(positions={DISPATCH: 10}, tokens=tokens))


async def test_what_others_found_or_was_deleted_unread_changes_nothing(stores: Stores) -> None:
    assert await stores.repair().mend([Finding("reporter", Cut(*DISPATCH, 9, 0, 4, 4), "something")]) == []
    with pytest.raises(FatalFailure, match="nothing was mended"):
        await stores.repair().mend([Finding("planner", Cut(*ASKED, 3, 8, 3, 9), "")])
