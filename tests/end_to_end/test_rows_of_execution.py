"""When and how often a job runs, and how it is ended, as its users see it (docs/requirements.md), on real hosts."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
from chargehand.checker.recording import InvocationLog
from chargehand_schemas.dispatch import JobTaskStatusChanged
from chargehand_schemas.execution import AttemptStarted
from chargehand_schemas.ids import job_task_id
from chargehand_schemas.reasons import JobTaskStatus, Reason
from support.installation import Installation
from support.processes import HOST_VARIABLE, marked
from support.sshd import SshdFleet
from support.waiting import wait_until

NAMES = [f"web{n}" for n in range(1, 7)]
HOSTS = [option for name in NAMES for option in ("--host", name)]
SECOND = timedelta(seconds=1)
WITHIN = timedelta(seconds=20)


def log_of(installation: Installation, job: str) -> InvocationLog:
    return installation.recording().invocations[UUID(job)]


def job_tasks(installation: Installation, job: str) -> dict[str, dict[str, Any]]:
    rows = installation.json("job", "show", job, status=None)["job_tasks"]
    return {row["host"]: row for row in rows}


def begun(installation: Installation, *options: str, command: list[str]) -> str:
    """A job that is not watched: its id."""
    done = installation.run("exec", *options, "--async", "--", *command)
    return done.stdout.strip()


def left_on_hosts(marker: str) -> list[psutil.Process]:
    """Processes of hosts that still run this."""
    return [one for name in NAMES for one in marked(HOST_VARIABLE, name) if marker in " ".join(one.cmdline())]


def test_s54_s62_a_failed_job_is_tried_again_by_number_and_interval(checked: Installation, fleet: SshdFleet) -> None:
    """S54, S62: the third try succeeds, each a second after the one before; how often it was tried is shown by host."""
    script = 'echo try >> "$HOME/tries"; [ "$(wc -l < "$HOME/tries")" -ge 3 ]'
    document = checked.exec("--host", "web1", "--tries", "3", "--retry-interval", "1s", command=["sh", "-c", script])
    job = document["job_invocation_id"]
    assert document["counts"] == {"succeeded": 1}
    (row,) = job_tasks(checked, job).values()
    assert row["attempts"] == 3
    assert (Path(fleet.hosts[0].home) / "tries").read_text().count("try") == 3
    waits = [
        entry.item.due_at - entry.item.time
        for entry in log_of(checked, job).dispatch
        if isinstance(entry.item, JobTaskStatusChanged)
        and entry.item.status is JobTaskStatus.WAITING
        and entry.item.due_at is not None
    ]
    assert waits == [SECOND, SECOND]
    (shown,) = [line for line in checked.run("job", "show", job).stdout.splitlines() if "web1" in line]
    assert shown.split()[:3] == ["web1", "succeeded", "3"]


def test_s54_no_more_tries_than_asked_for(checked: Installation) -> None:
    """S54: it fails with the exit status of its last try."""
    document = checked.exec(
        "--host", "web2", "--tries", "2", "--retry-interval", "0s", command=["sh", "-c", "exit 7"], status=1
    )
    (row,) = job_tasks(checked, document["job_invocation_id"]).values()
    assert (row["status"], row["reason"], row["exit_status"], row["attempts"]) == ("failed", "exit_status", 7, 2)


def test_s55_starts_are_spread_over_an_interval(checked: Installation) -> None:
    """S55: each host at an instant of its own in the interval, which follows from its id: the same again after any restart."""
    document = checked.exec(*HOSTS, "--splay", "3s", command=["true"])
    job = UUID(document["job_invocation_id"])
    log = log_of(checked, str(job))
    assert log.scheduled is not None
    offsets = {due.job_task_id: due.issued_at - log.scheduled.start_at for due in log.dues.values()}
    assert set(offsets) == {job_task_id(job, planned.host_id) for planned in log.planned.values()}
    assert all(timedelta(0) <= offset < 4 * SECOND for offset in offsets.values())
    assert max(offsets.values()) - min(offsets.values()) > SECOND / 2, "six hosts do not start together"


def test_s53_a_job_fails_that_runs_longer_than_its_limit(checked: Installation) -> None:
    """S53: timed out is its verdict, and nothing of it runs any more."""
    document = checked.exec("--host", "web3", "--execution-timeout", "1s", command=["sleep", "1234.53"], status=1)
    (row,) = job_tasks(checked, document["job_invocation_id"]).values()
    assert (row["status"], row["reason"]) == ("failed", Reason.TIMED_OUT.value)
    wait_until(lambda: not left_on_hosts("1234.53"), within=WITHIN)


def test_s51_s59_a_job_that_has_not_started_is_cancelled_with_all_its_hosts(checked: Installation) -> None:
    """S51, S59: it never starts anywhere."""
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    job = begun(checked, *HOSTS, "--start-at", tomorrow, command=["true"])
    checked.run("job", "cancel", job)
    wait_until(lambda: checked.json("job", "show", job, status=None)["status"] == "cancelled", within=WITHIN)
    assert not any(
        isinstance(entry.item, AttemptStarted) for facts in log_of(checked, job).facts.values() for entry in facts
    )


def test_s52_a_running_job_is_cancelled_on_its_hosts(checked: Installation) -> None:
    """S52: cancelled is said when nothing runs any more."""
    job = begun(checked, "--host", "web4", "--host", "web5", command=["sleep", "1234.52"])
    wait_until(lambda: [row["status"] for row in job_tasks(checked, job).values()] == ["running"] * 2, within=WITHIN)
    assert left_on_hosts("1234.52")
    checked.run("job", "cancel", job)
    wait_until(lambda: {row["status"] for row in job_tasks(checked, job).values()} == {"cancelled"}, within=WITHIN)
    assert left_on_hosts("1234.52") == []
