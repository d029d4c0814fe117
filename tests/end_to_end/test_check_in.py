"""Hosts that are not there, and come back: the check-in as its users see it (docs/how-to/check-in.md), on real hosts."""

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from chargehand.checker.recording import RECORDED_TOPICS
from chargehand_schemas.topics import HOST_EVENTS, PROXY_COMMANDS
from support.daemons import as_user, find_program
from support.installation import Installation
from support.sshd import SshdFleet, SshHost
from support.waiting import wait_until

AWAY = "web6"
HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "check-in.md"
WITHIN = timedelta(seconds=30)
SOON_S = 5.0


class Laptop:
    """A host with a check-in installed, that can be away."""

    def __init__(self, installation: Installation, fleet: SshdFleet, address: str) -> None:
        self.installation, self.fleet, self.address = installation, fleet, address

    @property
    def host(self) -> SshHost:
        return self.fleet.host(AWAY)

    @property
    def directory(self) -> Path:
        return self.host.home / ".chargehand" / "check-in"

    @property
    def key(self) -> str:
        lines = (self.directory / "check-in.conf").read_text().splitlines()
        return next(line.partition(" ")[2] for line in lines if line.startswith("key "))

    def install(self) -> dict[str, Any]:
        """The job that installs it. Where there is no cron it says so and fails: nothing would run it."""
        given = ("--input", f"address=http://{self.address}", "--input", "spread=0")
        status = 0 if find_program("crontab") else 1
        document: dict[str, Any] = self.installation.json(
            "invoke", "Install check-in", "--host", AWAY, *given, status=status
        )
        return document

    def check_in(self) -> None:
        """As its timer runs it."""
        program = ["/bin/sh", str(self.directory / "check-in.sh"), "scheduled"]
        home = {"HOME": str(self.host.home), "PATH": os.environ["PATH"]}
        subprocess.run(as_user(program, self.host.user), env=home, cwd="/", check=True, timeout=60)

    def come_back(self) -> None:
        """Switch it on, if it is not."""
        with socket.socket() as probe:
            is_on = probe.connect_ex((self.host.address, self.host.port)) == 0
        if not is_on:
            self.fleet.power_on(AWAY)

    def shown(self) -> dict[str, Any]:
        document: dict[str, Any] = self.installation.json("host", "show", AWAY)
        return document

    @contextlib.contextmanager
    def hanging(self) -> Iterator[socket.socket]:
        """Its address takes connections, and nobody answers them."""
        self.fleet.power_off(AWAY)
        with socket.create_server((self.host.address, self.host.port)) as listener:
            yield listener


@pytest.fixture
def laptop(checked: Installation, fleet: SshdFleet, check_in_address: str) -> Iterator[Laptop]:
    made = Laptop(checked, fleet, check_in_address)
    yield made
    made.come_back()


def begun(installation: Installation, *options: str, hosts: tuple[str, ...] = (AWAY,)) -> str:
    chosen = [option for name in hosts for option in ("--host", name)]
    waits = ("--wait-for-check-in", "--async", *options)
    done = installation.run(
        "exec", *chosen, *waits, "--", "sh", "-c", 'echo "awake" >>"$HOME/awake"; cat "$HOME/awake"'
    )
    return done.stdout.strip()


def states(installation: Installation, job: str) -> dict[str, str]:
    rows = installation.json("job", "show", job, status=None)["job_tasks"]
    return {row["host"]: row["status"] for row in rows}


def until_state(installation: Installation, job: str, state: str, host: str = AWAY) -> None:
    wait_until(lambda: states(installation, job).get(host) == state, within=WITHIN)


def test_s6_s58_a_job_waits_for_a_host_that_is_away_and_runs_when_it_checks_in(laptop: Laptop) -> None:
    """S6, S58: kept on the server over kill -9 of dispatcher and agent, without a slot, and tried within moments of the check-in."""
    installation, fleet = laptop.installation, laptop.fleet
    installed = laptop.install()
    output = installation.run("job", "output", installed["job_invocation_id"]).stdout
    assert "check-in: checked in, " in output
    assert laptop.key not in output
    wait_until(lambda: laptop.shown()["last_check_in"] is not None, within=WITHIN)
    facts = laptop.shown()["reported_facts"]
    assert {"os.name", "kernel.release", "boot.id"} <= facts.keys()

    fleet.power_off(AWAY)
    job = begun(installation, "--time-to-pickup", "2d", "--concurrency", "1", hosts=(AWAY, "web5"))
    until_state(installation, job, "succeeded", "web5")
    assert states(installation, job)[AWAY] == "waiting_for_check_in", "it holds no slot: web5 had the only one"
    (row,) = [line for line in installation.run("job", "show", job, status=None).stdout.splitlines() if AWAY in line]
    assert row.split("\t")[1] == "waiting_for_check_in"
    assert "refused" in row.split("\t")[2], "why it is waited for is told"
    watched = installation.run("job", "watch", job, "--timeout", "1s", status=124)
    assert "1 waiting for its check-in" in watched.stderr + watched.stdout

    late = installation.exec(
        "--host", AWAY, "--wait-for-check-in", "--time-to-pickup", "2s", command=["true"], status=1
    )
    assert (late["job_tasks"][0]["reason"], late["job_tasks"][0]["started_at"]) == ("not_picked_up", None)

    for service in ("dispatcher", "proxy-agent"):
        before = installation.pid_of(service)
        os.kill(before, signal.SIGKILL)
        wait_until(lambda s=service, b=before: _is_back(installation, s, b), within=timedelta(seconds=60))  # type: ignore[misc]
    fleet.power_on(AWAY)
    assert states(installation, job)[AWAY] == "waiting_for_check_in"
    laptop.check_in()
    began = time.monotonic()
    until_state(installation, job, "succeeded")
    assert time.monotonic() - began < SOON_S
    assert (laptop.host.home / "awake").read_text() == "awake\n"
    _is_nowhere(installation, laptop.key)


def _is_back(installation: Installation, service: str, before: int) -> bool:
    (row,) = [one for one in installation.json("status", status=None)["services"] if one["name"] == service]
    return bool(row["status"] == "ready" and row["pid"] != before)


def _is_nowhere(installation: Installation, key: str) -> None:
    """In no topic, no log and no store of the installation."""
    for entry in installation.entries([*RECORDED_TOPICS, PROXY_COMMANDS.of("local"), HOST_EVENTS.name]):
        assert key not in entry.item.model_dump_json()
        assert key.encode() not in (entry.raw or b"")
    for path in installation.data.rglob("*"):
        if path.is_file() and not path.is_relative_to(installation.data / "kafka"):
            assert key.encode() not in path.read_bytes(), path


def test_s58_a_check_in_before_the_failed_attempt_is_reported_is_not_lost(laptop: Laptop) -> None:
    """S58: the host announces itself while the attempt still hangs at it; the attempt fails, and another follows at once."""
    laptop.install()
    with laptop.hanging() as listener:
        job = begun(laptop.installation, "--time-to-pickup", "1h")
        connection, _ = listener.accept()
    with connection:
        laptop.fleet.power_on(AWAY)
        laptop.check_in()
    until_state(laptop.installation, job, "succeeded")
    (row,) = laptop.installation.json("job", "show", job)["job_tasks"]
    assert (row["attempts"], row["exit_status"]) == (2, 0)


def test_s58_the_how_to_does_what_it_says(laptop: Laptop) -> None:
    """Its commands one after the other, on a host that is there."""
    lines = re.findall(r"^\$ chargehand (.*)$", HOW_TO.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for line in lines:
        words = [AWAY if word == "laptop7" else word for word in shlex.split(line)]
        if "--input" in words:
            assert words[-4:] == [
                "--input",
                "address=https://proxy.example.org:8710",
                "--input",
                "ca_file=/etc/ssl/proxy-ca.pem",
            ]
            words[-4:] = ["--input", f"address=http://{laptop.address}"]
        is_without_cron = "Install check-in" in words and not find_program("crontab")
        laptop.installation.run(*words, status=1 if is_without_cron else None if words[0] == "job" else 0)
    assert [shlex.split(line)[:2] for line in lines] == [
        ["invoke", "Install check-in"], ["exec", "--host"], ["job", "show"], ["host", "show"], ["invoke", "Remove check-in"],
    ]  # fmt: skip
    assert not laptop.directory.exists()


def test_s58_what_a_host_reports_is_shown_as_its_own_words_and_does_nothing(laptop: Laptop) -> None:
    """Facts are data for ever: an escape is seen on the terminal, markup is text, and a name that people assign stays theirs."""
    laptop.install()
    script = laptop.directory / "facts" / "90-hostile.sh"
    script.write_text(
        "#!/bin/sh\nprintf 'escape=\\033]0;owned\\007\\nproxy=elsewhere\\nmarkup=<script>{{ 7*7 }}</script>\\n'\n"
    )
    script.chmod(0o755)
    laptop.check_in()
    wait_until(lambda: "markup" in laptop.shown()["reported_facts"], within=WITHIN)
    document = laptop.shown()
    assert document["reported_facts"]["escape"] == "\x1b]0;owned\x07"
    assert document["reported_facts"]["markup"] == "<script>{{ 7*7 }}</script>"
    assert document["host"]["proxy"] != "elsewhere"
    text = laptop.installation.run("host", "show", AWAY).stdout
    assert "reported escape\t^[]0;owned^G\n" in text
    assert "reported proxy\telsewhere\n" in text
    assert "\x1b" not in text

    laptop.installation.json("invoke", "Remove check-in", "--host", AWAY)
    assert not laptop.directory.exists()
