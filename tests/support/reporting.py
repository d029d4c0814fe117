"""An installation as far as the reporter and the gateway see one: keys of all writers, their messages, and both processes.

Owns starting, killing and stopping the two, and the voices of planner, dispatcher and agents. The planner's decisions about
posted commands are given by `PlannerVoice`, word by word as a test says.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import Any
from uuid import uuid4

from chargehand.embedded.kafka import KafkaAddress
from chargehand_chassis.clock import now
from chargehand_chassis.kafka import KeyringFollower, Publisher, Received, TopicFollower, ensure_topics
from chargehand_chassis.keys import OwnKeys, generate_keys, public_document, writer_of
from chargehand_chassis.settings import KafkaSettings
from chargehand_schemas.base import Item
from chargehand_schemas.batches import Outgoing
from chargehand_schemas.catalog import CommandDecided, KeyEnrolled, TokenIssued, UserCreated
from chargehand_schemas.commands import CancelJobInvocation, Command, ImportHosts, InvokeJob
from chargehand_schemas.ids import item_id
from chargehand_schemas.planning import (
    CancelRefused,
    JobInvocationAccepted,
    JobInvocationCancelRequested,
    JobInvocationRefused,
)
from chargehand_schemas.properties import ExecutionProperties
from chargehand_schemas.reasons import Refusal, Role
from chargehand_schemas.registry import type_of
from chargehand_schemas.topics import CATALOG_EVENTS, COMMANDS

from support.processes import track
from support.story import Line
from support.waiting import wait_until

REPORTER = "from chargehand_reporter.shell.service import main; raise SystemExit(main())"
GATEWAY = "from chargehand_reporter.shell.gateway import main; raise SystemExit(main())"
_STOP_WITHIN_S = 20


@dataclass
class Installation:
    """One data directory, one planner, and who is enrolled with it."""

    kafka: KafkaAddress
    directory: Path
    store_url: str = ""
    settings: KafkaSettings = field(init=False)
    keys: dict[str, OwnKeys] = field(default_factory=dict)
    publishers: dict[str, Publisher] = field(default_factory=dict)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.settings = KafkaSettings(
            kafka_bootstrap=self.kafka.bootstrap,
            kafka_username=self.kafka.username,
            kafka_password_file=self.kafka.password_file,
        )
        (self.directory / "keys").mkdir(parents=True, mode=0o700)

    async def open(self) -> None:
        """Topics, keys, and the enrolment of everybody."""
        await ensure_topics(self.settings)
        planner = self.make_keys("planner")
        document = public_document(planner, Role.PLANNER, "planner")
        (self.directory / "keys" / "planner.pub.json").write_text(json.dumps(document))
        await self.voice("planner")
        for name, role, subject in (
            ("dispatcher", Role.DISPATCHER, "dispatcher"),
            ("reporter", Role.REPORTER, "reporter"),
            ("gateway", Role.GATEWAY, "gateway"),
            ("agent-local", Role.AGENT, "local"),
            ("agent-other", Role.AGENT, "other"),
        ):
            self.make_keys(name)
            await self.enrol(name, role, subject)

    async def close(self) -> None:
        for process in self.processes:
            self.stop(process)
        for publisher in self.publishers.values():
            await publisher.stop()

    def make_keys(self, name: str) -> OwnKeys:
        self.keys[name] = generate_keys(self.directory / "keys" / f"{name}.json")
        return self.keys[name]

    async def voice(self, name: str) -> Publisher:
        """A publisher that signs as this one."""
        if name not in self.publishers:
            self.publishers[name] = Publisher(self.settings, self.keys[name], f"{name}/test")
            await self.publishers[name].start()
        return self.publishers[name]

    async def enrol(self, name: str, role: Role, subject: str) -> None:
        keys = self.keys[name]
        event = KeyEnrolled(
            id=uuid4(), time=now(), kid=keys.kid, role=role, subject=subject, agent_id=name,
            signing_key=keys.signing_public.hex(), sealing_key=keys.sealing_public.hex(),
        )  # fmt: skip
        await (await self.voice("planner")).publish([Outgoing(CATALOG_EVENTS.name, keys.kid, event)])

    async def tell(self, lines: Iterable[Line], proxy: str = "local") -> None:
        """Publish lines in their order, each under its writer's signature."""
        for role, run in groupby(lines, key=lambda line: line.role):
            name = f"agent-{proxy}" if role is Role.AGENT else role.value
            await (await self.voice(name)).publish([line.outgoing for line in run])

    async def say(self, key: str, *items: Item, by: str = "planner") -> None:
        """Publish items of the catalog, or of agents."""
        rows = [Outgoing(type_of(type(item)).topic.name, key, item) for item in items]
        await (await self.voice(by)).publish(rows)

    async def admit(self, login: str, token: str, lifetime: timedelta = timedelta(hours=1)) -> TokenIssued:
        """An administrator with an access token."""
        created = UserCreated(id=uuid4(), time=now(), login=login, role="administrator")
        issued = TokenIssued(
            id=uuid4(), time=now(), token_id=uuid4(), login=login, label="test", expires_at=now() + lifetime,
            token_sha256=hashlib.sha256(token.encode()).hexdigest(),
        )  # fmt: skip
        await self.say(login, created, issued)
        return issued

    # --- processes --------------------------------------------------------------------------------------------------

    def environment(self, service: str, **more: str) -> dict[str, str]:
        """Settings of a service, as the supervisor gives them."""
        mine = {
            "DATA": str(self.directory / service),
            "KAFKA_BOOTSTRAP": self.kafka.bootstrap,
            "KAFKA_USERNAME": self.kafka.username,
            "KAFKA_PASSWORD_FILE": str(self.kafka.password_file),
            "KEY_FILE": str(self.directory / "keys" / f"{service}.json"),
            "PLANNER_KEY_FILE": str(self.directory / "keys" / "planner.pub.json"),
            "STORE_URL": self.store_url,
            "PARENT_PID": str(os.getpid()),
            **more,
        }
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "CHARGEHAND_TEST_SESSION") if name in os.environ}
        return kept | {f"CHARGEHAND_{name}": value for name, value in mine.items()}

    def start(self, service: str, program: str, **more: str) -> subprocess.Popen[bytes]:
        """Start a service; its log goes to a file in the directory."""
        log = (self.directory / f"{service}.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-c", program], env=self.environment(service, **more), stdout=log, stderr=log
        )
        log.close()
        track(process.pid)
        self.processes.append(process)
        return process

    def start_reporter(self, **more: str) -> subprocess.Popen[bytes]:
        return self.start("reporter", REPORTER, SESSION_TIMEOUT="PT3S", **more)

    def start_gateway(self, **more: str) -> tuple[subprocess.Popen[bytes], str]:
        """The gateway on a free port, and its address."""
        port_file = self.directory / f"port-{uuid4().hex}"
        process = self.start("gateway", GATEWAY, HTTP_PORT="0", HTTP_PORT_FILE=str(port_file), **more)
        wait_until(lambda: port_file.exists() or process.poll() is not None, within=timedelta(seconds=30))
        assert process.poll() is None, self.log("gateway")
        return process, f"http://127.0.0.1:{port_file.read_text()}"

    def stop(self, process: subprocess.Popen[bytes]) -> int:
        """SIGTERM, and the exit status."""
        if process.poll() is None:
            process.terminate()
        try:
            return process.wait(_STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def log(self, service: str) -> str:
        return (self.directory / f"{service}.log").read_text(errors="replace")[-4000:]


class PlannerVoice:
    """Answers commands as the planner would, without deciding: `Run Command` is accepted, other templates are unknown, the
    template `silence` is never answered; every cancel is allowed once. `heard` is every verified command."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._task: asyncio.Task[None] | None = None
        self.heard: list[Command] = []
        self.writers: set[Role] = set()

    async def start(self) -> None:
        keys = self._installation.keys["planner"]
        planner = writer_of(public_document(keys, Role.PLANNER, "planner"))
        self._keyring = KeyringFollower(self._installation.settings, planner)
        self._commands = TopicFollower(self._installation.settings, [COMMANDS.name], "end")
        await self._keyring.start()
        await self._commands.start()
        self._task = asyncio.create_task(self._listen())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await self._commands.stop()
        await self._keyring.stop()

    async def _listen(self) -> None:
        while True:
            for records in (await self._commands.getmany(timeout_ms=200)).values():
                for record in records:
                    message = await self._keyring.read(record)
                    if isinstance(message, Received):
                        self.writers.add(message.writer.role)
                        for item in message.items:
                            if isinstance(item, Command):
                                await self._answer(item)

    async def _answer(self, command: Command) -> None:
        is_repeat = command.id in {known.id for known in self.heard}
        self.heard.append(command)
        answer = None if is_repeat else self._decided(command)
        if answer is not None:
            key = getattr(answer, "job_invocation_id", command.id)
            await self._installation.say(str(key), answer)

    def _decided(self, command: Command) -> Item | None:
        about: dict[str, Any] = {
            "id": item_id("decision", command.id), "time": now(), "command_id": command.id, "actor": command.actor,
        }  # fmt: skip
        match command:
            case InvokeJob() if command.template == "silence":
                return None
            case InvokeJob() if command.template == "Run Command":
                return JobInvocationAccepted(
                    job_invocation_id=command.job_invocation_id, template_id=uuid4(), template_name=command.template,
                    template_version=1, job_category="Commands", provider_type="ssh", inputs=command.inputs,
                    hidden_inputs=tuple(command.sealed_inputs), description=command.description, targeting="some hosts",
                    properties=command.overrides.applied_to(ExecutionProperties()), **about,
                )  # fmt: skip
            case InvokeJob():
                return JobInvocationRefused(
                    job_invocation_id=command.job_invocation_id, reason=Refusal.NO_SUCH_TEMPLATE,
                    detail=f"there is no template {command.template!r}", **about,
                )  # fmt: skip
            case CancelJobInvocation() if self._is_cancelled(command):
                return CancelRefused(
                    job_invocation_id=command.job_invocation_id,
                    reason=Refusal.ALREADY_ENDED,
                    detail="it ended",
                    **about,
                )
            case CancelJobInvocation():
                return JobInvocationCancelRequested(job_invocation_id=command.job_invocation_id, **about)
            case ImportHosts():
                return CommandDecided(decision="handled", counts={"registered": len(command.hosts)}, **about)
            case _:
                return CommandDecided(decision="handled", **about)

    def _is_cancelled(self, command: CancelJobInvocation) -> bool:
        return any(
            isinstance(known, CancelJobInvocation)
            and known.job_invocation_id == command.job_invocation_id
            and known.id != command.id
            for known in self.heard
        )


def scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="chargehand-reporting-")


async def until(is_so: Any, *, within_s: float = 30) -> None:
    """Return as soon as a question answers true; it may be a coroutine function."""
    async with asyncio.timeout(within_s):
        while True:
            answer = is_so()
            if asyncio.iscoroutine(answer):
                answer = await answer
            if answer:
                return
            await asyncio.sleep(0.02)


def in_batches(lines: Sequence[Line], size: int) -> list[Sequence[Line]]:
    return [lines[start : start + size] for start in range(0, len(lines), size)]
