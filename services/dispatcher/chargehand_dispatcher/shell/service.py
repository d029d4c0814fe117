"""The dispatcher as a process: reads its topics into the store, relays the outbox, wakes when time has come.

Owns the loops. What a message or a deadline means is the core's; what is durable is the store's; taking a partition is in
taking.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from chargehand_chassis.errors import PublishFailed, TransientFailure
from chargehand_chassis.kafka import (
    DeadLetters,
    KeyringFollower,
    PartitionReader,
    Publisher,
    Received,
    Rejected,
    TopicFollower,
    TopicPartition,
    read_record,
    topics_ready,
)
from chargehand_chassis.keys import load_keys, load_pinned_planner
from chargehand_chassis.metrics import METRICS
from chargehand_chassis.runner import Context, calm_garbage_collector, run_service
from chargehand_schemas.base import Item
from chargehand_schemas.catalog import ProxyChanged
from chargehand_schemas.hosts import HostCheckedIn
from chargehand_schemas.proxies import AgentEvent
from chargehand_schemas.topics import DISPATCH_EVENTS, EXECUTION_EVENTS, HOST_EVENTS, PLANNING_EVENTS, PROXY_EVENTS

from chargehand_dispatcher.core.agents import Agents
from chargehand_dispatcher.core.engine import Desk, Surroundings
from chargehand_dispatcher.core.rules import Timers
from chargehand_dispatcher.core.table import AgentLost, AgentRestarted

from .database import open_database
from .intake import is_in_place, may_say, of_another_proxy, out_of_place, parts_of
from .rows import OutboxRow, messages_of
from .settings import DispatcherSettings
from .store import GROUP, DispatcherStore, InboxGroup, LostPartition, MissingMessages
from .taking import Taking

T = TypeVar("T")
CheckIns = dict[tuple[UUID, str], datetime]
"""The latest check-in by host and by the proxy whose agent vouches for it."""
INBOX = (PLANNING_EVENTS.name, EXECUTION_EVENTS.name)
_IDLE_S = 30.0
_COMMIT_EVERY_S = 1.0
_FLUSH_AFTER_S = 1.0
_TIDY_EVERY_S = 10.0
_LOG_WITHIN_S = 10.0
_MOST_AT_ONCE_BYTES = 1024 * 1024
"""Of messages in one transaction: what is worked on is in memory, and a plan has 500 job tasks a message."""
_REST_FOR_EACH_S = 0.000_25
_LONGEST_REST_S = 0.1
"""After a group of so many items the next is left to grow for a while: what comes in small groups costs a transaction each. One
alone keeps nobody waiting."""


class Dispatcher:
    """One instance. `run` returns when it is to stop, and raises what a restart or a person must mend."""

    def __init__(self, context: Context[DispatcherSettings]) -> None:
        settings = context.settings
        self._context = context
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._timers = Timers(
            margin=settings.clock_margin,
            ask_after=settings.ask_after,
            ask_again=settings.ask_again,
            readable_for=settings.readable_for,
            chunk_missing_after=settings.chunk_missing_after,
        )
        keys = load_keys(settings.key_file)
        self._publisher = Publisher(settings, keys, f"dispatcher/{settings.instance}")
        self._proxy_limits: dict[str, int] = {}
        self._keyring = KeyringFollower(
            settings, load_pinned_planner(settings.planner_key_file), self._heed, nouns=("proxy",)
        )
        self._dead_letters = DeadLetters(self._publisher, "dispatcher")
        self._store: DispatcherStore | None = None
        self._reader: PartitionReader | None = None
        self._agents = Agents()
        self._changed = asyncio.Event()
        self._said = asyncio.Event()
        self._taken = asyncio.Event()
        self._stored: dict[TopicPartition, int] = {}
        self._uncommitted: dict[TopicPartition, int] = {}
        self._committed_at = 0.0
        self._log_read_to: dict[int, datetime] = {}
        self._readable_since: datetime | None = None
        self._publishing_since: float | None = None
        self._looked_at = 0.0
        self._assignments = 0
        self._origins: list[tuple[Received, Any, Sequence[Item]]] = []
        self._stopped: dict[int, str] = {}

    # --- life

    async def run(self) -> None:
        """Own partitions and do their work until stopped."""
        await topics_ready(self._settings)
        try:
            await self._publisher.start()
            await self._keyring.start()
            self._store = await self.in_thread(
                lambda: DispatcherStore(open_database(self._settings.store_url, self._settings.data))
            )
            await self._work()
        finally:
            await self._close()

    async def _work(self) -> None:
        self._reader = PartitionReader(
            self._settings,
            INBOX,
            group=GROUP,
            instance=f"dispatcher-{self._settings.instance}",
            on_assigned=self._assigned,
            on_revoked=self._revoked,
            stall_after_s=self._settings.stall_after.total_seconds(),
        )
        await self._reader.start()
        calm_garbage_collector()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(work(), name=work.__name__)
                for work in (self._read_inbox, self._relay, self._keep_time, self._follow_agents, self._measure)
            ]
            await self._context.stopping.wait()
            self._context.health.set_ready(False, "stopping")
            for task in tasks:
                task.cancel()

    async def _close(self) -> None:
        if self._reader is not None:
            await self._reader.stop()
        await self._keyring.stop()
        await self._publisher.stop()
        if self._store is not None:
            await self.in_thread(self._close_store)
        self._thread.shutdown()

    def _close_store(self) -> None:
        try:
            self.store.close()
        except LostPartition:
            return  # what was published is found in the log by whoever owns it now

    async def in_thread(self, work: Callable[[], T]) -> T:
        """The store is used from one thread; a transaction that has begun is waited for, also when we are to stop."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, work))

    @property
    def store(self) -> DispatcherStore:
        if self._store is None:
            raise TransientFailure("the store is not open")
        return self._store

    @property
    def reader(self) -> PartitionReader:
        if self._reader is None:
            raise TransientFailure("the inbox is not open")
        return self._reader

    def around(self) -> Surroundings:
        """What is known besides the store. The transaction sets the time."""
        agents = self._keyring.keyring
        singles = frozenset(proxy for proxy in agents.proxies() if len(agents.agents_of(proxy)) == 1)
        return Surroundings(
            now=datetime.now(UTC),
            timers=self._timers,
            log_read_to=dict(self._log_read_to),
            readable_since=self._readable_since,
            single_agent_proxies=singles,
            heard=self._agents.followed,
            proxy_limit=self._settings.proxy_concurrency,
            proxy_limits=self._proxy_limits,
        )

    def _heed(self, item: Item) -> None:
        """A proxy takes more or fewer attempts at once from now on."""
        if not isinstance(item, ProxyChanged):
            return
        if item.concurrency is None:
            self._proxy_limits.pop(item.proxy, None)
        else:
            self._proxy_limits[item.proxy] = item.concurrency
        if self._store is not None:
            self._store.look_for_slots()
            self._wake()

    # --- partitions

    async def _assigned(self, assigned: list[TopicPartition]) -> dict[TopicPartition, int]:
        self._assignments += 1
        numbers = sorted({tp.partition for tp in assigned})
        taking = Taking(self._settings, self._keyring, self.reader, self.store, self.in_thread, self.around, self.group)
        positions, stopped = await taking.take(numbers)
        for number in numbers:
            self._log_read_to.pop(number, None)
            self._stopped.pop(number, None)
        for number, why in stopped.items():
            self._stop_partition(number, why)
        self._stored.update(positions)
        self._readable_since = await self.in_thread(self.store.clock)
        self._context.log.info("partitions_taken", partitions=[n for n in numbers if n not in stopped])
        self._tell_health()
        self._wake()
        return positions

    async def _revoked(self, revoked: list[TopicPartition]) -> None:
        numbers = sorted({tp.partition for tp in revoked})
        await self.in_thread(lambda: self.store.release(numbers))
        self._context.log.info("partitions_given_up", partitions=numbers)

    def _stop_partition(self, number: int, why: str) -> None:
        """One partition stands still until a person has decided; the others go on (rule RET)."""
        self._stopped[number] = why
        self._context.log.critical("partition_stopped", partition=number, why=why)

    def _tell_health(self) -> None:
        self._context.health.set_ready(not self._stopped, "; ".join(self._stopped.values()), needs_a_person=True)

    # --- the inbox

    async def _read_inbox(self) -> None:
        watchdog = self._context.watch("inbox")
        while True:
            watchdog.beat()
            records = await self.reader.getmany(timeout_ms=1000, max_records=100)
            await self._keyring.meet(record for some in records.values() for record in some)
            open_ones = {tp: some for tp, some in records.items() if tp.partition not in self._stopped}
            assignments = self._assignments
            for part in parts_of(open_ones, _MOST_AT_ONCE_BYTES):
                watchdog.beat()
                groups = [await self.group(tp, some) for tp, some in part.items()]
                if assignments != self._assignments:
                    break  # all is read again, from the positions of the store
                await self._take(groups)
                self._uncommitted |= {TopicPartition(g.topic, g.partition): g.next_offset for g in groups}
                items = sum(len(group.items) for group in groups)
                await asyncio.sleep(min(_LONGEST_REST_S, items * _REST_FOR_EACH_S))
            await self._tell_kafka()

    async def _tell_kafka(self) -> None:
        """Positions for who watches the lag, now and then: ours are the store's, and each telling costs Kafka a write."""
        moment = time.monotonic()
        if self._uncommitted and moment - self._committed_at > _COMMIT_EVERY_S:
            positions, self._uncommitted, self._committed_at = self._uncommitted, {}, moment
            await self.reader.commit(positions)

    async def _take(self, groups: list[InboxGroup]) -> None:
        may_claim = not self._is_pressed()
        try:
            desk = await self.in_thread(lambda: self.store.take(groups, self.around(), may_claim=may_claim))
        except LostPartition as lost:
            self._context.log.warning("partitions_lost", partitions=sorted(lost.partitions))
            await self._take_rest(groups, lost.partitions)
            return
        except MissingMessages as missing:
            await self.in_thread(partial(self.store.release, [missing.partition]))
            self._stop_partition(missing.partition, str(missing))
            self._tell_health()
            await self._take_rest(groups, frozenset({missing.partition}))
            return
        self._context.faults.reach("dispatcher.after_inbox")
        self._stored |= {TopicPartition(g.topic, g.partition): g.next_offset for g in groups}
        self._taken.set()
        self._wake()
        await self._reject_foreign(desk)
        self._origins.clear()

    async def _take_rest(self, groups: list[InboxGroup], without: frozenset[int]) -> None:
        rest = [group for group in groups if group.partition not in without]
        if rest:
            await self._take(rest)

    async def _reject_foreign(self, desk: Desk) -> None:
        foreign = {item.id for item in desk.foreign}
        await self._dead_letters.put(
            [
                of_another_proxy(message, record)
                for message, record, items in (self._origins if foreign else ())
                if any(item.id in foreign for item in items)
            ]
        )

    async def group(self, tp: TopicPartition, records: Iterable[Any]) -> InboxGroup:
        """Records of one partition, met before, as the items that may be believed; the others are dead letters when this returns."""
        items: list[Item] = []
        rejected: list[Rejected] = []
        first = next_offset = -1
        append_ms = 0
        for record in records:
            first = record.offset if first < 0 else first
            next_offset, append_ms = record.offset + 1, record.timestamp
            message = read_record(record, self._keyring.keyring)
            if isinstance(message, Rejected):
                rejected.append(message)
                continue
            METRICS.messages_read.labels(tp.topic).inc()
            METRICS.items_read.labels(tp.topic).inc(len(message.items))
            items += await self._believed(message, record)
        await self._dead_letters.put(rejected)
        return InboxGroup(tp.partition, tp.topic, next_offset, tuple(items), first, append_ms)

    async def _believed(self, message: Received, record: Any) -> list[Item]:
        allowed = [item for item in message.items if may_say(message, item)]
        placed = [item for item in allowed if is_in_place(message, item, self._settings.partitions)]
        if len(allowed) != len(message.items):
            await self._dead_letters.put([of_another_proxy(message, record)])
        elif len(placed) != len(allowed):
            await self._dead_letters.put([out_of_place(message, record)])
        if message.topic == EXECUTION_EVENTS.name:
            self._origins.append((message, record, placed))
        return placed

    def _wake(self) -> None:
        self._changed.set()
        self._said.set()

    # --- the outbox

    async def _relay(self) -> None:
        """In order, woken by each commit; a crash in between repeats messages, with the same ids."""
        watchdog = self._context.watch("relay")
        while True:
            watchdog.beat()
            self._said.clear()
            rows = await self.in_thread(self.store.outbox)
            if rows:
                await self._publish(rows)
                continue
            watchdog.idle()
            if not await _is_set(self._said, _FLUSH_AFTER_S):
                await self._flush()
                await _is_set(self._said, _IDLE_S)

    async def _publish(self, rows: list[OutboxRow]) -> None:
        self._publishing_since = self._publishing_since or time.monotonic()
        try:
            await self._publisher.publish_packed(messages_of(rows))
        except PublishFailed as failure:
            self._context.log.error("outbox_is_stuck", why=str(failure))
            await asyncio.sleep(1)
            return
        self._context.faults.reach("dispatcher.after_publish")
        own = DISPATCH_EVENTS.name
        ends = {partition: mark for (topic, partition), mark in self._publisher.ends.items() if topic == own}
        await self.in_thread(lambda: self.store.published(rows, ends))
        if self._is_pressed():
            self._changed.set()
        self._publishing_since = None

    async def _flush(self) -> None:
        try:
            await self.in_thread(self.store.flush)
        except LostPartition as lost:
            self._context.log.warning("partitions_lost", partitions=sorted(lost.partitions))

    def _is_pressed(self) -> bool:
        """Advice PRESS: no new slots while the oldest outbox row waits."""
        since = self._publishing_since
        return since is not None and time.monotonic() - since > self._settings.press_after.total_seconds()

    # --- time

    async def _keep_time(self) -> None:
        watchdog = self._context.watch("time")
        while True:
            watchdog.beat()
            self._changed.clear()
            wait_s = await self._until_next()
            if wait_s > 0:
                watchdog.idle()
                await _is_set(self._changed, wait_s)
                await self._rest_of_time()
            elif not await self._work_due() and await self._read_log_to_its_end() and not await self._work_due():
                # Something waits for more of the log than there is, e.g. for an answer to the last question.
                await asyncio.sleep(1)

    async def _rest_of_time(self) -> None:
        """What becomes due piece by piece (splay) is looked at in pieces of some size."""
        moment = time.monotonic()
        rest_s = self._looked_at + _LONGEST_REST_S - moment
        self._looked_at = moment
        if rest_s > 0:
            await asyncio.sleep(rest_s)
            self._looked_at = moment + rest_s

    async def _until_next(self) -> float:
        """Seconds until there is something to do; 0: now."""
        is_due, instant, clock = await self.in_thread(
            lambda: (self.store.is_due(), self.store.next_instant(), self.store.clock())
        )
        if is_due and not self._is_pressed():
            return 0.0
        if instant is None:
            return _IDLE_S
        return min(_IDLE_S, max(0.0, (instant - clock).total_seconds()))

    async def _work_due(self) -> int:
        may_claim = not self._is_pressed()
        try:
            worked = await self.in_thread(lambda: self.store.work(self.around(), may_claim=may_claim))
        except LostPartition as lost:
            self._context.log.warning("partitions_lost", partitions=sorted(lost.partitions))
            return 0
        if worked:
            self._context.faults.reach("dispatcher.after_claim")
            self._said.set()
        return worked

    async def _read_log_to_its_end(self) -> bool:
        """Rule WM: execution-events is *stored* up to an end fetched after the instant that is concluded from."""
        moment = await self.in_thread(self.store.clock)
        mine = [TopicPartition(EXECUTION_EVENTS.name, n) for n in await self.in_thread(self.store.owned)]
        try:
            ends = await self.reader.end_offsets(mine)
        except TransientFailure as failure:
            self._context.log.warning("log_not_readable", why=str(failure))
            self._readable_since = None
            await asyncio.sleep(1)
            return False
        self._readable_since = self._readable_since or moment
        deadline = time.monotonic() + _LOG_WITHIN_S
        while left := max(0.0, deadline - time.monotonic()):
            self._taken.clear()
            if all(self._stored.get(tp, 0) >= end for tp, end in ends.items()):
                self._log_read_to.update((tp.partition, moment) for tp in mine)
                return True
            await _is_set(self._taken, left)
        return False

    # --- agents and hosts

    async def _follow_agents(self) -> None:
        """Proxy-events make us ask and hosts' check-ins wake; neither is ordered with facts, and neither changes a state."""
        follower = TopicFollower(self._settings, [PROXY_EVENTS.name, HOST_EVENTS.name], await self._begin_of_news())
        await follower.start()
        try:
            while True:
                check_ins: CheckIns = {}
                positions: dict[tuple[str, int], int] = {}
                for tp, records in (await follower.getmany()).items():
                    if tp.topic == HOST_EVENTS.name and records:
                        positions[tp.topic, tp.partition] = records[-1].offset + 1
                    for message in await self._keyring.read_all(records):
                        if isinstance(message, Received):
                            await self._hear(message, check_ins)
                if check_ins:
                    await self._check_in(check_ins, positions)
                for lost in self._agents.silent(datetime.now(UTC), self._settings.agent_silent_after):
                    await self._ask(lost)
        finally:
            await follower.stop()

    async def _begin_of_news(self) -> dict[TopicPartition, int]:
        """Check-ins from where the store stands (rule CHK), what agents say of themselves from now on."""
        partitions = range(self._settings.partitions)
        hosts = [TopicPartition(HOST_EVENTS.name, number) for number in partitions]
        ends = await self.reader.end_offsets(
            hosts + [TopicPartition(PROXY_EVENTS.name, number) for number in partitions]
        )
        stored = await self.in_thread(lambda: self.store.positions(HOST_EVENTS.name))
        begins = {tp: stored.get(tp.partition, 0) for tp in hosts}
        # A topic made anew begins again: check-ins are values, so that reading one twice changes nothing.
        return {**ends, **{tp: at if at <= ends[tp] else 0 for tp, at in begins.items()}}

    async def _hear(self, message: Received, check_ins: CheckIns) -> None:
        for item in message.items:
            match item:
                case AgentEvent() if (item.proxy, item.agent_id) == (message.writer.subject, message.writer.agent_id):
                    event = self._agents.hear(item, datetime.now(UTC))
                    if event is not None:
                        await self._ask(event)
                case HostCheckedIn() if item.proxy == message.writer.subject:
                    # Not later than the broker had it: a claimed future would wake the host's job tasks again and again.
                    at = min(item.checked_in_at, message.append_time)
                    key = (item.host_id, item.proxy)
                    check_ins[key] = max(at, check_ins.get(key, at))
                case _:
                    pass

    async def _check_in(self, check_ins: CheckIns, positions: dict[tuple[str, int], int]) -> None:
        try:
            await self.in_thread(lambda: self.store.check_in(check_ins, self.around(), positions))
        except LostPartition:
            # Nothing was stored: once more, for what is still ours.
            await self.in_thread(lambda: self.store.check_in(check_ins, self.around(), positions))
        self._wake()

    async def _ask(self, event: AgentLost | AgentRestarted) -> None:
        await self.in_thread(lambda: self.store.ask(event, self.around()))
        self._wake()

    # --- figures

    async def _measure(self) -> None:
        while True:
            numbers = await self.in_thread(self.store.numbers)
            METRICS.outbox_depth.set(numbers.get("outbox", 0))
            METRICS.job_tasks_waiting.set(numbers.get("waiting", 0))
            METRICS.job_tasks_due.set(numbers.get("due", 0))
            METRICS.attempts_running.set(numbers.get("running", 0))
            METRICS.slots_held.set(sum(numbers.get(state, 0) for state in ("due", "accepted", "running")))
            if (failure := self._keyring.failure()) is not None:
                raise TransientFailure(f"the keyring is followed no more: {failure!r}")
            await self._tidy()
            await asyncio.sleep(_TIDY_EVERY_S)

    async def _tidy(self) -> None:
        try:
            await self.in_thread(self.store.tidy)
        except LostPartition as lost:
            self._context.log.warning("partitions_lost", partitions=sorted(lost.partitions))


async def _is_set(event: asyncio.Event, within_s: float) -> bool:
    """Wait for an event; whether it came in time."""
    try:
        async with asyncio.timeout(within_s):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def serve(context: Context[DispatcherSettings]) -> None:
    """Run a dispatcher until it is to stop."""
    await Dispatcher(context).run()


def main() -> int:
    """`chargehand run dispatcher`."""
    return run_service("dispatcher", DispatcherSettings, serve)
