# ruff: noqa: S608 (what is put into statements are our own names and question marks; values are bound)
"""The dispatcher's store: inbox positions, invocations, job tasks, slots, timers and outbox change together or not at all.

Owns loading and saving the desk's rows and the set-wise questions (which are due, which slots are free). The rules are the
core's; every change goes through them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar
from uuid import UUID, uuid4

from chargehand_chassis.errors import FatalFailure
from chargehand_schemas.base import InvocationItem, Item, JobTaskItem
from chargehand_schemas.planning import JobInvocationCancelRequested, JobTasksPlanned
from chargehand_schemas.reasons import JobTaskStatus

from chargehand_dispatcher.core.engine import CancelRequested, Claimed, Desk, Halted, Surroundings, TimePassed
from chargehand_dispatcher.core.table import AgentRestarted, CheckedIn, Event

from .database import Database, SqliteDatabase
from .rows import (
    INVOCATION_COLUMNS,
    JOB_TASK_COLUMNS,
    from_us,
    invocation_of,
    invocation_row,
    job_task_of,
    job_task_row,
    to_us,
)
from .schema import SERIAL, STEPS

SWEEP = 2000
CLAIM = 500
_IDS = 400

T = TypeVar("T")


class LostPartition(Exception):
    """Another instance owns the partition now: what was read of it is dropped, nothing was changed."""


@dataclass(frozen=True, slots=True)
class InboxGroup:
    """Items of one partition of one topic, and the offset after them."""

    partition: int
    topic: str
    next_offset: int
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class OutboxRow:
    number: int
    key: str
    model: str
    body: str


def _upsert(table: str, columns: Sequence[str], key: str) -> str:
    values = ", ".join("?" for _ in columns)
    changes = ", ".join(f"{column} = excluded.{column}" for column in columns if column != key)
    return f"insert into {table} ({', '.join(columns)}) values ({values}) on conflict ({key}) do update set {changes}"


_PUT_JOB_TASK = _upsert("job_task", JOB_TASK_COLUMNS, "job_task_id")
_PUT_INVOCATION = _upsert("invocation", INVOCATION_COLUMNS, "job_invocation_id")
_JOB_TASKS = f"select {', '.join(JOB_TASK_COLUMNS)} from job_task where "
_INVOCATIONS = f"select {', '.join(INVOCATION_COLUMNS)} from invocation where "


class DispatcherStore:
    """Used from one thread. Every method that changes something is one transaction, fenced by the owner of the partition."""

    def __init__(self, database: Database, *, proxy_limit: int = 500) -> None:
        self._database = database
        self._proxy_limit = proxy_limit
        self._owners: dict[int, str] = {}
        self._migrate()

    def close(self) -> None:
        self._database.close()

    # --- schema and ownership

    def _migrate(self) -> None:
        database = self._database
        kind = "sqlite" if isinstance(database, SqliteDatabase) else "postgresql"
        with database.transaction():
            database.execute("create table if not exists schema_version (version integer not null)")
            rows = database.execute("select version from schema_version")
            present = rows[0][0] if rows else 0
            if present > len(STEPS):
                raise FatalFailure(f"the store has schema version {present}, this program knows {len(STEPS)}")
            for step in STEPS[present:]:
                for statement in step.format(serial=SERIAL[kind]).split(";"):
                    if statement.strip():
                        database.execute(statement)
            database.execute("delete from schema_version")
            database.execute("insert into schema_version values (?)", (len(STEPS),))

    def acquire(self, partition: int) -> tuple[dict[str, int], int]:
        """Own a partition under a new random token. Its inbox positions by topic, and the offset up to which its own log
        of dispatch-events was folded."""
        owner = str(uuid4())
        with self._database.transaction():
            self._database.execute(
                "insert into partition_owner values (?, ?, 0, 0) on conflict (partition) do update set owner = excluded.owner",
                (partition, owner),
            )
            rows = self._database.execute("select topic, next_offset from inbox where partition = ?", (partition,))
            own = self._database.execute("select own_log_offset from partition_owner where partition = ?", (partition,))
        self._owners[partition] = owner
        return {topic: offset for topic, offset in rows}, own[0][0]

    def release(self, partitions: Iterable[int]) -> None:
        """Own them no more."""
        for partition in partitions:
            self._owners.pop(partition, None)

    def owned(self) -> list[int]:
        return sorted(self._owners)

    def _check_owner(self, partition: int) -> None:
        lock = "" if isinstance(self._database, SqliteDatabase) else " for share"
        question = f"select owner from partition_owner where partition = ?{lock}"
        rows = self._database.execute(question, (partition,))
        if not rows or rows[0][0] != self._owners.get(partition):
            self._owners.pop(partition, None)
            raise LostPartition(f"partition {partition} belongs to another dispatcher")

    def _now(self, partitions: Iterable[int]) -> datetime:
        """The store's clock, never backwards per partition (rule CLK)."""
        now_us = self._database.now_us()
        for partition in partitions:
            before = self._database.execute("select clock_us from partition_owner where partition = ?", (partition,))
            now_us = max(now_us, before[0][0] if before else 0)
        for partition in partitions:
            self._database.execute("update partition_owner set clock_us = ? where partition = ?", (now_us, partition))
        moment = from_us(now_us)
        assert moment is not None  # noqa: S101 (it was a number)
        return moment

    # --- changes

    def take(self, groups: Sequence[InboxGroup], around: Surroundings) -> int:
        """Messages of the inbox, each once: what lies below the stored position is left out. The number of items said."""
        partitions = sorted({group.partition for group in groups})
        with self._database.transaction():
            fresh = [group for group in groups if self._advance(group)]
            items = [item for group in fresh for item in group.items]
            places = {i.job_invocation_id: g.partition for g in fresh for i in g.items if isinstance(i, InvocationItem)}
            desk = self._lay(items, around, partitions)
            for item in items:
                desk.take(item)
            return self._save(desk, places)

    def _advance(self, group: InboxGroup) -> bool:
        self._check_owner(group.partition)
        rows = self._database.execute(
            "select next_offset from inbox where partition = ? and topic = ?", (group.partition, group.topic)
        )
        if rows and rows[0][0] >= group.next_offset:
            return False
        self._database.execute(
            "insert into inbox values (?, ?, ?) on conflict (partition, topic) do update set next_offset = excluded.next_offset",
            (group.partition, group.topic, group.next_offset),
        )
        return True

    def restore(self, partition: int, items: Iterable[Item], next_offset: int, around: Surroundings) -> None:
        """Fold the partition's own dispatch-events beyond what this store knows (rule REST)."""
        items = list(items)
        with self._database.transaction():
            self._check_owner(partition)
            desk = self._lay(items, around, [partition])
            for item in items:
                desk.restore(item)
            places = {item.job_invocation_id: partition for item in items if isinstance(item, InvocationItem)}
            desk.said.clear()
            self._save(desk, places)
            self._database.execute(
                "update partition_owner set own_log_offset = ? where partition = ?", (next_offset, partition)
            )

    def claim(self, around: Surroundings) -> int:
        """Give free slots to due job tasks, of every active invocation of the owned partitions. The number claimed."""
        with self._database.transaction():
            partitions = self._check_all_owners()
            if not partitions:
                return 0
            around.now = self._now(partitions)
            desk, claimed = Desk(around), 0
            free_by_proxy: dict[str, int] = {}
            for invocation_id, _, concurrency, released in self._active(partitions):
                claimed += self._claim_of(desk, invocation_id, concurrency, released, free_by_proxy)
                if claimed >= CLAIM:
                    break
            self._save(desk, {key: self._partition_of(key) for key in desk.changed_invocations})
            return claimed

    def _active(self, partitions: Sequence[int]) -> list[Any]:
        marks = ", ".join("?" for _ in partitions)
        return self._database.execute(
            "select job_invocation_id, partition, concurrency, released from invocation where is_ended = 0 "
            f"and is_cancelled = 0 and is_halted = 0 and partition in ({marks}) order by start_at",
            partitions,
        )

    def _claim_of(
        self,
        desk: Desk,
        invocation_id: str,
        concurrency: int | None,
        released: int | None,
        free_by_proxy: dict[str, int],
    ) -> int:
        held = "select count(*) from job_task where job_invocation_id = ? and state in ('due', 'accepted', 'running')"
        free = CLAIM
        if concurrency is not None:
            free = min(free, concurrency - self._database.execute(held, (invocation_id,))[0][0])
        if free <= 0:
            return 0
        rows = self._database.execute(
            _JOB_TASKS + "job_invocation_id = ? and state = 'waiting' and due_at <= ? and ordinal < ? "
            "order by due_at, ordinal limit ?",
            (invocation_id, to_us(desk.surroundings.now), 2**31 - 1 if released is None else released, free),
        )
        claimed = 0
        for row in rows:
            job_task = job_task_of(row)
            if self._take_proxy_slot(job_task.proxy, free_by_proxy):
                self._load_invocations(desk, [invocation_id])
                desk.job_tasks[job_task.job_task_id] = job_task
                desk.apply(job_task.job_task_id, Claimed())
                claimed += 1
        return claimed

    def _take_proxy_slot(self, proxy: str, free_by_proxy: dict[str, int]) -> bool:
        """A proxy's machine has a size; its slots are counted over all partitions."""
        if proxy not in free_by_proxy:
            held = self._database.execute(
                "select count(*) from job_task where proxy = ? and state in ('due', 'accepted', 'running')", (proxy,)
            )[0][0]
            free_by_proxy[proxy] = self._proxy_limit - held
        free_by_proxy[proxy] -= 1
        return free_by_proxy[proxy] >= 0

    def pass_time(self, around: Surroundings) -> int:
        """Apply what time alone brings: due invocations, missing plans, deadlines, questions. The number of rows looked at."""
        with self._database.transaction():
            partitions = self._check_all_owners()
            if not partitions:
                return 0
            around.now = self._now(partitions)
            marks = ", ".join("?" for _ in partitions)
            where = f"look_at <= ? and partition in ({marks}) order by look_at limit {SWEEP}"
            parameters = (to_us(around.now), *partitions)
            invocations = self._database.execute(_INVOCATIONS + where, parameters)
            job_tasks = self._database.execute(_JOB_TASKS + where, parameters)
            desk = Desk(around)
            for row in invocations:
                known = invocation_of(row)
                desk.invocations[known.job_invocation_id] = known
                desk.changed_invocations.add(known.job_invocation_id)
                desk.look_at_invocation(known.job_invocation_id)
            self._apply_to(desk, job_tasks, lambda _: TimePassed())
            self._save(desk, {key: self._partition_of(key) for key in desk.changed_invocations})
            return len(invocations) + len(job_tasks)

    def sweep(self, around: Surroundings) -> int:
        """Cancel or halt job tasks of invocations that are to be, some thousands a transaction. The number changed."""
        with self._database.transaction():
            partitions = self._check_all_owners()
            if not partitions:
                return 0
            around.now = self._now(partitions)
            marks = ", ".join("?" for _ in partitions)
            rows = self._database.execute(
                f"{_JOB_TASKS}state <> 'ended' and is_cancelling = 0 and job_invocation_id in (select job_invocation_id "
                f"from invocation where is_ended = 0 and is_cancelled = 1 and partition in ({marks})) limit {SWEEP}",
                partitions,
            )
            halted = self._database.execute(
                f"{_JOB_TASKS}state in ('waiting', 'check_in') and job_invocation_id in (select job_invocation_id "
                f"from invocation where is_ended = 0 and is_halted = 1 and partition in ({marks})) limit {SWEEP}",
                partitions,
            )
            desk = Desk(around)
            self._apply_to(desk, rows, lambda _: CancelRequested())
            self._apply_to(desk, halted, lambda _: Halted("more failures than the rolling limit allows"))
            self._save(desk, {key: self._partition_of(key) for key in desk.changed_invocations})
            return len(rows) + len(halted)

    def check_in(self, host_id: UUID, at: datetime, around: Surroundings) -> None:
        """A check-in is a value (rule CHK): kept for whoever waits later, and applied to who waits now."""
        with self._database.transaction():
            partitions = self._check_all_owners()
            self._database.execute(
                "insert into check_in values (?, ?) on conflict (host_id) do update set at = excluded.at "
                "where excluded.at > check_in.at",
                (str(host_id), to_us(at)),
            )
            if partitions:
                around.now = self._now(partitions)
                marks = ", ".join("?" for _ in partitions)
                rows = self._database.execute(
                    f"{_JOB_TASKS}host_id = ? and state = 'check_in' and partition in ({marks})",
                    (str(host_id), *partitions),
                )
                desk = Desk(around, check_ins={host_id: at})
                self._apply_to(desk, rows, lambda _: CheckedIn())
                self._save(desk, {})

    def agent_restarted(self, agent_id: str, boot_id: UUID, around: Surroundings) -> None:
        """Ask for what the agent held under another boot."""
        with self._database.transaction():
            partitions = self._check_all_owners()
            if not partitions:
                return
            around.now = self._now(partitions)
            marks = ", ".join("?" for _ in partitions)
            rows = self._database.execute(
                f"{_JOB_TASKS}state in ('accepted', 'running') and holder = ? and partition in ({marks})",
                (agent_id, *partitions),
            )
            desk = Desk(around)
            self._apply_to(desk, rows, lambda _: AgentRestarted(agent_id, boot_id))
            self._save(desk, {})

    # --- outbox

    def outbox(self, limit: int = 2000) -> list[OutboxRow]:
        """The oldest rows of owned partitions, in order."""
        partitions = self.owned()
        if not partitions:
            return []
        marks = ", ".join("?" for _ in partitions)
        rows = self._database.execute(
            f"select number, key, model, body from outbox where partition in ({marks}) order by number limit {limit}",
            partitions,
        )
        return [OutboxRow(*row) for row in rows]

    def published(self, numbers: Sequence[int]) -> None:
        """They are acknowledged by the broker."""
        if numbers:
            with self._database.transaction():
                self._database.executemany("delete from outbox where number = ?", [(number,) for number in numbers])

    # --- questions

    def next_instant(self) -> datetime | None:
        """When the next job task of an active invocation is due for want of time, or something is to be looked at."""
        partitions = self.owned()
        if not partitions:
            return None
        marks = ", ".join("?" for _ in partitions)
        looks = self._database.execute(
            f"select min(look_at) from job_task where look_at is not null and partition in ({marks}) "
            f"union all select min(look_at) from invocation where look_at is not null and partition in ({marks})",
            (*partitions, *partitions),
        )
        instants = [row[0] for row in looks] + [self._next_due(row[0]) for row in self._active(partitions)]
        return from_us(min((instant for instant in instants if instant is not None), default=None))

    def _next_due(self, invocation_id: str) -> int | None:
        now_us = self._database.now_us()
        rows = self._database.execute(
            "select min(due_at) from job_task where job_invocation_id = ? and state = 'waiting' and due_at > ?",
            (invocation_id, now_us),
        )
        due: int | None = rows[0][0]
        return due

    def numbers(self) -> dict[str, int]:
        """Figures for the metrics."""
        rows = self._database.execute("select state, count(*) from job_task where state <> 'ended' group by state")
        outbox = self._database.execute("select count(*) from outbox")[0][0]
        return {"outbox": outbox, **{state: count for state, count in rows}}

    # --- the desk

    def _check_all_owners(self) -> list[int]:
        for partition in self.owned():
            try:
                self._check_owner(partition)
            except LostPartition:
                continue
        return self.owned()

    def _lay(self, items: Iterable[Item], around: Surroundings, partitions: Sequence[int]) -> Desk:
        """Load what these items are about."""
        around.now = self._now(partitions)
        items = list(items)
        desk = Desk(around)
        invocations = {str(item.job_invocation_id) for item in items if isinstance(item, InvocationItem)}
        job_tasks = {str(job_task_id) for item in items for job_task_id in _mentions(item)}
        self._load_invocations(desk, sorted(invocations))
        for some in _chunks(sorted(job_tasks), _IDS):
            marks = ", ".join("?" for _ in some)
            for row in self._database.execute(f"{_JOB_TASKS}job_task_id in ({marks})", some):
                job_task = job_task_of(row)
                desk.job_tasks[job_task.job_task_id] = job_task
        self._load_check_ins(desk)
        return desk

    def _load_check_ins(self, desk: Desk) -> None:
        waits = {
            str(job_task.host_id)
            for job_task in desk.job_tasks.values()
            if desk.invocations[job_task.job_invocation_id].properties.wait_for_check_in
        }
        found: dict[UUID, datetime] = {}
        for some in _chunks(sorted(waits), _IDS):
            marks = ", ".join("?" for _ in some)
            for host_id, at in self._database.execute(
                f"select host_id, at from check_in where host_id in ({marks})", some
            ):
                moment = from_us(at)
                assert moment is not None  # noqa: S101 (the column is not null)
                found[UUID(host_id)] = moment
        desk.check_ins = found

    def _load_invocations(self, desk: Desk, ids: Sequence[str]) -> None:
        missing = [one for one in ids if UUID(one) not in desk.invocations]
        for some in _chunks(missing, _IDS):
            marks = ", ".join("?" for _ in some)
            for row in self._database.execute(f"{_INVOCATIONS}job_invocation_id in ({marks})", some):
                known = invocation_of(row)
                desk.invocations[known.job_invocation_id] = known

    def _apply_to(self, desk: Desk, rows: Sequence[Any], event: Callable[[Any], Event]) -> None:
        tasks = [job_task_of(row) for row in rows]
        self._load_invocations(desk, sorted({str(job_task.job_invocation_id) for job_task in tasks}))
        for job_task in tasks:
            desk.job_tasks[job_task.job_task_id] = job_task
            desk.changed_job_tasks.add(job_task.job_task_id)
        if not desk.check_ins:
            self._load_check_ins(desk)
        for job_task in tasks:
            desk.apply(job_task.job_task_id, event(job_task))

    def _partition_of(self, job_invocation_id: UUID) -> int:
        rows = self._database.execute(
            "select partition from invocation where job_invocation_id = ?", (str(job_invocation_id),)
        )
        return int(rows[0][0])

    def _save(self, desk: Desk, places: Mapping[UUID, int]) -> int:
        places = dict(places)
        desk.settle()

        def place(job_invocation_id: UUID) -> int:
            if job_invocation_id not in places:
                places[job_invocation_id] = self._partition_of(job_invocation_id)
            return places[job_invocation_id]

        self._database.executemany(
            _PUT_INVOCATION,
            [
                invocation_row(desk.invocations[key], place(key), desk.look_at_next(desk.invocations[key]))
                for key in desk.changed_invocations
            ],
        )
        self._database.executemany(
            _PUT_JOB_TASK,
            [
                job_task_row(job_task, place(job_task.job_invocation_id), desk.look_at(job_task))
                for job_task in map(desk.job_tasks.__getitem__, desk.changed_job_tasks)
            ],
        )
        said = desk.outgoing()
        self._database.executemany(
            "insert into outbox (partition, key, model, body) values (?, ?, ?, ?)",
            [
                (place(i.job_invocation_id), str(i.job_invocation_id), type(i).__name__, i.model_dump_json())
                for i in said
                if isinstance(i, InvocationItem)
            ],
        )
        return len(said)


def _mentions(item: Item) -> Iterable[UUID]:
    match item:
        case JobTaskItem():
            return (item.job_task_id,)
        case JobTasksPlanned():
            return tuple(planned.job_task_id for planned in item.job_tasks)
        case JobInvocationCancelRequested():
            return item.job_task_ids
        case _:
            return ()


def _chunks(values: Sequence[T], size: int) -> Iterable[Sequence[T]]:
    iterator = iter(values)
    while chunk := list(islice(iterator, size)):
        yield chunk


__all__ = ["DispatcherStore", "InboxGroup", "JobTaskStatus", "LostPartition", "OutboxRow"]
