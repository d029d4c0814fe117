"""The disk of a whole installation is full while jobs run, stores and logs alike: each service says which file, and goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from chargehand.up.layout import DataDirectory
from support.installation import Installation
from support.small_disk import NoDisk, SmallDisk, small_disk
from support.waiting import wait_until

WITHIN = timedelta(seconds=40)
HOSTS = 60
OUTPUT_BYTES = 5_000
FILES = {
    "planner": "planner.sqlite",
    "dispatcher": "dispatcher.db",
    "proxy-agent": "journal.sqlite",
    "reporter": "output.db",
}
"""Of each service the store that cannot be written, as it says so."""


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[tuple[SmallDisk, SmallDisk]]:
    """One for all stores, one for the logs; Kafka has its own room."""
    data = DataDirectory(tmp_path / "data")
    with contextlib.ExitStack() as stack:
        try:
            data.make()
            stores = stack.enter_context(small_disk(tmp_path / "stores", 64))
            for name in ("planner", "dispatcher", "reporter", "agents"):
                (stores.root / name).mkdir(mode=0o700)
                (data.root / name).symlink_to(stores.root / name)
            yield stores, stack.enter_context(small_disk(data.logs, 8))
        except NoDisk as error:
            pytest.skip(str(error))


@pytest.fixture
def own(tmp_path: Path, disks: tuple[SmallDisk, SmallDisk]) -> Iterator[Installation]:
    made = Installation(tmp_path / "data")
    made.start()
    made.import_simulated(HOSTS, **{"sim.duration_s": "2", "sim.output_bytes": str(OUTPUT_BYTES)})
    yield made
    made.stop()


def start_job(own: Installation) -> str:
    options = ("--all", "--yes", "--concurrency", "20", "--async")
    return str(own.json("exec", *options, "--", "true")["job_invocation_id"])


def running(own: Installation, job: str) -> int:
    """How many of its job tasks run now."""
    return sum(row["status"] == "running" for row in own.json("job", "show", job)["job_tasks"])


def pids(own: Installation) -> list[int]:
    """Of the services that run; one that was started again has another."""
    return [row["pid"] for row in own.json("status", status=None)["services"] if row["pid"]]


def has_said(own: Installation, service: str) -> bool:
    log = (own.data / "logs" / f"{service}.log").read_text()
    return any(FILES[service] in line and "full" in line for line in log.splitlines())


def test_a_full_disk_stops_what_needs_it_and_everything_goes_on_when_there_is_room(
    own: Installation, disks: tuple[SmallDisk, SmallDisk]
) -> None:
    stores, logs = disks
    job = start_job(own)
    wait_until(lambda: running(own, job) > 0, within=WITHIN)
    stores.fill()
    wait_until(lambda: all(has_said(own, service) for service in FILES), within=WITHIN)
    logs.fill()
    before = pids(own)
    wait_until(lambda: set(pids(own)) - set(before) != set(), within=WITHIN)
    logs.free()
    stores.free()
    wait_until(lambda: own.run("status", status=None).returncode == 0, within=WITHIN)
    document = own.json("job", "watch", job, "--timeout", "90s", within_s=100)
    assert document["counts"] == {"succeeded": HOSTS}
    assert len(own.run("job", "output", job, "--host", "sim00001", "--raw").stdout) == OUTPUT_BYTES
    assert own.exec("--all", "--yes", command=["true"])["counts"] == {"succeeded": HOSTS}
    assert own.violations() == []
