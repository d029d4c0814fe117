"""Messages: the golden log of version 1 stays readable, limits hold, batches and ids keep their promises."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from chargehand_schemas.base import as_utc
from chargehand_schemas.batches import Outgoing, pack
from chargehand_schemas.commands import HostRecord, InvokeJob, Targeting
from chargehand_schemas.dispatch import JobTaskEnded
from chargehand_schemas.envelope import (
    Envelope,
    parse_items,
    read_envelope,
    signed_bytes,
    signed_bytes_before,
    split_value,
)
from chargehand_schemas.ids import item_id, job_task_id
from chargehand_schemas.planning import AttemptVoided
from chargehand_schemas.progress import ProgressReport
from chargehand_schemas.properties import ExecutionOverrides, ExecutionProperties
from chargehand_schemas.reasons import JobTaskStatus, Stream
from chargehand_schemas.registry import MESSAGE_TYPES, find_type, split_type, type_of
from chargehand_schemas.topics import PROXY_COMMANDS, TOPICS, proxy_of, topic_named
from chargehand_schemas.upcasters import upcast
from pydantic import ValidationError

GOLDEN = Path(__file__).parents[2] / "data" / "golden_log_v1.jsonl"
NOON = datetime(2026, 11, 24, 12, 0, 0, 123456, tzinfo=UTC)
INVOCATION, HOST = UUID(int=1), UUID(int=2)


def ended(n: int) -> JobTaskEnded:
    return JobTaskEnded(
        id=item_id("ended", n), time=NOON, job_invocation_id=INVOCATION, job_task_id=UUID(int=n), host_id=HOST,
        host_name=f"web{n}", status=JobTaskStatus.SUCCEEDED,
    )  # fmt: skip


def test_golden_log_of_version_1_has_every_type_and_reads_to_the_same_values() -> None:
    rows = [json.loads(line) for line in GOLDEN.read_text().splitlines()]
    assert {row["type"] for row in rows} == {f"{m.topic.base} {m.name}" for m in MESSAGE_TYPES}
    for row in rows:
        topic_base, _, name = row["type"].partition(" ")
        parts = split_type(name)
        topic = next(t for t in TOPICS if t.base == topic_base)
        assert parts is not None
        message = find_type(topic, parts[0])
        assert message is not None
        item = message.model.model_validate_json(json.dumps(upcast(parts[0], parts[1], message.version, row["item"])))
        assert as_then(json.loads(item.model_dump_json()), row["item"]) == row["item"]


def as_then(now: Any, then: Any) -> Any:
    """Without the fields that were added since, at any depth."""
    if isinstance(now, dict) and isinstance(then, dict):
        return {key: as_then(now[key], then[key]) for key in then}
    return now


def test_a_field_that_is_not_known_is_ignored_by_readers() -> None:
    document = json.loads(ended(1).model_dump_json()) | {"of_a_later_minor": 1}
    assert JobTaskEnded.model_validate(document) == ended(1)


def test_job_task_id_follows_from_invocation_and_host() -> None:
    assert job_task_id(INVOCATION, HOST) == job_task_id(INVOCATION, HOST) != job_task_id(INVOCATION, UUID(int=3))


def test_upcasters_go_step_by_step_and_a_missing_one_is_an_error() -> None:
    steps = {("a.b", 1): lambda i: i | {"two": 2}, ("a.b", 2): lambda i: i | {"three": 3}}
    assert upcast("a.b", 1, 3, {"one": 1}, steps) == {"one": 1, "two": 2, "three": 3}
    with pytest.raises(LookupError):
        upcast("a.b", 1, 4, {}, steps)


def test_times_are_rfc_3339_in_utc_with_microseconds() -> None:
    assert as_utc(NOON) == "2026-11-24T12:00:00.123456Z"
    assert "2026-11-24T12:00:00.123456Z" in ended(1).model_dump_json()


def test_durations_are_seconds_in_json() -> None:
    assert json.loads(ExecutionProperties().model_dump_json())["retry_interval"] == 30.0
    assert ExecutionProperties.model_validate_json('{"retry_interval": 1.5}').retry_interval == timedelta(seconds=1.5)


@pytest.mark.parametrize(
    "bad", [{"tries": 0}, {"tries": 10_000}, {"concurrency": 0}, {"splay": -1}, {"execution_timeout_interval": 0}]
)
def test_absurd_properties_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        ExecutionOverrides.model_validate(bad)


def test_overrides_change_only_what_they_name() -> None:
    merged = ExecutionOverrides(tries=3).applied_to(ExecutionProperties(concurrency=5))
    assert (merged.tries, merged.concurrency) == (3, 5)


@pytest.mark.parametrize("name", ["-oProxyCommand=x", "a b", "", "web;id", "web\n", "$(id)", "a" * 300])
def test_host_names_that_could_be_options_or_commands_are_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        HostRecord(name=name)


@pytest.mark.parametrize("field", ["address", "user", "identity_file"])
def test_host_fields_never_begin_with_a_dash(field: str) -> None:
    with pytest.raises(ValidationError):
        HostRecord.model_validate({"name": "web1", field: "-oProxyCommand=id"})


def test_ipv6_addresses_are_addresses() -> None:
    assert HostRecord(name="web1", address="fe80::1%eth0").address == "fe80::1%eth0"
    assert HostRecord(name="web1", address="::1").address == "::1"


def test_batches_keep_order_and_end_at_a_change_of_type_or_partition() -> None:
    void = AttemptVoided(
        id=uuid4(), time=NOON, job_invocation_id=INVOCATION, job_task_id=UUID(int=9), attempt=1, host_id=HOST
    )
    rows = [(ended(1), 0), (ended(2), 1), (ended(3), 0), (void, 0), (ended(4), 0)]
    packed = list(pack((Outgoing("t", str(p), item), p) for item, p in rows))
    assert [(p.partition, p.count, p.model.__name__) for p in packed] == [
        (0, 2, "JobTaskEnded"),
        (1, 1, "JobTaskEnded"),
        (0, 1, "AttemptVoided"),
        (0, 1, "JobTaskEnded"),
    ]


def test_batches_have_at_most_500_items_and_256_kib() -> None:
    many = list(pack((Outgoing("t", "k", ended(n)), 0) for n in range(1201)))
    assert [p.count for p in many] == [500, 500, 201]
    large = list(pack(((Outgoing("t", "k", ended(n)), 0) for n in range(10)), max_bytes=1000))
    assert all(len(p.document) <= 1000 for p in large)
    assert sum(p.count for p in large) == 10


def test_raw_bytes_of_a_batch_stand_in_the_order_of_its_items() -> None:
    def report(n: int) -> ProgressReport:
        return ProgressReport(
            id=uuid4(), time=NOON, job_invocation_id=INVOCATION, job_task_id=UUID(int=n), attempt=1, host_id=HOST,
            stream=Stream.STDOUT, offset=0, length=2, observed_at=NOON,
        )  # fmt: skip

    (packed,) = pack((Outgoing("t", "k", report(n), raw), 0) for n, raw in ((1, b"a\n"), (2, b"\xff\x00")))
    assert packed.raw == b"a\n\xff\x00"


def test_no_two_messages_are_signed_alike() -> None:
    def envelope(kind: str) -> Envelope:
        return Envelope(kind, "s", "i", "t", "application/json", "k", b"")

    assert signed_bytes("a", b"c", envelope("x"), b"v") != signed_bytes("a", b"c", envelope("x"), b"w")
    digest = hashlib.sha256(b"v").digest()
    assert signed_bytes("a", b"c", envelope("x"), b"v") != signed_bytes_before("a", b"c", envelope("x"), digest)
    assert signed_bytes("ab", b"c", envelope("x"), b"v") != signed_bytes("a", b"bc", envelope("x"), b"v")
    assert signed_bytes("a", b"c", envelope("xy"), b"v") != signed_bytes("a", b"c", envelope("x"), b"yv")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("ce_type", b"x")],
        [("ce_specversion", b"0.3"), ("ce_type", b"x"), ("ce_source", b"x"), ("ce_id", b"x"), ("ce_time", b"x"),
         ("content-type", b"x")],
        [("ce_type", b"\xff"), ("ce_specversion", b"1.0")],
        [("ce_type", b"x"), ("ce_type", b"y")],
        [("ce_specversion", b"1.0"), ("ce_type", b"x" * 5000)],
    ],
)  # fmt: skip
def test_envelopes_that_cannot_be_read_say_why(headers: list[tuple[str, bytes]]) -> None:
    assert isinstance(read_envelope(headers), str)


@pytest.mark.parametrize(
    "document", [b"", b"[]", b"{}", b'{"items":[]}', b'{"items":1}', b'{"items":[NaN]}', b"[" * 100_000, b"\xff"]
)
def test_documents_that_are_no_batch_say_why(document: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_items(document)


def test_output_is_cut_from_the_json_line() -> None:
    assert split_value("application/x-chargehand-output", b'{"items":[]}\n\n\x00') == (b'{"items":[]}', b"\n\x00")
    with pytest.raises(ValueError, match="newline"):
        split_value("application/x-chargehand-output", b"{}")


@pytest.mark.parametrize("name", ["", "chargehand.a.b", "chargehand.a.b.vx", "chargehand.a.b.v-1", "chargehand.a.b.v٣"])
def test_type_names_of_another_form_are_no_types(name: str) -> None:
    assert split_type(name) is None


def test_every_type_name_is_unique_on_its_topic_and_found_again() -> None:
    names = [(m.topic.base, m.name) for m in MESSAGE_TYPES]
    assert len(set(names)) == len(names)
    for message in MESSAGE_TYPES:
        assert find_type(message.topic, message.family) is message
        assert type_of(message.model) is message


def test_per_proxy_topics_are_found_by_name() -> None:
    assert PROXY_COMMANDS.of("dmz-1") == "chargehand.proxy-commands.dmz-1.v1"
    assert topic_named("chargehand.proxy-commands.dmz-1.v1") is PROXY_COMMANDS
    assert proxy_of("chargehand.proxy-commands.dmz-1.v1") == "dmz-1"
    assert topic_named("chargehand.proxy-commands.v1") is None
    assert topic_named("other") is None


def test_an_empty_targeting_is_a_value_that_the_planner_refuses() -> None:
    command = InvokeJob(
        id=uuid4(), time=NOON, actor="user:admin", job_invocation_id=uuid4(), template="Run Command",
        targeting=Targeting(),
    )  # fmt: skip
    assert command.targeting == Targeting(all=False)
