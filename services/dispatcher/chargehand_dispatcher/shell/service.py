"""The dispatcher as a process: reads its topics into the store, relays the outbox, wakes when time has come.

Owns the loops. What a message or a deadline means is the core's; what is durable is the store's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from chargehand_chassis.errors import FatalFailure, TransientFailure
from chargehand_chassis.kafka import (
    DeadLetters,
    KeyringFollower,
    PartitionReader,
    Publisher,
    Received,
    Rejected,
    TopicFollower,
    TopicPartition,
    topics_ready,
)
from chargehand_chassis.keys import load_keys, load_pinned_planner
from chargehand_chassis.metrics import METRICS
from chargehand_chassis.runner import Context, run_service
from chargehand_schemas import dispatch
from chargehand_schemas.base import Item
from chargehand_schemas.batches import Outgoing
from chargehand_schemas.execution import AttemptFact
from chargehand_schemas.hosts import HostCheckedIn
from chargehand_schemas.proxies import AgentStarted, AttemptsFollowed
from chargehand_schemas.reasons import DeadLetterReason
from chargehand_schemas.topics import DISPATCH_EVENTS, EXECUTION_EVENTS, HOST_EVENTS, PLANNING_EVENTS, PROXY_EVENTS

from chargehand_dispatcher.core.engine import Surroundings
from chargehand_dispatcher.core.rules import Timers

from .database import open_database
from .settings import DispatcherSettings
from .store import DispatcherStore, InboxGroup, LostPartition

T = TypeVar("T")
_INBOX = (PLANNING_EVENTS.name, EXECUTION_EVENTS.name)
_HEARD_FOR = timedelta(minutes=5)


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
        self._keyring = KeyringFollower(settings, load_pinned_planner(settings.planner_key_file))
        self._dead_letters = DeadLetters(self._publisher, "dispatcher")
        self._store: DispatcherStore | None = None
        self._reader: PartitionReader | None = None
        self._changed = asyncio.Event()
        self._said = asyncio.Event()
        self._heard: dict[tuple[UUID, int], datetime] = {}
        self._log_read_to: datetime | None = None
        self._unpublished_since: float | None = None

    # --- life

    async def run(self) -> None:
        """Own partitions and do their work until stopped."""
        await topics_ready(self._settings)
        await self._publisher.start()
        await self._keyring.start()
        self._store = await self._in_thread(
            lambda: DispatcherStore(
                open_database(self._settings.store_url, self._settings.data),
                proxy_limit=self._settings.proxy_concurrency,
            )
        )
        try:
            await self._work()
        finally:
            await self._close()

    async def _work(self) -> None:
        self._reader = PartitionReader(
            self._settings,
            _INBOX,
            group="chargehand.dispatcher",
            instance=f"dispatcher-{self._settings.instance}",
            on_assigned=self._assigned,
            on_revoked=self._revoked,
            stall_after_s=self._settings.stall_after.total_seconds(),
        )
        await self._reader.start()
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
            await self._in_thread(self._store.close)
        self._thread.shutdown()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """The store is used from one thread; a transaction that has begun is waited for, also when we are to stop."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, work))

    def _opened(self) -> DispatcherStore:
        if self._store is None:
            raise TransientFailure("the store is not open")
        return self._store

    def _around(self) -> Surroundings:
        agents = self._keyring.keyring
        singles = frozenset(proxy for proxy in agents.proxies() if len(agents.agents_of(proxy)) == 1)
        return Surroundings(
            now=datetime.now(UTC),
            timers=self._timers,
            log_read_to=self._log_read_to,
            single_agent_proxies=singles,
            heard=self._heard,
        )

    # --- partitions

    async def _assigned(self, assigned: list[TopicPartition]) -> dict[TopicPartition, int]:
        numbers = sorted({tp.partition for tp in assigned})
        self._log_read_to = None
        positions: dict[TopicPartition, int] = {}
        for number in numbers:
            stored, own = await self._in_thread(lambda n=number: self._opened().acquire(n))  # type: ignore[misc]
            for topic in _INBOX:
                positions[TopicPartition(topic, number)] = stored.get(topic, 0)
            await self._fold_own_log(number, own)
        await self._check_positions(positions)
        self._context.log.info("partitions_taken", partitions=numbers)
        self._context.health.set_ready(True)
        self._wake()
        return positions

    async def _revoked(self, revoked: list[TopicPartition]) -> None:
        numbers = sorted({tp.partition for tp in revoked})
        await self._in_thread(lambda: self._opened().release(numbers))
        self._context.log.info("partitions_given_up", partitions=numbers)

    async def _check_positions(self, positions: dict[TopicPartition, int]) -> None:
        """A position outside the log is never jumped over (rule RET)."""
        assert self._reader is not None  # noqa: S101 (it calls us)
        begins = await self._reader.beginning_offsets(positions)
        ends = await self._reader.end_offsets(positions)
        for tp, position in positions.items():
            if not begins[tp] <= position <= ends[tp] and position:
                raise FatalFailure(
                    f"{tp.topic}/{tp.partition}: the store stands at {position}, the log has {begins[tp]} to {ends[tp]}: "
                    "messages are missing. Restore the log or the store, or go on knowingly with `chargehand repair`"
                )

    async def _fold_own_log(self, number: int, begin: int) -> None:
        """Rule REST: what this partition said beyond what the store knows."""
        tp = TopicPartition(DISPATCH_EVENTS.name, number)
        follower = TopicFollower(self._settings, [DISPATCH_EVENTS.name], {tp: begin})
        await follower.start()
        try:
            end = (await follower.end_offsets())[tp]
            items: list[Item] = []
            position = begin
            while position < end:
                for record in (await follower.getmany()).get(tp, []):
                    position = record.offset + 1
                    message = await self._keyring.read(record)
                    if isinstance(message, Received):
                        items.extend(message.items)
            await self._in_thread(lambda: self._opened().restore(number, items, end, self._around()))
        finally:
            await follower.stop()

    # --- the inbox

    async def _read_inbox(self) -> None:
        assert self._reader is not None  # noqa: S101 (started before)
        watchdog = self._context.watch("inbox")
        while True:
            watchdog.beat()
            records = await self._reader.getmany(timeout_ms=1000, max_records=200)
            groups = [await self._group(tp, some) for tp, some in records.items() if some]
            if groups:
                await self._take(groups)
                await self._reader.commit({TopicPartition(g.topic, g.partition): g.next_offset for g in groups})

    async def _take(self, groups: list[InboxGroup]) -> None:
        try:
            await self._in_thread(lambda: self._opened().take(groups, self._around()))
        except LostPartition as lost:
            self._context.log.warning("partition_lost", why=str(lost))
            return
        self._context.faults.reach("dispatcher.after_inbox")
        self._wake()

    async def _group(self, tp: TopicPartition, records: Iterable[Any]) -> InboxGroup:
        items: list[Item] = []
        next_offset = 0
        for record in records:
            next_offset = record.offset + 1
            message = await self._keyring.read(record)
            if isinstance(message, Rejected):
                await self._dead_letters.put([message])
                continue
            METRICS.messages_read.labels(tp.topic).inc()
            METRICS.items_read.labels(tp.topic).inc(len(message.items))
            good = [item for item in message.items if _may_say(message, item)]
            if len(good) != len(message.items):
                await self._dead_letters.put([_of_another_proxy(message, record)])
            items.extend(good)
        return InboxGroup(tp.partition, tp.topic, next_offset, tuple(items))

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
            rows = await self._in_thread(lambda: self._opened().outbox())
            if not rows:
                self._unpublished_since = None
                watchdog.idle()
                await _first(self._said.wait(), 30.0)
                continue
            self._unpublished_since = self._unpublished_since or time.monotonic()
            await self._publisher.publish([_outgoing(row.key, row.model, row.body) for row in rows])
            self._context.faults.reach("dispatcher.after_publish")
            await self._in_thread(lambda: self._opened().published([row.number for row in rows]))  # noqa: B023
            self._unpublished_since = None
            self._changed.set()

    def _is_pressed(self) -> bool:
        """Advice PRESS: no new slots while the oldest outbox row waits."""
        since = self._unpublished_since
        return since is not None and time.monotonic() - since > self._settings.press_after.total_seconds()

    # --- time

    async def _keep_time(self) -> None:
        watchdog = self._context.watch("time")
        while True:
            watchdog.beat()
            self._changed.clear()
            worked = await self._work_due()
            if worked:
                self._said.set()
                continue
            await _first(self._changed.wait(), await self._until_next())

    async def _work_due(self) -> int:
        around = self._around
        worked = await self._in_thread(lambda: self._opened().pass_time(around()))
        worked += await self._in_thread(lambda: self._opened().sweep(around()))
        if not self._is_pressed():
            claimed = await self._in_thread(lambda: self._opened().claim(around()))
            if claimed:
                self._context.faults.reach("dispatcher.after_claim")
            worked += claimed
        return worked

    async def _until_next(self) -> float:
        instant = await self._in_thread(lambda: self._opened().next_instant())
        if instant is None:
            return 30.0
        wait = (instant - datetime.now(UTC)).total_seconds()
        if wait <= 0:
            await self._read_log_to_its_end()
            return 0.2
        return min(30.0, wait)

    async def _read_log_to_its_end(self) -> None:
        """Rule WM: execution-events read to an end fetched now; until then nothing is concluded from silence."""
        assert self._reader is not None  # noqa: S101 (started before)
        moment = datetime.now(UTC)
        mine = [tp for tp in self._reader.assignment() if tp.topic == EXECUTION_EVENTS.name]
        ends = await self._reader.end_offsets(mine)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if all([await self._reader.position(tp) >= end for tp, end in ends.items()]):
                await self._in_thread(lambda: None)
                self._log_read_to = moment
                return
            await asyncio.sleep(0.05)

    # --- agents and hosts

    async def _follow_agents(self) -> None:
        """Proxy-events make us ask and hosts' check-ins wake; neither is ordered with facts, and neither changes a state."""
        follower = TopicFollower(self._settings, [PROXY_EVENTS.name, HOST_EVENTS.name], "end")
        await follower.start()
        try:
            while True:
                for records in (await follower.getmany()).values():
                    for record in records:
                        message = await self._keyring.read(record)
                        if isinstance(message, Received):
                            for item in message.items:
                                await self._hear(item)
        finally:
            await follower.stop()

    async def _hear(self, item: Item) -> None:
        match item:
            case AttemptsFollowed():
                now = datetime.now(UTC)
                self._heard.update({(one.job_task_id, one.attempt): now for one in item.attempts})
                self._heard = {key: at for key, at in self._heard.items() if now - at < _HEARD_FOR}
            case AgentStarted():
                await self._in_thread(
                    lambda: self._opened().agent_restarted(item.agent_id, item.agent_boot_id, self._around())
                )
                self._wake()
            case HostCheckedIn():
                await self._in_thread(lambda: self._opened().check_in(item.host_id, item.checked_in_at, self._around()))
                self._wake()
            case _:
                return

    async def _measure(self) -> None:
        while True:
            numbers = await self._in_thread(lambda: self._opened().numbers())
            METRICS.outbox_depth.set(numbers.get("outbox", 0))
            METRICS.job_tasks_waiting.set(numbers.get("waiting", 0) + numbers.get("check_in", 0))
            METRICS.job_tasks_due.set(numbers.get("due", 0))
            METRICS.slots_held.set(sum(numbers.get(state, 0) for state in ("due", "accepted", "running")))
            if (failure := self._keyring.failure()) is not None:
                raise TransientFailure(f"the keyring is followed no more: {failure!r}")
            await asyncio.sleep(10)


def _may_say(message: Received, item: Item) -> bool:
    """An agent speaks for attempts of its own proxy (docs/explanation/trust.md)."""
    return not isinstance(item, AttemptFact) or item.proxy == message.writer.subject


def _of_another_proxy(message: Received, record: Any) -> Rejected:
    detail = f"key {message.writer.kid} speaks for proxy {message.writer.subject} only"
    return Rejected(
        message.topic, message.partition, message.offset, DeadLetterReason.SUBJECT_NOT_ALLOWED, detail, record
    )


def _outgoing(key: str, model: str, body: str) -> Outgoing:
    item: Item = getattr(dispatch, model).model_validate_json(body)
    return Outgoing(DISPATCH_EVENTS.name, key, item)


async def _first(event: Any, within_s: float) -> None:
    try:
        async with asyncio.timeout(within_s):
            await event
    except TimeoutError:
        return


async def serve(context: Context[DispatcherSettings]) -> None:
    """Run a dispatcher until it is to stop."""
    await Dispatcher(context).run()


def main() -> int:
    """`chargehand run dispatcher`."""
    return run_service("dispatcher", DispatcherSettings(), serve)
