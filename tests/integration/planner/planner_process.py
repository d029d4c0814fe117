"""The planner as a process on a real Kafka, and the services around it as far as a test plays them.

Owns starting, killing and stopping it, and reading what it publishes. Every test has keys of its own, so that what other tests
left in the topics is nobody's to believe.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

from chargehand.embedded.kafka import KafkaAddress
from chargehand.embedded.ports import choose_ports
from chargehand_chassis.clock import now
from chargehand_chassis.kafka import (
    KeyringFollower,
    Publisher,
    Received,
    TopicFollower,
    TopicPartition,
    ensure_topics,
)
from chargehand_chassis.keys import OwnKeys, generate_keys, public_document, writer_of
from chargehand_chassis.settings import KafkaSettings
from chargehand_planner.shell.inbox import TOPICS
from chargehand_planner.shell.store import Change, open_store
from chargehand_schemas.base import Item
from chargehand_schemas.batches import Outgoing
from chargehand_schemas.catalog import CommandDecided
from chargehand_schemas.commands import HostRecord, ImportHosts, InvokeJob, Targeting
from chargehand_schemas.dispatch import AttemptDue, JobInvocationDue
from chargehand_schemas.ids import item_id, job_task_id
from chargehand_schemas.reasons import DeadLetterReason, Role
from chargehand_schemas.topics import (
    CATALOG_EVENTS,
    COMMANDS,
    DEAD_LETTERS,
    DISPATCH_EVENTS,
    PLANNING_EVENTS,
    PROXY_COMMANDS,
)
from support.processes import track

T = TypeVar("T", bound=Item)

WITHIN_S = 30.0
ADMIN = "user:ada"


@dataclass
class PlannerProcess:
    """The process and its directory. `environment` are more settings, by name without prefix."""

    directory: Path
    kafka: KafkaSettings
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    port: int = field(default_factory=lambda: choose_ports().broker)

    def start(self, **more: str) -> None:
        variables = {**self._settings(), **self.environment, **more}
        log = (self.directory / "log").open("ab")
        with log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "chargehand_planner.shell.service"],
                env={**os.environ, **{f"CHARGEHAND_{name}": value for name, value in variables.items()}},
                stderr=log,
            )
        track(self.process.pid)

    def _settings(self) -> dict[str, str]:
        return {
            "DATA": str(self.directory / "data"),
            "KEY_FILE": str(self.directory / "planner.json"),
            "PLANNER_KEY_FILE": str(self.directory / "planner.pub.json"),
            "TRUSTED_KEYS_FILE": str(self.directory / "trusted.json"),
            "BOOTSTRAP_ADMIN_FILE": str(self.directory / "admin.json"),
            "KAFKA_BOOTSTRAP": self.kafka.kafka_bootstrap,
            "KAFKA_USERNAME": self.kafka.kafka_username,
            "KAFKA_PASSWORD_FILE": str(self.kafka.kafka_password_file),
            "HEALTH_PORT": str(self.port),
            # The same in every test: a static member that comes back needs no rebalance.
            "INSTANCE": "1",
        }

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    async def ready(self) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not await asyncio.to_thread(self._is_ready):
                assert self.process is not None and self.process.poll() is None, self.log
                await asyncio.sleep(0.02)

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz") as answer:
            return bool(answer.status == 200)
        return False

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    async def ended(self) -> int:
        assert self.process is not None
        return await asyncio.to_thread(self.process.wait, WITHIN_S)

    async def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return await self.ended()


@dataclass
class Surroundings:
    """The planner and everybody it talks to."""

    planner: PlannerProcess
    settings: KafkaSettings
    keys: dict[Role, OwnKeys]
    publishers: dict[Role, Publisher]
    follower: KeyringFollower
    events: TopicFollower
    seen: list[Item] = field(default_factory=list)
    proxy: str = ""

    async def publish(self, role: Role, *items: Item) -> None:
        await self.publishers[role].publish([Outgoing(_topic(role), _key(item), item) for item in items])

    async def until(self, is_enough: Callable[[Sequence[Item]], bool]) -> list[Item]:
        """Everything the planner published since the start of the test, as soon as it is enough."""
        async with asyncio.timeout(WITHIN_S):
            while not is_enough(self.seen):
                await self._read(1000)
        return self.seen

    async def rest(self) -> list[Item]:
        """Everything up to the present end of the topics."""
        ends = await self.events.end_offsets()
        while not await self.events.has_reached(ends):
            await self._read(200)
        return self.seen

    async def _read(self, timeout_ms: int) -> None:
        for records in (await self.events.getmany(timeout_ms)).values():
            for record in records:
                message = await self.follower.read(record)
                if isinstance(message, Received):
                    self.seen += message.items
                else:
                    # Others' messages are nobody's here; what this planner signed is always readable.
                    assert message.reason is DeadLetterReason.UNKNOWN_KEY, message.detail

    async def first(self, model: type[T], is_it: Callable[[T], bool] = lambda item: True) -> T:
        """The first item of a type that fits."""
        found: list[T] = []

        def fits(items: Sequence[Item]) -> bool:
            found[:] = [item for item in items if isinstance(item, model) and is_it(item)][:1]
            return bool(found)

        await self.until(fits)
        return found[0]

    def all(self, model: type[T]) -> list[T]:
        """What was read so far, each item once, as readers drop repeats."""
        return list({item.id: item for item in self.seen if isinstance(item, model)}.values())

    async def decided(self, command: Item) -> CommandDecided:
        return await self.first(CommandDecided, lambda item: item.command_id == command.id)

    async def imported(self, *records: HostRecord) -> CommandDecided:
        command = ImportHosts(id=uuid4(), time=now(), actor=ADMIN, import_id=uuid4(), hosts=records)
        await self.publish(Role.GATEWAY, command)
        return await self.decided(command)


def invoke(*names: str, **more: Any) -> InvokeJob:
    fields: dict[str, Any] = {
        "id": uuid4(), "time": now(), "actor": ADMIN, "job_invocation_id": uuid4(), "template": "Run Command",
        "targeting": Targeting(host_names=names), "inputs": {"command": "uptime"},
    }  # fmt: skip
    return InvokeJob(**{**fields, **more})


def invocation_due(job_invocation_id: UUID) -> JobInvocationDue:
    identity = item_id("test-due", job_invocation_id)
    return JobInvocationDue(id=identity, time=now(), job_invocation_id=job_invocation_id, start_at=now())


def attempt_due(job_invocation_id: UUID, host_id: UUID, proxy: str, attempt: int = 1, **more: Any) -> AttemptDue:
    moment = now()
    fields: dict[str, Any] = {
        "id": item_id("attempt-due", job_task_id(job_invocation_id, host_id), attempt),
        "time": moment, "job_invocation_id": job_invocation_id, "job_task_id": job_task_id(job_invocation_id, host_id),
        "attempt": attempt, "host_id": host_id, "host_name": "host", "proxy": proxy, "issued_at": moment,
        "not_after": moment + timedelta(seconds=60), "run_deadline": moment + timedelta(hours=1),
    }  # fmt: skip
    return AttemptDue(**{**fields, **more})


def _topic(role: Role) -> str:
    return DISPATCH_EVENTS.name if role is Role.DISPATCHER else COMMANDS.name


def _key(item: Item) -> str:
    return str(getattr(item, "job_invocation_id", item.id))


@contextlib.asynccontextmanager
async def surroundings(kafka: KafkaAddress, directory: Path, **environment: str) -> AsyncIterator[Surroundings]:
    """A planner that runs, with a gateway, a dispatcher, a program and an agent whose keys it trusts."""
    settings = KafkaSettings(
        kafka_bootstrap=kafka.bootstrap, kafka_username=kafka.username, kafka_password_file=kafka.password_file
    )
    proxy = f"site-{uuid4().hex[:8]}"
    await ensure_topics(settings, [proxy])
    planner = PlannerProcess(directory, settings, environment)
    keys = _write_files(directory, proxy)
    await _begin_at_the_end(settings, directory, environment.get("STORE_URL", ""))
    follower = KeyringFollower(settings, writer_of(public_document(keys[Role.PLANNER], Role.PLANNER, "planner")))
    topics = [CATALOG_EVENTS.name, PLANNING_EVENTS.name, DEAD_LETTERS.name, PROXY_COMMANDS.of(proxy)]
    events = TopicFollower(settings, topics, "end")
    publishers = {role: Publisher(settings, keys[role], f"test/{role}") for role in (*_OTHERS, Role.ENROLEE)}
    world = Surroundings(planner, settings, keys, publishers, follower, events, proxy=proxy)
    try:
        await follower.start()
        await events.start()
        for publisher in publishers.values():
            await publisher.start()
        planner.start()
        await planner.ready()
        yield world
    finally:
        for publisher in publishers.values():
            await publisher.stop()
        await events.stop()
        await follower.stop()
        if planner.process is not None and planner.process.poll() is None:
            planner.kill()


_OTHERS = (Role.GATEWAY, Role.DISPATCHER, Role.SERVICE_ACCOUNT, Role.AGENT)


def _write_files(directory: Path, proxy: str) -> dict[Role, OwnKeys]:
    keys = {role: generate_keys(directory / f"{role}.json") for role in (Role.PLANNER, *_OTHERS, Role.ENROLEE)}
    subjects = {Role.AGENT: proxy, Role.SERVICE_ACCOUNT: "ci"}
    trusted = [public_document(keys[r], r, subjects.get(r, str(r)), "agent-1" * (r is Role.AGENT)) for r in _OTHERS]
    (directory / "trusted.json").write_text(json.dumps(trusted))
    own = public_document(keys[Role.PLANNER], Role.PLANNER, "planner")
    (directory / "planner.pub.json").write_text(json.dumps(own))
    expires_at = (now() + timedelta(days=1)).isoformat()
    admin = {"login": "ada", "token_sha256": "a" * 64, "expires_at": expires_at}
    (directory / "admin.json").write_text(json.dumps(admin))
    return keys


async def _begin_at_the_end(settings: KafkaSettings, directory: Path, store_url: str) -> None:
    """What other tests left in the topics is not read."""
    follower = TopicFollower(settings, TOPICS, "end")
    await follower.start()
    ends: dict[TopicPartition, int] = await follower.end_offsets()
    await follower.stop()
    store = open_store(directory / "data", store_url)
    store.record(Change(positions={(tp.topic, tp.partition): end for tp, end in ends.items() if end}))
    store.close()
