"""Stores that were restored from a backup: what was said since then is folded again, or the service says why it stops."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from support.installation import Installation
from support.sshd import SshdFleet
from support.waiting import wait_until


@pytest.fixture
def own(tmp_path: Path, fleet: SshdFleet) -> Iterator[Installation]:
    made = Installation(tmp_path / "data")
    made.start()
    made.import_hosts(fleet.hosts[:2])
    made.exec("--all", "--yes", command=["true"])
    yield made
    made.stop()


def back_up(own: Installation, service: str) -> Path:
    """A copy of its store, taken while it is stopped."""
    own.stop()
    kept = own.data.parent / f"{service}.backup"
    shutil.copytree(own.data / service, kept)
    own.start()
    return kept


def restore(own: Installation, service: str, kept: Path) -> None:
    shutil.rmtree(own.data / service)
    shutil.copytree(kept, own.data / service)


def test_a_dispatcher_restored_from_a_backup_repeats_nothing(own: Installation, fleet: SshdFleet) -> None:
    """Rule REST: verdicts and attempts that its store has forgotten are read from its own log before anything is claimed."""
    kept = back_up(own, "dispatcher")
    ended = own.exec("--all", "--yes", command=["sh", "-c", 'echo once >> "$HOME/restored"'])
    assert ended["counts"] == {"succeeded": 2}
    running = own.json("exec", "--all", "--yes", "--async", "--", "sh", "-c", 'echo long >> "$HOME/restored"; sleep 15')
    marks = [host.home / "restored" for host in fleet.hosts[:2]]
    wait_until(lambda: all("long" in mark.read_text() for mark in marks), within=timedelta(seconds=30))
    own.kill_tree()
    restore(own, "dispatcher", kept)
    own.start()
    assert own.run("job", "watch", running["job_invocation_id"]).returncode == 0
    assert own.exec("--all", "--yes", command=["true"])["counts"] == {"succeeded": 2}
    assert [mark.read_text().split() for mark in marks] == [["once", "long"]] * 2
    assert own.violations() == []
    assert {job["status"] for job in own.json("job", "list")} == {"succeeded"}


def test_a_planner_restored_from_a_backup_stops_and_says_why(own: Installation) -> None:
    """docs/protocol.md, section 3, 12: it would decide again what was decided."""
    kept = back_up(own, "planner")
    own.exec("--all", "--yes", command=["true"])
    own.stop()
    newer = own.data.parent / "newer"
    shutil.copytree(own.data / "planner", newer)
    restore(own, "planner", kept)
    with pytest.raises(AssertionError, match="restored from a backup or lost"):
        own.start()
    restore(own, "planner", newer)
    own.start()
    assert own.exec("--all", "--yes", command=["true"])["counts"] == {"succeeded": 2}
    assert own.violations() == []
