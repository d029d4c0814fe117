"""A dispatcher, an agent, and a planner with its relay, stopped for longer than their sessions while others take over.

When they go on they change nothing. Two of each work at once, with rebalances while jobs run. Each host appends to a file of its own
what it ran.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from support.installation import Installation
from support.processes import track
from support.sshd import SshdFleet
from support.waiting import wait_until

WITHIN = timedelta(seconds=40)
SETTINGS = {
    "SESSION_TIMEOUT": "PT2S",
    "HEARTBEAT_EVERY": "PT1S",
    "AGENT_SILENT_AFTER": "PT4S",
    "ASK_AFTER": "PT6S",
    "ASK_AGAIN": "PT3S",
    "CHUNK_MISSING_AFTER": "PT10S",
}
SCRIPT = 'echo {word} >> "$HOME/stopped"; sleep 2; echo done'


@pytest.fixture
def own(tmp_path: Path, fleet: SshdFleet, postgres: Callable[[], str]) -> Iterator[Installation]:
    """Every store in PostgreSQL, so that there can be several of each service; short sessions."""
    made = Installation(tmp_path / "data", {**SETTINGS, "STORE_URL": postgres()})
    made.start()
    made.import_hosts(fleet.hosts)
    yield made
    made.stop()


@contextlib.contextmanager
def second(own: Installation, service: str, **settings: str) -> Iterator[Path]:
    """One more instance of a service, outside of `up`; its log."""
    kafka = own.kafka()
    folder = own.data.parent / f"{service}-2"
    folder.mkdir(mode=0o700)
    common = {
        "DATA": str(folder / "data"),
        "INSTANCE": "2",
        "PLANNER_KEY_FILE": str(own.data / "keys" / "planner.pub.json"),
        "KAFKA_BOOTSTRAP": kafka.kafka_bootstrap,
        "KAFKA_USERNAME": kafka.kafka_username,
        "KAFKA_PASSWORD_FILE": str(kafka.kafka_password_file),
    }
    variables = {f"CHARGEHAND_{name}": value for name, value in {**common, **settings}.items()}
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "chargehand", "run", service],
            env={**own.environment, **variables}, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
    track(process.pid)
    try:
        yield log
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Not a step is made by it, until the context is left."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def begun(fleet: SshdFleet, word: str) -> int:
    """How many hosts have begun the job with this word."""
    return sum(runs > 0 for runs in runs_of(fleet, word))


def runs_of(fleet: SshdFleet, word: str) -> list[int]:
    """How often each host ran it."""
    ledgers = [host.home / "stopped" for host in fleet.hosts]
    return [ledger.read_text().split().count(word) if ledger.exists() else 0 for ledger in ledgers]


def start_job(own: Installation, word: str) -> str:
    options = ("--all", "--yes", "--concurrency", "4", "--async")
    return str(own.json("exec", *options, "--", "sh", "-c", SCRIPT.format(word=word))["job_invocation_id"])


def all_succeeded(own: Installation, job: str) -> bool:
    document = own.json("job", "watch", job, "--timeout", "60s", within_s=80)
    return bool(document["counts"] == {"succeeded": len(document["job_tasks"])})


def said(log: Path, event: str) -> int:
    return log.read_text().count(f'"{event}"')


def test_whoever_stood_still_while_another_took_over_changes_nothing(own: Installation, fleet: SshdFleet) -> None:
    keys = own.data / "keys" / "dispatcher.json"
    token, first_log = own.data.parent / "token", own.data / "logs" / "dispatcher.log"
    own.run("proxy", "enrol", "local", "--token-file", str(token))
    one = start_job(own, "dispatcher")
    wait_until(lambda: begun(fleet, "dispatcher") >= 4, within=WITHIN)
    with contextlib.ExitStack() as stack:
        with stopped(own.pid_of("dispatcher")):
            log = stack.enter_context(second(own, "dispatcher", KEY_FILE=str(keys)))
            assert all_succeeded(own, one)
            taken = said(first_log, "partitions_taken")
        wait_until(lambda: said(first_log, "partitions_taken") > taken, within=WITHIN)

        agent_keys = str(own.data.parent / "agent-2.json")
        two = start_job(own, "agent")
        settings = {"PROXY": "local", "KEY_FILE": agent_keys, "ENROLMENT_TOKEN_FILE": str(token)}
        agent_log = stack.enter_context(second(own, "proxy-agent", **settings))
        wait_until(lambda: begun(fleet, "agent") >= 4, within=WITHIN)
        with stopped(own.pid_of("proxy-agent")):
            assert all_succeeded(own, two)
        three = start_job(own, "both")
        assert all_succeeded(own, three)
        planner_keys = str(keys.parent / "planner.json")
        with stopped(own.pid_of("planner")):
            stack.enter_context(second(own, "planner", KEY_FILE=planner_keys))
            assert all_succeeded(own, start_job(own, "planner"))
        assert all_succeeded(own, start_job(own, "planners"))
        assert said(log, "partitions_taken") >= 2, "with both there, each has a part"
        assert said(agent_log, "agent_started") == 1
    words = ("dispatcher", "agent", "both", "planner", "planners")
    assert {word: runs_of(fleet, word) for word in words} == dict.fromkeys(words, [1] * len(fleet.hosts))
    assert own.violations() == []
