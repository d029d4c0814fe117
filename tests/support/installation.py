"""A whole installation of one machine, as a user has it: `chargehand up` on a data directory, the command line, HTTP, topics.

Owns starting, stopping and reading it from outside. Nothing of the services is imported here but the messages.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from chargehand.checker import Entry, Recording, Violation, check
from chargehand.checker.recording import RECORDED_TOPICS
from chargehand_chassis.kafka import KeyringFollower, Received, TopicFollower
from chargehand_chassis.keys import load_pinned_planner
from chargehand_chassis.settings import KafkaSettings
from chargehand_schemas.execution import AttemptFact
from chargehand_schemas.progress import ProgressReport

from support.sshd import SshHost

START_WITHIN_S = 90
STOP_WITHIN_S = 40


class Installation:
    """One `chargehand up`. `settings` go to every service (CHARGEHAND_… without the prefix)."""

    def __init__(self, data: Path, settings: Mapping[str, str] = {}) -> None:
        self.data = data
        self.environment = {
            **os.environ,
            "CHARGEHAND_DATA": str(data),
            "XDG_CONFIG_HOME": str(data.parent / "config"),
            "PYTHONUNBUFFERED": "1",
            **{f"CHARGEHAND_{name}": value for name, value in settings.items()},
        }
        self._process: subprocess.Popen[str] | None = None
        self.banner: dict[str, Any] = {}

    # --- life

    def start(self) -> None:
        """Returns when the banner is out: everything answers."""
        argv = [sys.executable, "-m", "chargehand", "up", "--output", "json"]
        errors = (self.data.parent / f"{self.data.name}.up.stderr").open("a")
        self._process = subprocess.Popen(
            argv, env=self.environment, stdout=subprocess.PIPE, stderr=errors, text=True, stdin=subprocess.DEVNULL
        )
        assert self._process.stdout is not None
        lines: list[str] = []
        for line in self._process.stdout:
            lines.append(line)
            if line.rstrip() == "}":
                break
        assert lines, f"up ended: {(self.data.parent / f'{self.data.name}.up.stderr').read_text()[-4000:]}"
        self.banner = json.loads("".join(lines))

    def stop(self) -> None:
        """As Ctrl-C does; it must be gone in time."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(STOP_WITHIN_S)
        self._process = None

    def kill_tree(self) -> None:
        """kill -9 of the supervisor; what it started must not survive it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def pid_of(self, service: str) -> int:
        """The process of a service, as `status` tells it."""
        rows = self.json("status")["services"]
        return int(next(row["pid"] for row in rows if row["name"] == service))

    # --- the command line

    def run(
        self, *arguments: str, status: int | None = 0, stdin: str = "", within_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """One command, and its exit status checked (None: any)."""
        done = subprocess.run(
            [sys.executable, "-m", "chargehand", *arguments],
            env=self.environment, input=stdin, capture_output=True, text=True, timeout=within_s, check=False,
        )  # fmt: skip
        assert status is None or done.returncode == status, (
            f"{arguments}: status {done.returncode}, not {status}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        )
        return done

    def json(self, *arguments: str, status: int | None = 0, within_s: float = 120) -> Any:
        """The document a command ends in; its options go before `--`."""
        head, separator, tail = _split(arguments)
        done = self.run(*head, "--output", "json", *separator, *tail, status=status, within_s=within_s)
        return json.loads(done.stdout)

    def exec(self, *targets: str, command: Sequence[str], status: int | None = 0, within_s: float = 120) -> Any:
        """`chargehand exec TARGETS -- COMMAND` with its document."""
        return self.json("exec", *targets, "--", *command, status=status, within_s=within_s)

    def import_hosts(self, hosts: Iterable[SshHost], *, proxy: str | None = None) -> None:
        """Register ssh hosts as an inventory file names them."""
        rows = [json.dumps({**host.inventory_row(), **({"proxy": proxy} if proxy else {})}) for host in hosts]
        self._import(rows)

    def import_simulated(self, count: int, prefix: str = "sim", **parameters: str) -> None:
        """Register hosts that exist only in the agent."""
        rows = [
            json.dumps({"name": f"{prefix}{n:05d}", "provider": "simulated", **parameters}) for n in range(1, count + 1)
        ]
        self._import(rows)

    def _import(self, rows: list[str]) -> None:
        path = self.data.parent / "hosts.jsonl"
        path.write_text("\n".join(rows) + "\n")
        self.run("host", "import", str(path), "--format", "jsonl")

    # --- HTTP

    def http(self) -> httpx.Client:
        """A client with the administrator's token."""
        client = json.loads((self.data / "client.json").read_text())
        headers = {"Authorization": f"Bearer {client['token']}", "Accept": "application/json"}
        return httpx.Client(base_url=client["server"], headers=headers, timeout=30, trust_env=False)

    def answers(self) -> bool:
        """Whether the page is there."""
        try:
            with self.http() as http:
                return http.get("/status").status_code == 200
        except httpx.TransportError:
            return False

    # --- topics

    def kafka(self) -> KafkaSettings:
        """How a consumer reaches its Kafka."""
        return KafkaSettings(
            kafka_bootstrap=self.banner["kafka"]["bootstrap"],
            kafka_username=self.banner["kafka"]["username"],
            kafka_password_file=Path(self.banner["kafka"]["password_file"]),
        )

    def recording(self) -> Recording:
        """Everything that stands in the recorded topics now, raw, as a consumer reads it."""
        return Recording.of(self.entries(), datetime.now(UTC))

    def entries(self, topics: Iterable[str] = RECORDED_TOPICS) -> list[Entry]:
        """What stands in these topics now and is believed, in the order of each partition."""
        # Not as the task's result: asyncio.run makes a text of that, when it sets the signal handler back.
        entries: list[Entry] = []
        asyncio.run(self._record(topics, entries))
        return entries

    async def _record(self, names: Iterable[str], entries: list[Entry]) -> None:
        follower = KeyringFollower(self.kafka(), load_pinned_planner(self.data / "keys" / "planner.pub.json"))
        topics = TopicFollower(self.kafka(), names)
        await follower.start()
        await topics.start()
        try:
            await _read_to_the_end(topics, follower, entries)
        finally:
            await topics.stop()
            await follower.stop()

    def violations(self, *, is_finished: bool = True) -> list[Violation]:
        """What the checker finds in the topics."""
        return check(self.recording(), is_finished=is_finished)


async def _read_to_the_end(topics: TopicFollower, follower: KeyringFollower, entries: list[Entry]) -> None:
    ends = await topics.end_offsets()
    async with asyncio.timeout(120):
        while not await topics.has_reached(ends):
            for records in (await topics.getmany(200)).values():
                for record in records:
                    message = await follower.read(record)
                    if isinstance(message, Received):
                        entries += _entries(message)


def _entries(message: Received) -> list[Entry]:
    found, start = [], 0
    for item in message.items:
        length = item.length if isinstance(item, ProgressReport) else 0
        raw = message.raw[start : start + length]
        start += length
        if isinstance(item, AttemptFact) and item.proxy != message.writer.subject:
            continue  # an agent that speaks for another proxy has no effect (docs/explanation/trust.md)
        found.append(Entry(message.topic, message.partition, message.offset, message.append_time, item, raw))
    return found


def _split(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
    if "--" not in arguments:
        return arguments, (), ()
    place = arguments.index("--")
    return arguments[:place], ("--",), arguments[place + 1 :]
