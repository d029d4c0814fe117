"""The agent on a real Kafka with simulated hosts: signed commands in, facts and output back (docs/protocol.md, section 1)."""

import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from chargehand.embedded.kafka import KafkaAddress
from chargehand_chassis.clock import now
from chargehand_chassis.kafka import Publisher
from chargehand_chassis.keys import generate_keys
from chargehand_schemas.batches import Outgoing
from chargehand_schemas.dead_letters import DeadLetter
from chargehand_schemas.execution import (
    AttemptAccepted,
    AttemptEnded,
    AttemptFact,
    AttemptNeverStarted,
    AttemptReleased,
    AttemptStarted,
)
from chargehand_schemas.hosts import HostReachabilityObserved
from chargehand_schemas.proxies import AgentHeartbeat, AgentStarted, AgentStopped, AttemptsFollowed
from chargehand_schemas.reasons import DeadLetterReason, EndCause, NeverStartedWhy, ReleaseReason, Stream
from chargehand_schemas.topics import PROXY_COMMANDS
from integration.agent.agent_process import Site, site


@pytest.fixture
async def world(kafka: KafkaAddress, tmp_path: Path) -> AsyncIterator[Site]:
    async with site(kafka, tmp_path) as made:
        yield made


async def started(world: Site, **settings: str) -> Site:
    world.agent.start(**settings)
    await world.first(AgentStarted)
    return world


async def test_a_signed_command_is_accepted_started_shown_and_ended(world: Site) -> None:
    await started(world)
    command = world.run("echo one; echo two; echo bad >&2; exit 3")
    await world.command(command)
    (ended,) = await world.ended(command)
    facts = [type(item) for item in world.items(AttemptFact, command)]
    assert facts == [AttemptAccepted, AttemptStarted, AttemptEnded]
    assert (ended.exit_status, ended.cause, ended.signal) == (3, EndCause.EXITED, None)
    await world.until(lambda: len(world.output(command)) == ended.lengths[Stream.STDOUT])
    assert world.output(command) == b"one\ntwo\n"
    assert ended.lengths == ended.kept == {Stream.STDOUT: 8, Stream.STDERR: 4}
    assert ended.newlines == {Stream.STDOUT: 2, Stream.STDERR: 1}
    assert ended.digests[Stream.STDOUT] == hashlib.sha256(b"one\ntwo\n").hexdigest()
    (begun,) = world.items(AttemptStarted, command)
    assert begun.script_digest == command.script_digest
    assert (begun.proxy, begun.agent_id) == (world.proxy, "agent-1")


async def test_a_repeated_command_repeats_the_last_report_and_starts_nothing(world: Site) -> None:
    await started(world)
    command = world.run("echo once")
    await world.command(command, command)
    await world.ended(command)
    await world.command(command)
    other = world.run("true", host="web2")
    await world.command(other)
    await world.ended(other)
    assert world.starts_on_hosts(command) == 1
    assert len(world.items(AttemptEnded, command)) == 1, "repeats carry the same id"


async def test_a_late_command_is_released_and_starts_nothing(world: Site) -> None:
    await started(world)
    late = world.run("echo late", not_after=now() - timedelta(seconds=1), issued_at=now() - timedelta(seconds=31))
    await world.command(late)
    released = await world.first(AttemptReleased, late)
    assert (released.why, released.proves_never_started) == (ReleaseReason.EXPIRED, False)
    assert world.starts_on_hosts(late) == 0


async def test_a_command_with_a_wrong_signature_has_no_effect_and_becomes_a_dead_letter(
    world: Site, tmp_path: Path
) -> None:
    await started(world)
    stranger = Publisher(world.settings, generate_keys(tmp_path / "stranger.json"), "planner/false")
    await stranger.start()
    false, true = world.run("echo false"), world.run("echo true", host="web2")
    topic = PROXY_COMMANDS.of(world.proxy)
    await stranger.publish([Outgoing(topic, str(false.host_id), false)])
    await stranger.stop()
    await world.command(true)
    await world.ended(true)
    await world.until(lambda: any(letter.topic == topic for letter in _letters(world)))
    (letter,) = [letter for letter in _letters(world) if letter.topic == topic]
    assert letter.reason is DeadLetterReason.UNKNOWN_KEY
    assert world.items(AttemptFact, false) == []


def _letters(world: Site) -> list[DeadLetter]:
    """Dead letters are signed by the agent and name our topic, not an invocation."""
    items = (item for message in world.seen for item in getattr(message, "items", ()))
    return [item for item in items if isinstance(item, DeadLetter)]


async def test_a_command_for_another_proxy_has_no_effect(world: Site) -> None:
    await started(world)
    stray = world.run("echo stray", proxy="elsewhere")
    await world.command(stray)
    await world.until(lambda: any(x.reason is DeadLetterReason.SUBJECT_NOT_ALLOWED for x in _letters(world)))
    assert world.items(AttemptFact, stray) == []


async def test_the_agents_own_policy_is_a_second_fence(world: Site) -> None:
    await started(world, DENIED_EFFECTIVE_USERS='["root"]', DENIED_SCRIPTS='["rm -rf /"]')
    as_root, wild = world.run("id", effective_user="root"), world.run("rm -rf /", host="web2")
    await world.command(as_root, wild)
    for command in (as_root, wild):
        assert (await world.first(AttemptReleased, command)).why is ReleaseReason.POLICY


async def test_an_unreachable_host_is_a_release_that_proves_and_is_said_of_the_host(world: Site) -> None:
    await started(world, CLOCK_MARGIN="PT0.2S")
    settled = world.run("true", host="web2")
    await world.command(settled)
    await world.ended(settled)
    command = world.run("true", parameters={"sim.unreachable": "yes"})
    await world.command(command.model_copy(update={"issued_at": now() + timedelta(seconds=1)}))
    released = await world.first(AttemptReleased, command)
    assert (released.why, released.proves_never_started) == (ReleaseReason.COULD_NOT_CONNECT, True)
    await world.until(lambda: any(not seen.reachable for seen in world.items(HostReachabilityObserved)))
    (seen,) = [seen for seen in world.items(HostReachabilityObserved) if not seen.reachable]
    assert (seen.host_id, seen.why) == (command.host_id, "unreachable")


async def test_cancel_ends_what_runs_and_a_second_one_is_answered_from_the_journal(world: Site) -> None:
    await started(world)
    command = world.run("echo begun; sleep 600")
    await world.command(command)
    await world.first(AttemptStarted, command)
    await world.command(world.cancel(command))
    (ended,) = await world.ended(command)
    assert ended.cause is EndCause.CANCELLED
    await world.command(world.cancel(command, asked=2))
    await world.until(lambda: len(world.items(AttemptEnded, command)) == 2)
    assert len({item.ended_at for item in world.items(AttemptEnded, command)}) == 1


async def test_cancel_of_what_never_came_puts_a_tombstone_and_nothing_starts_afterwards(world: Site) -> None:
    await started(world)
    command = world.run("echo never")
    await world.command(world.cancel(command))
    never = await world.first(AttemptNeverStarted, command)
    assert never.why is NeverStartedWhy.TOMBSTONE
    await world.command(command)
    other = world.run("true", host="web2")
    await world.command(other)
    await world.ended(other)
    assert world.starts_on_hosts(command) == 0


async def test_resume_of_what_is_followed_is_answered_without_a_visit(world: Site) -> None:
    await started(world)
    command = world.run("sleep 600")
    await world.command(command)
    first = await world.first(AttemptStarted, command)
    await world.command(world.resume(command))
    await world.until(lambda: len(world.items(AttemptStarted, command)) == 2)
    again = world.items(AttemptStarted, command)[1]
    assert again.id != first.id and again.started_at == first.started_at


async def test_an_agent_without_the_journal_finds_the_end_on_the_host(world: Site) -> None:
    await started(world)
    command = world.run("echo kept; exit 4")
    await world.command(command)
    (first,) = await world.ended(command)
    await world.agent.stop()
    for path in (world.agent.directory / "data").glob("journal.sqlite*"):
        path.unlink()
    world.agent.start()
    await world.until(lambda: len(world.items(AgentStarted)) == 2)
    await world.command(world.resume(command))
    await world.until(lambda: len(world.items(AttemptEnded, command)) == 2)
    again = world.items(AttemptEnded, command)[1]
    assert again.journal_id != first.journal_id
    assert (again.exit_status, again.digests) == (4, first.digests)


async def test_heartbeats_measure_the_clock_and_name_what_is_followed(world: Site) -> None:
    await started(world, HEARTBEAT_EVERY="PT0.3S")
    command = world.run("sleep 600")
    await world.command(command)
    await world.until(lambda: any(beat.following == 1 for beat in world.items(AgentHeartbeat)))
    offset = world.items(AgentHeartbeat)[-1].clock_offset_s
    assert offset is not None and abs(offset) < 1, "one machine has one clock"
    await world.until(lambda: any(followed.attempts for followed in world.items(AttemptsFollowed)))
    (named,) = next(followed.attempts for followed in world.items(AttemptsFollowed) if followed.attempts)
    assert (named.job_task_id, named.attempt) == (command.job_task_id, command.attempt)


async def test_a_stopped_agent_leaves_jobs_running_and_its_successor_follows_them(world: Site) -> None:
    await started(world)
    command = world.run("echo before; sleep 3; echo after; exit 5")
    await world.command(command)
    await world.until(lambda: world.output(command) == b"before\n")
    assert await world.agent.stop() == 0, world.agent.log
    await world.first(AgentStopped)
    world.agent.start()
    (ended,) = await world.ended(command)
    await world.until(lambda: len(world.output(command)) == ended.lengths[Stream.STDOUT])
    assert (ended.exit_status, world.output(command)) == (5, b"before\nafter\n")
    assert world.starts_on_hosts(command) == 1


async def test_five_megabytes_arrive_whole_and_by_digest(world: Site) -> None:
    await started(world)
    command = world.run("true", parameters={"sim.output_bytes": str(5 * 1024 * 1024)})
    await world.command(command)
    (ended,) = await world.ended(command)
    await world.until(lambda: len(world.output(command)) == ended.lengths[Stream.STDOUT])
    output = world.output(command)
    assert len(output) == 5 * 1024 * 1024
    assert hashlib.sha256(output).hexdigest() == ended.digests[Stream.STDOUT]
