"""Comparing positions with a real log, which may have been cut and have grown again; and beginning where a store says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from chargehand_chassis.errors import FatalFailure
from chargehand_chassis.kafka import (
    Cut,
    Mark,
    PartitionReader,
    TopicPartition,
    check_log,
    connection,
    find_cuts,
    group_members,
)
from chargehand_chassis.settings import KafkaSettings


@dataclass
class Log:
    """A topic of one partition with records, and the broker's time of each."""

    settings: KafkaSettings
    place: TopicPartition
    times: list[int]

    def mark(self, offset: int) -> Mark:
        return Mark(offset, self.times[offset - 1])

    async def add(self, count: int) -> None:
        """Each later than the one before, as after a crash."""
        producer = AIOKafkaProducer(**connection(self.settings))
        await producer.start()
        try:
            while count > 0:
                append = await producer.send_and_wait(self.place.topic, b"x", partition=0)
                is_later = not self.times or append.timestamp > self.times[-1]
                self.times.append(append.timestamp)
                count -= is_later
        finally:
            await producer.stop()

    async def cuts(self, mark: Mark) -> list[Cut]:
        return await find_cuts(self.settings, {self.place: mark})

    async def delete_below(self, offset: int) -> None:
        admin = AIOKafkaAdminClient(**connection(self.settings))
        await admin.start()
        try:
            await admin.delete_records({self.place: RecordsToDelete(before_offset=offset)})
        finally:
            await admin.close()


@pytest.fixture
async def log(kafka: Any) -> AsyncIterator[Log]:
    settings = KafkaSettings(
        kafka_bootstrap=kafka.bootstrap, kafka_username=kafka.username, kafka_password_file=kafka.password_file
    )
    topic = f"test-{uuid4().hex[:12]}"
    admin = AIOKafkaAdminClient(**connection(settings))
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, 1, 1, topic_configs={"message.timestamp.type": "LogAppendTime"})])
        made = Log(settings, TopicPartition(topic, 0), [])
        await made.add(6)
        yield made
        await admin.delete_topics([topic])
    finally:
        await admin.close()


async def test_a_log_that_holds_what_is_known_of_it_is_not_cut(log: Log) -> None:
    end = len(log.times)
    for mark in (Mark(0), Mark(2), log.mark(1), log.mark(end)):
        assert await log.cuts(mark) == []


async def test_a_position_beyond_the_end_is_a_cut_at_the_end(log: Log) -> None:
    end = len(log.times)
    (cut,) = await log.cuts(Mark(end + 3, log.times[-1] + 50))
    assert cut == Cut(log.place.topic, 0, end + 3, 0, end, end)
    assert await log.cuts(Mark(end + 3)) == [cut]


async def test_a_log_that_was_cut_and_grew_beyond_the_position_is_found_out(log: Log) -> None:
    """The records after the third one's instant are taken for those that came after a crash, in which others were lost."""
    later = next(offset for offset, time in enumerate(log.times) if time > log.times[2])
    known = Mark(later + 2, log.times[2])
    (cut,) = await log.cuts(known)
    assert (cut.held, cut.position, cut.end) == (later, later + 2, len(log.times))
    (cut,) = await log.cuts(Mark(len(log.times) + 9, log.times[2]))
    assert cut.held == later


async def test_with_the_brokers_clock_set_back_all_of_the_log_is_taken_for_new(log: Log) -> None:
    (cut,) = await log.cuts(Mark(5, log.times[-1] + 3_600_000))
    assert cut.held == 0


async def test_what_was_deleted_unread_is_told_apart(log: Log) -> None:
    await log.delete_below(3)
    (cut,) = await log.cuts(log.mark(1))
    assert (cut.is_below, cut.missing) == (True, 2)
    assert await log.cuts(log.mark(3)) == []
    with pytest.raises(FatalFailure, match="see `chargehand repair`"):
        await check_log(log.settings, {log.place: log.mark(1)})
    await check_log(log.settings, {log.place: log.mark(1)}, may_begin_later=True)


async def test_nothing_of_kafkas_own_position_is_read_while_the_store_is_asked(log: Log) -> None:
    group = f"test-{uuid4().hex[:12]}"
    consumer = AIOKafkaConsumer(**connection(log.settings), group_id=group, enable_auto_commit=False)
    await consumer.start()
    consumer.assign([log.place])
    await consumer.commit({log.place: 3})
    await consumer.stop()
    has_been_asked, may_answer = asyncio.Event(), asyncio.Event()

    async def ask(assigned: list[TopicPartition]) -> Mapping[TopicPartition, int]:
        has_been_asked.set()
        await may_answer.wait()
        return {log.place: 1}

    reader = PartitionReader(log.settings, [log.place.topic], group=group, on_assigned=ask)
    starting = asyncio.create_task(reader.start())
    try:
        async with asyncio.timeout(20):
            await has_been_asked.wait()
            for _ in range(3):
                assert await reader.getmany(timeout_ms=300) == {}
            may_answer.set()
            await starting
            assert await group_members(log.settings, group) == 1
            while not (found := await reader.getmany(timeout_ms=300)):
                pass
    finally:
        may_answer.set()
        await reader.stop()
    assert found[log.place][0].offset == 1
    assert await group_members(log.settings, group) == 0
