"""The planner on a real Kafka, further: enrolment, templates nobody has to trust, people who leave, and two planners at once."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from chargehand.embedded.kafka import KafkaAddress
from chargehand.embedded.ports import choose_ports
from chargehand_chassis.clock import now
from chargehand_chassis.kafka import Publisher, topics_ready
from chargehand_chassis.keys import enrolment_keys, generate_keys, new_enrolment_token
from chargehand_schemas.batches import Outgoing
from chargehand_schemas.catalog import CommandDecided, EnrolmentTokenIssued, HostRegistered, KeyEnrolled
from chargehand_schemas.commands import (
    CreateUser,
    DisableUser,
    EnrolKey,
    HostRecord,
    IssueEnrolmentToken,
    RevokeKey,
    SaveJobTemplate,
    TemplateInput,
)
from chargehand_schemas.dispatch import CancelDue, JobInvocationEnded, PlanChunkMissing
from chargehand_schemas.ids import job_task_id
from chargehand_schemas.planning import (
    AttemptBound,
    AttemptRefused,
    AttemptVoided,
    JobInvocationAccepted,
    JobInvocationScheduled,
    JobTasksPlanned,
)
from chargehand_schemas.proxies import AgentStarted
from chargehand_schemas.proxy_commands import CancelProxyCommand, RunProxyCommand
from chargehand_schemas.reasons import JobInvocationStatus, Reason, Refusal, Role
from chargehand_schemas.topics import COMMANDS, PROXY_COMMANDS, PROXY_EVENTS
from integration.planner.planner_process import (
    ADMIN,
    PlannerProcess,
    Surroundings,
    attempt_due,
    invocation_due,
    invoke,
    surroundings,
)

BOMB = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}"


@pytest.fixture
async def world(kafka: KafkaAddress, tmp_path: Path) -> AsyncIterator[Surroundings]:
    async with surroundings(kafka, tmp_path) as made:
        yield made


async def registered(world: Surroundings, *names: str, **fields: Any) -> list[UUID]:
    await world.imported(*(HostRecord(name=name, proxy=world.proxy, **fields) for name in names))
    return [(await world.first(HostRegistered, _is_named(name))).host_id for name in names]


def _is_named(name: str) -> Callable[[HostRegistered], bool]:
    return lambda item: item.host.name == name


async def accepted(world: Surroundings, *names: str, **fields: Any) -> UUID:
    command = invoke(*names, **fields)
    await world.publish(Role.GATEWAY, command)
    await world.first(JobInvocationScheduled, lambda item: item.job_invocation_id == command.job_invocation_id)
    return command.job_invocation_id


async def decided(world: Surroundings, command: Any) -> CommandDecided:
    await world.publish(Role.GATEWAY, command)
    return await world.decided(command)


async def test_an_agent_enrols_once_with_its_token_and_its_topic_is_there_before_anybody_hears_of_it(
    world: Surroundings, tmp_path: Path
) -> None:
    token, subject = enrolment_keys(new_enrolment_token()), f"new-{uuid4().hex[:8]}"
    issue = IssueEnrolmentToken(
        id=uuid4(), time=now(), actor=ADMIN, token_key=token.signing_public.hex(), role=Role.AGENT, subject=subject,
        expires_at=now() + timedelta(hours=1),
    )  # fmt: skip
    assert (await decided(world, issue)).decision == "handled"
    await world.first(EnrolmentTokenIssued)
    own = generate_keys(tmp_path / "agent-new.json")
    enrolee = Publisher(world.settings, token, "enrolee")
    await enrolee.start()
    for attempt in (1, 2):
        request = EnrolKey(
            id=uuid4(), time=now(), token_kid=token.kid, agent_id=f"agent-{attempt}",
            signing_key=own.signing_public.hex(), sealing_key=own.sealing_public.hex(),
        )  # fmt: skip
        await enrolee.publish([Outgoing(COMMANDS.name, token.kid, request)])
        if attempt == 1:
            enrolled = await world.first(KeyEnrolled, lambda item: item.subject == subject)
            await topics_ready(world.settings, [PROXY_COMMANDS.of(subject)])
    await enrolee.stop()
    await world.until(lambda items: any("revoked" in getattr(item, "detail", "") for item in items))
    await world.rest()
    assert [(item.kid, item.agent_id) for item in world.all(KeyEnrolled) if item.subject == subject] == [
        (own.kid, "agent-1")
    ]
    assert (
        await decided(world, RevokeKey(id=uuid4(), time=now(), actor=ADMIN, kid=enrolled.kid))
    ).decision == "handled"


async def test_a_template_with_an_undefined_input_is_refused_with_name_and_line(world: Surroundings) -> None:
    save = SaveJobTemplate(
        id=uuid4(), time=now(), actor=ADMIN, name="Restart", body='systemctl restart\n{{ input("unti") }}',
        inputs=(TemplateInput(name="unit"),),
    )  # fmt: skip
    answer = await decided(world, save)
    assert (answer.reason, "'Restart', line 2: input 'unti'" in answer.detail) == (Refusal.TEMPLATE_INVALID, True)


async def test_a_bomb_fails_its_own_job_tasks_and_others_do_not_wait(world: Surroundings) -> None:
    (host_id,) = await registered(world, "web1")
    save = SaveJobTemplate(id=uuid4(), time=now(), actor=ADMIN, name="Bomb", body=BOMB)
    assert (await decided(world, save)).decision == "handled"
    bomb = await accepted(world, "web1", template="Bomb", inputs={})
    good = [await accepted(world, "web1") for _ in range(5)]
    began = now()
    await world.publish(Role.DISPATCHER, *(attempt_due(i, host_id, world.proxy) for i in (bomb, *good)))
    await world.until(lambda items: len(world.all(RunProxyCommand)) == len(good))
    assert now() - began < timedelta(seconds=5)
    refused = await world.first(AttemptRefused)
    assert (refused.job_invocation_id, refused.reason) == (bomb, Reason.RENDER_FAILED)
    assert "template 'Bomb'" in refused.detail
    assert {item.job_invocation_id for item in world.all(RunProxyCommand)} == set(good)


async def test_a_parked_attempt_survives_a_kill_and_can_be_cancelled(world: Surroundings) -> None:
    (host_id,) = await registered(world, "web1")
    await decided(world, SaveJobTemplate(id=uuid4(), time=now(), actor=ADMIN, name="Bomb", body=BOMB))
    bombs = [await accepted(world, "web1", template="Bomb", inputs={}) for _ in range(2)]
    await world.planner.stop()
    await world.publish(Role.DISPATCHER, *(attempt_due(bomb, host_id, world.proxy) for bomb in bombs))
    # The first thing that is stored is that they are parked; then the process ends.
    world.planner.start(FAULT_POINT="planner.after_binding_stored")
    assert await world.planner.ended() == 137
    cancel = CancelDue(
        id=uuid4(), time=now(), job_invocation_id=bombs[1], job_task_id=job_task_id(bombs[1], host_id), attempt=1,
        host_id=host_id, proxy=world.proxy, issued_at=now(), run_deadline=now() + timedelta(hours=1),
    )  # fmt: skip
    await world.publish(Role.DISPATCHER, cancel)
    world.planner.start()
    refused = await world.first(AttemptRefused)
    assert refused.reason is Reason.RENDER_FAILED
    await world.rest()
    told = [*world.all(AttemptRefused), *world.all(AttemptVoided)]
    assert len({(item.job_task_id, item.attempt) for item in told}) == len(told)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_kill_while_a_parked_attempt_is_bound_decides_once(world: Surroundings, when: str) -> None:
    (host_id,) = await registered(world, "web1")
    await decided(world, SaveJobTemplate(id=uuid4(), time=now(), actor=ADMIN, name="Bomb", body=BOMB))
    bomb, good = await accepted(world, "web1", template="Bomb", inputs={}), await accepted(world, "web1")
    await world.planner.stop()
    await world.publish(Role.DISPATCHER, *(attempt_due(one, host_id, world.proxy) for one in (bomb, good)))
    world.planner.start(FAULT_POINT=f"planner.{when}_parked_binding_stored")
    assert await world.planner.ended() == 137
    world.planner.start()
    refused = await world.first(AttemptRefused)
    run = await world.first(RunProxyCommand)
    await world.planner.stop()
    await world.rest()
    assert [item.job_invocation_id for item in world.all(AttemptRefused)] == [refused.job_invocation_id] == [bomb]
    assert {item.id for item in world.all(RunProxyCommand)} == {run.id} and run.job_invocation_id == good


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_kill_while_a_cancel_is_handed_to_an_agent_hands_on_one(world: Surroundings, when: str) -> None:
    (host_id,) = await registered(world, "web1")
    job_invocation_id = await accepted(world, "web1")
    due = attempt_due(job_invocation_id, host_id, world.proxy)
    await world.publish(Role.DISPATCHER, due)
    run = await world.first(RunProxyCommand)
    await world.planner.stop()
    cancel = CancelDue(
        id=uuid4(), time=now(), job_invocation_id=job_invocation_id, job_task_id=run.job_task_id, attempt=run.attempt,
        host_id=host_id, proxy=world.proxy, issued_at=due.issued_at, run_deadline=due.run_deadline,
    )  # fmt: skip
    await world.publish(Role.DISPATCHER, cancel)
    world.planner.start(FAULT_POINT=f"planner.{when}_follow_up_stored")
    assert await world.planner.ended() == 137
    world.planner.start()
    handed = await world.first(CancelProxyCommand)
    await world.planner.stop()
    await world.rest()
    assert {item.id for item in world.all(CancelProxyCommand)} == {handed.id}
    assert (handed.job_task_id, handed.attempt) == (run.job_task_id, run.attempt)
    assert not world.all(AttemptVoided)


async def test_who_was_disabled_between_planning_and_execution_runs_nothing(world: Surroundings) -> None:
    (host_id,) = await registered(world, "web1")
    create = CreateUser(id=uuid4(), time=now(), actor=ADMIN, login="bob")
    assert (await decided(world, create)).decision == "handled"
    job_invocation_id = await accepted(world, "web1", actor="user:bob")
    await decided(world, DisableUser(id=uuid4(), time=now(), actor=ADMIN, login="bob"))
    await world.publish(Role.DISPATCHER, attempt_due(job_invocation_id, host_id, world.proxy))
    refused = await world.first(AttemptRefused)
    assert (refused.reason, refused.detail) == (Reason.REFUSED, "user:bob is disabled")


async def test_an_agent_says_what_it_offers_and_a_host_may_be_reached_otherwise(world: Surroundings) -> None:
    plain, simulated = (
        await registered(world, "web1"),
        await registered(world, "sim1", parameters={"provider": "simulated"}),
    )
    started = AgentStarted(
        id=uuid4(), time=now(), agent_id="agent-1", agent_boot_id=uuid4(), proxy=world.proxy, journal_id=uuid4(),
        providers=("simulated",),
    )  # fmt: skip
    await world.publishers[Role.AGENT].publish([Outgoing(PROXY_EVENTS.name, "agent-1", started)])
    job_invocation_id = await accepted(world, "web1", "sim1")
    number = 0

    async def tried() -> bool:
        """Whether the offer is known by now: topics are not ordered with each other."""
        nonlocal number
        number += 1
        await world.publish(Role.DISPATCHER, attempt_due(job_invocation_id, plain[0], world.proxy, number))
        await world.until(
            lambda items: number in {i.attempt for i in (*world.all(AttemptRefused), *world.all(AttemptBound))}
        )
        return bool(world.all(AttemptRefused))

    while not await tried():
        pass
    assert "offers simulated" in (await world.first(AttemptRefused)).detail
    await world.publish(Role.DISPATCHER, attempt_due(job_invocation_id, simulated[0], world.proxy))
    run = await world.first(RunProxyCommand, lambda item: item.host_id == simulated[0])
    assert run.provider_type == "simulated"
    bound = await world.first(AttemptBound, lambda item: item.host_id == simulated[0])
    assert bound.provider_type == "simulated"


async def test_cancels_go_to_the_bound_proxy_and_a_chunk_comes_again_as_it_was(world: Surroundings) -> None:
    (host_id,) = await registered(world, "web1")
    job_invocation_id = await accepted(world, "web1")
    await world.publish(Role.DISPATCHER, invocation_due(job_invocation_id))
    first = await world.first(JobTasksPlanned)
    missing = PlanChunkMissing(id=uuid4(), time=now(), job_invocation_id=job_invocation_id, chunks=(0,))
    await world.publish(Role.DISPATCHER, missing)
    await world.until(lambda items: len([item for item in items if isinstance(item, JobTasksPlanned)]) == 2)
    assert world.all(JobTasksPlanned) == [first]
    await world.publish(Role.DISPATCHER, attempt_due(job_invocation_id, host_id, world.proxy))
    run = await world.first(RunProxyCommand)
    task = job_task_id(job_invocation_id, host_id)
    fields: dict[str, Any] = {
        "job_invocation_id": job_invocation_id, "job_task_id": task, "host_id": host_id, "proxy": world.proxy,
        "issued_at": now(), "run_deadline": now() + timedelta(hours=1),
    }  # fmt: skip
    await world.publish(Role.DISPATCHER, *(CancelDue(id=uuid4(), time=now(), attempt=n, **fields) for n in (1, 2)))
    cancel = await world.first(CancelProxyCommand)
    assert (cancel.attempt, cancel.lock_path, cancel.host) == (1, run.lock_path, run.host)
    voided = await world.first(AttemptVoided)
    assert voided.attempt == 2
    await world.publish(Role.DISPATCHER, attempt_due(job_invocation_id, host_id, world.proxy, 2))
    ended = JobInvocationEnded(
        id=uuid4(), time=now(), job_invocation_id=job_invocation_id, status=JobInvocationStatus.CANCELLED, total=1,
        counts={"cancelled": 1},
    )  # fmt: skip
    await world.publish(Role.DISPATCHER, ended, attempt_due(job_invocation_id, host_id, world.proxy, 3))
    await world.first(AttemptVoided, lambda item: item.attempt == 3)
    await world.rest()
    assert [item.attempt for item in world.all(RunProxyCommand)] == [1]


async def test_two_planners_on_one_postgres_decide_everything_once_also_when_one_is_killed(
    kafka: KafkaAddress, tmp_path: Path, postgres: Callable[[], str]
) -> None:
    url = postgres()
    async with surroundings(kafka, tmp_path, STORE_URL=url) as world:
        second: PlannerProcess = replace(world.planner, process=None, port=choose_ports().broker)
        second.start(INSTANCE="second", HEALTH_PORT=str(second.port), DATA=str(tmp_path / "second"))
        try:
            await second.ready()
            ids = await registered(world, *(f"web{number}" for number in range(30)))
            invocations = [await accepted(world, f"web{number}") for number in range(10)]
            pairs = list(zip(invocations, ids, strict=False))
            await world.publish(Role.DISPATCHER, *(attempt_due(i, h, world.proxy) for i, h in pairs))
            world.planner.kill()
            more = [invoke(f"web{number}") for number in range(10, 20)]
            await world.publish(Role.GATEWAY, *more)
            await world.publish(Role.DISPATCHER, *(attempt_due(i, h, world.proxy) for i, h in pairs))
            await world.until(lambda items: len(world.all(JobInvocationAccepted)) == 20)
            await world.until(lambda items: len(world.all(RunProxyCommand)) == 10)
            await world.rest()
            assert len(world.all(AttemptBound)) == 10
            assert {i.command_id for i in world.all(JobInvocationAccepted)} >= {command.id for command in more}
        finally:
            await second.stop()
