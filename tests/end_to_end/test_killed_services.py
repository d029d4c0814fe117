"""kill -9 of each service in the middle of a job: the supervisor starts it again, and the verdicts are right, once each.

Each host appends to a ledger of its own what it ran: doubling is seen outside our own log too.
"""

import os
import signal
from datetime import timedelta

import pytest
from support.installation import Installation
from support.sshd import SshdFleet
from support.waiting import wait_until

NAMES = [f"web{n}" for n in range(1, 7)]
HOSTS = [option for name in NAMES for option in ("--host", name)]
SERVICES = ("planner", "dispatcher", "proxy-agent", "reporter", "gateway")


def runs_in_ledgers(fleet: SshdFleet, word: str) -> dict[str, int]:
    """How often each host ran the job that wrote this word."""
    counts = {}
    for host in fleet.hosts:
        ledger = host.home / "ledger"
        counts[host.name] = ledger.read_text().split().count(word) if ledger.exists() else 0
    return counts


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_killed_in_the_middle_of_a_job_loses_and_doubles_nothing(
    checked: Installation, fleet: SshdFleet, service: str
) -> None:
    script = f"echo {service} >> ~/ledger; for n in 1 2 3 4 5 6; do echo line $n; sleep 0.3; done; exit 3"
    started = checked.json("exec", *HOSTS, "--concurrency", "4", "--async", "--", "sh", "-c", script)
    os.kill(checked.pid_of(service), signal.SIGKILL)
    wait_until(checked.answers, within=timedelta(seconds=30))
    document = checked.json("job", "watch", started["job_invocation_id"], "--timeout", "150s", status=1, within_s=170)
    assert document["counts"] == {"failed": 6}
    assert {row["reason"] for row in document["job_tasks"]} == {"exit_status"}
    assert {row["exit_status"] for row in document["job_tasks"]} == {3}
    assert runs_in_ledgers(fleet, service) == dict.fromkeys(NAMES, 1)
    for name in ("web1", "web6"):
        output = checked.run("job", "output", started["job_invocation_id"], "--host", name).stdout
        assert [line for line in output.splitlines() if "line" in line][-1].endswith("line 6")


def test_the_whole_tree_killed_is_found_again_by_the_next_start(checked: Installation, fleet: SshdFleet) -> None:
    script = "echo tree >> ~/ledger; sleep 4; echo done"
    started = checked.json("exec", *HOSTS, "--async", "--", "sh", "-c", script)
    checked.kill_tree()
    checked.start()
    document = checked.json("job", "watch", started["job_invocation_id"], "--timeout", "150s", within_s=170)
    assert document["counts"] == {"succeeded": 6}
    assert runs_in_ledgers(fleet, "tree") == dict.fromkeys(NAMES, 1)
