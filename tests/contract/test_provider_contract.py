"""What every provider with a lock on the host keeps (providers/port.py, docs/protocol.md section 1), over each that we have.

Scripts use what all of them understand: echo, sleep, exit and `>&2`. A new provider adds a world below.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from chargehand_proxy_agent.providers.port import (
    ConnectionLost,
    CouldNotConnect,
    Ended,
    HostConnection,
    Interrupted,
    NeverStarted,
    Output,
    Provider,
    Refused,
    Started,
    Target,
)
from chargehand_proxy_agent.providers.simulated import SimulatedProvider
from support.fixtures import MakesFleets
from support.ssh_targets import provider_for, target_of
from support.visits import allowed, follow, gather, look, look_order, outcome, start, start_order, text_of


@dataclass(frozen=True)
class World:
    """One host, a provider that reaches it, and what can befall them."""

    provider: Provider
    target: Target
    cut_connections: Callable[[], None]
    lose_power: Callable[[], None]
    switch_off: Callable[[], None]
    stranger: str = "nobody-of-this-name"

    async def open(self) -> HostConnection:
        return await self.provider.open(self.target)


@pytest.fixture(params=["ssh", "simulated"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    made = _ssh_world(request, tmp_path) if request.param == "ssh" else _simulated_world(tmp_path)
    yield made
    await made.provider.close()


def _ssh_world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    make: MakesFleets = request.getfixturevalue("sshd_fleet")
    fleet = make(1)

    def lose_power() -> None:
        fleet.power_off("host1")
        fleet.power_on("host1")

    return World(
        provider_for(tmp_path),
        target_of(fleet.hosts[0]),
        cut_connections=lambda: fleet.cut_connections("host1"),
        lose_power=lose_power,
        switch_off=lambda: fleet.power_off("host1"),
    )


def _simulated_world(tmp_path: Path) -> World:
    provider = SimulatedProvider(tmp_path / "hosts.jsonl")
    target = Target("11111111-2222-3333-4444-555555555555", "sim1", user="ops", parameters={"sim.users": "ops deploy"})
    return World(
        provider,
        target,
        cut_connections=lambda: provider.cut(target.host_id),
        lose_power=lambda: provider.reboot(target.host_id),
        switch_off=lambda: provider.set_reachable(target.host_id, False),
    )


async def test_a_start_is_told_then_its_output_then_its_end(world: World) -> None:
    seen = await start(await world.open(), start_order("echo out; echo err >&2; exit 3"))
    assert isinstance(seen[0], Started) and not seen[0].existed and seen[0].boot_id
    assert (text_of(seen), text_of(seen, "stderr")) == (b"out\n", b"err\n")
    end = outcome(seen).ended
    assert (end.exit_status, end.signal, end.cause) == (3, None, "exited")
    assert end.lengths == {"stdout": 4, "stderr": 4} and end.boot_id == seen[0].boot_id
    assert sum(isinstance(one, Started | Ended) for one in seen) == 2


async def test_an_attempt_starts_once_and_is_told_as_often_as_asked(world: World) -> None:
    connection, order = await world.open(), start_order("echo it; exit 4")
    first = outcome(await start(connection, order))
    for again in (await start(connection, order), await look(connection, look_order(order))):
        assert outcome(again).stdout == first.stdout == b"it\n"
        assert outcome(again).exit_status == 4


async def test_two_connections_that_start_one_attempt_start_it_once(world: World) -> None:
    order = start_order("echo it; sleep 0.2")
    first, second = await asyncio.gather(world.open(), world.open())
    both = await asyncio.gather(start(first, order), start(second, order))
    assert [outcome(seen).stdout for seen in both] == [b"it\n"] * 2
    assert sorted(one.existed for seen in both for one in seen if isinstance(one, Started))[0] is False
    assert sum(not one.existed for seen in both for one in seen if isinstance(one, Started)) == 1


async def test_a_look_at_nothing_takes_the_lock_for_ever(world: World) -> None:
    """Rule TOMB."""
    connection, order = await world.open(), start_order("echo it")
    assert await look(connection, look_order(order)) == [NeverStarted("tombstone")]
    assert await start(connection, order) == [NeverStarted("tombstone")]


async def test_a_look_follows_what_runs_from_the_offsets_it_names(world: World) -> None:
    connection, order = await world.open(), start_order("echo one; sleep 0.3; echo two")
    watching = connection.start(order, allowed)
    async for observation in watching:
        if isinstance(observation, Output):
            break
    await watching.aclose()  # type: ignore[attr-defined]
    seen = await look(connection, look_order(order, offsets={"stdout": 4}))
    assert isinstance(seen[0], Started) and seen[0].existed
    assert [one for one in seen if isinstance(one, Output)] == [Output("stdout", 4, b"two\n")]


async def test_an_end_comes_with_the_output_that_is_still_wanted_and_no_more(world: World) -> None:
    connection, order = await world.open(), start_order("echo 0123456789")
    await start(connection, order)
    seen = await look(connection, look_order(order, offsets={"stdout": 6, "stderr": 0}))
    assert text_of(seen) == b"6789\n" and outcome(seen).ended.lengths["stdout"] == 11


async def test_a_start_that_is_not_allowed_is_not_sent(world: World) -> None:
    connection, order = await world.open(), start_order("echo it")
    (refusal,) = await gather(connection.start(order, lambda: False))
    assert isinstance(refusal, Refused) and refusal.why == "start_not_allowed"
    assert outcome(await start(connection, order)).stdout == b"it\n"


async def test_a_start_after_its_deadline_takes_the_lock_and_is_late(world: World) -> None:
    """Rule HDL."""
    connection, order = await world.open(), start_order("echo it", not_after_in=timedelta(seconds=-1))
    assert await start(connection, order) == [NeverStarted("late")]
    assert isinstance((await look(connection, look_order(order)))[-1], NeverStarted)


async def test_what_was_issued_before_the_host_booted_is_not_started(world: World) -> None:
    """Rule BOOT."""
    connection, order = await world.open(), start_order("echo it", issued_ago=timedelta(days=100 * 365))
    (refusal,) = await start(connection, order)
    assert isinstance(refusal, Refused) and refusal.why == "rebooted"
    assert isinstance((await look(connection, look_order(order)))[-1], Interrupted)


async def test_what_a_look_took_for_interrupted_never_starts_and_stays_interrupted(world: World) -> None:
    """Rule BOOT: a start may be on its way, by a clock that has stepped back since."""
    connection, order = await world.open(), start_order("echo it")
    since = look_order(order, issued_ago=timedelta(days=100 * 365))
    assert isinstance((await look(connection, since))[-1], Interrupted)
    assert [type(one) for one in await start(connection, order)] == [Interrupted]
    assert [type(one) for one in await look(connection, look_order(order))] == [Interrupted]


async def test_an_earlier_attempt_that_runs_fences_a_later_one(world: World) -> None:
    """Rule FENCE."""
    first = start_order("echo first; sleep 0.5")
    watching = (await world.open()).start(first, allowed)
    assert isinstance(await anext(watching), Started)
    other = await world.open()
    second = replace(first, attempt=2, script="echo second", earlier=(1,), unknown=())
    assert await start(other, second) == [NeverStarted("fenced", 1)]
    assert outcome(await gather(watching)).exit_status == 0
    third = replace(first, attempt=3, script="echo third", earlier=(1, 2), unknown=())
    assert outcome(await start(other, third)).stdout == b"third\n"


async def test_a_later_attempts_tombstone_proves_nothing_on_a_host_that_booted_since(world: World) -> None:
    """Rules FENCE and BOOT: what the boot took away may have run."""
    connection, first = await world.open(), start_order("echo first")
    await start(connection, replace(first, attempt=2, earlier=(1,), unknown=(1,)))
    assert await look(connection, look_order(first)) == [NeverStarted("tombstone")]
    since = look_order(first, issued_ago=timedelta(days=100 * 365))
    assert isinstance((await look(connection, since))[-1], Interrupted)


async def test_an_earlier_end_that_nobody_knows_of_fences_too(world: World) -> None:
    """Rule FENCE."""
    connection, first = await world.open(), start_order("exit 1")
    await start(connection, first)
    second = replace(first, attempt=2, earlier=(1,), unknown=(1,))
    assert await start(connection, second) == [NeverStarted("fenced", 1)]


async def test_an_earlier_attempt_that_never_came_never_comes(world: World) -> None:
    connection, second = await world.open(), start_order("echo it", attempt=2, earlier=(1,))
    assert outcome(await start(connection, second)).stdout == b"it\n"
    assert isinstance((await start(connection, replace(second, attempt=1, earlier=())))[-1], NeverStarted)


async def test_a_provider_that_knows_effective_users_runs_as_one_or_says_in_words_that_it_cannot(world: World) -> None:
    """A tombstone with words: it is not started, now or later."""
    assert world.provider.supports.effective_user
    connection, order = await world.open(), start_order("echo it", effective_user=world.stranger)
    (refusal,) = await start(connection, order)
    assert isinstance(refusal, NeverStarted) and refusal.refusal.startswith(f"cannot run as {world.stranger}: ")
    assert isinstance((await start(connection, replace(order, effective_user="")))[-1], NeverStarted)
    connecting = start_order("echo it", effective_user=world.target.user, attempt=2)
    assert outcome(await start(connection, connecting)).stdout == b"it\n"


async def test_a_time_limit_ends_it_and_says_so(world: World) -> None:
    order = start_order("echo it; sleep 60", execution_timeout=timedelta(seconds=0.4))
    seen = outcome(await start(await world.open(), order))
    assert seen.ended.cause == "timed_out" and seen.stdout == b"it\n"


async def test_the_run_deadline_bounds_the_execution_timeout(world: World) -> None:
    order = start_order("sleep 60", run_deadline_in=timedelta(seconds=0.6))
    assert outcome(await start(await world.open(), order)).ended.cause == "timed_out"


async def test_a_cancel_ends_what_runs_and_both_watchers_hear_of_it(world: World) -> None:
    order = start_order("echo it; sleep 60")
    watching = (await world.open()).start(order, allowed)
    assert isinstance(await anext(watching), Started)
    cancelled = outcome(await look(await world.open(), look_order(order, cancel=True)))
    assert cancelled.ended.cause == "cancelled"
    assert outcome(await gather(watching)).ended.cause == "cancelled"


async def test_a_cancel_of_what_ended_by_itself_changes_nothing(world: World) -> None:
    """Rule CANC."""
    connection, order = await world.open(), start_order("exit 5")
    await start(connection, order)
    end = outcome(await look(connection, look_order(order, cancel=True))).ended
    assert (end.exit_status, end.cause) == (5, "exited")


async def test_a_cut_connection_is_told_and_the_attempt_goes_on(world: World) -> None:
    order = start_order("echo one; sleep 0.5; echo two; exit 6")
    seen: list[object] = []
    async for observation in (await world.open()).start(order, allowed):
        seen.append(observation)
        if isinstance(observation, Output):
            world.cut_connections()
    assert isinstance(seen[-1], ConnectionLost) and seen[-1].order_sent
    whole = await follow(await world.open(), order)
    assert (whole.stdout, whole.exit_status) == (b"one\ntwo\n", 6)


async def test_an_attempt_that_a_power_failure_ended_is_interrupted(world: World) -> None:
    order = start_order("echo it; sleep 60")
    async for observation in (await world.open()).start(order, allowed):
        if isinstance(observation, Output):
            world.lose_power()
    seen = await look(await world.open(), look_order(order))
    assert isinstance(seen[-1], Interrupted) and seen[-1].detail and text_of(seen) == b"it\n"


async def test_a_host_that_is_off_cannot_be_connected_to(world: World) -> None:
    world.switch_off()
    with pytest.raises(CouldNotConnect) as refusal:
        await world.open()
    assert refusal.value.why in ("refused", "unreachable", "timed_out")


async def test_a_connection_can_be_given_back_twice_and_taken_again(world: World) -> None:
    connection = await world.open()
    await connection.release()
    await connection.release()
    assert outcome(await start(await world.open(), start_order("echo it"))).stdout == b"it\n"
