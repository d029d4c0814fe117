# ruff: noqa: S608 (what is put into statements are our own names and question marks; values are bound)
"""The dispatcher's store: inbox positions, invocations, job tasks, slots, timers and outbox change together or not at all.

Owns transactions, who owns a partition, and the set-wise questions (which are due, which slots are free). The rules are the
core's; every change goes through them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from uuid import UUID, uuid4

from chargehand_chassis.errors import FatalFailure
from chargehand_chassis.kafka import Mark, is_cut
from chargehand_schemas.base import InvocationItem, Item, JobTaskItem
from chargehand_schemas.planning import JobInvocationCancelRequested, JobTasksPlanned
from chargehand_schemas.topics import DISPATCH_EVENTS, EXECUTION_EVENTS, PLANNING_EVENTS

from chargehand_dispatcher.core.alike import answer_to_all, claim_of_all, is_new
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
from chargehand_dispatcher.core.job_task import SLOT_STATES, JobTask
from chargehand_dispatcher.core.table import AgentLost, AgentRestarted, CancelRequested, CheckedIn, Event, Halted

from .database import Database, Row
from .queues import Queues
from .rows import (
    CANCELLED_UNSENT,
    INVOCATION_COLUMNS,
    JOB_TASKS,
    OUTBOX_COLUMNS,
    STATE_OF_A_SLOT,
    OutboxRow,
    as_us,
    at_us,
    from_us,
    invocation_of,
    invocation_row,
    job_task_of,
    never_dispatched,
    outbox_row_of,
    outbox_rows,
    outbox_values,
)
from .schema import BYTES, STEPS
from .slots import IN_A_SLOT, Slots

GROUP = "chargehand.dispatcher"
SWEEP = 2000
SWEEP_ALIKE = 5000
CLAIM = 500
KEEP_RECORDS = 200
KEEP_FOR = timedelta(minutes=1)
"""How much of what it said is kept, in records and by age: a log that a crash of its machine has cut is given it again
(docs/adr/0023). Linux writes what it holds in memory after 30 s."""
_BLOCKED_AGAIN_US = 1_000_000

_INVOCATIONS = f"select {', '.join(INVOCATION_COLUMNS)} from invocation where "
_OWN_LOG = "select own_log_offset from partition_owner where partition = ?"
_OLD = "where partition = ? and at < ? and next_offset <= ?"
_KEPT_FROM = "update partition_owner set kept_from = ? where partition = ?"


class LostPartition(Exception):
    """Other instances own these partitions now: what was read of them is dropped, nothing was changed."""

    def __init__(self, partitions: Iterable[int]) -> None:
        self.partitions = frozenset(partitions)
        super().__init__(f"partitions {sorted(self.partitions)} belong to another dispatcher")


class MissingMessages(Exception):
    """The log goes on beyond the position: what lies between is gone, and is never jumped over (rule RET)."""

    def __init__(self, partition: int, topic: str, position: int, found: int) -> None:
        self.partition = partition
        what = f"{topic}/{partition}: the store stands at {position}, the log goes on at {found}"
        super().__init__(is_cut(f"{what}: {found - position} messages are missing"))


@dataclass(frozen=True, slots=True)
class InboxGroup:
    """Items of one partition of one topic, the offset after them, that of the first message, and the broker's time of the last."""

    partition: int
    topic: str
    next_offset: int
    items: tuple[Item, ...]
    first_offset: int | None = None
    append_ms: int = 0


@dataclass(frozen=True, slots=True)
class Published:
    """Rows of the outbox by number that are acknowledged, and the place in the log after them; None: not known."""

    first: int
    last: int
    mark: Mark | None


class DispatcherStore:
    """Used from one thread. Every method that changes something is one transaction, fenced by the owner of the partition."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._owners: dict[int, str] = {}
        self._taking: set[int] = set()
        self._restored: dict[int, set[UUID]] = {}
        self._is_unswept = True
        self._known: dict[UUID, tuple[int, Invocation]] = {}
        self._slots = Slots(database)
        self._queues = Queues(database)
        self._swept_to: dict[UUID, int] = {}
        self._unpublished: dict[int, deque[OutboxRow]] = {}
        self._numbers: dict[int, int] = {}
        self._published: dict[int, Published] = {}
        self._said_now: list[OutboxRow] = []
        self._freed = True
        self._claim_again_us: int | None = 0
        self._migrate()

    def close(self) -> None:
        """Write what was published, and close."""
        if self._published and self._owners:
            self.flush()
        self._database.close()

    # --- schema and ownership

    def _migrate(self) -> None:
        database = self._database
        with database.transaction():
            database.execute("create table if not exists schema_version (version integer not null)")
            rows = database.execute("select version from schema_version")
            present = rows[0][0] if rows else 0
            if present > len(STEPS):
                raise FatalFailure(f"the store has schema version {present}, this program knows {len(STEPS)}")
            for step in STEPS[present:]:
                for statement in step.replace("{bytes}", BYTES[database.kind]).split(";"):
                    if statement.strip():
                        database.execute(statement)
            database.execute("delete from schema_version")
            database.execute("insert into schema_version values (?)", (len(STEPS),))

    def acquire(self, partition: int, *, is_whole: bool = True) -> tuple[dict[str, int], int]:
        """Own a partition under a new random token. Its inbox positions by topic, and the offset up to which its own log
        of dispatch-events was folded. Not `is_whole`: nothing is claimed or published of it before `open` (rule REST)."""
        owner = str(uuid4())
        with self._database.transaction():
            self._database.execute(
                "insert into partition_owner (partition, owner, clock_us, own_log_offset, log_clock_us) values (?, ?, 0, 0, 0) "
                "on conflict (partition) do update set owner = excluded.owner",
                (partition, owner),
            )
            rows = self._database.execute("select topic, next_offset from inbox where partition = ?", (partition,))
            own = self._database.execute(_OWN_LOG, (partition,))
        self._owners[partition] = owner
        if not is_whole:
            self._taking.add(partition)
        self._forget_memory()
        self._load_outbox(partition)
        return {topic: offset for topic, offset in rows}, own[0][0]

    def marks(self, partition: int) -> dict[str, Mark]:
        """By topic, how far its inbox was read and its own log is known; also where nothing was read yet."""
        return read_marks(self._database, partition)

    def _load_outbox(self, partition: int) -> None:
        columns = ", ".join(OUTBOX_COLUMNS)
        question = f"select {columns} from outbox where partition = ? and next_offset is null order by number"
        rows = deque(outbox_row_of(values) for values in self._database.execute(question, (partition,)))
        self._unpublished[partition] = rows
        # A number is not used again within an ownership; before it, nothing in memory refers to one.
        last = self._database.execute("select max(number) from outbox where partition = ?", (partition,))[0][0]
        self._numbers[partition] = 1 if last is None else last + 1
        self._published.pop(partition, None)

    def open(self, partition: int) -> None:
        """Its own log is folded and its inbox was read as far as it goes: from here on it is worked on."""
        self._taking.discard(partition)
        self._forget_memory()

    def release(self, partitions: Iterable[int]) -> None:
        """Own them no more."""
        for partition in partitions:
            self._owners.pop(partition, None)
            self._taking.discard(partition)
            self._restored.pop(partition, None)
            self._unpublished.pop(partition, None)
            self._published.pop(partition, None)
        self._forget_memory()

    def _forget_memory(self) -> None:
        """What was only remembered may be another's by now."""
        self._known.clear()
        self._slots.forget()
        self._swept_to.clear()
        self._freed, self._is_unswept, self._claim_again_us = True, True, 0

    def owned(self) -> list[int]:
        """Partitions that are worked on."""
        return sorted(self._owners.keys() - self._taking)

    @contextmanager
    def _transaction(self, partitions: Sequence[int]) -> Iterator[datetime]:
        """All or nothing, for the owner of these partitions: the instant of the transaction, by the store's clock, which never
        goes back within a partition (rule CLK)."""
        self._said_now.clear()
        published = {one: self._published[one] for one in partitions if one in self._published}
        try:
            with self._database.transaction():
                now_us = self._fence(partitions)
                for one, rows in published.items():
                    self._note_published(one, rows)
                yield at_us(now_us)
        except LostPartition as lost:
            self.release(lost.partitions)
            raise
        except BaseException:
            self._forget_memory()
            raise
        for one in published:
            del self._published[one]
        for row in self._said_now:
            self._unpublished[row.partition].append(row)

    def _note_published(self, partition: int, rows: Published) -> None:
        """They are kept for a while, with the place they have in the log at most."""
        where = "where partition = ? and number >= ? and number <= ?"
        if rows.mark is None:
            self._database.execute(f"delete from outbox {where}", (partition, rows.first, rows.last))
            return
        at, append_ms = rows.mark
        self._database.execute(f"update outbox set next_offset = ? {where}", (at, partition, rows.first, rows.last))
        self._database.execute(
            "update partition_owner set own_log_offset = ?, own_log_ms = ? where partition = ? and own_log_offset < ?",
            (at, append_ms, partition, at),
        )

    def _fence(self, partitions: Sequence[int]) -> int:
        marks = ", ".join("?" for _ in partitions)
        lock = " order by partition for update" if self._database.is_shared else ""
        question = f"select partition, owner, clock_us from partition_owner where partition in ({marks}){lock}"
        found = {row[0]: row for row in self._database.execute(question, partitions)}
        lost = [one for one in partitions if one not in found or found[one][1] != self._owners.get(one)]
        if lost:
            raise LostPartition(lost)
        now_us = max([self._database.now_us(), *(int(row[2]) + 1 for row in found.values())])
        self._database.execute(
            f"update partition_owner set clock_us = {now_us} where partition in ({marks})", partitions
        )
        return now_us

    # --- messages

    def take(self, groups: Sequence[InboxGroup], around: Surroundings, *, may_claim: bool = False) -> Desk:
        """Messages of the inbox, each once: what lies below the stored position is left out. What was said and what had no
        effect stands on the desk. LostPartition, MissingMessages: nothing was stored."""
        partitions = sorted({*(group.partition for group in groups), *self.owned()})
        with self._transaction(partitions) as around.now:
            fresh = [group for group in groups if self._advance(group)]
            desk = self._lay(fresh, around)
            for group in fresh:
                for item in group.items:
                    desk.take(item)
            self._save(desk)
            if may_claim:
                self._claim(desk, self.owned())
            self._say(desk)
        return desk

    def _advance(self, group: InboxGroup) -> bool:
        rows = self._database.execute(
            "select next_offset from inbox where partition = ? and topic = ?", (group.partition, group.topic)
        )
        position = rows[0][0] if rows else 0
        if position >= group.next_offset:
            return False
        if group.first_offset is not None and group.first_offset > position:
            raise MissingMessages(group.partition, group.topic, position, group.first_offset)
        self._put_position(group.partition, group.topic, Mark(group.next_offset, group.append_ms))
        return True

    def _put_position(self, partition: int, topic: str, mark: Mark) -> None:
        columns = ("partition", "topic", "next_offset", "append_ms")
        self._database.put("inbox", columns, ("partition", "topic"), [(partition, topic, *mark)])

    def positions(self, topic: str) -> dict[int, int]:
        """Next offsets of a topic, by partition."""
        return dict(self._database.execute("select partition, next_offset from inbox where topic = ?", (topic,)))

    def restore(
        self,
        partition: int,
        items: Sequence[Item],
        next_offset: int,
        around: Surroundings,
        *,
        is_last: bool = True,
        append_ms: int = 0,
    ) -> int:
        """Fold the partition's own dispatch-events beyond what this store knows (rule REST): those later than its clock, which
        goes on when the last part is folded. What waits in the outbox and stands in the log is not published again. The number
        of events folded."""
        with self._database.transaction():
            known_until, log_clock = self._clocks_of(partition)
            later = beyond(items, at_us(known_until), at_us(max(known_until, log_clock)))
            unheard = (item for row in self._unpublished[partition] for item in row.items)
            taken_back = overtaken(unheard, items, later)
            desk = self._lay([InboxGroup(partition, "", 0, (*later, *taken_back))], around)
            for item in later:
                desk.restore(item)
            for due in taken_back:
                desk.take_back(due)
            touched = {desk.job_tasks[one].job_invocation_id for one in desk.told if one in desk.job_tasks}
            desk.said.clear()
            self._save(desk)
            if later:
                self._restored.setdefault(partition, set()).update(touched)
            log_clock = max([log_clock, *(as_us(item.time) for item in later)])
            self._database.execute(
                "update partition_owner set own_log_offset = ?, own_log_ms = ?, log_clock_us = ?, clock_us = ? "
                "where partition = ?",
                (next_offset, append_ms, log_clock, max(known_until, log_clock) if is_last else known_until, partition),
            )
            if later:
                self._database.execute(_KEPT_FROM, (next_offset, partition))
            self._drop_said({item.id for item in items}, desk.told, touched, partition, next_offset)
        return len(later)

    def _clocks_of(self, partition: int) -> tuple[int, int]:
        question = "select owner, clock_us, log_clock_us from partition_owner where partition = ?"
        rows = self._database.execute(question, (partition,))
        if not rows or rows[0][0] != self._owners.get(partition):
            raise LostPartition([partition])
        return int(rows[0][1]), int(rows[0][2])

    def look_again(self, partition: int, around: Surroundings) -> None:
        """After its own log has brought something back, and the plans are read: end what has ended, and look anew at what waits
        for an instant; only now all is known that says when."""
        touched = self._restored.pop(partition, None)
        if touched is None:
            return
        with self._transaction([partition]) as around.now:
            desk = Desk(around)
            self._load_invocations(desk, touched)
            desk.end_restored(sorted(touched & desk.invocations.keys()))
            self._save(desk)
            self._say(desk)
            now = as_us(around.now)
            self._database.execute(
                "update job_task set look_at = ? where partition = ? and look_at > ?", (now, partition, now)
            )
            self._slots.forget()

    def _drop_said(self, ids: set[UUID], told: set[UUID], touched: set[UUID], partition: int, end: int) -> None:
        """What a predecessor has published stands in the log up to `end` at most, and is kept; what gives way is not."""
        left: deque[OutboxRow] = deque()
        which = "where partition = ? and number = ?"
        for row in self._unpublished[partition]:
            unsaid = [item for item in row.items if item.id not in ids]
            items = [item for item in unsaid if not is_given_way(item, told, touched)]
            if items:
                left.append(OutboxRow.of(row.partition, row.number, row.at_us, items))
            elif unsaid:
                self._database.execute(f"delete from outbox {which}", row.place)
            else:
                self._database.execute(f"update outbox set next_offset = ? {which}", (end, *row.place))
        self._unpublished[partition] = left

    def tidy(self) -> None:
        """Drop what was said long ago, and is safe in the log by now."""
        partitions = self.owned()
        if not partitions:
            return
        with self._transaction(partitions) as now:
            before = as_us(now - KEEP_FOR)
            for partition in partitions:
                own = self._database.execute(_OWN_LOG, (partition,))[0][0]
                old = (partition, before, own - KEEP_RECORDS)
                last = self._database.execute(f"select max(next_offset) from outbox {_OLD}", old)[0][0]
                if last is not None:
                    self._database.execute(f"delete from outbox {_OLD}", old)
                    self._database.execute(_KEPT_FROM, (last, partition))

    # --- time

    def work(self, around: Surroundings, *, may_claim: bool = True) -> int:
        """Everything that is due: what time brings, what is to be said to all of an invocation, claims. The number of rows
        looked at; 0: there is nothing more to do now."""
        partitions = self.owned()
        if not partitions:
            return 0
        with self._transaction(partitions) as around.now:
            desk = Desk(around)
            done = self._pass_time(desk, partitions) + self._sweep(desk, partitions)
            if may_claim:
                done += self._claim(desk, partitions)
            self._say(desk)
        return done

    def pass_time(self, around: Surroundings) -> int:
        """Only what time alone brings: due invocations, missing plans, deadlines, questions. The number of rows looked at."""
        return self._work(around, self._pass_time)

    def sweep(self, around: Surroundings) -> int:
        """Only cancel or halt job tasks of invocations that are to be, some thousands a transaction. The number changed."""
        return self._work(around, self._sweep)

    def claim(self, around: Surroundings) -> int:
        """Only give free slots to due job tasks. The number claimed."""
        return self._work(around, self._claim)

    def _work(self, around: Surroundings, part: Callable[[Desk, Sequence[int]], int]) -> int:
        partitions = self.owned()
        if not partitions:
            return 0
        try:
            with self._transaction(partitions) as around.now:
                desk = Desk(around)
                done = part(desk, partitions)
                self._say(desk)
        except LostPartition:
            return 0
        return done

    def _pass_time(self, desk: Desk, partitions: Sequence[int]) -> int:
        """What only waits for the log to be read (rule WM) is looked at and left as it is; it is not counted."""
        now_us, done = as_us(desk.surroundings.now), 0
        for partition in partitions:
            where = f"partition = ? and look_at <= ? order by look_at limit {SWEEP}"
            invocations = self._remember(self._database.execute(_INVOCATIONS + where, (partition, now_us)))
            self._place(desk, invocations)
            for _, known in invocations:
                desk.look_at_invocation(known.job_invocation_id)
            tasks = self._apply_to(desk, self._database.execute(JOB_TASKS + where, (partition, now_us)), TimePassed())
            done += len(invocations) + sum(not desk.is_overdue(job_task) for job_task in tasks)
        self._save(desk)
        return done

    def _sweep(self, desk: Desk, partitions: Sequence[int]) -> int:
        """What is to be said to all job tasks of an invocation, a part at a time; a mark says when it is done."""
        if not self._is_unswept:
            return 0
        marks = ", ".join("?" for _ in partitions)
        question = f"{_INVOCATIONS}is_swept = 0 and partition in ({marks})"
        done = 0
        for partition, known in self._remember(self._database.execute(question, partitions)):
            self._place(desk, [(partition, known)])
            count = self._sweep_one(desk, known)
            done += count
            # What it was told may have ended it: then it is to be forgotten next.
            if count < SWEEP and desk.invocations[known.job_invocation_id].is_ended == known.is_ended:
                self._database.execute(
                    "update invocation set is_swept = 1 where job_invocation_id = ?", (known.job_invocation_id.bytes,)
                )
        self._is_unswept = done > 0
        return done

    def _sweep_one(self, desk: Desk, known: Invocation) -> int:
        one = known.job_invocation_id.bytes
        if known.is_ended:
            self._slots.forget()
            self._swept_to.pop(known.job_invocation_id, None)
            self._database.execute(
                "delete from job_task where job_task_id in "
                f"(select job_task_id from job_task where job_invocation_id = ? limit {SWEEP})",
                (one,),
            )
            self._queues.forget(known.job_invocation_id)
            left = self._database.execute("select 1 from job_task where job_invocation_id = ? limit 1", (one,))
            return SWEEP if left else 0
        event = word_to_all(known)
        alike = self._sweep_alike(desk, known, event)
        if alike >= SWEEP_ALIKE:
            return alike
        rows = [
            row
            for state in ("waiting", "check_in")
            for row in self._database.execute(
                f"{JOB_TASKS}job_invocation_id = ? and state = '{state}' limit {SWEEP}", (one,)
            )
        ]
        self._apply_to(desk, rows, event)
        if known.is_cancelled and len(rows) < SWEEP:
            flying = f"{JOB_TASKS}job_invocation_id = ? and {IN_A_SLOT} and is_cancelling = 0 limit {SWEEP}"
            more = self._database.execute(flying, (one,))
            self._apply_to(desk, more, event)
            rows = [*rows, *more]
        self._save(desk)
        return alike + min(len(rows), SWEEP)

    def _sweep_alike(self, desk: Desk, known: Invocation, event: CancelRequested | Halted) -> int:
        """Of those that wait, the ones that were never dispatched are cancelled at once: the rule is asked for one of them, and their
        rows are marked."""
        if not isinstance(event, CancelRequested) or known.properties.rolling is not None:
            return 0
        one = known.job_invocation_id
        key, waits = self._database.row_id or "job_task_id", "state = 'waiting'"
        if self._database.row_id is not None:
            # In the order in which they lie, from where the last part ended: what waits lies in the order of due times, all over.
            waits = f"+{waits} and {key} > {self._swept_to.get(one, 0)} order by {key}"
        question = f"select {key}, job_task_id, host_id, ordinal, body from job_task where job_invocation_id = ? and"
        rows = self._database.execute(f"{question} {waits} limit {SWEEP_ALIKE}", (one.bytes,))
        found = [(row[0], same) for row in rows if (same := never_dispatched(*row[1:])) is not None]
        if not found:
            return 0
        if self._database.row_id is not None:
            self._swept_to[one] = found[-1][0]
        alike = [same for _, same in found]
        desk.end_alike(one, answer_to_all(one, event, desk.circumstances_of_all(one)), alike)
        self._database.mark("job_task", "state", CANCELLED_UNSENT, key, [row for row, _ in found])
        self._save(desk)
        return len(alike)

    # --- claims

    def _claim(self, desk: Desk, partitions: Sequence[int]) -> int:
        """Skipped where nothing can have changed: no slot was freed, nothing new waits, no queue has become due."""
        now_us = as_us(desk.surroundings.now)
        is_time = self._claim_again_us is not None and now_us >= self._claim_again_us
        if not self._freed and not is_time:
            return 0
        heads = self._heads(desk, partitions, now_us)
        chosen = choose(heads, CLAIM)
        for _, run in groupby(chosen, key=lambda one: (one.job_invocation_id, one.proxy, is_new(one))):
            self._claim_run(desk, list(run))
        self._save(desk)
        for queue in heads:
            released = desk.invocations[queue.job_invocation_id].released
            self._queues.look_at_first(queue.job_invocation_id, queue.proxy, released)
        self._freed = len(chosen) >= CLAIM
        self._claim_again_us = self._next_claim(now_us, is_blocked=len(chosen) < sum(map(len, heads)))
        return len(chosen)

    def _next_claim(self, now_us: int, *, is_blocked: bool) -> int | None:
        next_due = self._queues.next_due(self.owned(), after_us=now_us)
        if not (is_blocked and self._database.is_shared):
            return next_due
        # Slots of a proxy may be freed by another instance, which does not wake this one.
        return min(next_due or now_us + _BLOCKED_AGAIN_US, now_us + _BLOCKED_AGAIN_US)

    def _claim_run(self, desk: Desk, run: Sequence[JobTask]) -> None:
        """One after another in the order of claims; new ones of one queue are answered at once."""
        first = run[0]
        if is_new(first):
            answer = claim_of_all(first.job_invocation_id, first.proxy, desk.circumstances(first))
            if answer is not None:
                self._slots.write_alike(desk, desk.claim_alike(answer, run))
                return
        for job_task in run:
            if job_task.job_task_id not in desk.job_tasks:
                desk.job_tasks[job_task.job_task_id] = job_task
            desk.apply(job_task.job_task_id, Claimed())

    def _heads(self, desk: Desk, partitions: Sequence[int], now_us: int) -> list[Queue]:
        due = self._queues.due(partitions, now_us)
        if not due:
            return []
        self._load_invocations(desk, {one for one, _ in due})
        proxies = sorted({proxy for _, proxy in due})
        held_by, held_of = self._queues.held(proxies)
        free = {proxy: desk.surroundings.limit_of(proxy) - held_by[proxy] for proxy in proxies}
        return [self._head(desk, one, proxy, held_of[one], free, now_us) for one, proxy in due]

    def _head(
        self, desk: Desk, job_invocation_id: UUID, proxy: str, held: int, free: dict[str, int], now_us: int
    ) -> Queue:
        known = desk.invocations[job_invocation_id]
        of_invocation = known.free_slots(held)
        room = min(CLAIM, free[proxy], CLAIM if of_invocation is None else of_invocation)
        first = self._queues.first(job_invocation_id, proxy, now_us, known.released, room) if room > 0 else []
        return Queue(job_invocation_id, proxy, tuple(first), held, known.properties.concurrency, free)

    # --- hosts and agents

    def check_in(
        self,
        check_ins: Mapping[tuple[UUID, str], datetime],
        around: Surroundings,
        positions: Mapping[tuple[str, int], int],
    ) -> int:
        """Check-ins are values (rule CHK), by host and proxy: kept for whoever waits later, and applied to who waits now. A proxy
        wakes only what waits for a slot of its own. The number looked at."""
        partitions = self.owned()
        with self._transaction(partitions) if partitions else self._unowned() as around.now:
            self._keep_check_ins(check_ins)
            for (topic, partition), offset in positions.items():
                self._put_position(partition, topic, Mark(offset))
            if not partitions:
                return 0
            desk = Desk(around, check_ins=check_ins)
            hosts = sorted({host_id.bytes for host_id, _ in check_ins})
            rows = list(self._database.find(f"{JOB_TASKS}state = 'check_in' and", "host_id", hosts))
            self._apply_to(desk, [row for row in rows if row[1] in self._owners], CheckedIn())
            self._save(desk)
            self._say(desk)
            return len(rows)

    @contextmanager
    def _unowned(self) -> Iterator[datetime]:
        with self._database.transaction():
            yield at_us(self._database.now_us())

    def _keep_check_ins(self, check_ins: Mapping[tuple[UUID, str], datetime]) -> None:
        for (host_id, proxy), at in sorted(check_ins.items()):
            self._database.execute(
                "insert into check_in values (?, ?, ?) on conflict (host_id, proxy) do update set at = excluded.at "
                "where excluded.at > check_in.at",
                (host_id.bytes, proxy, as_us(at)),
            )

    def wake_checked_in(self, partition: int, around: Surroundings) -> int:
        """Whoever of a partition taken waits for a check-in that is known by now."""
        with self._transaction([partition]) as around.now:
            desk = Desk(around)
            rows = self._database.execute(
                f"{JOB_TASKS}state = 'check_in' and partition = ? and host_id in (select host_id from check_in)",
                (partition,),
            )
            self._apply_to(desk, rows, CheckedIn())
            self._save(desk)
            self._say(desk)
            return len(rows)

    def ask(self, event: AgentLost | AgentRestarted, around: Surroundings) -> int:
        """Ask for what an agent held that is silent, or another process now. The number of job tasks in flight."""

        def ask(desk: Desk, partitions: Sequence[int]) -> int:
            marks = ", ".join("?" for _ in partitions)
            rows = self._database.execute(f"{JOB_TASKS}{IN_A_SLOT} and partition in ({marks})", partitions)
            self._apply_to(desk, rows, event)
            self._save(desk)
            return len(rows)

        return self._work(around, ask)

    # --- outbox

    def outbox(self, limit: int = 10_000) -> list[OutboxRow]:
        """The oldest rows of owned partitions that are not published, each partition in order, of about so many items."""
        found: list[OutboxRow] = []
        for partition in self.owned():
            filled = 0
            for row in self._unpublished.get(partition, ()):
                if filled >= limit:
                    break
                found.append(row)
                filled += len(row.documents)
        return found

    def published(self, rows: Iterable[OutboxRow], ends: Mapping[int, Mark] = {}) -> None:
        """They are acknowledged by the broker; `ends`: the places after them, by partition. Written with the next transaction:
        until then a restart finds them in the log (rule REST)."""
        for row in rows:
            waiting = self._unpublished.get(row.partition)
            if waiting and waiting[0].number == row.number:
                waiting.popleft()
                before = self._published.get(row.partition)
                first = row.number if before is None else before.first
                self._published[row.partition] = Published(first, row.number, ends.get(row.partition))

    def flush(self) -> None:
        """Write now what was published."""
        if self._published and self.owned():
            with self._transaction(self.owned()):
                return

    def _say(self, desk: Desk) -> None:
        """What is said goes to the outbox, a row for each message to be."""
        said = desk.outgoing()
        if not said:
            return
        at = as_us(desk.surroundings.now)
        rows: list[OutboxRow] = []
        for partition, items in groupby(said, key=desk.place_of):
            some = outbox_rows(partition, items, at, self._numbers[partition])
            self._numbers[partition] += len(some)
            rows += some
        self._database.put("outbox", OUTBOX_COLUMNS, ("partition", "number"), [outbox_values(row) for row in rows])
        self._said_now += rows

    # --- questions

    def clock(self) -> datetime:
        """The store's clock now (rule CLK)."""
        return at_us(self._database.now_us())

    def look_for_slots(self) -> None:
        """A limit that is not in the store has changed: there may be more slots than there were."""
        self._freed = True

    def is_due(self) -> bool:
        """Whether `work` has something to do now, whatever the clock says."""
        return bool(self._owners) and (self._freed or self._is_unswept)

    def next_instant(self) -> datetime | None:
        """When time may change something: a job task is due, or something is to be looked at."""
        partitions = self.owned()
        if not partitions:
            return None
        looks = " union all ".join(
            f"select min(look_at) from {table} where partition = {partition} and look_at is not null"
            for partition in partitions
            for table in ("job_task", "invocation")
        )
        instants = [row[0] for row in self._database.execute(looks)]
        if self._claim_again_us == 0 or self._freed:
            instants.append(self._queues.next_due(partitions))
        else:
            instants.append(self._claim_again_us)
        return from_us(min((one for one in instants if one is not None), default=None))

    def numbers(self) -> dict[str, int]:
        """Figures for the metrics: items in the outbox, job tasks that wait and that hold a slot by state. Those that wait are
        what their invocations miss, and never counted one by one: there may be a million."""
        outbox = sum(len(row.documents) for waiting in self._unpublished.values() for row in waiting)
        partitions = self.owned()
        if not partitions:
            return {"outbox": outbox}
        marks = ", ".join("?" for _ in partitions)
        flying = (
            f"select {STATE_OF_A_SLOT}, count(*) from job_task where partition in ({marks}) and {IN_A_SLOT} group by 1"
        )
        counts: dict[str, int] = dict(self._database.execute(flying, partitions))
        waiting = sum(known.unfinished for known in self._open_invocations(partitions)) - sum(counts.values())
        return {"outbox": outbox, **counts, **({"waiting": waiting} if waiting > 0 else {})}

    def _open_invocations(self, partitions: Sequence[int]) -> list[Invocation]:
        marks = ", ".join("?" for _ in partitions)
        question = f"select job_invocation_id from invocation where is_ended = 0 and partition in ({marks})"
        ids = [UUID(bytes=row[0]) for row in self._database.execute(question, partitions)]
        desk = Desk(Surroundings(self.clock()))
        self._load_invocations(desk, ids)
        return list(desk.invocations.values())

    # --- the desk

    def _lay(self, groups: Iterable[InboxGroup], around: Surroundings) -> Desk:
        """Load what these items are about."""
        desk = Desk(around)
        placed = [(group.partition, item) for group in groups for item in group.items]
        self._load_invocations(desk, {i.job_invocation_id for _, i in placed if isinstance(i, InvocationItem)})
        for partition, item in placed:
            if isinstance(item, InvocationItem):
                desk.places.setdefault(item.job_invocation_id, partition)
        ids = {job_task_id for _, item in placed for job_task_id in _mentions(item)}
        desk.job_tasks |= self._slots.known(ids)
        missing = [one.bytes for one in ids if one not in desk.job_tasks]
        for row in self._database.find(JOB_TASKS, "job_task_id", missing):
            job_task = job_task_of(row)
            desk.job_tasks[job_task.job_task_id] = job_task
        self._load_check_ins(desk)
        return desk

    def _load_check_ins(self, desk: Desk) -> None:
        waits = {
            job_task.host_id.bytes
            for job_task in desk.job_tasks.values()
            if desk.invocations[job_task.job_invocation_id].properties.wait_for_check_in
        }
        if waits:
            rows = self._database.find("select host_id, proxy, at from check_in where", "host_id", waits)
            desk.check_ins = {(UUID(bytes=host_id), proxy): at_us(at) for host_id, proxy, at in rows}

    def _load_invocations(self, desk: Desk, ids: Iterable[UUID]) -> None:
        wanted = [one for one in ids if one not in desk.invocations]
        missing = [one.bytes for one in wanted if one not in self._known]
        if missing:
            self._remember(self._database.find(_INVOCATIONS, "job_invocation_id", missing))
        self._place(desk, [self._known[one] for one in wanted if one in self._known])

    def _remember(self, rows: Iterable[Row]) -> list[tuple[int, Invocation]]:
        """Invocations of rows, each with its partition; those of our own partitions are kept, as nobody else changes them."""
        found = [(row[1], invocation_of(row)) for row in rows]
        for partition, known in found:
            self._known[known.job_invocation_id] = (partition, known)
        return found

    @staticmethod
    def _place(desk: Desk, found: Iterable[tuple[int, Invocation]]) -> None:
        for partition, known in found:
            desk.invocations.setdefault(known.job_invocation_id, known)
            desk.places[known.job_invocation_id] = partition

    def _apply_to(self, desk: Desk, rows: Sequence[Row], event: Event) -> list[JobTask]:
        """Apply an event to job tasks; they as they are then. What changed only in when it is looked at next is written too."""
        tasks = [desk.job_tasks.setdefault(one.job_task_id, one) for one in map(job_task_of, rows)]
        self._load_invocations(desk, {job_task.job_invocation_id for job_task in tasks})
        if tasks and not desk.check_ins:
            self._load_check_ins(desk)
        for job_task in tasks:
            desk.apply(job_task.job_task_id, event)
        after = [desk.job_tasks[job_task.job_task_id] for job_task in tasks]
        desk.changed_job_tasks.update(one.job_task_id for one in after if not desk.is_overdue(one))
        return after

    def _save(self, desk: Desk) -> None:
        desk.settle()
        changed = [desk.job_tasks[one] for one in desk.changed_job_tasks]
        invocations = [desk.invocations[one] for one in desk.changed_invocations]
        self._database.put(
            "invocation",
            INVOCATION_COLUMNS,
            ("job_invocation_id",),
            [
                invocation_row(
                    known, desk.places[known.job_invocation_id], desk.look_at_next(known), is_swept=known.is_swept
                )
                for known in invocations
            ],
        )
        for known in invocations:
            self._known[known.job_invocation_id] = (desk.places[known.job_invocation_id], known)
            if known.properties.rolling is not None:
                self._queues.wake(known.job_invocation_id)
        self._slots.write(desk, changed)
        self._queues.note(changed, desk.places)
        self._is_unswept = self._is_unswept or any(not known.is_swept for known in invocations)
        self._freed = self._freed or bool(invocations) or any(one.state not in SLOT_STATES for one in changed)
        desk.changed_invocations.clear()
        desk.changed_job_tasks.clear()


def read_marks(database: Database, partition: int) -> dict[str, Mark]:
    """By topic, how far the inbox of a partition was read, and how far its own log is known."""
    rows = database.execute("select topic, next_offset, append_ms from inbox where partition = ?", (partition,))
    own = database.execute("select own_log_offset, own_log_ms from partition_owner where partition = ?", (partition,))
    read = {PLANNING_EVENTS.name: Mark(0), EXECUTION_EVENTS.name: Mark(0)}
    return {**read, **{row[0]: Mark(*row[1:]) for row in rows}, DISPATCH_EVENTS.name: Mark(*own[0]) if own else Mark(0)}


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


__all__ = ["DispatcherStore", "InboxGroup", "LostPartition", "MissingMessages", "OutboxRow"]
