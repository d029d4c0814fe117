"""The envelope of every message: CloudEvents 1.0 in binary mode, signed by its writer (docs/explanation/trust.md).

Owns header names, the bytes that are signed, and cutting a value into items and raw bytes. Keys and Kafka do not enter here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

SPEC_VERSION = "1.0"
CONTENT_TYPE = "application/json"
CONTENT_TYPE_WITH_BYTES = "application/x-chargehand-output"
MAX_HEADER_BYTES = 1024

Headers = Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Envelope:
    """The headers of one message, decoded. `proof` is the Ed25519 signature (64 bytes) over `signed_bytes`."""

    type: str
    source: str
    id: str
    time: str
    content_type: str
    key_id: str
    proof: bytes

    def headers(self) -> list[tuple[str, bytes]]:
        """As Kafka headers, in a fixed order."""
        return [
            ("ce_specversion", SPEC_VERSION.encode()),
            ("ce_type", self.type.encode()),
            ("ce_source", self.source.encode()),
            ("ce_id", self.id.encode()),
            ("ce_time", self.time.encode()),
            ("content-type", self.content_type.encode()),
            ("ce_keyid", self.key_id.encode()),
            ("ce_proof", self.proof),
        ]


def signed_bytes(topic: str, key: bytes, envelope: Envelope, value: bytes) -> bytes:
    """What is signed: every part with its length before it, in this order, so that no two messages encode alike. The value stands
    in it by its SHA-256 digest: Ed25519 reads what it signs twice (docs/adr/0035)."""
    return _encoded(b"chargehand-message-2", topic, key, envelope, sha256(value).digest())


def signed_bytes_before(topic: str, key: bytes, envelope: Envelope, value: bytes) -> bytes:
    """What was signed of messages that stand in logs from before that: the same with the value itself."""
    return _encoded(b"chargehand-message-1", topic, key, envelope, value)


def _encoded(form: bytes, topic: str, key: bytes, envelope: Envelope, value: bytes) -> bytes:
    parts = (
        form,
        topic.encode(),
        key,
        envelope.type.encode(),
        envelope.source.encode(),
        envelope.id.encode(),
        envelope.time.encode(),
        envelope.content_type.encode(),
        envelope.key_id.encode(),
        value,
    )
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def read_envelope(headers: Iterable[tuple[str, bytes]]) -> Envelope | str:
    """The envelope of a record, or in words what is wrong with its headers. A missing proof is an empty one."""
    found: dict[str, bytes] = {}
    for name, value in headers:
        if name in found:
            return f"header {name[:64]!r} stands twice"
        found[name] = value
    try:
        texts = {name: _text(found, name) for name in ("ce_specversion", "ce_type", "ce_source", "ce_id", "ce_time")}
        content_type, key_id = _text(found, "content-type"), _text(found, "ce_keyid", "")
    except ValueError as error:
        return str(error)
    if texts["ce_specversion"] != SPEC_VERSION:
        return f"ce_specversion is {texts['ce_specversion'][:16]!r}, not {SPEC_VERSION!r}"
    return Envelope(
        type=texts["ce_type"],
        source=texts["ce_source"],
        id=texts["ce_id"],
        time=texts["ce_time"],
        content_type=content_type,
        key_id=key_id,
        proof=found.get("ce_proof") or b"",
    )


def _text(found: dict[str, bytes], name: str, default: str | None = None) -> str:
    raw = found.get(name)
    if raw is None:
        if default is None:
            raise ValueError(f"header {name!r} is missing")
        return default
    if len(raw) > MAX_HEADER_BYTES:
        raise ValueError(f"header {name!r} has {len(raw)} bytes, more than {MAX_HEADER_BYTES}")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"header {name!r} is not UTF-8") from error


def join_value(items_json: bytes, raw: bytes | None) -> bytes:
    """The value of a message: the JSON document alone, or one JSON line, a newline and raw bytes."""
    return items_json if raw is None else items_json + b"\n" + raw


def split_value(content_type: str, value: bytes) -> tuple[bytes, bytes]:
    """The JSON document and the raw bytes after it. ValueError for an unknown content type or a missing newline."""
    if content_type == CONTENT_TYPE:
        return value, b""
    if content_type != CONTENT_TYPE_WITH_BYTES:
        raise ValueError(f"content-type {content_type[:64]!r} is neither {CONTENT_TYPE} nor {CONTENT_TYPE_WITH_BYTES}")
    head, newline, raw = value.partition(b"\n")
    if not newline:
        raise ValueError("no newline after the JSON line")
    return head, raw


def parse_items(document: bytes) -> list[Any]:
    """The `items` of a message's JSON document. ValueError in words if it is not one object with a list of 1 to 500 items."""
    try:
        value = json.loads(document, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {str(error)[:200]}") from error
    items = value.get("items") if isinstance(value, dict) else None
    if not isinstance(items, list) or not 1 <= len(items) <= 500:
        raise ValueError("not an object with `items`, a list of 1 to 500")
    return items


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
