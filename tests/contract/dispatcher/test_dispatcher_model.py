"""Both stores of the dispatcher against the model in memory: whatever is done to them, they hold the same rows and say the same.

The model is that of the simulation: dictionaries over the same core (docs/explanation/simulation.md).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from chargehand.simulation.store import Durable, MemoryStore
from chargehand_dispatcher.core.engine import Surroundings
from chargehand_dispatcher.core.invocation import Invocation
from chargehand_dispatcher.core.job_task import JobTask
from chargehand_dispatcher.core.table import AgentLost
from chargehand_dispatcher.shell.database import Database, PostgresDatabase, SqliteDatabase
from chargehand_dispatcher.shell.rows import INVOCATION_COLUMNS, JOB_TASK_COLUMNS, invocation_of, job_task_of
from chargehand_dispatcher.shell.store import DispatcherStore, InboxGroup
from chargehand_schemas.base import Item
from chargehand_schemas.execution import (
    AttemptAccepted,
    AttemptEnded,
    AttemptInterrupted,
    AttemptNeverStarted,
    AttemptReleased,
    AttemptStarted,
)
from chargehand_schemas.ids import job_task_id
from chargehand_schemas.planning import (
    JobInvocationCancelRequested,
    JobInvocationScheduled,
    JobTasksPlanned,
    PlannedJobTask,
)
from chargehand_schemas.properties import RETRYABLE, ExecutionProperties, Rolling
from chargehand_schemas.reasons import NeverStartedWhy, ReleaseReason
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
INVOCATIONS = (UUID(int=1), UUID(int=2))
HOSTS = tuple(UUID(int=100 + n) for n in range(4))
JOURNALS = (UUID(int=7), UUID(int=8))
TOPIC, PARTITION = "planning", 0
FACTS = (AttemptAccepted, AttemptReleased, AttemptStarted, AttemptEnded, AttemptInterrupted, AttemptNeverStarted)


class Clock:
    """The time of both stores."""

    def __init__(self) -> None:
        self.now = NOON

    def us(self) -> int:
        return int((self.now - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))


Connect = Callable[[Clock], Database]


class StoreMachine(RuleBasedStateMachine):
    """Two stores, one real and one in memory, given the same."""

    connect: Connect

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.durable = Durable()
        self.offset = self.count = 0
        self.log: list[Item] = []
        self.real = DispatcherStore(self._connect())
        self.real.acquire(PARTITION)
        self.model = self._model()

    def _connect(self) -> Database:
        self.database = type(self).connect(self.clock)
        return self.database

    def _model(self) -> MemoryStore:
        model = MemoryStore(self.durable, lambda: self.clock.now, lambda: UUID(int=self.count))
        model.acquire(PARTITION)
        model.open(PARTITION)
        return model

    def teardown(self) -> None:
        self.real.close()

    def _around(self) -> Surroundings:
        read = {PARTITION: self.clock.now}
        return Surroundings(
            self.clock.now, log_read_to=read, readable_since=NOON, single_agent_proxies=frozenset({"dmz"})
        )

    def _next(self) -> dict[str, Any]:
        self.clock.now += timedelta(seconds=1)
        self.count += 1
        return {"id": UUID(int=1000 + self.count), "time": self.clock.now}

    def _take(self, item: Item) -> None:
        self.offset += 1
        self.real.take([InboxGroup(PARTITION, TOPIC, self.offset, (item,))], self._around(), may_claim=True)
        self.model.take(PARTITION, TOPIC, [item], self.offset, self._around(), may_claim=True)

    # --- what happens

    @initialize(
        tries=st.integers(1, 3),
        concurrency=st.sampled_from((None, 1, 2)),
        wait_for_check_in=st.booleans(),
        splay=st.sampled_from((0, 30)),
        is_rolling=st.booleans(),
    )
    def schedule(
        self, tries: int, concurrency: int | None, wait_for_check_in: bool, splay: int, is_rolling: bool
    ) -> None:
        rolling = Rolling(batches=("1", "50%"), failure_limit="1")
        properties = ExecutionProperties(
            tries=tries, concurrency=concurrency, wait_for_check_in=wait_for_check_in, splay=timedelta(seconds=splay),
            rolling=rolling if is_rolling else None, retry_on=tuple(sorted(RETRYABLE)),
            time_to_pickup=timedelta(minutes=5), execution_timeout_interval=timedelta(minutes=1),
        )  # fmt: skip
        for one in INVOCATIONS:
            self._take(
                JobInvocationScheduled(
                    **self._next(), job_invocation_id=one, start_at=self.clock.now, properties=properties
                )
            )

    @rule(one=st.sampled_from(INVOCATIONS), chunk=st.integers(0, 1))
    def plan(self, one: UUID, chunk: int) -> None:
        tasks = tuple(
            PlannedJobTask(
                job_task_id=job_task_id(one, host), host_id=host, host_name=f"web{n}", proxy="dmz", ordinal=n
            )
            for n, host in list(enumerate(HOSTS))[chunk * 2 : chunk * 2 + 2]
        )
        self._take(
            JobTasksPlanned(
                **self._next(), job_invocation_id=one, chunk=chunk, chunks=2, total=len(HOSTS), job_tasks=tasks
            )
        )

    @rule(one=st.sampled_from(INVOCATIONS), hosts=st.sampled_from(((), HOSTS[:1], HOSTS[2:])))
    def cancel(self, one: UUID, hosts: tuple[UUID, ...]) -> None:
        tasks = tuple(job_task_id(one, host) for host in hosts)
        about = self._next()
        self._take(
            JobInvocationCancelRequested(
                **about, job_invocation_id=one, command_id=about["id"], actor="user:x", job_task_ids=tasks
            )
        )

    @rule(
        one=st.sampled_from(INVOCATIONS),
        host=st.sampled_from(HOSTS),
        model=st.sampled_from(FACTS),
        attempt=st.integers(1, 3),
        journal=st.sampled_from(JOURNALS),
        exit_status=st.sampled_from((0, 1)),
        why=st.sampled_from((ReleaseReason.COULD_NOT_CONNECT, ReleaseReason.EXPIRED)),
        is_proof=st.booleans(),
    )
    def report(
        self, one: UUID, host: UUID, model: type[Item], attempt: int, journal: UUID, exit_status: int,
        why: ReleaseReason, is_proof: bool,
    ) -> None:  # fmt: skip
        more: dict[type[Item], dict[str, Any]] = {
            AttemptReleased: {"why": why, "proves_never_started": is_proof},
            AttemptStarted: {"started_at": self.clock.now},
            AttemptEnded: {"ended_at": self.clock.now, "exit_status": exit_status},
            AttemptNeverStarted: {"why": NeverStartedWhy.TOMBSTONE},
        }
        agent = {"proxy": "dmz", "agent_id": "a1", "agent_boot_id": UUID(int=6), "journal_id": journal}
        ids = {"job_invocation_id": one, "job_task_id": job_task_id(one, host), "host_id": host, "attempt": attempt}
        self._take(model(**self._next(), **ids, **agent, **more.get(model, {})))

    @rule(seconds=st.sampled_from((1, 10, 40, 100, 400)))
    def time_passes(self, seconds: int) -> None:
        self.clock.now += timedelta(seconds=seconds)
        for _ in range(3):
            self.clock.now += timedelta(seconds=1)
            self.real.work(self._around())
            self.model.work(self._around(), may_claim=True)

    @rule(host=st.sampled_from(HOSTS), proxy=st.sampled_from(("dmz", "lab")))
    def check_in(self, host: UUID, proxy: str) -> None:
        self._next()
        self.real.check_in({(host, proxy): self.clock.now}, self._around(), {})
        self.model.check_in({(host, proxy): self.clock.now}, self._around())

    @rule()
    def agent_is_lost(self) -> None:
        self._next()
        self.real.ask(AgentLost("a1"), self._around())
        self.model.ask(AgentLost("a1"), self._around())

    @rule()
    def publish(self) -> None:
        rows = self.real.outbox()
        self.log += [item for row in rows for item in row.items]
        self.real.published(rows)
        self.model.published(self.model.outbox())

    @rule()
    def restart(self) -> None:
        """What was published and not noted is found in its own log (rule REST)."""
        self._next()
        self.real.close()
        self.real = DispatcherStore(self._connect())
        self.real.acquire(PARTITION, is_whole=False)
        self.real.restore(PARTITION, self.log, len(self.log), self._around())
        self.model = MemoryStore(self.durable, lambda: self.clock.now, lambda: UUID(int=self.count))
        self.model.acquire(PARTITION)
        self.model.restore(PARTITION, self.log, len(self.log), self._around())
        self.real.open(PARTITION)
        self.model.open(PARTITION)

    # --- what must be so

    @invariant()
    def they_hold_the_same_rows(self) -> None:
        assert self._job_tasks() == self.durable.job_tasks
        assert self._invocations() == self.durable.invocations

    def _job_tasks(self) -> dict[UUID, JobTask]:
        rows = self.database.execute(f"select {', '.join(JOB_TASK_COLUMNS)} from job_task")  # noqa: S608 (names of ours)
        return {task.job_task_id: task for task in map(job_task_of, rows)}

    def _invocations(self) -> dict[UUID, Invocation]:
        rows = self.database.execute(f"select {', '.join(INVOCATION_COLUMNS)} from invocation")  # noqa: S608 (names of ours)
        return {known.job_invocation_id: known for known in map(invocation_of, rows)}

    @invariant()
    def they_have_the_same_to_say(self) -> None:
        said = [item for row in self.real.outbox() for item in row.items]
        modelled = [item for row in self.model.outbox() for item in row.items]
        assert sorted(said, key=_place) == sorted(modelled, key=_place)


def _place(item: Item) -> tuple[datetime, UUID]:
    return item.time, item.id


def _machine(connect: Connect) -> StoreMachine:
    class Machine(StoreMachine):
        pass

    Machine.connect = staticmethod(connect)
    return Machine()


def test_sqlite_does_what_the_model_does(tmp_path: Path) -> None:
    count = 0

    def connect(clock: Clock) -> Database:
        database = SqliteDatabase(path())
        database.now_us = clock.us  # type: ignore[method-assign]
        return database

    def path() -> Path:
        return tmp_path / f"{count}.db"

    def machine() -> StoreMachine:
        nonlocal count
        count += 1
        return _machine(connect)

    _run(machine, 40)


@contextmanager
def _clean(dsn: str) -> Iterator[None]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("drop schema public cascade")
        connection.execute("create schema public")
    yield


def test_postgresql_does_what_the_model_does(request: pytest.FixtureRequest) -> None:
    dsn = request.getfixturevalue("postgres")()

    def connect(clock: Clock) -> Database:
        database = PostgresDatabase(dsn)
        database.now_us = clock.us  # type: ignore[method-assign]
        return database

    def machine() -> StoreMachine:
        with _clean(dsn):
            return _machine(connect)

    _run(machine, 10)


def _run(machine: Callable[[], StoreMachine], examples: int) -> None:
    """Not drawn anew each time: what is found here is found by everybody."""
    run_state_machine_as_test(
        machine,  # type: ignore[arg-type]
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
