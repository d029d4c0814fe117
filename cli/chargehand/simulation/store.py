"""The dispatcher's store in memory: what is durable of it, and one instance's hold on it.

Owns the same transactions as chargehand_dispatcher.shell.store, over dictionaries and the same core: the model that both SQL
stores are compared with.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from itertools import groupby
from uuid import UUID

from chargehand_dispatcher.core.claims import Queue, choose
from chargehand_dispatcher.core.engine import (
    Claimed,
    Desk,
    Surroundings,
    TimePassed,
    beyond,
    is_given_way,
    overtaken,
    word_to_all,
)
from chargehand_dispatcher.core.invocation import Invocation
from chargehand_dispatcher.core.job_task import SLOT_STATES, JobTask, State
from chargehand_dispatcher.core.table import AgentLost, AgentRestarted, CheckedIn, Event
from chargehand_schemas.base import Item

from .bus import Mark, Place

CLAIM = 500
_TICK = timedelta(microseconds=1)
_NEVER = datetime.max
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
Due = tuple[datetime, int, UUID]


class LostPartition(Exception):
    """Another instance owns these by now; nothing was changed."""

    def __init__(self, partitions: Iterable[int]) -> None:
        self.partitions = frozenset(partitions)
        super().__init__(str(sorted(self.partitions)))


@dataclass
class Row:
    """A message to be in the outbox."""

    partition: int
    number: int
    items: tuple[Item, ...]


@dataclass
class Durable:
    """What outlives every process. `places`: the partition of each invocation. `marks`: what it knows of the logs that it has read
    and written; `kept`: what it published last, with the end of its log then, by partition all from `kept_from` on (docs/adr/0023)."""

    owners: dict[int, UUID] = field(default_factory=dict)
    clocks: dict[int, datetime] = field(default_factory=dict)
    inbox: dict[tuple[str, int], int] = field(default_factory=dict)
    own_log: dict[int, int] = field(default_factory=dict)
    marks: dict[Place, Mark] = field(default_factory=dict)
    kept: dict[int, list[tuple[int, Row]]] = field(default_factory=dict)
    kept_from: dict[int, int] = field(default_factory=dict)
    invocations: dict[UUID, Invocation] = field(default_factory=dict)
    places: dict[UUID, int] = field(default_factory=dict)
    job_tasks: dict[UUID, JobTask] = field(default_factory=dict)
    check_ins: dict[tuple[UUID, str], datetime] = field(default_factory=dict)
    outbox: dict[int, dict[int, Row]] = field(default_factory=dict)
    numbers: Counter[int] = field(default_factory=Counter)
    unswept: set[UUID] = field(default_factory=set)
    looks: list[tuple[datetime, str, UUID]] = field(default_factory=list)
    look_at: dict[UUID, datetime] = field(default_factory=dict)
    queues: dict[tuple[UUID, str], list[Due]] = field(default_factory=dict)
    holding: dict[UUID, tuple[UUID, str]] = field(default_factory=dict)
    slots: Counter[object] = field(default_factory=Counter)

    def copy(self) -> Durable:
        """A backup. The values are frozen, but for the queues and the outbox."""
        return Durable(
            owners=dict(self.owners), clocks=dict(self.clocks), inbox=dict(self.inbox), own_log=dict(self.own_log),
            marks=dict(self.marks), kept={one: list(rows) for one, rows in self.kept.items()},
            kept_from=dict(self.kept_from), invocations=dict(self.invocations), places=dict(self.places), job_tasks=dict(self.job_tasks),
            check_ins=dict(self.check_ins), outbox={one: dict(rows) for one, rows in self.outbox.items()},
            numbers=Counter(self.numbers), unswept=set(self.unswept), looks=list(self.looks), look_at=dict(self.look_at),
            queues={key: list(queue) for key, queue in self.queues.items()}, holding=dict(self.holding),
            slots=Counter(self.slots),
        )  # fmt: skip

    def become(self, other: Durable) -> None:
        """Written over."""
        for each in fields(self):
            setattr(self, each.name, getattr(other, each.name))


class MemoryStore:
    """One instance's hold on what is durable. `clock` is the store's; `new_token` names an ownership."""

    def __init__(self, durable: Durable, clock: Callable[[], datetime], new_token: Callable[[], UUID]) -> None:
        self._durable, self._clock, self._new_token = durable, clock, new_token
        self.limit_of: Callable[[str], int] = Surroundings(clock()).limit_of
        self._owners: dict[int, UUID] = {}
        self._taking: set[int] = set()
        self._restored: set[int] = set()
        self._unpublished: dict[int, deque[Row]] = {}
        self._said_now: list[Row] = []
        self._published: dict[int, int] = {}

    def over(self, durable: Durable) -> MemoryStore:
        """The same hold on something else: a transaction that has begun."""
        store = MemoryStore(durable, self._clock, self._new_token)
        store.limit_of = self.limit_of
        store._owners, store._taking = dict(self._owners), set(self._taking)
        store._unpublished = {partition: deque(rows) for partition, rows in self._unpublished.items()}
        return store

    def take_over(self, store: MemoryStore) -> None:
        """Its transaction is committed."""
        self._unpublished = store._unpublished

    # --- ownership

    def check_fence(self) -> None:
        """LostPartition if any of it is another's by now."""
        self._fence(self._owners)

    def acquire(self, partition: int) -> int:
        """Own a partition, which is not worked on before `open`. Up to where its own log is known."""
        durable = self._durable
        durable.owners[partition] = self._owners[partition] = self._new_token()
        self._taking.add(partition)
        rows = durable.outbox.setdefault(partition, {})
        self._unpublished[partition] = deque(rows[number] for number in sorted(rows))
        self._published.pop(partition, None)
        return durable.own_log.get(partition, 0)

    def open(self, partition: int) -> None:
        """From here on it is worked on. What its own log brought back is looked at: only now all is known that says when."""
        self._taking.discard(partition)
        durable = self._durable
        if partition in self._restored:
            self._restored.discard(partition)
            for task in durable.job_tasks.values():
                if task.job_task_id in durable.look_at and durable.places[task.job_invocation_id] == partition:
                    self._look("job_task", task.job_task_id, self._clock())

    def release(self, partitions: Iterable[int]) -> None:
        for partition in partitions:
            self._owners.pop(partition, None)
            self._taking.discard(partition)
            self._unpublished.pop(partition, None)
            self._published.pop(partition, None)

    def owned(self) -> list[int]:
        return sorted(self._owners.keys() - self._taking)

    def position(self, topic: str, partition: int) -> int:
        return self._durable.inbox.get((topic, partition), 0)

    def _fence(self, partitions: Iterable[int]) -> datetime:
        durable, mine = self._durable, list(partitions)
        lost = [one for one in mine if durable.owners.get(one) != self._owners.get(one) or one not in self._owners]
        if lost:
            self.release(lost)
            raise LostPartition(lost)
        now = max([self._clock(), *(durable.clocks[one] + _TICK for one in mine if one in durable.clocks)])
        for one in mine:
            durable.clocks[one] = now
        for partition, number in self._published.items():
            rows = durable.outbox[partition]
            for published in [one for one in rows if one <= number]:
                del rows[published]
        self._published.clear()
        return now

    def _desk(self, around: Surroundings) -> Desk:
        durable = self._durable
        return Desk(
            around,
            invocations=durable.invocations,
            job_tasks=durable.job_tasks,
            check_ins=durable.check_ins,
            places=durable.places,
        )

    # --- messages

    def take(
        self,
        partition: int,
        topic: str,
        items: Sequence[Item],
        next_offset: int,
        around: Surroundings,
        *,
        may_claim: bool,
    ) -> Desk:
        """Messages of the inbox, each once."""
        around.now = self._fence({partition, *self.owned()})
        desk = self._desk(around)
        if self.position(topic, partition) < next_offset:
            self._durable.inbox[topic, partition] = next_offset
            for item in items:
                self._place(item, partition)
                desk.take(item)
            self._save(desk)
        if may_claim:
            self._claim(desk)
        self._say(desk)
        return desk

    def _place(self, item: Item, partition: int) -> None:
        job_invocation_id = getattr(item, "job_invocation_id", None)
        if job_invocation_id is not None:
            self._durable.places.setdefault(job_invocation_id, partition)

    def restore(self, partition: int, items: Sequence[Item], next_offset: int, around: Surroundings) -> None:
        """Fold its own log beyond what is known (rule REST)."""
        durable = self._durable
        known_until = durable.clocks.get(partition, _LONG_AGO)
        later = beyond(items, known_until, known_until)
        if later:
            self._restored.add(partition)
        desk = self._desk(around)
        for item in later:
            self._place(item, partition)
            desk.restore(item)
        for due in overtaken((item for row in self._unpublished[partition] for item in row.items), items, later):
            desk.take_back(due)
        touched = {durable.job_tasks[one].job_invocation_id for one in desk.told if one in durable.job_tasks}
        desk.said.clear()
        desk.settle()
        desk.end_restored(sorted(touched))
        self._save(desk)
        self._drop_said({item.id for item in items}, desk.told, touched, partition, next_offset)
        self._say(desk)
        clock = max([known_until, *(item.time for item in later)])
        if clock != _LONG_AGO:
            durable.clocks[partition] = clock
        durable.own_log[partition] = next_offset
        if later:
            durable.kept_from[partition] = next_offset

    def _drop_said(self, ids: set[UUID], told: set[UUID], touched: set[UUID], partition: int, end: int) -> None:
        left: deque[Row] = deque()
        for row in self._unpublished[partition]:
            unsaid = [item for item in row.items if item.id not in ids]
            items = tuple(item for item in unsaid if not is_given_way(item, told, touched))
            if items:
                left.append(Row(row.partition, row.number, items))
                continue
            self._durable.outbox[partition].pop(row.number, None)
            if not unsaid:
                self._durable.kept.setdefault(partition, []).append((end, row))
        self._unpublished[partition] = left

    # --- time

    def work(self, around: Surroundings, *, may_claim: bool) -> int:
        """Everything that is due. The number of rows looked at."""
        mine = self.owned()
        if not mine:
            return 0
        around.now = self._fence(mine)
        desk = self._desk(around)
        done = self._pass_time(desk) + self._sweep(desk)
        if may_claim:
            done += self._claim(desk)
        self._say(desk)
        return done

    def _pass_time(self, desk: Desk) -> int:
        durable, now, mine = self._durable, desk.surroundings.now, set(self.owned())
        done, again = 0, []
        while durable.looks and durable.looks[0][0] <= now:
            look = heapq.heappop(durable.looks)
            at, kind, one = look
            if durable.look_at.get(one) != at:
                continue
            if durable.places[self._invocation_of(kind, one)] not in mine:
                again.append(look)
                continue
            del durable.look_at[one]
            if kind == "invocation":
                desk.look_at_invocation(one)
                self._look_again(desk, one)
                done += 1
                continue
            desk.apply(one, TimePassed())
            if desk.is_overdue(durable.job_tasks[one]):
                durable.look_at[one] = at
                again.append(look)
            else:
                desk.changed_job_tasks.add(one)
                done += 1
        for look in again:
            heapq.heappush(durable.looks, look)
        self._save(desk)
        return done

    def _invocation_of(self, kind: str, one: UUID) -> UUID:
        return one if kind == "invocation" else self._durable.job_tasks[one].job_invocation_id

    def _look_again(self, desk: Desk, job_invocation_id: UUID) -> None:
        at = desk.look_at_next(self._durable.invocations[job_invocation_id])
        self._look("invocation", job_invocation_id, at)

    def _look(self, kind: str, one: UUID, at: datetime | None) -> None:
        durable = self._durable
        if at is None:
            durable.look_at.pop(one, None)
        elif durable.look_at.get(one) != at:
            durable.look_at[one] = at
            heapq.heappush(durable.looks, (at, kind, one))

    def _sweep(self, desk: Desk) -> int:
        durable, mine, done = self._durable, set(self.owned()), 0
        for one in sorted(durable.unswept):
            known = durable.invocations[one]
            if durable.places[one] not in mine:
                continue
            durable.unswept.discard(one)
            tasks = [task for task in durable.job_tasks.values() if task.job_invocation_id == one]
            done += len(tasks)
            if known.is_ended:
                for task in tasks:
                    del durable.job_tasks[task.job_task_id]
                    durable.look_at.pop(task.job_task_id, None)
                continue
            for task in tasks:
                waits = task.state in (State.WAITING, State.CHECK_IN)
                if waits or (known.is_cancelled and task.state in SLOT_STATES and not task.is_cancelling):
                    desk.apply(task.job_task_id, word_to_all(known))
            self._save(desk)
        return done

    # --- claims

    def _claim(self, desk: Desk) -> int:
        queues = self._heads(desk)
        chosen = choose(queues, CLAIM)
        taken = {job_task.job_task_id for job_task in chosen}
        for job_task in chosen:
            desk.apply(job_task.job_task_id, Claimed())
        for queue in queues:
            for job_task in queue.head:
                if job_task.job_task_id not in taken:
                    self._queue(job_task)
        self._save(desk)
        return len(chosen)

    def _heads(self, desk: Desk) -> list[Queue]:
        durable, now, mine = self._durable, desk.surroundings.now, set(self.owned())
        free = {proxy: desk.surroundings.limit_of(proxy) - durable.slots[proxy] for _, proxy in durable.queues}
        heads = []
        for (one, proxy), queue in durable.queues.items():
            if durable.places[one] in mine and queue and queue[0][0] <= now:
                known, held = durable.invocations[one], durable.slots[one]
                of_invocation = known.free_slots(held)
                room = min(CLAIM, free[proxy], CLAIM if of_invocation is None else of_invocation)
                head = self._head(queue, room, known.released, now)
                heads.append(Queue(one, proxy, tuple(head), held, known.properties.concurrency, free))
        return heads

    def _head(self, queue: list[Due], room: int, released: int | None, now: datetime) -> list[JobTask]:
        head: list[JobTask] = []
        later: list[Due] = []
        seen: set[UUID] = set()
        while queue and queue[0][0] <= now and len(head) < room:
            due = heapq.heappop(queue)
            job_task = self._durable.job_tasks.get(due[2])
            is_stale = job_task is None or job_task.state is not State.WAITING or job_task.due_at != due[0]
            if is_stale or job_task is None or due[2] in seen:
                continue
            seen.add(due[2])
            if released is not None and job_task.ordinal >= released:
                later.append(due)
            else:
                head.append(job_task)
        for due in later:
            heapq.heappush(queue, due)
        return head

    def _queue(self, job_task: JobTask) -> None:
        queue = self._durable.queues.setdefault((job_task.job_invocation_id, job_task.proxy), [])
        heapq.heappush(queue, (job_task.due_at, job_task.ordinal, job_task.job_task_id))

    # --- hosts and agents

    def check_in(self, check_ins: Mapping[tuple[UUID, str], datetime], around: Surroundings) -> None:
        """Kept for whoever waits later, and applied to who waits now (rule CHK)."""
        known = self._durable.check_ins
        for key, at in check_ins.items():
            known[key] = max(at, known.get(key, at))
        hosts = {host_id for host_id, _ in check_ins}
        self._tell(CheckedIn(), around, lambda task: task.state is State.CHECK_IN and task.host_id in hosts)

    def wake_checked_in(self, partition: int, around: Surroundings) -> None:
        """Whoever of a partition taken waits for a check-in that is known by now."""
        places, known = self._durable.places, {host_id for host_id, _ in self._durable.check_ins}
        self._tell(
            CheckedIn(),
            around,
            lambda task: (
                task.state is State.CHECK_IN and task.host_id in known and places[task.job_invocation_id] == partition
            ),
        )

    def ask(self, event: AgentLost | AgentRestarted, around: Surroundings) -> None:
        """Ask for what an agent held."""
        self._tell(event, around, lambda task: task.state in SLOT_STATES)

    def _tell(
        self, event: Event, around: Surroundings, to_whom: Callable[[JobTask], bool], mine: Sequence[int] | None = None
    ) -> None:
        mine = self.owned() if mine is None else mine
        if not mine:
            return
        around.now = self._fence(mine)
        desk, places = self._desk(around), self._durable.places
        for task in list(self._durable.job_tasks.values()):
            if places[task.job_invocation_id] in mine and to_whom(task):
                desk.apply(task.job_task_id, event)
        self._save(desk)
        self._say(desk)

    # --- rows

    def _save(self, desk: Desk) -> None:
        desk.settle()
        durable = self._durable
        for one in desk.changed_invocations:
            known = durable.invocations[one]
            self._look("invocation", one, desk.look_at_next(known))
            if not known.is_swept:
                durable.unswept.add(one)
        for one in desk.changed_job_tasks:
            self._index(desk, durable.job_tasks[one])
        desk.changed_invocations.clear()
        desk.changed_job_tasks.clear()

    def _index(self, desk: Desk, job_task: JobTask) -> None:
        durable, one = self._durable, job_task.job_task_id
        self._look("job_task", one, desk.look_at(job_task))
        before = durable.holding.pop(one, None)
        if before is not None:
            durable.slots.subtract(before)
        if job_task.state in SLOT_STATES:
            holds = durable.holding[one] = (job_task.job_invocation_id, job_task.proxy)
            durable.slots.update(holds)
        elif job_task.state is State.WAITING:
            self._queue(job_task)

    def _say(self, desk: Desk) -> None:
        durable = self._durable
        for (partition, _), run in groupby(desk.outgoing(), key=lambda item: (desk.place_of(item), type(item))):
            durable.numbers[partition] += 1
            row = Row(partition, durable.numbers[partition], tuple(run))
            durable.outbox.setdefault(partition, {})[row.number] = row
            self._unpublished[partition].append(row)

    # --- outbox and questions

    def outbox(self) -> list[Row]:
        """What is not published, each partition in order."""
        return [row for partition in self.owned() for row in self._unpublished.get(partition, ())]

    def published(self, rows: Iterable[Row]) -> None:
        """Acknowledged; written with the next transaction."""
        for row in rows:
            waiting = self._unpublished.get(row.partition)
            if waiting and waiting[0].number == row.number:
                waiting.popleft()
                self._published[row.partition] = row.number

    def next_instant(self) -> datetime | None:
        """When there may be something to do."""
        durable, mine = self._durable, set(self.owned())
        if any(durable.places[one] in mine for one in durable.unswept):
            return self._clock()
        looks = durable.looks[0][0] if durable.looks else _NEVER.replace(tzinfo=self._clock().tzinfo)
        dues = (
            queue[0][0]
            for (one, proxy), queue in durable.queues.items()
            if queue and durable.places[one] in mine and self._has_room(one, proxy)
        )
        first = min([looks, *dues])
        return None if first.year == _NEVER.year else first

    def _has_room(self, one: UUID, proxy: str) -> bool:
        durable = self._durable
        of_invocation = durable.invocations[one].free_slots(durable.slots[one])
        return durable.slots[proxy] < self.limit_of(proxy) and (of_invocation is None or of_invocation > 0)
