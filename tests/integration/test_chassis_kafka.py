"""The chassis on a real Kafka: signed batches out, verified batches in, positions of one's own, dead letters."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiokafka import AIOKafkaProducer
from chargehand_chassis.clock import now
from chargehand_chassis.errors import FatalFailure, PublishFailed
from chargehand_chassis.kafka import (
    DeadLetters,
    KeyringFollower,
    PartitionReader,
    Publisher,
    Received,
    Rejected,
    TopicFollower,
    TopicPartition,
    connection,
    ensure_topics,
    partition_of,
    topics_ready,
)
from chargehand_chassis.keys import OwnKeys, generate_keys, public_document, writer_of
from chargehand_chassis.settings import KafkaSettings
from chargehand_schemas.batches import Outgoing
from chargehand_schemas.catalog import KeyEnrolled
from chargehand_schemas.dead_letters import DeadLetter
from chargehand_schemas.dispatch import JobInvocationDue
from chargehand_schemas.reasons import DeadLetterReason, Role
from chargehand_schemas.topics import CATALOG_EVENTS, DEAD_LETTERS, DISPATCH_EVENTS


@dataclass
class Stack:
    settings: KafkaSettings
    keys: OwnKeys
    publisher: Publisher
    follower: KeyringFollower


@pytest.fixture
async def stack(kafka: Any, tmp_path: Path) -> AsyncIterator[Stack]:
    settings = KafkaSettings(
        kafka_bootstrap=kafka.bootstrap, kafka_username=kafka.username, kafka_password_file=kafka.password_file
    )
    await ensure_topics(settings)
    keys = generate_keys(tmp_path / "planner.json")
    follower = KeyringFollower(settings, writer_of(public_document(keys, Role.PLANNER, "planner")))
    publisher = Publisher(settings, keys, "planner/test")
    await publisher.start()
    await follower.start()
    yield Stack(settings, keys, publisher, follower)
    await follower.stop()
    await publisher.stop()


async def enrol(stack: Stack, keys: OwnKeys, role: Role) -> None:
    event = KeyEnrolled(
        id=uuid4(), time=now(), kid=keys.kid, role=role, subject="test", signing_key=keys.signing_public.hex()
    )
    await stack.publisher.publish([Outgoing(CATALOG_EVENTS.name, keys.kid, event)])


def due(invocation: UUID) -> Outgoing:
    item = JobInvocationDue(id=uuid4(), time=now(), job_invocation_id=invocation, start_at=now())
    return Outgoing(DISPATCH_EVENTS.name, str(invocation), item)


async def read_until(follower: TopicFollower, stack: Stack, wanted: set[UUID]) -> list[Received | Rejected]:
    """Everything read until all wanted items were seen, within 30 s."""
    found: list[Received | Rejected] = []
    missing = set(wanted)
    async with asyncio.timeout(30):
        while missing:
            for records in (await follower.getmany()).values():
                for record in records:
                    message = await stack.follower.read(record)
                    found.append(message)
                    if isinstance(message, Received):
                        missing -= {item.id for item in message.items}
    return found


async def test_a_key_enrolled_a_moment_ago_is_known_when_its_first_message_is_read(
    stack: Stack, tmp_path: Path
) -> None:
    keys = generate_keys(tmp_path / "dispatcher.json")
    publisher = Publisher(stack.settings, keys, "dispatcher/test")
    await publisher.start()
    follower = TopicFollower(stack.settings, [DISPATCH_EVENTS.name], "end")
    await follower.start()
    out = due(uuid4())
    await enrol(stack, keys, Role.DISPATCHER)
    await publisher.publish([out])
    found = await read_until(follower, stack, {out.item.id})
    (message,) = [m for m in found if isinstance(m, Received)]
    assert (message.writer.kid, message.writer.role) == (keys.kid, Role.DISPATCHER)
    await follower.stop()
    await publisher.stop()


async def test_order_and_partition_of_an_invocation_are_kept_in_batches(stack: Stack, tmp_path: Path) -> None:
    keys = generate_keys(tmp_path / "dispatcher.json")
    await enrol(stack, keys, Role.DISPATCHER)
    publisher = Publisher(stack.settings, keys, "dispatcher/test")
    await publisher.start()
    follower = TopicFollower(stack.settings, [DISPATCH_EVENTS.name], "end")
    await follower.start()
    invocations = [uuid4() for _ in range(20)]
    rows = [due(invocation) for _ in range(100) for invocation in invocations]
    await publisher.publish(rows)
    found = [m for m in await read_until(follower, stack, {r.item.id for r in rows}) if isinstance(m, Received)]
    assert len(found) < 40, "2,000 items travel in batches"
    for invocation in invocations:
        ours = [(m.partition, i.id) for m in found for i in m.items if getattr(i, "job_invocation_id", 0) == invocation]
        assert [i for _, i in ours] == [r.item.id for r in rows if r.key == str(invocation)]
        assert {p for p, _ in ours} == {partition_of(str(invocation), stack.settings.partitions)}
    await follower.stop()
    await publisher.stop()


async def test_what_cannot_be_read_goes_to_dead_letters_and_the_partition_goes_on(stack: Stack) -> None:
    producer = AIOKafkaProducer(**connection(stack.settings))
    await producer.start()
    letters = DeadLetters(stack.publisher, "test")
    follower = TopicFollower(stack.settings, [DISPATCH_EVENTS.name], "end")
    dead = TopicFollower(stack.settings, [DEAD_LETTERS.name], "end")
    await follower.start()
    await dead.start()
    bad = await producer.send_and_wait(DISPATCH_EVENTS.name, b"\xff{", key=b"k", partition=0)
    forged = [(n, v) for n, v in [("ce_type", b"chargehand.attempt.due.v1")]]
    await producer.send_and_wait(DISPATCH_EVENTS.name, b"{}", key=b"k", partition=0, headers=forged)
    seen: list[Rejected] = []
    async with asyncio.timeout(30):
        while len(seen) < 2:
            for records in (await follower.getmany()).values():
                for message in [await stack.follower.read(record) for record in records]:
                    assert isinstance(message, Rejected)
                    seen.append(message)
    await letters.put(seen)
    ids: list[DeadLetter] = []
    async with asyncio.timeout(30):
        while len(ids) < 2:
            for records in (await dead.getmany()).values():
                for message in [await stack.follower.read(record) for record in records]:
                    assert isinstance(message, Received)
                    ids += [item for item in message.items if isinstance(item, DeadLetter)]
    assert (ids[0].topic, ids[0].offset, ids[0].value) == (DISPATCH_EVENTS.name, bad.offset, b"\xff{")
    assert {letter.reason for letter in ids} == {DeadLetterReason.UNREADABLE}
    for one in (follower, dead, producer):
        await one.stop()


async def test_a_reader_begins_where_its_own_store_says(stack: Stack, tmp_path: Path) -> None:
    keys = generate_keys(tmp_path / "dispatcher.json")
    await enrol(stack, keys, Role.DISPATCHER)
    publisher = Publisher(stack.settings, keys, "dispatcher/test")
    await publisher.start()
    invocation = uuid4()
    rows = [due(invocation) for _ in range(3)]
    for row in rows:
        await publisher.publish([row])
    partition = TopicPartition(DISPATCH_EVENTS.name, partition_of(str(invocation), stack.settings.partitions))
    positions: dict[TopicPartition, int] = {}

    async def stored(partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        ends = await reader.end_offsets(partitions)
        return {tp: end - 1 if tp == partition else end for tp, end in ends.items()} | positions

    reader = PartitionReader(stack.settings, [DISPATCH_EVENTS.name], group=f"test-{uuid4()}", on_assigned=stored)
    await reader.start()
    got: list[UUID] = []
    async with asyncio.timeout(30):
        while not got:
            for records in (await reader.getmany()).values():
                for message in [await stack.follower.read(record) for record in records]:
                    assert isinstance(message, Received)
                    got += [item.id for item in message.items]
    assert got == [rows[-1].item.id]
    await reader.stop()
    await publisher.stop()


async def test_what_the_listener_raises_is_raised_by_the_reader(stack: Stack) -> None:
    async def refuse(_: list[TopicPartition]) -> dict[TopicPartition, int]:
        raise FatalFailure("position lies outside the log")

    reader = PartitionReader(stack.settings, [DISPATCH_EVENTS.name], group=f"test-{uuid4()}", on_assigned=refuse)
    await reader.start()
    with pytest.raises(FatalFailure, match="outside the log"):
        async with asyncio.timeout(30):
            while True:
                await reader.getmany()
    await reader.stop()


async def test_other_partition_counts_than_the_settings_are_fatal(stack: Stack) -> None:
    with pytest.raises(FatalFailure, match="CHARGEHAND_PARTITIONS"):
        await topics_ready(stack.settings.model_copy(update={"partitions": stack.settings.partitions + 1}))


async def test_publishing_without_a_start_says_so(stack: Stack, tmp_path: Path) -> None:
    publisher = Publisher(stack.settings, generate_keys(tmp_path / "k.json"), "test")
    with pytest.raises(PublishFailed, match="not started"):
        await publisher.publish([due(uuid4())])
