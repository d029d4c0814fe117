"""The agent killed between any two durable writes and started again: one start on the host, one true end (S3).

Each point of chargehand_proxy_agent.shell.faults is armed in turn; the process ends there as by kill -9.
"""

import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from chargehand.embedded.kafka import KafkaAddress
from chargehand_chassis.clock import now
from chargehand_proxy_agent.core.entry import Phase
from chargehand_proxy_agent.shell import faults
from chargehand_schemas.execution import (
    AttemptAccepted,
    AttemptEnded,
    AttemptFact,
    AttemptInterrupted,
    AttemptNeverStarted,
    AttemptReleased,
    AttemptStarted,
)
from chargehand_schemas.proxies import AgentStarted
from chargehand_schemas.proxy_commands import RunProxyCommand
from chargehand_schemas.reasons import EndCause, ReleaseReason, Stream
from integration.agent.agent_process import Site, site


@pytest.fixture
async def world(kafka: KafkaAddress, tmp_path: Path) -> AsyncIterator[Site]:
    async with site(kafka, tmp_path) as made:
        yield made


async def die_at(world: Site, point: str, give: Callable[[Site], RunProxyCommand]) -> RunProxyCommand:
    """Start an agent armed with `point`, give it what leads there, see it die, and start it again."""
    world.agent.start(FAULT_POINT=point)
    await world.first(AgentStarted)
    command = give(world)
    await world.command(command)
    assert await world.agent.ended() == 137, f"did not die at {point}\n{world.agent.log}"
    world.agent.start()
    await world.until(lambda: len(world.items(AgentStarted)) == 2)
    return command


def one_with_output(world: Site) -> RunProxyCommand:
    return world.run("echo begun; sleep 0.3; echo done; exit 6")


def one_that_is_unreachable(world: Site) -> RunProxyCommand:
    return world.run("true", parameters={"sim.unreachable": "yes"})


UNSENT = [
    faults.AFTER_JOURNAL[Phase.ACCEPTED],
    faults.AFTER_SAYING[Phase.ACCEPTED],
    faults.CONNECTED,
]


@pytest.mark.parametrize("point", UNSENT)
async def test_what_was_only_accepted_is_released_without_proof_and_never_starts(world: Site, point: str) -> None:
    command = await die_at(world, point, one_with_output)
    released = await world.first(AttemptReleased, command)
    assert (released.why, released.proves_never_started) == (ReleaseReason.JOURNAL, False)
    assert world.starts_on_hosts(command) == 0


async def test_a_start_that_was_journaled_and_not_sent_is_proved_never_started_by_a_look(world: Site) -> None:
    command = await die_at(world, faults.AFTER_JOURNAL[Phase.STARTING], one_with_output)
    await world.first(AttemptNeverStarted, command)
    assert world.starts_on_hosts(command) == 0


SENT = [
    faults.STARTED,
    faults.OUTPUT_ACKED,
    faults.AFTER_JOURNAL[Phase.ENDED],
    faults.AFTER_SAYING[Phase.ENDED],
]


@pytest.mark.parametrize("point", SENT)
async def test_what_was_started_has_one_start_its_true_end_and_all_its_output(world: Site, point: str) -> None:
    command = await die_at(world, point, one_with_output)
    (ended,) = await world.ended(command)
    await world.until(lambda: len(world.output(command)) == ended.lengths[Stream.STDOUT])
    assert (ended.exit_status, world.output(command)) == (6, b"begun\ndone\n")
    assert ended.digests[Stream.STDOUT] == hashlib.sha256(b"begun\ndone\n").hexdigest()
    assert world.starts_on_hosts(command) == 1
    assert len(world.items(AttemptEnded, command)) == 1, "the end said again has the same id"


@pytest.mark.parametrize("point", [faults.AFTER_JOURNAL[Phase.RELEASED], faults.AFTER_SAYING[Phase.RELEASED]])
async def test_a_release_is_said_once_more_with_the_same_words(world: Site, point: str) -> None:
    command = await die_at(world, point, one_that_is_unreachable)
    released = await world.first(AttemptReleased, command)
    assert released.why is ReleaseReason.COULD_NOT_CONNECT
    assert len(world.items(AttemptReleased, command)) == 1


async def die_again(world: Site, point: str, number: int) -> None:
    """Start an agent armed with `point`, which it comes by on its own, see it die, and start it again, the `number`th."""
    world.agent.start(FAULT_POINT=point)
    assert await world.agent.ended() == 137, f"did not die at {point}\n{world.agent.log}"
    world.agent.start()
    await world.until(lambda: len(world.items(AgentStarted)) == number)


async def settled(world: Site) -> None:
    """Another attempt, given after all that came before, has ended."""
    last = world.run("true", host="web99")
    await world.command(last)
    await world.ended(last)


async def one_that_runs(world: Site) -> RunProxyCommand:
    """Its output is there, and the agent is gone, and no member of its group any more."""
    world.agent.start()
    await world.first(AgentStarted)
    command = world.run("echo begun; sleep 600")
    await world.command(command)
    await world.until(lambda: world.output(command) == b"begun\n")
    await world.agent.stop()
    return command


@pytest.mark.parametrize("point", [faults.AFTER_JOURNAL[Phase.NEVER_STARTED], faults.AFTER_SAYING[Phase.NEVER_STARTED]])
async def test_what_a_look_proved_never_started_is_said_once_more_with_the_same_words(world: Site, point: str) -> None:
    world.agent.start(FAULT_POINT=faults.AFTER_JOURNAL[Phase.STARTING])
    await world.first(AgentStarted)
    command = one_with_output(world)
    await world.command(command)
    assert await world.agent.ended() == 137
    await die_again(world, point, 3)
    await world.first(AttemptNeverStarted, command)
    await settled(world)
    assert len(world.items(AttemptNeverStarted, command)) == 1
    assert world.starts_on_hosts(command) == 0


@pytest.mark.parametrize("point", [faults.AFTER_JOURNAL[Phase.INTERRUPTED], faults.AFTER_SAYING[Phase.INTERRUPTED]])
async def test_what_a_reboot_interrupted_is_said_once_more_with_the_same_words(world: Site, point: str) -> None:
    command = await one_that_runs(world)
    with (world.agent.directory / "data" / "simulated-hosts.jsonl").open("a") as hosts:
        hosts.write(json.dumps(["r", str(command.host_id), time.time()]) + "\n")
    await die_again(world, point, 3)
    interrupted = await world.first(AttemptInterrupted, command)
    await settled(world)
    assert world.items(AttemptInterrupted, command) == [interrupted] and "booted" in interrupted.detail
    assert world.starts_on_hosts(command) == 1 and not world.items(AttemptEnded, command)


async def test_what_runs_and_the_journal_does_not_know_is_followed_until_it_is_cancelled(world: Site) -> None:
    command = await one_that_runs(world)
    for path in (world.agent.directory / "data").glob("journal.sqlite*"):
        path.unlink()
    await world.command(world.resume(command))
    await die_again(world, faults.AFTER_JOURNAL[Phase.FOLLOWING], 3)
    await world.command(world.cancel(command))
    (ended,) = await world.ended(command)
    await world.until(lambda: len(world.output(command)) == ended.lengths[Stream.STDOUT])
    assert (ended.cause, world.output(command)) == (EndCause.CANCELLED, b"begun\n")
    assert world.starts_on_hosts(command) == 1 and len(world.items(AttemptEnded, command)) == 1


async def test_fifty_attempts_survive_three_kills_at_any_moment(world: Site) -> None:
    world.agent.start()
    await world.first(AgentStarted)
    commands = [world.run("echo begun; sleep 2; echo done", host=f"web{n}") for n in range(50)]
    await world.command(*commands)
    for kill in range(3):
        await world.until(lambda: len(world.items(AttemptAccepted)) >= 10)
        world.agent.kill()
        world.agent.start()
        await world.until(lambda kill=kill: len(world.items(AgentStarted)) == kill + 2)  # type: ignore[misc]
    over = (AttemptEnded, AttemptNeverStarted, AttemptReleased, AttemptInterrupted)
    await world.until(lambda: all(any(world.items(kind, c) for kind in over) for c in commands))
    for command in commands:
        assert world.starts_on_hosts(command) == len(world.items(AttemptEnded, command)) <= 1
        assert len({item.agent_boot_id for item in world.items(AttemptFact, command)}) >= 1
        if world.items(AttemptStarted, command):
            await world.until(lambda c=command: world.output(c) == b"begun\ndone\n")  # type: ignore[misc]


async def test_a_start_whose_time_passed_while_the_agent_was_dead_does_not_start(world: Site) -> None:
    command = world.run("echo late", not_after=now() + timedelta(seconds=0.2))
    await world.command(command)
    await world.until(lambda: now() > command.not_after)
    world.agent.start()
    released = await world.first(AttemptReleased, command)
    assert released.why is ReleaseReason.EXPIRED
    assert world.starts_on_hosts(command) == 0
