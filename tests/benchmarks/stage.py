"""A dispatcher alone: its own process on a real Kafka, while this one plays the planner and the agents of one proxy.

Owns the stage and its actors. What the dispatcher reads is signed by enrolled keys and stands in its topics, and what is told of it
is read from its topics, from /proc and from its log. Nothing is measured here.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil
from benchmarks.place import Place, Size, WrongResult
from benchmarks.usage import pss_mib
from chargehand_chassis.clock import now
from chargehand_chassis.kafka import KeyringFollower, Received, TopicFollower, partition_of
from chargehand_chassis.keys import public_document, writer_of
from chargehand_chassis.settings import KafkaSettings
from chargehand_schemas.base import Item
from chargehand_schemas.batches import Outgoing
from chargehand_schemas.dispatch import AttemptDue, JobInvocationEnded
from chargehand_schemas.execution import AttemptAccepted, AttemptEnded, AttemptFact, AttemptReleased, AttemptStarted
from chargehand_schemas.ids import job_task_id
from chargehand_schemas.planning import (
    JobInvocationCancelRequested,
    JobInvocationScheduled,
    JobTasksPlanned,
    PlannedJobTask,
)
from chargehand_schemas.properties import ExecutionProperties
from chargehand_schemas.reasons import ReleaseReason, Role
from chargehand_schemas.topics import DISPATCH_EVENTS, EXECUTION_EVENTS, PLANNING_EVENTS
from support.kafka import running_kafka
from support.postgres import running_postgres
from support.reporting import Installation
from support.waiting import wait_until

PROXY = "local"
AGENT = "agent-local"
DISPATCHER = "from chargehand_dispatcher.shell.service import main; raise SystemExit(main())"
SQLITE, POSTGRESQL = "SQLite", "PostgreSQL"
_CHUNK = 500
_CHUNKS_AT_ONCE = 20
_READY_WITHIN = timedelta(seconds=60)
_CAUGHT_UP_WITHIN = timedelta(minutes=30)
_STOPPED_WITHIN_S = 20


# --- the planner


@dataclass(frozen=True)
class Plan:
    """An invocation with so many job tasks, on hosts of its own; `wait_for_check_in` and the like are properties."""

    count: int
    start_at: datetime
    properties: ExecutionProperties = field(default_factory=ExecutionProperties)
    job_invocation_id: UUID = field(default_factory=uuid4)

    def scheduled(self) -> JobInvocationScheduled:
        return JobInvocationScheduled(
            id=uuid4(),
            time=now(),
            job_invocation_id=self.job_invocation_id,
            start_at=self.start_at,
            properties=self.properties,
        )

    def chunks(self) -> Iterator[JobTasksPlanned]:
        """Its job tasks, 500 a message."""
        chunks = max(1, -(-self.count // _CHUNK))
        for chunk in range(chunks):
            ordinals = range(chunk * _CHUNK, min(self.count, (chunk + 1) * _CHUNK))
            yield JobTasksPlanned(
                id=uuid4(), time=now(), job_invocation_id=self.job_invocation_id, chunk=chunk, chunks=chunks,
                total=self.count, job_tasks=tuple(map(self._job_task, ordinals)),
            )  # fmt: skip

    def _job_task(self, ordinal: int) -> PlannedJobTask:
        host_id = uuid4()
        return PlannedJobTask(
            job_task_id=job_task_id(self.job_invocation_id, host_id), host_id=host_id, host_name=f"host{ordinal:07d}",
            proxy=PROXY, ordinal=ordinal,
        )  # fmt: skip

    def cancel(self) -> JobInvocationCancelRequested:
        return JobInvocationCancelRequested(
            id=uuid4(), time=now(), job_invocation_id=self.job_invocation_id, command_id=uuid4(), actor="user:bench"
        )


def _nothing_in(partition: int) -> Plan:
    """A plan of no job tasks whose invocation lies in this partition (of as many as there are by default)."""
    while True:
        plan = Plan(0, now())
        if partition_of(str(plan.job_invocation_id), KafkaSettings().partitions) == partition:
            return plan


# --- the dispatcher


class Running:
    """The dispatcher's process."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, begin: int) -> None:
        self._process, self._log, self._begin = process, log, begin
        self.psutil = psutil.Process(process.pid)

    def cpu_ms(self) -> float:
        """Processor time so far, by the scheduler's own count of each thread (to the nanosecond; /proc/PID/stat has 10 ms)."""
        threads = Path(f"/proc/{self._process.pid}/task").iterdir()
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e6

    def pss_mib(self) -> float:
        """Memory now."""
        return pss_mib([self.psutil])

    def is_ready(self) -> bool:
        """Whether it has taken its partitions; WrongResult if it has ended."""
        with self._log.open("rb") as log:
            log.seek(self._begin)
            text = log.read()
        if self._process.poll() is not None:
            raise WrongResult(f"the dispatcher has ended: {text[-2000:].decode(errors='replace')}")
        return b'"partitions_taken"' in text

    def stop(self, *, kill: bool) -> None:
        """By SIGTERM, or at once, as kill -9 does; returns when it is gone."""
        if kill:
            self._process.kill()
        else:
            self._process.terminate()
        self._process.wait(_STOPPED_WITHIN_S)


# --- the stage


@dataclass
class Stage:
    """Kafka, keys of everybody, one dispatcher over one kind of store. `heard`: what is told each item of dispatch-events in its
    order, with the broker's time."""

    installation: Installation
    environment: dict[str, str]
    heard: list[Callable[[Item, datetime], None]] = field(default_factory=list)
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    def start_dispatcher(self) -> Running:
        """Start it; WrongResult if it is not ready in a minute."""
        log = self.installation.directory / "dispatcher.log"
        begin = log.stat().st_size if log.exists() else 0
        running = Running(self.installation.start("dispatcher", DISPATCHER, **self.environment), log, begin)
        wait_until(running.is_ready, within=_READY_WITHIN)
        return running

    async def plan(self, *plans: Plan) -> None:
        """Publish invocations and all their job tasks."""
        for plan in plans:
            await self.say(plan.job_invocation_id, [plan.scheduled()])
            some: list[Item] = []
            for chunk in plan.chunks():
                some.append(chunk)
                if len(some) == _CHUNKS_AT_ONCE:
                    await self.say(plan.job_invocation_id, some)
                    some = []
            await self.say(plan.job_invocation_id, some)

    async def caught_up(self) -> None:
        """Wait until the dispatcher has taken all that was published before, in every partition: an invocation of no job tasks
        ends as soon as it is read."""
        markers = [_nothing_in(partition) for partition in range(self.installation.settings.partitions)]
        left = {marker.job_invocation_id for marker in markers}

        def hear(item: Item, _: datetime) -> None:
            if isinstance(item, JobInvocationEnded):
                left.discard(item.job_invocation_id)

        self.heard.append(hear)
        for marker in markers:
            await self.say(marker.job_invocation_id, [marker.scheduled(), *marker.chunks()])
        await self.until(lambda: not left, within=_CAUGHT_UP_WITHIN)
        self.heard.remove(hear)

    async def say(self, key: UUID, items: Iterable[Item], by: str = "planner") -> datetime | None:
        """Publish; the broker's time of the last of them."""
        topic = PLANNING_EVENTS if by == "planner" else EXECUTION_EVENTS
        voice = await self.installation.voice(by)
        return await voice.publish([Outgoing(topic.name, str(key), item) for item in items])

    async def until(self, is_so: Callable[[], bool], *, within: timedelta) -> None:
        """Wait, looking again whenever something was heard; WrongResult if it is not so in time."""
        try:
            async with asyncio.timeout(within.total_seconds()), self._news:
                await self._news.wait_for(is_so)
        except TimeoutError:
            raise WrongResult(f"not so within {within}: {self.installation.log('dispatcher')}") from None

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Dispatch-events are heard while the context is open, from now on."""
        planner = writer_of(public_document(self.installation.keys["planner"], Role.PLANNER, "planner"))
        keyring = KeyringFollower(self.installation.settings, planner)
        follower = TopicFollower(self.installation.settings, [DISPATCH_EVENTS.name], "end")
        await keyring.start()
        await follower.start()
        listening = asyncio.create_task(self._listen(keyring, follower))
        try:
            yield
        finally:
            listening.cancel()
            await asyncio.wait({listening})
            await follower.stop()
            await keyring.stop()

    async def _listen(self, keyring: KeyringFollower, follower: TopicFollower) -> None:
        while True:
            for records in (await follower.getmany(timeout_ms=500)).values():
                for message in await keyring.read_all(records):
                    assert isinstance(message, Received), message
                    for item in message.items:
                        for hear in self.heard:
                            hear(item, message.append_time)
            async with self._news:
                self._news.notify_all()


@contextlib.asynccontextmanager
async def staged(place: Place, store: str, **settings: str) -> AsyncIterator[Stage]:
    """A stage with an empty store of this kind (SQLITE or POSTGRESQL), the dispatcher not started. NoPostgres if there is none."""
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(place.directory())
        address = place.broker or stack.enter_context(running_kafka()).address
        url = ""
        if store == POSTGRESQL:
            server = stack.enter_context(running_postgres())
            url = server.create_database()
        installation = Installation(address, directory / "stage", store_url=url)
        await installation.open()
        try:
            yield Stage(installation, settings)
        finally:
            await installation.close()


def stores(size: Size) -> tuple[str, ...]:
    """Both; the short size only shows that a benchmark works."""
    return (SQLITE,) if size is Size.SHORT else (SQLITE, POSTGRESQL)


# --- the agents


class PlayedAgents:
    """One agent of the proxy: what is due is accepted and started at once, and ends well `runs_for` later; or, where its hosts are
    out of reach, is released at once with the proof that it never started. While `are_silent` nothing is answered."""

    def __init__(self, stage: Stage, *, runs_for: timedelta, are_reachable: bool = True) -> None:
        self._stage, self._runs_for, self.are_reachable = stage, runs_for, are_reachable
        self.are_silent = False
        self._due: list[AttemptDue] = []
        self._running: deque[tuple[datetime, AttemptDue]] = deque()
        self._boot_id, self._journal_id = uuid4(), uuid4()
        self._came = asyncio.Event()
        stage.heard.append(self._hear)

    def _hear(self, item: Item, _: datetime) -> None:
        if isinstance(item, AttemptDue):
            self._due.append(item)
            if not self.are_silent:
                self._came.set()

    def speak(self) -> None:
        """Answer what came while they were silent."""
        self.are_silent = False
        self._came.set()

    @contextlib.asynccontextmanager
    async def playing(self) -> AsyncIterator[None]:
        """They answer while the context is open."""
        tasks = [asyncio.create_task(work()) for work in (self._take, self._end)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for task in tasks:
                if not task.cancelled():
                    task.result()

    async def _take(self) -> None:
        while True:
            await self._came.wait()
            self._came.clear()
            due, self._due = self._due, []
            if not self.are_reachable:
                await self._say(AttemptAccepted, due)
                await self._say(AttemptReleased, due, why=ReleaseReason.COULD_NOT_CONNECT, proves_never_started=True)
                continue
            await self._say(AttemptAccepted, due)
            await self._say(AttemptStarted, due, started_at=now())
            ends_at = now() + self._runs_for
            self._running.extend((ends_at, one) for one in due)

    async def _end(self) -> None:
        """What has ended is told ten times a second."""
        while True:
            await asyncio.sleep(0.1)
            moment, over = now(), []
            while self._running and self._running[0][0] <= moment:
                over.append(self._running.popleft()[1])
            if over:
                await self._say(AttemptEnded, over, ended_at=moment, exit_status=0)

    async def _say(self, model: type[AttemptFact], due: Iterable[AttemptDue], **more: Any) -> None:
        moment = now()
        voice = await self._stage.installation.voice(AGENT)
        await voice.publish(
            Outgoing(EXECUTION_EVENTS.name, str(one.job_invocation_id), self._fact(model, one, moment, more))
            for one in due
        )

    def _fact(self, model: type[AttemptFact], due: AttemptDue, moment: datetime, more: dict[str, Any]) -> AttemptFact:
        return model(
            id=uuid4(), time=moment, job_invocation_id=due.job_invocation_id, job_task_id=due.job_task_id,
            attempt=due.attempt, host_id=due.host_id, proxy=due.proxy, agent_id=AGENT, agent_boot_id=self._boot_id,
            journal_id=self._journal_id, **more,
        )  # fmt: skip
