"""Messages of the topic `dead-letters`: what could not be read or had no right to be said. Key: the original key.

Owns shape only.
"""

from __future__ import annotations

from pydantic import Field

from .base import Item
from .reasons import DeadLetterReason

MAX_KEPT_BYTES = 32 * 1024


class DeadLetter(Item):
    """A record without effect: where it stands, why, and its first 32 KiB. `key`, `value` and header values are base64."""

    service: str
    reason: DeadLetterReason
    detail: str = Field("", max_length=2048)
    topic: str
    partition: int
    offset: int
    key: bytes = b""
    headers: tuple[tuple[str, bytes], ...] = ()
    value: bytes = b""
    value_length: int = 0
