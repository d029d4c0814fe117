"""The ssh provider and the wrapper against OpenSSH's own server: a start, its output, its end, and what is left of a cut connection."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from chargehand_proxy_agent.providers.port import ConnectionLost, Ended, NeverStarted, Output, Refused, Started
from chargehand_proxy_agent.providers.ssh import SshProvider
from support.fixtures import MakesFleets
from support.ssh_targets import provider_for, target_of
from support.sshd import SshdFleet, SshHost
from support.visits import allowed, follow, look, look_order, outcome, start, start_order


@pytest.fixture
def fleet(sshd_fleet: MakesFleets) -> SshdFleet:
    return sshd_fleet(1)


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[SshProvider]:
    provider = provider_for(tmp_path)
    yield provider
    await provider.close()


async def test_a_script_runs_in_the_users_home_and_its_output_and_status_come_back(
    fleet: SshdFleet, provider: SshProvider
) -> None:
    host = fleet.hosts[0]
    connection = await provider.open(target_of(host))
    seen = outcome(await start(connection, start_order("pwd; echo to-stderr >&2; exit 3")))
    assert (seen.stdout, seen.stderr, seen.exit_status) == (f"{host.home}\n".encode(), b"to-stderr\n", 3)
    await connection.release()


async def test_the_next_job_finds_the_connection_open(fleet: SshdFleet, provider: SshProvider) -> None:
    target = target_of(fleet.hosts[0])
    for _ in range(3):
        connection = await provider.open(target)
        assert outcome(await start(connection, start_order("true"))).exit_status == 0
        await connection.release()
    assert provider.connections == 1
    assert fleet.log("host1").count("Accepted publickey") == 1


async def test_more_hosts_than_connections_may_be_open_all_have_their_turn(
    sshd_fleet: MakesFleets, tmp_path: Path
) -> None:
    hosts = sshd_fleet(8, per_sshd=8).hosts
    provider = provider_for(tmp_path, max_connections=2)

    async def visited(host: SshHost) -> int | None:
        connection = await provider.open(target_of(host))
        try:
            assert provider.connections <= 2
            return outcome(await start(connection, start_order("true"))).exit_status
        finally:
            await connection.release()

    async with asyncio.timeout(30):
        assert await asyncio.gather(*map(visited, hosts)) == [0] * len(hosts)
    await provider.close()


async def test_waiting_for_a_connection_to_be_free_is_not_the_hosts_time(
    sshd_fleet: MakesFleets, tmp_path: Path
) -> None:
    busy, patient = sshd_fleet(2, per_sshd=2).hosts
    provider = provider_for(tmp_path, max_connections=1, connect_timeout=timedelta(seconds=1))
    connection = await provider.open(target_of(busy))
    opening = asyncio.create_task(provider.open(target_of(patient)))
    assert outcome(await start(connection, start_order("sleep 2"))).exit_status == 0
    assert not opening.done()
    await connection.release()
    second = await opening
    assert outcome(await start(second, start_order("true"))).exit_status == 0
    await second.release()
    await provider.close()


async def test_a_connection_that_died_while_nobody_used_it_is_replaced_without_a_word(
    fleet: SshdFleet, provider: SshProvider
) -> None:
    target = target_of(fleet.hosts[0])
    first = await provider.open(target)
    await start(first, start_order("true"))
    await first.release()
    second = await provider.open(target)
    fleet.cut_connections("host1")
    assert outcome(await start(second, start_order("true"))).exit_status == 0


async def test_a_start_that_is_no_longer_allowed_sends_nothing(fleet: SshdFleet, provider: SshProvider) -> None:
    connection = await provider.open(target_of(fleet.hosts[0]))
    order = start_order("touch was-here")
    (seen,) = [one async for one in connection.start(order, lambda: False)]
    assert isinstance(seen, Refused) and seen.why == "start_not_allowed"
    assert not (fleet.hosts[0].home / "was-here").exists()
    assert await look(connection, look_order(order)) == [NeverStarted("tombstone")]


@pytest.mark.parametrize("size_bytes", [0, 1, 1024, 1025, 70_000, 10_000_000])
async def test_binary_output_of_any_size_is_exact_by_digest(
    fleet: SshdFleet, provider: SshProvider, size_bytes: int
) -> None:
    connection = await provider.open(target_of(fleet.hosts[0]))
    script = f"head -c {size_bytes} /dev/urandom >it; cat it; sha256sum <it >&2"
    seen = outcome(await start(connection, start_order(script)))
    assert hashlib.sha256(seen.stdout).hexdigest() == seen.stderr.decode("ascii").split()[0]
    assert seen.ended.lengths["stdout"] == size_bytes == len(seen.stdout)


async def test_output_of_a_cut_connection_comes_whole_from_the_next_looks(
    fleet: SshdFleet, provider: SshProvider
) -> None:
    target = target_of(fleet.hosts[0])
    connection = await provider.open(target)
    order = start_order(
        "for i in 1 2 3 4 5 6 7 8; do head -c 1250000 /dev/urandom | tee -a it; sleep 0.1; done; sha256sum <it >&2"
    )
    first: list[object] = []
    async for observation in connection.start(order, allowed):
        first.append(observation)
        if isinstance(observation, Output):
            fleet.cut_connections("host1")
    assert isinstance(first[0], Started) and isinstance(first[-1], ConnectionLost) and first[-1].order_sent
    seen = await follow(await provider.open(target), order)
    assert seen.exit_status == 0
    assert hashlib.sha256(seen.stdout).hexdigest() == seen.stderr.decode("ascii").split()[0]


async def test_a_repeated_start_follows_the_first_and_starts_nothing(fleet: SshdFleet, provider: SshProvider) -> None:
    connection = await provider.open(target_of(fleet.hosts[0]))
    order = start_order("echo once >>ledger; cat ledger")
    first, second = await start(connection, order), await start(connection, order)
    assert outcome(first).stdout == outcome(second).stdout == b"once\n"
    assert isinstance(second[-1], Ended)


async def test_closing_the_iterator_stops_watching_and_nothing_else(fleet: SshdFleet, provider: SshProvider) -> None:
    connection = await provider.open(target_of(fleet.hosts[0]))
    order = start_order("echo begun; sleep 0.5; echo done")
    watching = connection.start(order, allowed)
    assert isinstance(await anext(watching), Started)
    await watching.aclose()
    assert (await follow(connection, order)).stdout == b"begun\ndone\n"
