"""The agent as a process on a real Kafka, and the planner as far as a test plays it.

Owns starting, killing and stopping it, commanding it, and reading what it says. Every test has a proxy and keys of its own, so
that what other tests left in the topics is nobody's to believe.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

from chargehand.embedded.kafka import KafkaAddress
from chargehand_chassis.clock import now
from chargehand_chassis.kafka import KeyringFollower, Publisher, Received, Rejected, TopicFollower, ensure_topics
from chargehand_chassis.keys import OwnKeys, generate_keys, public_document, writer_of
from chargehand_chassis.settings import KafkaSettings
from chargehand_schemas.base import AttemptItem, Item
from chargehand_schemas.batches import Outgoing
from chargehand_schemas.catalog import KeyEnrolled
from chargehand_schemas.commands import HostRecord
from chargehand_schemas.execution import AttemptEnded
from chargehand_schemas.ids import item_id, job_task_id
from chargehand_schemas.progress import ProgressReport
from chargehand_schemas.proxy_commands import CancelProxyCommand, ProxyCommand, ResumeProxyCommand, RunProxyCommand
from chargehand_schemas.reasons import Role, Stream
from chargehand_schemas.topics import (
    CATALOG_EVENTS,
    DEAD_LETTERS,
    EXECUTION_EVENTS,
    HOST_EVENTS,
    PROGRESS_REPORTS,
    PROXY_COMMANDS,
    PROXY_EVENTS,
)
from support.processes import track

T = TypeVar("T", bound=Item)
WITHIN_S = 30.0


@dataclass
class AgentProcess:
    """The process and its directory. `environment` are more settings, by name without prefix."""

    directory: Path
    kafka: KafkaSettings
    proxy: str
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self, **more: str) -> None:
        variables = {**self._settings(), **self.environment, **more}
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "chargehand_proxy_agent.shell.service"],
                env={**os.environ, **{f"CHARGEHAND_{name}": value for name, value in variables.items()}},
                stderr=log,
            )
        track(self.process.pid)

    def _settings(self) -> dict[str, str]:
        return {
            "DATA": str(self.directory / "data"),
            "KEY_FILE": str(self.directory / "agent.json"),
            "PLANNER_KEY_FILE": str(self.directory / "planner.pub.json"),
            "KAFKA_BOOTSTRAP": self.kafka.kafka_bootstrap,
            "KAFKA_USERNAME": self.kafka.kafka_username,
            "KAFKA_PASSWORD_FILE": str(self.kafka.kafka_password_file),
            "PROXY": self.proxy,
            "PROVIDERS": '["simulated"]',
        }

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def ended(self) -> int:
        assert self.process is not None
        return await asyncio.to_thread(self.process.wait, WITHIN_S)

    async def stop(self) -> int:
        if self.is_alive:
            self.send(signal.SIGTERM)
        return await self.ended()


@dataclass
class Site:
    """A proxy with one agent, its planner, and everything that was read of it so far."""

    agent: AgentProcess
    settings: KafkaSettings
    planner: Publisher
    planner_keys: OwnKeys
    follower: KeyringFollower
    events: TopicFollower
    proxy: str
    invocation: UUID = field(default_factory=uuid4)
    seen: list[Received | Rejected] = field(default_factory=list)

    # --- commands

    def run(self, script: str, *, host: str = "web1", attempt: int = 1, **more: Any) -> RunProxyCommand:
        """A command to run `script` on a simulated host, due now."""
        parameters = more.pop("parameters", {})
        common = self._common(host, attempt, parameters)
        fields = {
            "issued_at": now(),
            "not_after": now() + timedelta(seconds=30),
            "run_deadline": now() + timedelta(hours=1),
            "execution_timeout": timedelta(minutes=30),
            "grace": timedelta(seconds=1),
            "script": script,
            "script_digest": hashlib.sha256(script.encode()).hexdigest(),
        }
        return RunProxyCommand(**{**common, **fields, **more})

    def resume(self, run: ProxyCommand, **more: Any) -> ResumeProxyCommand:
        return ResumeProxyCommand(**{**run.model_dump(), "id": uuid4(), "time": now(), **more})

    def cancel(self, run: ProxyCommand, **more: Any) -> CancelProxyCommand:
        return CancelProxyCommand(
            **{**run.model_dump(), "id": uuid4(), "time": now(), "grace": timedelta(seconds=1), **more}
        )

    def _common(self, host: str, attempt: int, parameters: dict[str, str]) -> dict[str, Any]:
        host_id = item_id("host", self.proxy, host)
        task = job_task_id(self.invocation, host_id)
        return {
            "id": uuid4(),
            "time": now(),
            "job_invocation_id": self.invocation,
            "job_task_id": task,
            "attempt": attempt,
            "host_id": host_id,
            "host": HostRecord(name=host, parameters=parameters),
            "proxy": self.proxy,
            "provider_type": "simulated",
            "lock_path": f".chargehand/run/{task}",
        }

    async def command(self, *commands: ProxyCommand) -> None:
        topic = PROXY_COMMANDS.of(self.proxy)
        await self.planner.publish([Outgoing(topic, str(command.host_id), command) for command in commands])

    # --- what is read

    async def until(self, is_there: Callable[[], bool], within_s: float = WITHIN_S) -> None:
        """Read on until it is there; AssertionError with the agent's log if it is not in time."""
        try:
            async with asyncio.timeout(within_s):
                while not is_there():
                    for records in (await self.events.getmany(timeout_ms=100)).values():
                        for record in records:
                            self.seen.append(await self.follower.read(record))
        except TimeoutError:
            said = [type(item).__name__ for item in self.items(Item)]
            raise AssertionError(f"not there within {within_s} s; said: {said[-20:]}\n{self.agent.log}") from None

    def items(self, model: type[T], of: AttemptItem | None = None) -> list[T]:
        """The items of a type that our agent said, of one attempt if one is given; repeats once."""
        found: dict[UUID, T] = {}
        for message in self.seen:
            for item in message.items if isinstance(message, Received) else ():
                if isinstance(item, model) and self._is_ours(item) and (of is None or _is_of(item, of)):
                    found.setdefault(item.id, item)
        return list(found.values())

    def _is_ours(self, item: Item) -> bool:
        proxy = getattr(item, "proxy", None)
        return proxy == self.proxy or getattr(item, "job_invocation_id", None) == self.invocation

    def rejected(self) -> list[Rejected]:
        return [message for message in self.seen if isinstance(message, Rejected)]

    async def first(self, model: type[T], of: AttemptItem | None = None, within_s: float = WITHIN_S) -> T:
        """The first item of a type, read now if need be."""
        await self.until(lambda: bool(self.items(model, of)), within_s)
        return self.items(model, of)[0]

    async def ended(self, *commands: ProxyCommand) -> list[AttemptEnded]:
        """The ends of these attempts, in their order."""
        return [await self.first(AttemptEnded, command) for command in commands]

    def output(self, command: ProxyCommand, stream: Stream = Stream.STDOUT) -> bytes:
        """The published output, folded by range."""
        parts: dict[int, bytes] = {}
        for message in self.seen:
            if isinstance(message, Received):
                _collect(message, command, stream, parts)
        whole = b""
        for offset in sorted(parts):
            assert offset <= len(whole), f"a hole at {len(whole)}"
            whole += parts[offset][len(whole) - offset :] if offset < len(whole) else parts[offset]
        return whole

    def starts_on_hosts(self, command: ProxyCommand) -> int:
        """How often the simulated host began this attempt, from its own file."""
        path = self.agent.directory / "data" / "simulated-hosts.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        key = [str(command.host_id), command.lock_path, command.attempt]
        return sum(1 for row in rows if row[0] == "s" and row[1:4] == key)


def _is_of(item: Item, command: AttemptItem) -> bool:
    return isinstance(item, AttemptItem) and (item.job_task_id, item.attempt) == (command.job_task_id, command.attempt)


def _collect(message: Received, command: ProxyCommand, stream: Stream, parts: dict[int, bytes]) -> None:
    begin = 0
    for item in message.items:
        if isinstance(item, ProgressReport):
            data = message.raw[begin : begin + item.length]
            begin += item.length
            if _is_of(item, command) and item.stream is stream and len(data) > len(parts.get(item.offset, b"")):
                parts[item.offset] = data


@asynccontextmanager
async def site(
    kafka: KafkaAddress, directory: Path, *, is_enrolled: bool = True, replication_factor: int = 1
) -> AsyncIterator[Site]:
    """A proxy of its own with its topics and keys; the agent is not started yet, and is stopped afterwards."""
    proxy = f"p{uuid4().hex[:12]}"
    settings = KafkaSettings(
        kafka_bootstrap=kafka.bootstrap,
        kafka_username=kafka.username,
        kafka_password_file=kafka.password_file,
        replication_factor=replication_factor,
    )
    await ensure_topics(settings, [proxy])
    keys = generate_keys(directory / "planner.json")
    document = public_document(keys, Role.PLANNER, "planner")
    (directory / "planner.pub.json").write_text(json.dumps(document))
    planner = Publisher(settings, keys, "planner/test")
    await planner.start()
    if is_enrolled:
        await enrol(planner, generate_keys(directory / "agent.json"), proxy)
    follower = KeyringFollower(settings, writer_of(document))
    await follower.start()
    topics = [t.name for t in (EXECUTION_EVENTS, PROGRESS_REPORTS, PROXY_EVENTS, HOST_EVENTS, DEAD_LETTERS)]
    events = TopicFollower(settings, topics, "end")
    await events.start()
    agent = AgentProcess(directory, settings, proxy)
    try:
        yield Site(agent, settings, planner, keys, follower, events, proxy)
    finally:
        if agent.is_alive:
            agent.kill()
        await events.stop()
        await follower.stop()
        await planner.stop()


async def enrol(planner: Publisher, keys: OwnKeys, proxy: str, agent_id: str = "agent-1") -> None:
    event = KeyEnrolled(
        id=uuid4(),
        time=now(),
        kid=keys.kid,
        role=Role.AGENT,
        subject=proxy,
        agent_id=agent_id,
        signing_key=keys.signing_public.hex(),
        sealing_key=keys.sealing_public.hex(),
    )
    await planner.publish([Outgoing(CATALOG_EVENTS.name, keys.kid, event)])
