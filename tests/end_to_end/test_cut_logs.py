"""A machine that crashes and loses the end of Kafka's logs: services stop and say so, `chargehand repair` goes on, nothing twice."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from chargehand_chassis.kafka import partition_of
from chargehand_schemas.topics import CATALOG_EVENTS, DISPATCH_EVENTS, EXECUTION_EVENTS, PLANNING_EVENTS
from support.installation import Installation
from support.kafka_log import cut_end, end_of
from support.processes import kill
from support.sshd import SshdFleet
from support.waiting import wait_until

CUT = (PLANNING_EVENTS.name, DISPATCH_EVENTS.name, EXECUTION_EVENTS.name)
SCRIPT = 'echo begin >> "$HOME/cut"; sleep 4; echo end >> "$HOME/cut"'


@pytest.fixture
def own(tmp_path: Path, fleet: SshdFleet) -> Iterator[Installation]:
    made = Installation(tmp_path / "data")
    made.start()
    made.import_hosts(fleet.hosts)
    made.exec("--all", "--yes", command=["true"])
    yield made
    made.stop()


def cut_logs(own: Installation, draw: random.Random, job: str) -> dict[tuple[str, int], tuple[int, int]]:
    """Of every topic of jobs the partition of this job, and the catalog's: where each ended and ends now."""
    partitions = own.kafka().partitions
    places = [(topic, partition_of(job, partitions)) for topic in CUT] + [(CATALOG_EVENTS.name, 0)]
    found = {}
    for topic, number in places:
        directory = own.data / "kafka" / "data" / f"{topic}-{number}"
        before = end_of(directory)
        found[topic, number] = (before, cut_end(directory, draw.randint(1, min(50, before // 2))))
    return found


def test_a_log_cut_while_jobs_ran_is_said_repaired_and_nothing_is_lost_or_run_twice(
    own: Installation, fleet: SshdFleet
) -> None:
    job = own.json("exec", "--all", "--yes", "--concurrency", "4", "--async", "--", "sh", "-c", SCRIPT)[
        "job_invocation_id"
    ]
    marks = [host.home / "cut" for host in fleet.hosts]
    wait_until(lambda: sum(mark.exists() for mark in marks) >= 4, within=timedelta(seconds=30))
    crash(own)
    cut = cut_logs(own, random.Random(20261127), job)
    assert all(after < before for before, after in cut.values())
    with pytest.raises(AssertionError, match="see `chargehand repair`"):
        own.start()
    listed = found_by(own, "repair", status=1)
    assert {(row["topic"], row["partition"]) for row in listed["findings"]} <= cut.keys()
    assert all(row["held"] == cut[row["topic"], row["partition"]][1] for row in listed["findings"])
    assert listed["done"] == []
    done = found_by(own, "repair", "--yes", status=0)
    assert {row["service"] for row in done["done"]} == {"planner", "dispatcher", "reporter"}
    own.start()
    document = own.json("job", "watch", job, "--timeout", "120s", within_s=140)
    assert document["counts"] == {"succeeded": len(fleet.hosts)}
    assert [mark.read_text().split() for mark in marks] == [["begin", "end"]] * len(marks)
    assert own.violations() == []
    assert {row["status"] for row in own.json("job", "list")} == {"succeeded"}


def crash(own: Installation) -> None:
    """Everything of this machine at once; nothing of it writes any more when this returns."""
    doomed = psutil.Process(own.banner["pid"]).children(recursive=True)
    own.kill_tree()
    kill(doomed)


def found_by(own: Installation, *arguments: str, status: int) -> Any:
    done = own.run(*arguments, "--output", "json", status=status)
    return json.loads(done.stdout)
