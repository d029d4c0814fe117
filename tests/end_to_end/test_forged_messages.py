"""Every type of message, unsigned, under a wrong key, by another role, of another proxy, late and once more: nothing changes by it."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from chargehand_chassis.clock import now
from chargehand_chassis.kafka import KeyringFollower, Publisher, Received, Rejected, TopicFollower, connection
from chargehand_chassis.keys import OwnKeys, enrolment_keys, generate_keys, load_keys, load_pinned_planner
from chargehand_schemas.batches import Outgoing
from chargehand_schemas.commands import EnrolKey
from chargehand_schemas.dead_letters import DeadLetter
from chargehand_schemas.dispatch import AttemptDue
from chargehand_schemas.reasons import DeadLetterReason, Role
from chargehand_schemas.registry import MESSAGE_TYPES, MessageType, find_type, split_type, type_of
from chargehand_schemas.topics import (
    ACCUMULATED_PROGRESS_REPORTS,
    CATALOG_EVENTS,
    COMMANDS,
    DEAD_LETTERS,
    DISPATCH_EVENTS,
    EXECUTION_EVENTS,
    HOST_EVENTS,
    NOTIFICATIONS,
    PLANNING_EVENTS,
    PROGRESS_REPORTS,
    PROXY_COMMANDS,
    PROXY_EVENTS,
    TOPICS,
    Topic,
    topic_named,
)
from support.forging import OTHER_PROXY, PROXY, Forger, Forgery, Keys
from support.installation import Installation
from support.waiting import wait_until

Place = tuple[str, int, int]
Letters = dict[Place, dict[str, DeadLetterReason]]

READERS = {
    COMMANDS: {"planner"},
    CATALOG_EVENTS: {"reporter"},
    PLANNING_EVENTS: {"dispatcher", "reporter"},
    DISPATCH_EVENTS: {"planner", "reporter"},
    EXECUTION_EVENTS: {"dispatcher", "reporter"},
    PROXY_COMMANDS: {"proxy-agent"},
    PROGRESS_REPORTS: {"reporter"},
    HOST_EVENTS: {"planner", "reporter"},
    PROXY_EVENTS: {"reporter"},
}
"""Whose dead letters there are for each topic."""
UNREAD = (ACCUMULATED_PROGRESS_REPORTS, NOTIFICATIONS, DEAD_LETTERS)
TABLES = {
    "planner/planner.sqlite": {
        name: "*"
        for name in (
            "hosts",
            "templates",
            "invocations",
            "users",
            "tokens",
            "keys",
            "bindings",
            "scripts",
            "handled",
            "parked",
        )
    }
    | {"stored_events": "originator_id, originator_version, topic", "offers": "proxy, providers"},
    "dispatcher/dispatcher.db": {
        "job_task": "job_task_id, proxy, state, due_at, is_cancelling",
        "invocation": "job_invocation_id, is_ended, body",
        "check_in": "host_id, proxy, at",
    },
    "reporter/reporter.db": {
        "job_invocations": "job_invocation_id, status, counts, is_cancel_requested, ended",
        "job_tasks": "job_task_id, status, reason, exit_status, attempts, tried, streams",
        "attempts": "job_task_id, attempt, proxy, facts",
        **{name: "*" for name in ("hosts", "observations", "agent_keys", "users", "tokens")},
    },
    "reporter/output.db": {"streams": "job_task_id, attempt, proxy, stream, stream_end, stored"},
    "agents/local/journal.sqlite": {"entry": "job_task_id, attempt, phase"},
}
"""What must be the same afterwards, by file and table. Times of heartbeats, positions and outboxes go on by themselves."""
FACTS = ("reporter/reporter.db: attempts", "agents/local/journal.sqlite: entry")
"""Where a rightful writer's late word about an attempt is kept, though it changes no state."""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path / "data")
    made.start()
    made.import_simulated(2, **{"sim.duration_s": "60"})
    made.import_simulated(2, prefix="quick")
    yield made
    made.stop()


def enrolled(own: Installation, name: str, role: str) -> str:
    """A one-time token for somebody of this name."""
    path = own.data.parent / f"{name}.token"
    own.run("proxy", "enrol", name, "--role", role, "--token-file", str(path))
    return path.read_text().strip()


def keys_of(own: Installation) -> Keys:
    """Those of this installation, stolen; and of others, who have theirs rightfully."""
    tokens = {
        name: enrolled(own, name, role) for name, role in (("nightly", "service_account"), (OTHER_PROXY, "agent"))
    }
    made = {name: asyncio.run(enrol(own, name, enrolment_keys(token))) for name, token in tokens.items()}
    roles = {
        Role.PLANNER: "planner", Role.DISPATCHER: "dispatcher", Role.AGENT: "agent-local", Role.REPORTER: "reporter",
        Role.GATEWAY: "gateway",
    }  # fmt: skip
    found = {role: load_keys(own.data / "keys" / f"{name}.json") for role, name in roles.items()}
    found |= {
        Role.SERVICE_ACCOUNT: made["nightly"],
        Role.ENROLEE: enrolment_keys(enrolled(own, "unused", "agent")),
    }
    return Keys(found, made[OTHER_PROXY], enrolment_keys("cge_" + "A" * 43))


async def enrol(own: Installation, name: str, token: OwnKeys) -> OwnKeys:
    """New keys, enrolled with a token."""
    keys = generate_keys(own.data.parent / f"{name}.json")
    keyring = KeyringFollower(own.kafka(), load_pinned_planner(own.data / "keys" / "planner.pub.json"))
    publisher = Publisher(own.kafka(), token, f"enrolee/{name}")
    await keyring.start()
    await publisher.start()
    try:
        command = EnrolKey(
            id=uuid4(), time=now(), token_kid=token.kid, signing_key=keys.signing_public.hex(),
            sealing_key=keys.sealing_public.hex(), agent_id=f"{name}-1" if name == OTHER_PROXY else "",
        )  # fmt: skip
        await publisher.publish([Outgoing(COMMANDS.name, token.kid, command)])
        async with asyncio.timeout(30):
            while keyring.keyring.find(keys.kid) is None:
                await keyring.caught_up()
    finally:
        await publisher.stop()
        await keyring.stop()
    return keys


def state_of(own: Installation, without: Iterable[str] = ()) -> dict[str, list[Any]]:
    """The rows of every table that counts, and what began on hosts."""
    found: dict[str, list[Any]] = {}
    for file, tables in TABLES.items():
        with closing(sqlite3.connect(f"file:{own.data / file}?mode=ro", uri=True)) as connection:
            for table, columns in tables.items():
                rows = connection.execute(" ".join(("select", columns, "from", table))).fetchall()
                found[f"{file}: {table}"] = sorted(rows, key=repr)
    lines = (own.data / "agents" / "local" / "simulated-hosts.jsonl").read_text().splitlines()
    found["begun on hosts"] = [row for row in map(json.loads, lines) if row[0] == "s"]
    return {name: rows for name, rows in found.items() if name not in without}


def aims_at(own: Installation, job: str) -> dict[str, Any]:
    """What a job task of this job is called, in every word a message may use."""
    row = own.json("job", "show", job)["job_tasks"][0]
    return {
        "job_invocation_id": UUID(job),
        "job_task_id": UUID(row["job_task_id"]),
        "host_id": UUID(row["host_id"]),
        "host_name": row["host"],
        "attempt": 1,
        "proxy": PROXY,
        "agent_id": f"{PROXY}-1",
        "actor": "service:nightly",
        "offset": 0,
        "length": 4,
    }


async def send(own: Installation, forgeries: Iterable[Forgery]) -> dict[Place, Forgery]:
    """Where each stands."""
    producer = AIOKafkaProducer(**connection(own.kafka()), linger_ms=5)
    await producer.start()
    try:
        rows = list(forgeries)
        waits = [
            await producer.send(one.topic, one.value, one.key, partition=one.partition, headers=one.headers)
            for one in rows
        ]
        appends = await asyncio.gather(*waits)
    finally:
        await producer.stop()
    return {(a.topic, a.partition, a.offset): one for a, one in zip(appends, rows, strict=True)}


async def letters_of(own: Installation, is_there: Callable[[Letters], bool]) -> Letters:
    """All dead letters, by place and service, as soon as those are there that are waited for."""
    keyring = KeyringFollower(own.kafka(), load_pinned_planner(own.data / "keys" / "planner.pub.json"))
    follower = TopicFollower(own.kafka(), [DEAD_LETTERS.name])
    found: Letters = {}
    await keyring.start()
    await follower.start()
    try:
        async with asyncio.timeout(60):
            while not is_there(found):
                for records in (await follower.getmany(500)).values():
                    for message in await keyring.read_all(records):
                        for item in message.items if isinstance(message, Received) else ():
                            if isinstance(item, DeadLetter):
                                found.setdefault((item.topic, item.partition, item.offset), {})[item.service] = (
                                    item.reason
                                )
    except TimeoutError:
        return found
    finally:
        await follower.stop()
        await keyring.stop()
    return found


def barrier(forger: Forger, partitions: int) -> list[Forgery]:
    """An unsigned record in every partition of every topic that is read: its dead letters say that all before it was."""
    rows = []
    for topic in READERS:
        # The planner does not even verify what it has no use for.
        kind = type_of(AttemptDue) if topic is DISPATCH_EVENTS else next(m for m in MESSAGE_TYPES if m.topic is topic)
        one = forger.forge("barrier", kind, forger.item(kind), None, DeadLetterReason.UNSIGNED)
        rows += [Forgery(**{**vars(one), "partition": number}) for number in range(partitions)]
    return rows


def settle(own: Installation, forger: Forger) -> Letters:
    """Every reader has read everything up to now; all dead letters there are."""
    partitions = own.kafka().partitions
    last = asyncio.run(send(own, barrier(forger, partitions)))
    wanted = {place: READERS[one.message.topic] for place, one in last.items()}

    def is_there(found: Letters) -> bool:
        return all(services <= found.get(place, {}).keys() for place, services in wanted.items())

    found = asyncio.run(letters_of(own, is_there))
    missing = {place: services - found.get(place, {}).keys() for place, services in wanted.items()}
    assert not any(missing.values()), {place: services for place, services in missing.items() if services}
    return found


async def records_of(own: Installation, topics: Iterable[str]) -> list[Any]:
    """Every record that stands in these topics now."""
    consumer = AIOKafkaConsumer(**connection(own.kafka()), enable_auto_commit=False)
    await consumer.start()
    found: list[Any] = []
    try:
        parts = [TopicPartition(name, number) for name in topics for number in range(own.kafka().partitions)]
        consumer.assign(parts)
        await consumer.seek_to_beginning(*parts)
        ends = await consumer.end_offsets(parts)
        while any([await consumer.position(part) < end for part, end in ends.items()]):
            for records in (await consumer.getmany(timeout_ms=500)).values():
                found += records
    finally:
        await consumer.stop()
    return found


def replays(records: Iterable[Any]) -> list[Forgery]:
    """The same records once more, to the byte."""
    return [
        Forgery(
            "replayed",
            _kind(record),
            record.topic,
            record.partition,
            record.key,
            record.value,
            list(record.headers),
            None,
        )
        for record in records
    ]


def _kind(record: Any) -> MessageType:
    topic, parts = topic_named(record.topic), split_type(dict(record.headers)["ce_type"].decode())
    assert topic is not None and parts is not None
    kind = find_type(topic, parts[0])
    assert kind is not None
    return kind


def name_of(topic: Topic) -> str:
    return topic.of(PROXY) if topic.is_per_proxy else topic.name


def unaccounted(sent: Mapping[Place, Forgery], letters: Letters) -> list[str]:
    """Those without the dead letter they must have."""
    return [
        f"{one.name}: {sorted(letters.get(place, {}).values())}, not {one.letter}"
        for place, one in sent.items()
        if one.message.topic not in UNREAD and one.letter not in letters.get(place, {}).values()
    ]


async def believed(own: Installation, sent: Mapping[Place, Forgery]) -> list[str]:
    """Those on topics that no service reads, which a client would believe."""
    keyring = KeyringFollower(own.kafka(), load_pinned_planner(own.data / "keys" / "planner.pub.json"))
    await keyring.start()
    try:
        found = []
        for record in await records_of(own, [topic.name for topic in UNREAD]):
            one = sent.get((record.topic, record.partition, record.offset))
            read = await keyring.read(record)
            if one is not None and not (isinstance(read, Rejected) and read.reason is one.letter):
                found.append(one.name)
        return found
    finally:
        await keyring.stop()


def differences(before: Mapping[str, list[Any]], after: Mapping[str, list[Any]]) -> dict[str, Any]:
    return {
        name: [row for row in [*before[name], *after[name]] if (row in before[name]) != (row in after[name])]
        for name in before
        if before[name] != after[name]
    }


def kinds_of(sent: Mapping[Place, Forgery]) -> dict[str, set[MessageType]]:
    found: dict[str, set[MessageType]] = {}
    for one in sent.values():
        found.setdefault(one.kind, set()).add(one.message)
    return found


def test_no_type_of_message_has_an_effect_by_whom_it_is_not(own: Installation) -> None:
    keys = keys_of(own)
    quick = own.exec("--host", "quick00001", "--host", "quick00002", command=["echo", "hello"])
    assert quick["counts"] == {"succeeded": 2}
    job = own.json("exec", "--host", "sim00001", "--host", "sim00002", "--async", "--", "true")["job_invocation_id"]
    wait_until(
        lambda: all(row["status"] == "running" for row in own.json("job", "show", job)["job_tasks"]),
        within=timedelta(seconds=30),
    )
    forger = Forger(keys, aims_at(own, job), own.kafka().partitions)
    genuine = asyncio.run(records_of(own, map(name_of, READERS)))
    settle(own, forger)

    before = state_of(own)
    sent = asyncio.run(send(own, forger.all()))
    letters = settle(own, forger)
    assert kinds_of(sent)["unsigned"] == kinds_of(sent)["other role"] == set(MESSAGE_TYPES)
    assert unaccounted(sent, letters) == []
    assert asyncio.run(believed(own, sent)) == []
    assert differences(before, state_of(own)) == {}

    ended = aims_at(own, quick["job_invocation_id"])
    again = asyncio.run(send(own, replays(genuine)))
    assert {m.topic for m in kinds_of(again)["replayed"]} == set(READERS)
    settle(own, forger)
    assert own.violations(is_finished=False) == [], "beyond here the log holds lies that are signed as they should be"
    asyncio.run(send(own, forger.late_facts(ended)))
    settle(own, forger)
    assert differences(state_of(own, FACTS), {**before}) == {}

    own.run("job", "cancel", job)
    assert own.json("job", "watch", job, "--timeout", "60s", status=1, within_s=80)["counts"] == {"cancelled": 2}
    assert set(TOPICS) == {*READERS, *UNREAD}
