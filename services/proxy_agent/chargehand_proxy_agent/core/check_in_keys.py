"""The key that a host checks in with, derived from its proxy's secret (docs/adr/0027-a-host-s-key-is-derived.md).

Owns the derivation, the form of a secret, and where a script gets the key from. Pure: which file the secret is in is the shell's.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from uuid import UUID

PLACEHOLDER = "__CHARGEHAND_CHECK_IN__"
"""Stands in a script for `HOST_ID KEY` of the host it runs on; the same text on every host."""
SECRET_BYTES = 32

_CONTEXT = b"chargehand check-in key 1\n"
_SECRET = re.compile(r"[0-9a-f]{64,512}")


def read_secrets(text: str) -> tuple[bytes, ...] | str:
    """The secrets of a file, the current one first; or in words what is wrong with it. Empty lines and comments do not count."""
    lines = [line.strip() for line in text.splitlines()]
    words = [line for line in lines if line and not line.startswith("#")]
    if not words:
        return "it holds no secret; one is a line of 64 hex digits"
    if not all(_SECRET.fullmatch(word) and len(word) % 2 == 0 for word in words):
        return "a line of it is no secret: 64 hex digits in small letters, or more"
    return tuple(bytes.fromhex(word) for word in words)


def key_of(secret: bytes, host_id: UUID) -> str:
    """The key of one host under one secret of its proxy: HMAC-SHA256, in hex."""
    return hmac.new(secret, _CONTEXT + str(host_id).encode("ascii"), hashlib.sha256).hexdigest()


def is_key_of(secrets: Sequence[bytes], host_id: UUID, key: str) -> bool:
    """Whether it is the host's key under any of them; takes as long whichever it is, and how much of it is right."""
    found = False
    for secret in secrets:
        found |= hmac.compare_digest(key_of(secret, host_id).encode("ascii"), key.encode("utf-8"))
    return found


def filled(script: str, secrets: Sequence[bytes], host_id: UUID) -> str:
    """The script with the host's own credentials, under the current secret. Empty: there is nothing to fill in."""
    if PLACEHOLDER not in script or not secrets:
        return ""
    return script.replace(PLACEHOLDER, f"{host_id} {key_of(secrets[0], host_id)}")
