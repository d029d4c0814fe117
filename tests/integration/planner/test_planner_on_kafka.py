"""The planner on a real Kafka: signed commands in, decisions out; due attempts in, one command each out, also over kill -9."""

import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from chargehand.embedded.kafka import KafkaAddress
from chargehand_chassis.clock import now
from chargehand_schemas.batches import Outgoing
from chargehand_schemas.catalog import HostRegistered
from chargehand_schemas.commands import CancelJobInvocation, HostRecord
from chargehand_schemas.dead_letters import DeadLetter
from chargehand_schemas.planning import (
    AttemptBound,
    JobInvocationAccepted,
    JobInvocationCancelRequested,
    JobInvocationRefused,
    JobInvocationScheduled,
    JobTasksPlanned,
    ScriptRendered,
)
from chargehand_schemas.proxy_commands import RunProxyCommand
from chargehand_schemas.reasons import DeadLetterReason, Refusal, Role
from chargehand_schemas.topics import COMMANDS
from integration.planner.planner_process import Surroundings, attempt_due, invocation_due, invoke, surroundings


@pytest.fixture
async def world(kafka: KafkaAddress, tmp_path: Path) -> AsyncIterator[Surroundings]:
    async with surroundings(kafka, tmp_path) as made:
        yield made


def hosts(world: Surroundings, *names: str) -> list[HostRecord]:
    return [HostRecord(name=name, proxy=world.proxy) for name in names]


async def accepted(world: Surroundings, *names: str) -> UUID:
    """An accepted invocation on hosts registered for it."""
    await world.imported(*hosts(world, *names))
    command = invoke(*names)
    await world.publish(Role.GATEWAY, command)
    await world.first(JobInvocationScheduled, lambda item: item.job_invocation_id == command.job_invocation_id)
    return command.job_invocation_id


async def host_ids(world: Surroundings, *names: str) -> list[UUID]:
    return [(await world.first(HostRegistered, _is_named(name))).host_id for name in names]


def _is_named(name: str) -> Callable[[HostRegistered], bool]:
    return lambda item: item.host.name == name


async def test_s1_s10_a_job_is_accepted_scheduled_planned_and_bound(world: Surroundings) -> None:
    decided = await world.imported(*hosts(world, "web1", "web2"))
    assert (decided.decision, decided.counts) == ("handled", {"registered": 2, "changed": 0, "unchanged": 0})
    command = invoke("web1", "web2")
    await world.publish(Role.GATEWAY, command)
    scheduled = await world.first(JobInvocationScheduled)
    one = await world.first(JobInvocationAccepted)
    assert (one.description, one.targeting, one.command_id) == ("Run uptime", "2 hosts: web1, web2", command.id)
    assert scheduled.job_invocation_id == command.job_invocation_id
    await world.publish(Role.DISPATCHER, invocation_due(command.job_invocation_id))
    plan = await world.first(JobTasksPlanned)
    assert [(task.host_name, task.proxy) for task in plan.job_tasks] == [("web1", world.proxy), ("web2", world.proxy)]
    dues = [attempt_due(command.job_invocation_id, task.host_id, world.proxy) for task in plan.job_tasks]
    await world.publish(Role.DISPATCHER, *dues)
    run = await world.first(RunProxyCommand, lambda item: item.host.name == "web1")
    assert (run.script, run.proxy, run.provider_type) == ("uptime", world.proxy, "ssh")
    await world.until(lambda items: len(world.all(AttemptBound)) == 2)
    (script,) = world.all(ScriptRendered)
    assert script.digest == run.script_digest


async def test_a_repeated_command_is_decided_once(world: Surroundings) -> None:
    await world.imported(*hosts(world, "web1"))
    command = invoke("web1")
    for _ in range(3):
        await world.publish(Role.GATEWAY, command)
    await world.publish(Role.GATEWAY, command.model_copy(update={"id": uuid4()}))
    refused = invoke("nowhere")
    await world.publish(Role.GATEWAY, refused)
    await world.first(JobInvocationRefused)
    await world.rest()
    assert len([item for item in world.seen if isinstance(item, JobInvocationAccepted)]) == 1


async def test_refusals_name_what_was_wrong(world: Surroundings) -> None:
    await world.imported(*hosts(world, "web1"))
    command = invoke("web2")
    await world.publish(Role.GATEWAY, command)
    refused = await world.first(JobInvocationRefused)
    assert (refused.reason, refused.command_id) == (Refusal.NO_SUCH_HOST, command.id)
    assert "did you mean 'web1'?" in refused.detail


async def test_an_attempt_is_bound_once_however_often_it_is_due_and_the_planner_killed(world: Surroundings) -> None:
    names = [f"web{number}" for number in range(20)]
    job_invocation_id = await accepted(world, *names)
    dues = [attempt_due(job_invocation_id, host_id, world.proxy) for host_id in await host_ids(world, *names)]
    await world.publish(Role.DISPATCHER, *dues)
    await world.publish(Role.DISPATCHER, *dues)
    world.planner.kill()
    await world.publish(Role.DISPATCHER, *dues)
    world.planner.start()
    await world.planner.ready()
    await world.publish(Role.DISPATCHER, *dues)
    last = attempt_due(job_invocation_id, dues[0].host_id, world.proxy, 2)
    await world.publish(Role.DISPATCHER, last)
    await world.first(RunProxyCommand, lambda item: item.attempt == 2)
    await world.rest()
    assert len([item for item in world.seen if isinstance(item, RunProxyCommand)]) - 1 in (20, 40)
    assert len(world.all(RunProxyCommand)) == 21
    assert len(world.all(AttemptBound)) == 21


@pytest.mark.parametrize(
    "point",
    [
        "planner.before_binding_stored",
        "planner.after_binding_stored",
        "planner.before_publish",
        "planner.after_publish_before_position",
    ],
)
async def test_a_kill_between_two_durable_writes_changes_no_decision(world: Surroundings, point: str) -> None:
    job_invocation_id = await accepted(world, "web1")
    (host_id,) = await host_ids(world, "web1")
    await world.planner.stop()
    await world.publish(Role.DISPATCHER, attempt_due(job_invocation_id, host_id, world.proxy))
    world.planner.start(FAULT_POINT=point)
    assert await world.planner.ended() == 137
    world.planner.start()
    run = await world.first(RunProxyCommand)
    await world.planner.stop()
    await world.rest()
    assert {item.id for item in world.seen if isinstance(item, RunProxyCommand)} == {run.id}
    assert [item.script_digest for item in world.all(AttemptBound)] == [run.script_digest]


async def test_what_may_not_be_said_has_no_effect_and_is_a_dead_letter(world: Surroundings) -> None:
    await world.imported(*hosts(world, "web1"))
    forged = [
        (Role.ENROLEE, invoke("web1"), "not enrolled"),
        (Role.DISPATCHER, invoke("web1"), "may not write"),
        (Role.SERVICE_ACCOUNT, invoke("web1"), "may not speak for 'user:ada'"),
        (Role.GATEWAY, invoke("web1", actor="service:ci"), "may not speak for 'service:ci'"),
    ]
    for role, command, _ in forged:
        out = [Outgoing(COMMANDS.name, str(command.job_invocation_id), command)]
        await world.publishers[role].publish(out)
    await world.until(lambda items: len(world.all(DeadLetter)) == len(forged))
    letters = {letter.detail for letter in world.all(DeadLetter)}
    for _, _, words in forged:
        assert any(words in detail for detail in letters), (words, letters)
    good = invoke("web1", actor="service:ci")
    await world.publish(Role.SERVICE_ACCOUNT, good)
    only = await world.first(JobInvocationAccepted)
    await world.rest()
    assert [item.command_id for item in world.all(JobInvocationAccepted)] == [good.id] == [only.command_id]


async def test_a_cancel_is_handed_on_and_a_chunk_asked_for_comes_again(world: Surroundings) -> None:
    job_invocation_id = await accepted(world, "web1")
    await world.publish(Role.DISPATCHER, invocation_due(job_invocation_id))
    await world.first(JobTasksPlanned)
    cancel = CancelJobInvocation(id=uuid4(), time=now(), actor="user:ada", job_invocation_id=job_invocation_id)
    await world.publish(Role.GATEWAY, cancel)
    requested = await world.first(JobInvocationCancelRequested)
    assert requested.command_id == cancel.id


async def test_a_stopped_planner_has_published_everything_and_leaves_nobody(world: Surroundings) -> None:
    names = [f"web{number}" for number in range(200)]
    await world.imported(*hosts(world, *names))
    command = invoke(*names)
    await world.publish(Role.GATEWAY, command)
    await world.first(JobInvocationAccepted)
    began = now()
    assert await world.planner.stop() == 0
    assert now() - began < timedelta(seconds=10)
    await world.rest()
    assert len(world.all(JobInvocationScheduled)) == 1


async def test_rest_a_planner_whose_store_is_older_than_its_log_decides_nothing(world: Surroundings) -> None:
    await world.planner.stop()
    backup = world.planner.directory / "backup"
    shutil.copytree(world.planner.directory / "data", backup)
    world.planner.start()
    job_invocation_id = await accepted(world, "web1")
    (host_id,) = await host_ids(world, "web1")
    await world.publish(Role.DISPATCHER, attempt_due(job_invocation_id, host_id, world.proxy))
    await world.first(RunProxyCommand)
    await world.planner.stop()
    shutil.rmtree(world.planner.directory / "data")
    shutil.copytree(backup, world.planner.directory / "data")
    world.planner.start()
    assert await world.planner.ended() == 78
    assert "restored from a backup" in world.planner.log
    await world.rest()
    assert len([item for item in world.seen if isinstance(item, JobInvocationAccepted)]) == 1


async def test_ret_a_planner_whose_log_was_cut_stops_and_says_where(world: Surroundings) -> None:
    await world.imported(*hosts(world, "web1"))
    await world.planner.stop()
    with sqlite3.connect(world.planner.directory / "data" / "planner.sqlite") as connection:
        connection.execute("update marks set next_offset = next_offset + 1000000")
    connection.close()
    world.planner.start()
    assert await world.planner.ended() == 78
    assert "messages are missing" in world.planner.log
    assert "see `chargehand repair`" in world.planner.log


async def test_a_flood_of_what_nobody_can_believe_stops_no_partition(world: Surroundings) -> None:
    await world.imported(*hosts(world, "web1"))
    stranger = world.publishers[Role.ENROLEE]
    for _ in range(300):
        command = invoke("web1")
        await stranger.publish([Outgoing(COMMANDS.name, str(command.job_invocation_id), command)])
    good = invoke("web1")
    began = now()
    await world.publish(Role.GATEWAY, good)
    await world.first(JobInvocationAccepted)
    assert now() - began < timedelta(seconds=10)
    await world.until(lambda items: len(world.all(DeadLetter)) == 300)
    assert {letter.reason for letter in world.all(DeadLetter)} == {DeadLetterReason.UNKNOWN_KEY}
    assert [item.command_id for item in world.all(JobInvocationAccepted)] == [good.id]
