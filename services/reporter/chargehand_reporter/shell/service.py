"""The reporter's process: records in by Faust, one fold a group, reports and news out, acknowledged in order after both.

Owns the loops and what they do about failures: a store that is away is waited for, a broker that is away too, anything else
ends the process, and the supervisor starts it again. Nothing is acknowledged before it is stored and published.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

from chargehand_chassis.clock import now
from chargehand_chassis.errors import FatalFailure, PublishFailed, TransientFailure
from chargehand_chassis.kafka import (
    DeadLetters,
    KeyringFollower,
    Mark,
    Publisher,
    Received,
    Rejected,
    TopicPartition,
    check_log,
    ends_of,
    read_record,
    topics_ready,
)
from chargehand_chassis.keys import load_keys, load_pinned_planner
from chargehand_chassis.metrics import METRICS
from chargehand_chassis.runner import Context, calm_garbage_collector, run_service
from chargehand_schemas.batches import Outgoing
from chargehand_schemas.reasons import DeadLetterReason
from chargehand_schemas.registry import find_type
from chargehand_schemas.topics import (
    ACCUMULATED_PROGRESS_REPORTS,
    CATALOG_EVENTS,
    DISPATCH_EVENTS,
    EXECUTION_EVENTS,
    HOST_EVENTS,
    NOTIFICATIONS,
    PLANNING_EVENTS,
    PROGRESS_REPORTS,
    PROXY_EVENTS,
)

from ..core.read_model import Said
from ..core.stalls import Seen, Stalls, behind
from .folding import Folded, Folding, Touched
from .pump import Pump, Pumped, PumpedRecord
from .settings import ReporterSettings
from .store.database import StoreUnavailable, open_database
from .store.fold_store import FoldStore, StoredNews

T = TypeVar("T")

TOPICS_READ = (
    PLANNING_EVENTS,
    DISPATCH_EVENTS,
    EXECUTION_EVENTS,
    CATALOG_EVENTS,
    HOST_EVENTS,
    PROXY_EVENTS,
    PROGRESS_REPORTS,
)
_WHOLE = frozenset(topic.name for topic in TOPICS_READ if not topic.is_compacted)
"""Those whose last record stays where it is."""
_MANY_REPORTS = 64
_MAX_UNACKNOWLEDGED = 4000
_LATE = timedelta(seconds=5)
_LOOK_EVERY_S = 5.0


def main() -> int:
    """Run the reporter until it is told to stop; the exit status."""
    return run_service("reporter", ReporterSettings, run)


async def run(context: Context[ReporterSettings]) -> None:
    """Everything from opening the store to a clean stop."""
    settings = context.settings
    keys = load_keys(settings.key_file)
    planner = load_pinned_planner(settings.planner_key_file)
    with ThreadPoolExecutor(1, thread_name_prefix="fold") as writer:
        store = await _in(writer, lambda: _open_store(settings))
        folding = Folding(store, settings.notify_within)
        await topics_ready(settings, [topic.name for topic in TOPICS_READ])
        await check_log(settings, await _in(writer, lambda: checked_marks(store)), may_begin_later=True)
        publisher = Publisher(settings, keys, f"reporter/{settings.instance}")
        follower = KeyringFollower(settings, planner)
        pump = Pump(settings, await _in(writer, lambda: group_of(store)), _names())
        await publisher.start()
        await follower.start()
        calm_garbage_collector()
        reporter = Reporter(context, writer, folding, publisher, follower, pump)
        try:
            await reporter.run()
        finally:
            await pump.stop()
            await follower.stop()
            await publisher.stop()
            store.database.close()


def checked_marks(store: FoldStore) -> dict[TopicPartition, Mark]:
    """What the store knows of the logs it read; compacted ones lose records by nature."""
    return {TopicPartition(*place): mark for place, mark in store.load_marks().items() if place[0] in _WHOLE}


def group_of(store: FoldStore) -> str:
    """The consumer group of this store's reporters: a store that is made anew reads everything."""
    return f"chargehand-reporter-{store.store_id()}"


def _names() -> list[str]:
    return [topic.name for topic in TOPICS_READ]


def _open_store(settings: ReporterSettings) -> FoldStore:
    database = open_database(settings.store_url, settings.data, is_writer=True)
    return FoldStore(database, locks=bool(settings.store_url))


async def _whole(work: Coroutine[Any, Any, T]) -> T:
    """Do this to its end, also when cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


async def _in(writer: ThreadPoolExecutor, call: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(writer, call)


@dataclass(slots=True)
class Outbox:
    """What is stored and waits to be published, then acknowledged. The latest state of a job task is enough."""

    touched: dict[UUID, Touched] = field(default_factory=dict)
    news: list[StoredNews] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    pumped: list[Pumped] = field(default_factory=list)

    def add(self, folded: Folded, rejected: Sequence[Rejected], pumped: Sequence[Pumped]) -> None:
        self.touched.update(folded.touched)
        self.news += folded.news
        self.rejected += rejected
        self.pumped += pumped


class Reporter:
    """The loops of one instance."""

    def __init__(
        self,
        context: Context[ReporterSettings],
        writer: ThreadPoolExecutor,
        folding: Folding,
        publisher: Publisher,
        follower: KeyringFollower,
        pump: Pump,
    ) -> None:
        self._context = context
        self._log = context.log
        self._settings = context.settings
        self._writer = writer
        self._folding = folding
        self._publisher = publisher
        self._follower = follower
        self._pump = pump
        self._dead_letters = DeadLetters(publisher, "reporter")
        self._outbox = Outbox()
        self._has_work = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._unacknowledged = 0
        self._positions: dict[tuple[str, int], int] = {}
        self._listening_since = now()

    async def run(self) -> None:
        """Work until stopping; then finish the group in hand, publish it and acknowledge it."""
        self._outbox.news += await self._stored(self._folding.pending_news)
        if self._outbox.news:
            self._has_work.set()
        await self._pump.start()
        self._context.health.set_ready(True)
        self._log.info("reporter_started", topics=len(TOPICS_READ))
        loops = [
            asyncio.create_task(loop, name=name)
            for name, loop in (
                ("fold", self._fold_groups()),
                ("publish", self._publish_rounds()),
                ("look", self._look_after_things()),
                ("faust", self._pump.has_ended()),
            )
        ]
        stopping = asyncio.create_task(self._context.stopping.wait())
        await asyncio.wait({*loops, stopping}, return_when=asyncio.FIRST_COMPLETED)
        await self._end(loops, stopping)

    async def _end(self, loops: list[asyncio.Task[None]], stopping: asyncio.Task[Any]) -> None:
        """Finish the group and the round in hand, and publish what is left. Raises what ended a loop by itself."""
        failed = [loop for loop in loops if loop.done()]
        for task in (*loops, stopping):
            task.cancel()
        await asyncio.wait(loops)
        for loop in failed:
            loop.result()
        await self._publish_round()

    # --- folding ----------------------------------------------------------------------------------------------------

    async def _fold_groups(self) -> None:
        watchdog = self._context.watch("fold")
        while True:
            watchdog.idle()
            await self._has_room.wait()
            group = await self._pump.take()
            watchdog.beat()
            await _whole(self._fold(group, watchdog.beat))

    async def _fold(self, group: list[Pumped], beat: Callable[[], None]) -> None:
        records = [one.record for one in group if one.record is not None]
        messages, rejected = await self._read(records)
        said = [_said(message) for message in messages]
        read = [(record.topic, record.partition, record.offset) for record in records]
        times = {(record.topic, record.partition): record.timestamp for record in records}
        with METRICS.fold_seconds.time():
            folded = await self._stored(lambda: self._folding.fold(said, read, now(), times), beat)
        self._context.faults.reach("reporter.folded")
        disbelieved = self._disbelieved(folded, records)
        self._note(folded, messages, read)
        for one in group:
            one.let_go()
        self._outbox.add(folded, [*rejected, *disbelieved], group)
        self._unacknowledged += len(group)
        if self._unacknowledged >= _MAX_UNACKNOWLEDGED:
            self._has_room.clear()
        self._has_work.set()

    async def _read(self, records: Sequence[PumpedRecord]) -> tuple[list[Received], list[Rejected]]:
        """Verify a group in the writer's thread."""
        await self._follower.meet(records)
        results = await _in(self._writer, lambda: [read_record(record, self._follower.keyring) for record in records])
        messages = [result for result in results if isinstance(result, Received)]
        return messages, [result for result in results if isinstance(result, Rejected)]

    async def _stored(self, call: Callable[[], T], beat: Callable[[], None] = lambda: None) -> T:
        """Call in the writer's thread; while the store cannot be written, again and again, and say so."""
        pause_s = 0.05
        while True:
            try:
                return await _in(self._writer, call)
            except StoreUnavailable as error:
                self._log.error("store_unavailable", why=str(error), again_in_s=round(pause_s, 2))
                self._context.health.set_ready(False, f"the store cannot be written: {error}")
                beat()
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 (no secret)
                pause_s = min(2.0, pause_s * 2)
                continue
            finally:
                if pause_s > 0.05:
                    self._context.health.set_ready(True)

    def _disbelieved(self, folded: Folded, records: Sequence[PumpedRecord]) -> list[Rejected]:
        by_place = {(record.topic, record.partition, record.offset): record for record in records}
        found: dict[tuple[str, int, int], Rejected] = {}
        for one in folded.disbelieved:
            place = (one.said.topic, one.said.partition, one.said.offset)
            found[place] = Rejected(*place, DeadLetterReason.SUBJECT_NOT_ALLOWED, one.detail, by_place[place])
        return list(found.values())

    def _note(self, folded: Folded, messages: Sequence[Received], read: Sequence[tuple[str, int, int]]) -> None:
        for message in messages:
            METRICS.messages_read.labels(message.topic).inc()
            METRICS.items_read.labels(message.topic).inc(len(message.items))
        METRICS.fold_items.inc(folded.items)
        METRICS.output_bytes.inc(folded.output_bytes)
        for topic, partition, offset in read:
            self._positions[(topic, partition)] = offset + 1
        for job_task_id in folded.contradictions:
            self._log.error("two_verdicts", job_task_id=str(job_task_id))
        for job_invocation_id in folded.miscounted:
            self._log.error("counts_differ_at_end", job_invocation_id=str(job_invocation_id))
        for gap in folded.gaps:
            self._log.error("messages_not_read", topic=gap.topic, partition=gap.partition, start=gap.start, end=gap.end)
        if any(now() - message.append_time > _LATE for message in messages):
            self._listening_since = now()

    # --- publishing -------------------------------------------------------------------------------------------------

    async def _publish_rounds(self) -> None:
        """A round goes at once; under load rounds keep apart, so that a job task that changes often is published rarely."""
        loop = asyncio.get_running_loop()
        while True:
            await self._has_work.wait()
            began = loop.time()
            if await _whole(self._publish_round()) >= _MANY_REPORTS:
                await asyncio.sleep(max(0.0, began + self._settings.report_every.total_seconds() - loop.time()))

    async def _publish_round(self) -> int:
        """Publish what is folded, then acknowledge it; the number of job tasks published."""
        outbox, self._outbox = self._outbox, Outbox()
        self._has_work.clear()
        await self._publish(outbox)
        self._context.faults.reach("reporter.published")
        for one in outbox.pumped:
            await one.ack()
        self._unacknowledged -= len(outbox.pumped)
        self._has_room.set()
        if outbox.news:
            await self._stored(lambda: self._folding.forget_news([one.id for one in outbox.news]))
        return len(outbox.touched)

    async def _publish(self, outbox: Outbox) -> None:
        if outbox.touched:
            reports = await self._stored(lambda: self._folding.accumulate(outbox.touched, now()))
            name = ACCUMULATED_PROGRESS_REPORTS.name
            rows = [Outgoing(name, str(report.job_task_id), report) for report in reports]
            await self._until_published(lambda: self._publisher.publish(rows))
        if outbox.news:
            news = [_outgoing(one) for one in outbox.news]
            await self._until_published(lambda: self._publisher.publish(news))
        if outbox.rejected:
            await self._until_published(lambda: self._dead_letters.put(outbox.rejected))

    async def _until_published(self, publish: Callable[[], Awaitable[object]]) -> None:
        while True:
            try:
                await publish()
                return
            except PublishFailed as error:
                self._log.error("publish_failed", why=str(error))
                await asyncio.sleep(random.uniform(0.1, 1.0))  # noqa: S311 (no secret)

    # --- looking after things ---------------------------------------------------------------------------------------

    async def _look_after_things(self) -> None:
        """Lag, stalls, the keyring, and proxies that fall silent."""
        stalls = Stalls(self._settings.stall_after.total_seconds())
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            failure = self._follower.failure()
            if failure is not None:
                raise TransientFailure(f"the keyring is no longer followed: {failure!r}")
            await self._look_at_proxies()
            self._pump.look()
            lags = self._pump.lags(self._positions)
            for (topic, partition), lag in lags.items():
                METRICS.consumer_lag.labels(f"{topic}/{partition}").set(lag)
            assigned = self._pump.assigned()
            moment_s = asyncio.get_running_loop().time()
            seen = Seen(moment_s, len(assigned), self._positions, self._unacknowledged)
            why = stalls.judge(seen) or (await self._why_behind(assigned) if stalls.is_to_be_asked(seen) else "")
            if why:
                raise TransientFailure(why)

    async def _why_behind(self, assigned: Sequence[TopicPartition]) -> str:
        try:
            ends = await ends_of(self._settings, [place for place in assigned if place.topic in _WHOLE])
        except TransientFailure as error:
            self._log.warning("ends_not_known", why=str(error))
            return ""
        stored = await self._stored(self._folding.positions)
        return behind({(place.topic, place.partition): end for place, end in ends.items()}, stored)

    async def _look_at_proxies(self) -> None:
        since = self._listening_since
        news = await self._stored(lambda: self._folding.watch_proxies(since, now(), self._settings.silent_after))
        if news:
            self._outbox.news += news
            self._has_work.set()


def _said(message: Received) -> Said:
    return Said(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        role=message.writer.role,
        subject=message.writer.subject,
        agent_id=message.writer.agent_id,
        heard_at=message.append_time,
        items=message.items,
        raw=message.raw,
        source=message.source,
    )


def _outgoing(news: StoredNews) -> Outgoing:
    message_type = find_type(NOTIFICATIONS, news.model)
    if message_type is None:
        raise FatalFailure(f"the store holds a notification {news.model}, which this program does not know")
    return Outgoing(NOTIFICATIONS.name, news.key, message_type.model.model_validate_json(news.document))
