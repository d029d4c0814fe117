"""Where a benchmark works: its size, a scratch directory, a user for its hosts, an installation.

Owns what every benchmark needs and none should make for itself. Nothing is measured here.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from chargehand.client.kafka import KafkaClient
from chargehand.embedded.kafka import KafkaAddress
from chargehand_schemas.dispatch import JobInvocationEnded
from support.installation import Installation
from support.sshd import SshdFleet


class Size(Enum):
    """How much is measured: `short` shows only that a benchmark works, `full` takes hours' patience for 100,000 hosts."""

    SHORT = "short"
    SMALL = "small"
    FULL = "full"

    @property
    def runs(self) -> int:
        """How often each figure is measured."""
        return 1 if self is Size.SHORT else 3


class WrongResult(Exception):
    """What was measured did not do what it was to do: its figures mean nothing. The text says what came instead."""


@dataclass
class Place:
    """What benchmarks share. `shared`: an installation that all use, instead of a fresh one for each; `broker`: a Kafka for
    those that need nothing but it."""

    size: Size
    scratch: Path
    user: str
    shared: Installation | None = None
    broker: KafkaAddress | None = None

    @contextlib.contextmanager
    def directory(self) -> Iterator[Path]:
        """An empty directory that other users may pass through."""
        with tempfile.TemporaryDirectory(prefix="bench-", dir=self.scratch) as name:
            Path(name).chmod(0o711)
            yield Path(name)

    @contextlib.contextmanager
    def installation(self) -> Iterator[Installation]:
        """A running one, with no hosts unless it is shared."""
        if self.shared is not None:
            yield self.shared
            return
        with self.directory() as directory, running(directory) as installation:
            yield installation

    @contextlib.contextmanager
    def fleet(self, count: int, prefix: str, *, per_sshd: int) -> Iterator[SshdFleet]:
        """Real OpenSSH hosts. NoSshd when there is no sshd."""
        fleet = SshdFleet(count, scratch=self.scratch, user=self.user, prefix=prefix, per_sshd=per_sshd)
        try:
            yield fleet
        finally:
            fleet.close()


@contextlib.contextmanager
def running(directory: Path) -> Iterator[Installation]:
    """A fresh installation in this directory."""
    private = directory / "installation"
    private.mkdir(mode=0o700)
    installation = Installation(private / "data")
    try:
        installation.start()
        yield installation
    finally:
        installation.stop()


@contextlib.asynccontextmanager
async def enrolled_client(installation: Installation) -> AsyncIterator[KafkaClient]:
    """A program of its own, enrolled for this once and connected to Kafka."""
    name = f"bench-{secrets.token_hex(4)}"
    token, key_file = (installation.data.parent / f"{name}.{kind}" for kind in ("token", "json"))
    installation.run("proxy", "enrol", name, "--role", "service_account", "--token-file", str(token))
    planner = installation.data / "keys" / "planner.pub.json"
    await KafkaClient.enrol(
        installation.kafka(), token.read_text().strip(), key_file=key_file, planner_key_file=planner
    )
    async with KafkaClient(installation.kafka(), key_file=key_file, planner_key_file=planner) as client:
        yield client


def own_process(module: str, *arguments: str) -> subprocess.Popen[str]:
    """A module of these benchmarks as a process of its own, with pipes to and from it."""
    tests = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, (tests, os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        (sys.executable, "-m", module, *arguments),
        env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def expect_succeeded(ended: JobInvocationEnded, hosts: int) -> None:
    """WrongResult unless the job succeeded on exactly so many hosts."""
    if ended.counts != {"succeeded": hosts}:
        raise WrongResult(f"job {ended.job_invocation_id}: {ended.counts} {ended.reasons}, not {hosts} succeeded")
