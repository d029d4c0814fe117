"""From a Kafka record to a message that may be believed, or the reason why it has no effect (docs/explanation/trust.md).

Owns the order of the checks: size, envelope, type, version, key, role, signature, shape. Never raises for content.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, Protocol

from chargehand_schemas.base import Item
from chargehand_schemas.envelope import (
    Envelope,
    parse_items,
    read_envelope,
    signed_bytes,
    signed_bytes_before,
    split_value,
)
from chargehand_schemas.keyring import Keyring, Writer
from chargehand_schemas.progress import ProgressReport
from chargehand_schemas.reasons import DeadLetterReason, Role
from chargehand_schemas.registry import MessageType, find_type, split_type
from chargehand_schemas.topics import topic_named
from chargehand_schemas.upcasters import upcast
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from ..keys import verify

MAX_VALUE_BYTES = 1024 * 1024
_SIGNED_FORMS = (signed_bytes, signed_bytes_before)


class KafkaRecord(Protocol):
    """What a consumer hands out, aiokafka's or Faust's."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


@dataclass(frozen=True, slots=True)
class Received:
    """A verified message. `append_time` is the broker's, `time` the writer's word; `raw` are the bytes after the JSON line."""

    topic: str
    partition: int
    offset: int
    key: str
    append_time: datetime
    type: MessageType
    source: str
    time: str
    writer: Writer
    items: tuple[Item, ...]
    raw: bytes


@dataclass(frozen=True, slots=True)
class Rejected:
    """A message without effect: why, and the record for the dead letter."""

    topic: str
    partition: int
    offset: int
    reason: DeadLetterReason
    detail: str
    record: KafkaRecord


class _Refused(Exception):
    def __init__(self, reason: DeadLetterReason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def read_record(record: KafkaRecord, keyring: Keyring) -> Received | Rejected:
    """Check one record against the keyring and the schemas."""
    try:
        return _read(record, keyring)
    except _Refused as refused:
        return Rejected(record.topic, record.partition, record.offset, refused.reason, refused.detail, record)


def _read(record: KafkaRecord, keyring: Keyring) -> Received:
    value, key = record.value or b"", record.key or b""
    if len(value) > MAX_VALUE_BYTES:
        raise _Refused(DeadLetterReason.TOO_LARGE, f"{len(value)} bytes, more than {MAX_VALUE_BYTES}")
    envelope = read_envelope(record.headers)
    if isinstance(envelope, str):
        raise _Refused(DeadLetterReason.UNREADABLE, envelope)
    message_type, version = _type(record.topic, envelope)
    writer = _writer(envelope, message_type, keyring)
    append_time = datetime.fromtimestamp(record.timestamp / 1000, UTC)
    if writer.expires_at is not None and append_time > writer.expires_at:
        raise _Refused(DeadLetterReason.REVOKED_KEY, f"key {writer.kid} was good until {writer.expires_at.isoformat()}")
    if not any(
        verify(writer.signing_key, form(record.topic, key, envelope, value), envelope.proof) for form in _SIGNED_FORMS
    ):
        raise _Refused(DeadLetterReason.BAD_SIGNATURE, f"not what key {writer.kid} signed")
    items, raw = _items(message_type, version, envelope, value)
    return Received(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=_decoded(key),
        append_time=append_time,
        type=message_type,
        source=envelope.source,
        time=envelope.time,
        writer=writer,
        items=items,
        raw=raw,
    )


def _type(topic_name: str, envelope: Envelope) -> tuple[MessageType, int]:
    topic, parts = topic_named(topic_name), split_type(envelope.type)
    message_type = find_type(topic, parts[0]) if topic is not None and parts is not None else None
    if message_type is None or parts is None:
        raise _Refused(DeadLetterReason.UNKNOWN_TYPE, f"{envelope.type[:128]!r} is no type of {topic_name}")
    if not 1 <= parts[1] <= message_type.version:
        detail = f"{envelope.type[:128]!r}: this program knows versions 1 to {message_type.version}"
        raise _Refused(DeadLetterReason.UNKNOWN_VERSION, detail)
    return message_type, parts[1]


def _writer(envelope: Envelope, message_type: MessageType, keyring: Keyring) -> Writer:
    if not envelope.key_id or not envelope.proof:
        raise _Refused(DeadLetterReason.UNSIGNED, "no key id or no proof in its headers")
    writer = keyring.find(envelope.key_id)
    if writer is None:
        raise _Refused(DeadLetterReason.UNKNOWN_KEY, f"key {envelope.key_id[:64]!r} is not enrolled")
    if writer.is_revoked:
        raise _Refused(DeadLetterReason.REVOKED_KEY, f"key {writer.kid} is revoked")
    if not message_type.may_be_written_by(writer.role):
        detail = f"{Role(writer.role).value} may not write {message_type.name} to {message_type.topic.base}"
        raise _Refused(DeadLetterReason.ROLE_NOT_ALLOWED, detail)
    return writer


def _items(message_type: MessageType, version: int, envelope: Envelope, value: bytes) -> tuple[tuple[Item, ...], bytes]:
    try:
        document, raw = split_value(envelope.content_type, value)
        if version != message_type.version:
            document = _upcast(message_type, version, document)
        items = _batch_model(message_type.model).model_validate_json(document).items  # type: ignore[attr-defined]
        _check_raw(message_type.model, items, raw)
    except ValidationError as error:
        raise _Refused(DeadLetterReason.INVALID, _first_errors(error)) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _Refused(DeadLetterReason.UNREADABLE, str(error)[:500]) from error
    return items, raw


def _upcast(message_type: MessageType, version: int, document: bytes) -> bytes:
    items = [upcast(message_type.family, version, message_type.version, item) for item in parse_items(document)]
    return json.dumps({"items": items}).encode()


def _check_raw(model: type[Item], items: tuple[Item, ...], raw: bytes) -> None:
    expected = sum(i.length for i in items if isinstance(i, ProgressReport)) if model is ProgressReport else 0
    if expected != len(raw):
        raise ValueError(f"{len(raw)} bytes after the JSON line, the items say {expected}")


@cache
def _batch_model(model: type[Item]) -> type[BaseModel]:
    return create_model(
        f"{model.__name__}Batch",
        __config__=ConfigDict(frozen=True, extra="ignore"),
        items=(tuple[model, ...], Field(min_length=1, max_length=500)),  # type: ignore[valid-type]
    )


def _first_errors(error: ValidationError) -> str:
    rows: list[Any] = error.errors(include_url=False, include_input=False, include_context=False)[:3]
    return "; ".join(f"{'.'.join(map(str, row['loc']))[:120]}: {row['msg'][:160]}" for row in rows)


def _decoded(key: bytes) -> str:
    return key.decode("utf-8", "replace")
