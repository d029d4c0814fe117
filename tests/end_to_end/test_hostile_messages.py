"""Ten thousand records that mean nothing or mean ill, over every topic a service reads: no effect, none unaccounted, nothing stops."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from chargehand_chassis.kafka import KeyringFollower, Received, TopicFollower, connection
from chargehand_chassis.keys import load_pinned_planner
from chargehand_schemas.dead_letters import DeadLetter
from chargehand_schemas.reasons import DeadLetterReason
from chargehand_schemas.registry import MESSAGE_TYPES
from chargehand_schemas.topics import ACCUMULATED_PROGRESS_REPORTS, DEAD_LETTERS, NOTIFICATIONS, TOPICS
from support.installation import Installation

Headers = list[tuple[str, bytes]]
Place = tuple[str, int, int]

MiB = 1024 * 1024
UNREAD = (ACCUMULATED_PROGRESS_REPORTS, NOTIFICATIONS, DEAD_LETTERS)
"""Topics that no service reads."""
READ = {
    topic.of("local") if topic.is_per_proxy else topic.name: [
        m.name.encode() for m in MESSAGE_TYPES if m.topic is topic
    ]
    for topic in TOPICS
    if topic not in UNREAD
}
"""Each topic that a service reads, and the types that may stand there."""
RECORDS = 10_000
LARGE = 2 * MiB
EXPECTED = {
    DeadLetterReason.UNREADABLE,
    DeadLetterReason.UNKNOWN_TYPE,
    DeadLetterReason.UNKNOWN_VERSION,
    DeadLetterReason.UNSIGNED,
    DeadLetterReason.UNKNOWN_KEY,
    DeadLetterReason.TOO_LARGE,
}


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path / "data")
    made.start()
    made.import_simulated(3)
    yield made
    made.stop()


def headers_of(draw: random.Random, kind: bytes, *, is_whole: bool) -> Headers:
    """As a writer makes them, but under a key that nobody has enrolled; or not even that."""
    kinds = [kind, kind.replace(b".v1", b".v9"), b"chargehand.nothing.known.v1", b"\xff\xfe"]
    headers: Headers = [
        ("ce_specversion", b"1.0"),
        ("ce_type", kind if is_whole else draw.choice(kinds)),
        ("ce_source", b"planner/1"),
        ("ce_id", draw.randbytes(8).hex().encode()),
        ("ce_time", b"2026-11-26T10:00:00.000000Z" if is_whole else draw.choice([b"yesterday", b"9999-99-99"])),
        ("content-type", b"application/json"),
        ("ce_keyid", draw.randbytes(16).hex().encode() if is_whole else b""),
        ("ce_proof", draw.randbytes(64) if is_whole else b""),
    ]
    return headers if is_whole else draw.sample(headers, draw.randint(0, len(headers)))


def malformed(draw: random.Random, kind: bytes) -> tuple[bytes, Headers]:
    """A value and headers of which no reader may make anything. One in four has whole headers."""
    headers = headers_of(draw, kind, is_whole=draw.random() < 0.25)
    value = draw.choice([
        b"", b"{", b'{"items":', b'{"items":[{}]}', b'{"items":[{"id":NaN}]}', b"[" * 5_000, b'{"items":' * 500, b"null",
        b'{"items":"many"}', b'{"items":[{"job_invocation_id":7}]}', draw.randbytes(200), b"\xc3\x28" * 50, b"\x00" * 999,
    ])  # fmt: skip
    return value, headers


async def hurl(installation: Installation, draw: random.Random) -> set[Place]:
    """Send them all; where each stands."""
    settings = installation.kafka()
    producer = AIOKafkaProducer(**connection(settings), max_request_size=8 * MiB, linger_ms=5)
    await producer.start()
    try:
        waits = []
        for number in range(RECORDS):
            topic, kinds = draw.choice(list(READ.items()))
            value, headers = malformed(draw, draw.choice(kinds))
            partition = draw.randrange(settings.partitions)
            waits.append(
                await producer.send(topic, value, key=str(number).encode(), partition=partition, headers=headers)
            )
        large = b"x" * LARGE
        waits += [await producer.send(topic, large, key=b"large", partition=0) for topic in READ]
        appends = await asyncio.gather(*waits)
    finally:
        await producer.stop()
    return {(append.topic, append.partition, append.offset) for append in appends}


async def allow_large(installation: Installation) -> None:
    """As a cluster may be set up whose operator allows more than we do."""
    admin = AIOKafkaAdminClient(**connection(installation.kafka()))
    await admin.start()
    try:
        limits = {"max.message.bytes": str(8 * MiB)}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, limits) for topic in READ])
    finally:
        await admin.close()


async def dead_letters(installation: Installation, wanted: set[Place]) -> dict[Place, DeadLetterReason]:
    """What the services put aside, until all that is wanted is there."""
    keyring = KeyringFollower(
        installation.kafka(), load_pinned_planner(installation.data / "keys" / "planner.pub.json")
    )
    letters = TopicFollower(installation.kafka(), [DEAD_LETTERS.name])
    found: dict[Place, DeadLetterReason] = {}
    await keyring.start()
    await letters.start()
    try:
        async with asyncio.timeout(90):
            while not wanted <= found.keys():
                for records in (await letters.getmany(500)).values():
                    for message in [await keyring.read(record) for record in records]:
                        assert isinstance(message, Received)
                        found |= {
                            (i.topic, i.partition, i.offset): i.reason
                            for i in message.items
                            if isinstance(i, DeadLetter)
                        }
    except TimeoutError:
        missing = sorted(wanted - found.keys())
        pytest.fail(f"{len(missing)} of {len(wanted)} have no dead letter: {missing[:20]}")
    finally:
        await letters.stop()
        await keyring.stop()
    return found


def test_ten_thousand_malformed_records_are_all_accounted_for_and_stop_nothing(own: Installation) -> None:
    asyncio.run(allow_large(own))
    pids = {row["name"]: row["pid"] for row in own.json("status")["services"]}
    sent = asyncio.run(hurl(own, random.Random(20261126)))
    found = asyncio.run(dead_letters(own, sent))
    assert len(sent) == RECORDS + len(READ)
    assert {found[place] for place in sent} >= EXPECTED
    assert sum(found[place] is DeadLetterReason.TOO_LARGE for place in sent) == len(READ)
    assert {row["name"]: row["pid"] for row in own.json("status")["services"]} == pids, "no process was restarted"
    document = own.exec("--all", "--yes", command=["echo", "alive"])
    assert document["counts"] == {"succeeded": 3}
    assert own.violations() == []
