"""Hosts that answer nothing at all, a tenth of them: those that answer do not wait for them, whatever the agent's bounds are."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from chargehand_schemas.dispatch import JobTaskEnded
from chargehand_schemas.execution import AttemptReleased
from support.distant_hosts import DistantHosts
from support.installation import Installation
from support.site_agent import SiteAgent, agent_at
from support.sshd import NoSshd, SshHost

GOOD, BAD = 27, 10
CONNECT_TIMEOUT_S = 12
BOUNDS = {"MAX_CONNECTS": "8", "SSH_MAX_CONNECTIONS": "8", "SSH_CONNECT_TIMEOUT": f"PT{CONNECT_TIMEOUT_S}S"}
"""Fewer than there are black holes: what these can fill, they fill."""
YOUNG = {"CLOCK_MARGIN": "PT1S"}
"""The word of an agent that has just begun its journal proves sooner (rule ONE): the verdicts on black holes need not be waited for."""
DESCRIPTORS = 32


@pytest.fixture
def hosts(checked: Installation, distant: DistantHosts, agent: SiteAgent) -> Iterator[list[SshHost]]:
    """In the inventory, the black holes first."""
    try:
        good = distant.shown(distant.fleet(GOOD, "good"))
    except NoSshd as error:
        pytest.skip(str(error))
    both = [*distant.black_holes(BAD, good[0]), *good]
    checked.import_hosts(both, proxy=agent.proxy)
    yield both
    checked.run("host", "remove", *(host.name for host in both), "--yes")


@pytest.fixture
def agent(checked: Installation, distant: DistantHosts, tmp_path: Path) -> Iterator[SiteAgent]:
    with agent_at(distant.site, checked, tmp_path / "agent", on=with_few_descriptors, settings=BOUNDS | YOUNG) as made:
        yield made


def with_few_descriptors(argv: Sequence[str]) -> list[str]:
    """As most systems start a process, only fewer still: not enough for all hosts, if it does not ask for more."""
    return ["/bin/sh", "-c", f'ulimit -S -n {DESCRIPTORS} && exec "$@"', "sh", *argv]


def test_good_hosts_do_not_wait_for_those_that_never_answer(
    checked: Installation, distant: DistantHosts, hosts: list[SshHost]
) -> None:
    """All good ones have their verdict before the first black hole is given up: so none of them stood behind one."""
    distant.relay.delay(timedelta(milliseconds=40))
    targets = [option for host in hosts for option in ("--host", host.name)]
    document = checked.exec(*targets, command=["echo", "hello"], status=1, within_s=90)
    rows = {row["host"]: row for row in document["job_tasks"]}
    assert document["counts"] == {"succeeded": GOOD, "failed": BAD}
    bad = {name: row for name, row in rows.items() if name.startswith("hole")}
    assert {row["reason"] for row in bad.values()} == {"could_not_connect"}
    assert all(f"no login within {CONNECT_TIMEOUT_S} s" in row["detail"] for row in bad.values())
    log = checked.recording().invocations[UUID(document["job_invocation_id"])]
    verdicts = [
        entry.append_time
        for entry in log.dispatch
        if isinstance(entry.item, JobTaskEnded) and entry.item.host_name.startswith("good")
    ]
    given_up = [
        entry.append_time for facts in log.facts.values() for entry in facts if isinstance(entry.item, AttemptReleased)
    ]
    assert (len(verdicts), len(given_up)) == (GOOD, BAD)
    assert max(verdicts) < min(given_up)
