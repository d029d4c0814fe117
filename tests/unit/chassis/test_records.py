"""What a record must be to have an effect: every check of docs/explanation/trust.md that needs no broker."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from chargehand_chassis.kafka import Received, Rejected, read_record
from chargehand_chassis.keys import OwnKeys
from chargehand_schemas.base import as_utc
from chargehand_schemas.catalog import EnrolmentTokenIssued, EnrolmentTokenUsed, KeyEnrolled, KeyRevoked
from chargehand_schemas.commands import CancelJobInvocation, EnrolKey
from chargehand_schemas.envelope import (
    CONTENT_TYPE,
    CONTENT_TYPE_WITH_BYTES,
    Envelope,
    signed_bytes,
    signed_bytes_before,
)
from chargehand_schemas.keyring import Keyring
from chargehand_schemas.progress import ProgressReport
from chargehand_schemas.reasons import DeadLetterReason, Role, Stream
from chargehand_schemas.registry import MESSAGE_TYPES, MessageType, type_of
from chargehand_schemas.topics import COMMANDS, PROXY_COMMANDS

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Record:
    value: bytes | None
    headers: list[tuple[str, bytes]] = field(default_factory=list)
    topic: str = COMMANDS.name
    partition: int = 0
    offset: int = 7
    timestamp: int = int(NOON.timestamp() * 1000)
    key: bytes | None = b"key"


def own_keys() -> OwnKeys:
    return OwnKeys(uuid4().bytes * 2, uuid4().bytes * 2)


def enrolled(keys: OwnKeys, role: Role, subject: str = "x") -> KeyEnrolled:
    return KeyEnrolled(
        id=uuid4(), time=NOON, kid=keys.kid, role=role, subject=subject, signing_key=keys.signing_public.hex()
    )


def ring(*events: KeyEnrolled) -> Keyring:
    keyring = Keyring()
    for event in events:
        keyring.fold(event)
    return keyring


def cancel() -> CancelJobInvocation:
    return CancelJobInvocation(id=uuid4(), time=NOON, actor="user:ada", job_invocation_id=uuid4())


def signed(
    keys: OwnKeys,
    value: bytes,
    name: str = "chargehand.job-invocation.cancel.v1",
    topic: str = COMMANDS.name,
    content_type: str = CONTENT_TYPE,
    form: Callable[[str, bytes, Envelope, bytes], bytes] = signed_bytes,
) -> Record:
    envelope = Envelope(name, "test/1", "id", as_utc(NOON), content_type, keys.kid, b"")
    proof = keys.sign(form(topic, b"key", envelope, value))
    return Record(value, replace(envelope, proof=proof).headers(), topic)


def batch(*documents: str) -> bytes:
    return ('{"items":[' + ",".join(documents) + "]}").encode()


def reason_of(result: Received | Rejected) -> DeadLetterReason | None:
    return result.reason if isinstance(result, Rejected) else None


FORMS = pytest.mark.parametrize("form", [signed_bytes, signed_bytes_before])
"""As messages are signed, and as those in logs from before are."""


@FORMS
def test_a_signed_message_of_an_enrolled_gateway_is_believed(
    form: Callable[[str, bytes, Envelope, bytes], bytes],
) -> None:
    keys, command = own_keys(), cancel()
    record = signed(keys, batch(command.model_dump_json()), form=form)
    result = read_record(record, ring(enrolled(keys, Role.GATEWAY, "web")))
    assert isinstance(result, Received)
    assert result.items == (command,)
    assert (result.writer.role, result.writer.subject, result.offset) == (Role.GATEWAY, "web", 7)


def test_an_unsigned_message_has_no_effect() -> None:
    keys = own_keys()
    record = signed(keys, batch(cancel().model_dump_json()))
    unsigned = replace(record, headers=[h for h in record.headers if h[0] != "ce_proof"])
    assert reason_of(read_record(unsigned, ring(enrolled(keys, Role.GATEWAY)))) is DeadLetterReason.UNSIGNED


def test_an_unknown_key_has_no_effect() -> None:
    record = signed(own_keys(), batch(cancel().model_dump_json()))
    assert reason_of(read_record(record, ring(enrolled(own_keys(), Role.GATEWAY)))) is DeadLetterReason.UNKNOWN_KEY


def test_a_revoked_key_has_no_effect() -> None:
    keys = own_keys()
    keyring = ring(enrolled(keys, Role.GATEWAY))
    keyring.fold(KeyRevoked(id=uuid4(), time=NOON, kid=keys.kid))
    assert (
        reason_of(read_record(signed(keys, batch(cancel().model_dump_json())), keyring)) is DeadLetterReason.REVOKED_KEY
    )


@FORMS
@pytest.mark.parametrize("part", ["value", "topic", "key", "type", "id"])
def test_one_changed_part_breaks_the_signature(part: str, form: Callable[[str, bytes, Envelope, bytes], bytes]) -> None:
    keys = own_keys()
    record = signed(keys, batch(cancel().model_dump_json()), form=form)
    changed = {
        "value": replace(record, value=(record.value or b"") + b" "),
        "topic": replace(record, topic=COMMANDS.name),
        "key": replace(record, key=b"other"),
        "type": replace(record, headers=[(n, v.replace(b"cancel", b"invoke")) for n, v in record.headers]),
        "id": replace(record, headers=[(n, b"id2" if n == "ce_id" else v) for n, v in record.headers]),
    }[part]
    if part == "topic":
        elsewhere = signed(keys, batch(cancel().model_dump_json()), topic="chargehand.planning-events.v1", form=form)
        changed = replace(elsewhere, topic=COMMANDS.name)
    assert reason_of(read_record(changed, ring(enrolled(keys, Role.GATEWAY)))) is DeadLetterReason.BAD_SIGNATURE


@pytest.mark.parametrize("message", MESSAGE_TYPES, ids=lambda m: f"{m.topic.base}:{m.noun}.{m.verb}")
@pytest.mark.parametrize("role", list(Role))
def test_only_the_roles_of_a_type_may_write_it(message: MessageType, role: Role) -> None:
    keys = own_keys()
    topic = PROXY_COMMANDS.of("dmz") if message.topic is PROXY_COMMANDS else message.topic.name
    result = read_record(signed(keys, b"{}", message.name, topic), ring(enrolled(keys, role)))
    refused = reason_of(result) is DeadLetterReason.ROLE_NOT_ALLOWED
    assert refused != message.may_be_written_by(role)


def test_a_one_time_token_may_only_enrol_and_only_once_and_only_in_time() -> None:
    token = own_keys()
    keyring = Keyring()
    issued = EnrolmentTokenIssued(
        id=uuid4(), time=NOON, kid=token.kid, token_key=token.signing_public.hex(), role=Role.AGENT, subject="dmz",
        expires_at=NOON + timedelta(minutes=5),
    )  # fmt: skip
    keyring.fold(issued)
    enrol = EnrolKey(id=uuid4(), time=NOON, token_kid=token.kid, signing_key="ab" * 32, sealing_key="cd" * 32)
    record = signed(token, batch(enrol.model_dump_json()), type_of(EnrolKey).name)
    assert isinstance(read_record(record, keyring), Received)
    other = signed(token, batch(cancel().model_dump_json()))
    assert reason_of(read_record(other, keyring)) is DeadLetterReason.ROLE_NOT_ALLOWED
    late = replace(record, timestamp=record.timestamp + 301_000)
    assert reason_of(read_record(late, keyring)) is DeadLetterReason.REVOKED_KEY
    keyring.fold(EnrolmentTokenUsed(id=uuid4(), time=NOON, kid=token.kid, enrolled_kid="x"))
    assert reason_of(read_record(record, keyring)) is DeadLetterReason.REVOKED_KEY


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", DeadLetterReason.INVALID),
        (b"{", DeadLetterReason.INVALID),
        (b"\xff\xfe", DeadLetterReason.INVALID),
        (b'{"items":[]}', DeadLetterReason.INVALID),
        (b'{"items":[{"id":1}]}', DeadLetterReason.INVALID),
        (b'{"items":[NaN]}', DeadLetterReason.INVALID),
        (b'{"items":' + b"[" * 50_000, DeadLetterReason.INVALID),
        (b"x" * (2 * 1024 * 1024), DeadLetterReason.TOO_LARGE),
    ],
)
def test_malformed_values_of_a_rightful_writer_are_dead_letters(value: bytes, reason: DeadLetterReason) -> None:
    keys = own_keys()
    assert reason_of(read_record(signed(keys, value), ring(enrolled(keys, Role.GATEWAY)))) is reason


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("chargehand.job-invocation.cancel.v2", DeadLetterReason.UNKNOWN_VERSION),
        ("chargehand.job-invocation.cancel.v0", DeadLetterReason.UNKNOWN_VERSION),
        ("chargehand.job-invocation.explode.v1", DeadLetterReason.UNKNOWN_TYPE),
        ("nonsense", DeadLetterReason.UNKNOWN_TYPE),
    ],
)
def test_unknown_types_and_versions_are_dead_letters(name: str, reason: DeadLetterReason) -> None:
    keys = own_keys()
    record = signed(keys, batch(cancel().model_dump_json()), name)
    assert reason_of(read_record(record, ring(enrolled(keys, Role.GATEWAY)))) is reason


def test_a_record_without_headers_is_unreadable() -> None:
    assert reason_of(read_record(Record(b"{}"), Keyring())) is DeadLetterReason.UNREADABLE


def test_bytes_after_the_json_line_must_be_as_many_as_the_items_say() -> None:
    keys = own_keys()
    report = ProgressReport(
        id=uuid4(), time=NOON, job_invocation_id=uuid4(), job_task_id=uuid4(), attempt=1, host_id=uuid4(),
        stream=Stream.STDOUT, offset=0, length=3, observed_at=NOON,
    )  # fmt: skip
    topic, name = type_of(ProgressReport).topic.name, type_of(ProgressReport).name
    keyring = ring(enrolled(keys, Role.AGENT))

    def read(raw: bytes) -> Received | Rejected:
        value = batch(report.model_dump_json()) + b"\n" + raw
        return read_record(signed(keys, value, name, topic, CONTENT_TYPE_WITH_BYTES), keyring)

    good = read(b"\x00\n\xff")
    assert isinstance(good, Received)
    assert good.raw == b"\x00\n\xff"
    assert reason_of(read(b"\x00\n")) is DeadLetterReason.UNREADABLE
