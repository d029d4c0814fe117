"""Every store on a disk that is full, and on one that may not be written: which file it is and why is said, and then it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from chargehand_chassis.errors import TransientFailure
from chargehand_dispatcher.core.engine import Surroundings
from chargehand_dispatcher.shell.database import SqliteDatabase
from chargehand_dispatcher.shell.store import DispatcherStore, InboxGroup
from chargehand_planner.core.outcomes import Append
from chargehand_planner.shell.store import Change, open_store
from chargehand_proxy_agent.core.entry import Entry, Phase
from chargehand_proxy_agent.shell.journal import Journal
from chargehand_reporter.core.read_model import Said
from chargehand_reporter.shell.folding import Folding
from chargehand_reporter.shell.store.database import open_database
from chargehand_reporter.shell.store.fold_store import FoldStore
from chargehand_schemas.catalog import HostRegistered
from chargehand_schemas.commands import HostRecord
from chargehand_schemas.ids import AttemptId
from chargehand_schemas.planning import JobInvocationScheduled
from chargehand_schemas.properties import ExecutionProperties
from chargehand_schemas.proxy_commands import ResumeProxyCommand
from chargehand_schemas.reasons import Role
from support.small_disk import NoDisk, SmallDisk, small_disk

LARGE = "x" * 16_000
NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


def registered(number: int) -> HostRegistered:
    host = HostRecord(name=f"web{number}", parameters={"text": LARGE})
    return HostRegistered(id=uuid4(), time=NOW, host_id=UUID(int=number), version=1, host=host)


@dataclass
class Kind:
    """One kind of store, opened in a directory: how to write something large, and how much of it is there."""

    files: str
    open: Callable[[Path], Any]
    write: Callable[[Any, int], Awaitable[None]]
    count: Callable[[Any], int]
    close: Callable[[Any], Awaitable[None]]


def _dispatcher(directory: Path) -> DispatcherStore:
    store = DispatcherStore(SqliteDatabase(directory / "dispatcher.db"))
    store.acquire(0)
    return store


async def _schedule(store: DispatcherStore, number: int) -> None:
    item = JobInvocationScheduled(
        id=uuid4(), time=NOW, job_invocation_id=UUID(int=number), start_at=NOW + timedelta(days=300), traceparent=LARGE,
        properties=ExecutionProperties(),
    )  # fmt: skip
    await asyncio.to_thread(store.take, [InboxGroup(0, "planning", number, (item,))], Surroundings(now=NOW))


async def _register(store: Any, number: int) -> None:
    event = registered(number)
    await asyncio.to_thread(store.record, Change([Append(event.host_id, 1, event)], moment=NOW))


async def _fold(folding: Folding, number: int) -> None:
    said = Said("catalog", 0, number, Role.PLANNER, "planner", "", NOW, (registered(number),))
    await asyncio.to_thread(folding.fold, [said], [("catalog", 0, number)], NOW)


async def _journal(directory: Path) -> Journal:
    return Journal(directory / "journal.sqlite")


async def _enter(journal: Journal, number: int) -> None:
    """Failing, it says so to whoever asked, and logs which file it is."""
    task = UUID(int=number)
    order = ResumeProxyCommand(
        id=uuid4(), time=NOW, job_invocation_id=uuid4(), job_task_id=task, attempt=1, host_id=uuid4(), proxy="local",
        host=HostRecord(name="web1", parameters={"text": LARGE}), provider_type="ssh", lock_path="path", issued_at=NOW,
        run_deadline=NOW,
    )  # fmt: skip
    is_stored: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    journal.write(Entry(AttemptId(task, 1), order, Phase.LOOKING, NOW), is_stored.set_result)
    if not await is_stored:
        assert not await journal.is_writable()
        raise TransientFailure(f"{journal._path}: the disk is full, as its log says")
    assert await journal.is_writable()


async def _closed(store: Any) -> None:
    store.close()


async def _close_folding(folding: Folding) -> None:
    folding._store.database.close()


KINDS = {
    "dispatcher": Kind(
        "dispatcher.db", _dispatcher, _schedule,
        lambda store: len(store._database.execute("select 1 from invocation")), _closed,
    ),
    "planner": Kind(
        "planner.sqlite", open_store, _register, lambda store: len(store.hosts_by_name([f"web{n}" for n in range(99)])),
        _closed,
    ),
    "reporter": Kind(
        "output.db", lambda directory: Folding(FoldStore(open_database("", directory, is_writer=True)), timedelta(days=7)),
        _fold, lambda folding: len(folding._store.database.query("select 1 from hosts")), _close_folding,
    ),
    "agent": Kind(
        "journal.sqlite", lambda directory: Journal(directory / "journal.sqlite"), _enter,
        lambda journal: len(journal.unfinished()), lambda journal: journal.close(),
    ),
}  # fmt: skip


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    try:
        with small_disk(tmp_path / "disk", 3) as made:
            yield made
    except NoDisk as error:
        pytest.skip(str(error))


async def test_a_full_disk_is_said_and_nothing_is_lost_when_there_is_room_again(kind: Kind, disk: SmallDisk) -> None:
    store = kind.open(disk.root)
    try:
        await kind.write(store, 1)
        disk.fill()
        with pytest.raises(TransientFailure, match=rf"{kind.files}.* full"):
            for number in range(2, 99):
                await kind.write(store, number)
        there = kind.count(store)
        disk.free()
        await kind.write(store, there + 1)
        assert kind.count(store) == there + 1
    finally:
        await kind.close(store)


async def test_a_store_that_may_not_be_written_is_refused_by_name(kind: Kind, disk: SmallDisk) -> None:
    store = kind.open(disk.root)
    await kind.write(store, 1)
    await kind.close(store)
    disk.make_read_only()
    with pytest.raises(TransientFailure, match=rf"{disk.root}.*([Rr]ead-?only|unable to open)"):
        await kind.write(kind.open(disk.root), 2)


async def test_a_disk_without_room_for_a_store_is_said_at_the_start(kind: Kind, disk: SmallDisk) -> None:
    disk.fill()
    with pytest.raises(TransientFailure, match=f"{disk.root}"):
        kind.open(disk.root)
    disk.free()
    await kind.close(kind.open(disk.root))
