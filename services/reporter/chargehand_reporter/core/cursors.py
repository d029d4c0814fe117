"""Places in lists, ids by prefix, and ranges of bytes, as they stand in a URL or a header. Owns reading and writing them.

What cannot be read is None or a ValueError in words; nothing here knows a store.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from uuid import UUID

MAX_CURSOR = 1024
_PREFIX = re.compile(r"[0-9a-f]{4,32}")
_RANGE = re.compile(r"\s*(\d{0,18})\s*-\s*(\d{0,18})\s*")


def write_cursor(*parts: str | int) -> str:
    """A place in a list as URL-safe text."""
    return base64.urlsafe_b64encode(json.dumps(parts, separators=(",", ":")).encode()).decode().rstrip("=")


def read_cursor(text: str, kinds: tuple[type, ...]) -> tuple[str | int, ...]:
    """The parts of a cursor. ValueError if it is none of these kinds: take `next` of the page before, unchanged."""
    try:
        if len(text) > MAX_CURSOR:
            raise ValueError("too long")
        parts = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, RecursionError) as error:
        raise ValueError("`after` is not the `next` of a page") from error
    if not isinstance(parts, list) or [type(part) for part in parts] != list(kinds):
        raise ValueError("`after` is not the `next` of a page of this list")
    return tuple(parts)


def id_range(text: str) -> tuple[bytes, bytes] | None:
    """The lowest and highest id (16 bytes each) of a full id or a prefix of at least 4 hex digits; None if it is neither."""
    digits = text.lower().replace("-", "")
    if not _PREFIX.fullmatch(digits) or (len(digits) == 32 and not _is_id(text)):
        return None
    return bytes.fromhex(digits.ljust(32, "0")), bytes.fromhex(digits.ljust(32, "f"))


def _is_id(text: str) -> bool:
    try:
        return bool(UUID(text))
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes [start, end) of a representation."""

    start: int
    end: int


def read_range(header: str | None, length: int) -> ByteRange | str | None:
    """What a Range header asks of `length` bytes (RFC 9110, section 14).

    None: answer with everything (no header, another unit, more than one range, or no syntax of this kind, all of which may
    be ignored). Text: it cannot be satisfied, 416 with this reason.
    """
    if header is None or not header.lower().startswith("bytes=") or "," in header:
        return None
    match = _RANGE.fullmatch(header[6:])
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        return _suffix(int(match[2]), length)
    start, end = int(match[1]), int(match[2]) + 1 if match[2] else length
    if end <= start and match[2]:
        return None
    if start >= length:
        return f"byte {start} is asked for, there are {length}"
    return ByteRange(start, min(end, length))


def _suffix(count: int, length: int) -> ByteRange | str:
    if not count or not length:
        return f"the last {count} bytes are asked for, there are {length}"
    return ByteRange(max(0, length - count), length)
