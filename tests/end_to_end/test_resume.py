"""The agent, its machine, its disk, the connection, the host, the broker go away in the middle of a job: the verdict is the truth
or `interrupted`, never a guess. Each job writes its begin and its end to a file on its host: doubling is seen outside our log too.

A job goes on when the test lets it, so that each thing happens where it is meant to, however fast the machine is.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.distant_hosts import DistantHosts
from support.installation import Installation
from support.netns import Site
from support.odd_machines import BootId, NoOddMachine, OddHost
from support.processes import HOST_VARIABLE, marked
from support.site_agent import SiteAgent, agent_at
from support.small_disk import NoDisk, SmallDisk, small_disk
from support.sshd import NoSshd, SshHost
from support.waiting import wait_until

WITHIN = timedelta(seconds=40)
BROKER_AWAY_S = float(os.environ.get("CHARGEHAND_TEST_BROKER_AWAY_S", "4"))
"""`make chaos` has it away for two minutes."""
EXIT_STATUS = 5
LINES = 120_000
OUTPUT = b"begun\n" + b"".join(b"%d\n" % n for n in range(1, LINES + 1))
CUT_EVERY_BYTES = 250_000
AWAY = "away1"


@pytest.fixture(scope="module", autouse=True)
def unattended(
    installation: Installation, distant: DistantHosts, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A job on a host whose agent is away, begun before all other tests here: its time runs out beside them."""
    try:
        (host,) = distant.fleet(1, AWAY.rstrip("1")).hosts
    except NoSshd as error:
        pytest.skip(str(error))
    site = Site(f"away-from-{distant.site.name}", distant.site.namespace)
    with agent_at(site, installation, tmp_path_factory.mktemp("away")):
        pass
    installation.import_hosts([host], proxy=site.name)
    yield begun(installation, AWAY, "--time-to-pickup", "1s", command=["true"])
    installation.run("host", "remove", AWAY, "--yes")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    """The agent's own, for its journal."""
    try:
        with small_disk(tmp_path_factory.mktemp("agent") / "data", 8) as made:
            yield made
    except NoDisk as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> BootId:
    """That the agent runs on."""
    return BootId(tmp_path_factory.mktemp("machine") / "boot_id")


@pytest.fixture(scope="module")
def agent(installation: Installation, distant: DistantHosts, disk: SmallDisk, machine: BootId) -> Iterator[SiteAgent]:
    try:
        with agent_at(distant.site, installation, disk.root.parent, on=machine.command) as made:
            yield made
    except NoOddMachine as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def hosts(installation: Installation, distant: DistantHosts, agent: SiteAgent) -> Iterator[list[SshHost]]:
    """Three, in the inventory."""
    made = distant.shown(distant.fleet(3, "far"))
    installation.import_hosts(made, proxy=agent.proxy)
    yield made
    installation.run("host", "remove", *(host.name for host in made), "--yes")


@pytest.fixture(autouse=True)
def promises(installation: Installation) -> Iterator[None]:
    """None is broken after a test, whatever the host without an agent still waits for."""
    yield
    found = installation.violations(is_finished=False)
    assert not found, "\n".join(map(str, found))


# --- jobs that wait for the test


@dataclass(frozen=True)
class Held:
    """A job that says when it has begun, goes on when it is let, and says when it is over, in files of its hosts."""

    id: str
    word: str

    def ledger(self, host: SshHost) -> list[str]:
        """What it has written on the host."""
        path = host.home / f"{self.word}.ledger"
        return path.read_text().split() if path.exists() else []

    def await_begin(self, *hosts: SshHost) -> None:
        wait_until(lambda: all(self.ledger(host) == ["begin"] for host in hosts), within=WITHIN)

    def let_go(self, host: SshHost) -> None:
        (host.home / f"{self.word}.go").touch()

    def await_end(self, host: SshHost) -> None:
        """On the host, whoever knows of it."""
        self.let_go(host)
        wait_until(lambda: self.ledger(host)[1:] == ["end"], within=WITHIN)


def hold(installation: Installation, word: str, *hosts: SshHost, last: str = "echo over") -> Held:
    script = (
        f"echo begin >> ~/{word}.ledger; echo begun; until [ -e ~/{word}.go ]; do sleep 0.05; done; "
        f"{last}; echo end >> ~/{word}.ledger; exit {EXIT_STATUS}"
    )
    return Held(begun(installation, *(host.name for host in hosts), command=["sh", "-c", script]), word)


def begun(installation: Installation, *targets_and_options: str, command: list[str]) -> str:
    """A job that is not watched, on hosts by name: its id."""
    first = next((n for n, word in enumerate(targets_and_options) if word.startswith("-")), len(targets_and_options))
    targets = [option for name in targets_and_options[:first] for option in ("--host", name)]
    done = installation.run("exec", *targets, *targets_and_options[first:], "--async", "--", *command)
    return done.stdout.strip()


def ended(installation: Installation, job: str) -> dict[str, dict[str, Any]]:
    """Its job tasks by host, when it has ended."""
    document = installation.json("job", "watch", job, "--timeout", "120s", status=None, within_s=140)
    return {row["host"]: row for row in document["job_tasks"]}


def output(installation: Installation, job: str, host: SshHost) -> bytes:
    return installation.run("job", "output", job, "--host", host.name, "--raw").stdout.encode()


def shows_running(installation: Installation, job: str, *, hosts: int) -> bool:
    rows = installation.json("job", "show", job, status=None)["job_tasks"]
    return [row["status"] for row in rows] == ["running"] * hosts


def is_the_truth(row: dict[str, Any], job: Held, host: SshHost) -> bool:
    """It began once and ended once, and its exit status is told, of its only attempt."""
    told = (row["status"], row["reason"], row["exit_status"], row["attempts"])
    return told == ("failed", "exit_status", EXIT_STATUS, 1) and job.ledger(host) == ["begin", "end"]


# --- what goes away


def test_an_agent_killed_and_its_machine_rebooted_while_jobs_end_before_and_after(
    installation: Installation, agent: SiteAgent, machine: BootId, hosts: list[SshHost]
) -> None:
    """One job ends while the agent is dead, one while its machine boots (another boot id), one when it is back."""
    first, second, third = hosts
    job = hold(installation, "agent", *hosts)
    job.await_begin(*hosts)
    agent.kill()
    job.await_end(first)
    agent.start(on=machine.command)
    agent.kill()
    machine.renew()
    job.await_end(second)
    agent.start(on=machine.command)
    assert job.ledger(third) == ["begin"]
    job.let_go(third)
    rows = ended(installation, job.id)
    for host in hosts:
        assert is_the_truth(rows[host.name], job, host), rows[host.name]
        assert output(installation, job.id, host) == b"begun\nover\n"


def test_a_connection_that_stands_still_and_is_cut_in_the_middle_of_the_output(
    installation: Installation, distant: DistantHosts, agent: SiteAgent, hosts: list[SshHost]
) -> None:
    """The job ends while nothing comes through, and then its output comes in pieces of broken connections: whole, by its bytes."""
    host, *_ = hosts
    distant.relay.delay(timedelta(milliseconds=100))
    job = hold(installation, "cut", host, last=f"seq 1 {LINES}")
    wait_until(lambda: shows_running(installation, job.id, hosts=1), within=WITHIN)
    with distant.relay.cutting(host, CUT_EVERY_BYTES):
        with distant.relay.paused(host):
            job.await_end(host)
        rows = ended(installation, job.id)
    distant.relay.delay(timedelta(0))
    assert is_the_truth(rows[host.name], job, host), rows[host.name]
    assert hashlib.sha256(output(installation, job.id, host)).digest() == hashlib.sha256(OUTPUT).digest()
    assert distant.relay.cuts(host) >= len(OUTPUT) // CUT_EVERY_BYTES >= 2


def test_a_host_rebooted_in_the_middle_is_interrupted_with_its_boot_id_as_proof(
    installation: Installation, distant: DistantHosts, agent: SiteAgent, tmp_path: Path
) -> None:
    odd = OddHost(distant, "odd", tmp_path)
    installation.import_hosts([odd.host], proxy=agent.proxy)
    job = hold(installation, "reboot", odd.host)
    wait_until(lambda: shows_running(installation, job.id, hosts=1), within=WITHIN)
    before = odd.boot_id.value
    odd.power_off()
    odd.power_on()
    row = ended(installation, job.id)[odd.name]
    assert (row["status"], row["reason"], row["exit_status"], row["attempts"]) == ("failed", "interrupted", None, 1)
    assert f"the boot id was {before}" in row["detail"]
    assert output(installation, job.id, odd.host) == b"begun\n"
    job.let_go(odd.host)
    after = installation.exec("--host", odd.name, command=["cat", "/proc/sys/kernel/random/boot_id"])
    assert after["counts"] == {"succeeded": 1}
    assert output(installation, after["job_invocation_id"], odd.host).decode().strip() == odd.boot_id.value != before
    assert job.ledger(odd.host) == ["begin"], "nothing was run again"
    assert [one for one in marked(HOST_VARIABLE, odd.name) if "reboot.go" in " ".join(one.cmdline())] == []
    installation.run("host", "remove", odd.name, "--yes")


@pytest.mark.timeout(180 + 2 * BROKER_AWAY_S)
def test_the_broker_is_away_while_a_job_ends_and_another_goes_on(
    installation: Installation, agent: SiteAgent, hosts: list[SshHost]
) -> None:
    """Nobody can say or read anything; when the broker is back all is told, once."""
    first, second, _ = hosts
    job = hold(installation, "broker", first, second)
    wait_until(lambda: shows_running(installation, job.id, hosts=2), within=WITHIN)
    with stopped(installation.pid_of("kafka")):
        job.await_end(first)
        time.sleep(BROKER_AWAY_S)
    job.let_go(second)
    rows = ended(installation, job.id)
    for host in (first, second):
        assert is_the_truth(rows[host.name], job, host), rows[host.name]
        assert output(installation, job.id, host) == b"begun\nover\n"


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_an_agent_whose_journal_is_full_tells_the_truth_of_what_runs_and_takes_nothing_new(
    installation: Installation, agent: SiteAgent, disk: SmallDisk, hosts: list[SshHost]
) -> None:
    first, second, _ = hosts
    running = hold(installation, "full", first)
    wait_until(lambda: shows_running(installation, running.id, hosts=1), within=WITHIN)
    disk.fill()
    try:
        running.let_go(first)
        row = ended(installation, running.id)[first.name]
        assert is_the_truth(row, running, first), row
        new = hold(installation, "roomy", second)
        new.let_go(second)
        wait_until(lambda: "journal.sqlite" in agent.log.read_text() and "full" in agent.log.read_text(), within=WITHIN)
        assert new.ledger(second) == []
    finally:
        disk.free()
    row = ended(installation, new.id)[second.name]
    assert (row["status"], row["reason"], row["exit_status"]) == ("failed", "exit_status", EXIT_STATUS)
    assert new.ledger(second) == ["begin", "end"]


def test_s61_a_job_that_did_not_start_in_time_fails_and_says_which_limit_it_was(
    installation: Installation, unattended: str
) -> None:
    """S61: the agent of its host is away; nothing says what it did, so that it waits until nobody may start it any more."""
    row = ended(installation, unattended)[AWAY]
    assert (row["status"], row["reason"], row["started_at"]) == ("failed", "not_picked_up", None)
    assert "not started within time_to_pickup (1s): no agent" in row["detail"]
    assert "time_to_pickup (1s)" in installation.run("job", "show", unattended, status=1).stdout
    found = installation.violations()
    assert not found, "\n".join(map(str, found))
