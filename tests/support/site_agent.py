"""An agent at a site: a process of its own in the site's namespace, which can be killed, stopped and started again as tests like.

Owns its settings and its life. Kafka is all that it sees of this machine, through the site's own way out.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from support.installation import Installation
from support.netns import Site
from support.processes import track
from support.waiting import wait_until

_STARTED_WITHIN = timedelta(seconds=60)
_STOPPED_WITHIN_S = 20

Command = Callable[[Sequence[str]], list[str]]


def as_it_is(argv: Sequence[str]) -> list[str]:
    return list(argv)


class SiteAgent:
    """The one agent of the proxy of a site, enrolled by a token. `settings` are CHARGEHAND_… without the prefix."""

    def __init__(self, installation: Installation, site: Site, folder: Path, settings: Mapping[str, str] = {}) -> None:
        folder.mkdir(exist_ok=True)
        kafka, self.proxy, self.log = installation.kafka(), site.name, folder / "agent.log"
        self.data = folder / "data"
        installation.run("proxy", "enrol", self.proxy, "--token-file", str(folder / "token"))
        own = {
            "PROXY": self.proxy,
            "PROVIDERS": '["ssh"]',
            "DATA": str(self.data),
            "KEY_FILE": str(folder / "keys.json"),
            "ENROLMENT_TOKEN_FILE": str(folder / "token"),
            "PLANNER_KEY_FILE": str(installation.data / "keys" / "planner.pub.json"),
            "KAFKA_BOOTSTRAP": kafka.kafka_bootstrap,
            "KAFKA_USERNAME": kafka.kafka_username,
            "KAFKA_PASSWORD_FILE": str(kafka.kafka_password_file),
        }
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("CHARGEHAND_")}
        self._environment |= {name: value for name, value in os.environ.items() if name.startswith("CHARGEHAND_TEST_")}
        self._environment |= {f"CHARGEHAND_{name}": value for name, value in {**own, **settings}.items()}
        self._command = site.command
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, on: Command = as_it_is) -> None:
        """Returns when it takes commands. `on`: the command that runs one elsewhere, such as on a machine that has just booted."""
        before = self._said("agent_started")
        argv = [sys.executable, "-m", "chargehand", "run", "proxy-agent"]
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                self._command(on(argv)), env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        track(self._process.pid)
        wait_until(lambda: self._said("agent_started") > before or self._has_ended(), within=_STARTED_WITHIN)
        assert not self._has_ended(), self.log.read_text()[-3000:]

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """As an operator does."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOPPED_WITHIN_S)
        finally:
            self.kill()

    def _has_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def _said(self, event: str) -> int:
        return self.log.read_text().count(f'"{event}"') if self.log.exists() else 0


@contextlib.contextmanager
def agent_at(
    site: Site, installation: Installation, folder: Path, *, on: Command = as_it_is, settings: Mapping[str, str] = {}
) -> Iterator[SiteAgent]:
    """A running agent, with the site's way out to Kafka; for `on` see `SiteAgent.start`."""
    agent = SiteAgent(installation, site, folder, settings)
    with site.relay(int(installation.kafka().kafka_bootstrap.rpartition(":")[2])):
        try:
            agent.start(on)
            yield agent
        finally:
            agent.stop()
