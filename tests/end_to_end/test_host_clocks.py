"""Hosts whose clocks are an hour off, and one that has just booted: jobs run, their limits hold, and times are told by the broker's clock.

Nothing of this machine is set: wall clocks are libfaketime's, uptimes those of time namespaces.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.distant_hosts import DistantHosts
from support.installation import Installation
from support.odd_machines import NoOddMachine, OddHost
from support.processes import HOST_VARIABLE, marked
from support.site_agent import agent_at
from support.sshd import NoSshd

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
UPTIME = timedelta(seconds=20)
TOLERANCE = 2 * SECOND
SOON = timedelta(seconds=25)
LIMIT = SECOND
GRACE = timedelta(seconds=10)


@dataclass(frozen=True)
class Odd:
    """Hosts by how far their clock is from the true time."""

    ahead: OddHost
    behind: OddHost
    young: OddHost

    @property
    def by_offset(self) -> dict[str, timedelta]:
        return {self.ahead.name: HOUR, self.behind.name: -HOUR, self.young.name: timedelta(0)}

    @property
    def targets(self) -> list[str]:
        return [option for name in self.by_offset for option in ("--host", name)]


@pytest.fixture
def odd(checked: Installation, distant: DistantHosts, tmp_path: Path) -> Iterator[Odd]:
    """In the inventory of a proxy whose agent runs."""
    try:
        made = Odd(
            OddHost(distant, "ahead", tmp_path, clock_off=HOUR),
            OddHost(distant, "behind", tmp_path, clock_off=-HOUR),
            OddHost(distant, "young", tmp_path, uptime=UPTIME),
        )
    except (NoOddMachine, NoSshd) as error:
        pytest.skip(str(error))
    with agent_at(distant.site, checked, tmp_path / "agent"):
        checked.import_hosts([host.host for host in (made.ahead, made.behind, made.young)], proxy=distant.site.name)
        yield made
        checked.run("host", "remove", *made.by_offset, "--yes")


def lines(installation: Installation, document: dict[str, Any], name: str) -> list[str]:
    return installation.run("job", "output", document["job_invocation_id"], "--host", name, "--raw").stdout.split()


def test_clocks_of_hosts_move_no_deadline_and_no_time_that_is_shown(checked: Installation, odd: Odd) -> None:
    before = datetime.now(UTC)
    document = checked.exec(*odd.targets, command=["date", "+%s"])
    after = datetime.now(UTC)
    assert document["counts"] == {"succeeded": 3}
    for row in document["job_tasks"]:
        (said,) = lines(checked, document, row["host"])
        told = datetime.fromtimestamp(float(said), UTC) - odd.by_offset[row["host"]]
        assert before - TOLERANCE <= told <= after + TOLERANCE, "its clock is as wrong as it is meant to be"
        assert before - TOLERANCE <= moment(row["started_at"]) <= moment(row["ended_at"]) <= after + TOLERANCE

    boot_id = odd.young.boot_id.value
    odd.young.power_off()
    odd.young.power_on()
    limit = ("--execution-timeout", f"{LIMIT.total_seconds():g}s")
    began = datetime.now(UTC)
    late = checked.exec(
        *odd.targets, *limit, command=["sh", "-c", "cut -d' ' -f1 /proc/uptime; exec sleep 1234.61"], status=1
    )
    for row in late["job_tasks"]:
        assert (row["status"], row["reason"]) == ("failed", "timed_out")
        assert row["detail"] == "ended after execution_timeout_interval (1s)"
        ran = moment(row["ended_at"]) - moment(row["started_at"])
        assert ran + TOLERANCE >= LIMIT and ran < LIMIT + GRACE, "ended by its own watchdog, and soon"
        assert not [one for one in marked(HOST_VARIABLE, row["host"]) if "1234.61" in " ".join(one.cmdline())]
    assert datetime.now(UTC) - began < SOON
    (uptime,) = lines(checked, late, odd.young.name)
    assert UPTIME.total_seconds() <= float(uptime) < (UPTIME + SOON).total_seconds(), "it had booted anew"
    assert odd.young.boot_id.value != boot_id


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
