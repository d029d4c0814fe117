"""Identities: which are drawn at random and which follow from others (docs/protocol.md, rule ATTID).

Owns how an id is made. No message and no store enters here.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha1
from typing import NamedTuple
from uuid import UUID, SafeUUID, uuid4, uuid5

_ITEMS = UUID("6f1c5b0e-5f0f-5a53-9b7f-0a3f4a4d2c11")
_BEFORE_ITEMS = sha1(_ITEMS.bytes, usedforsecurity=False)
_VARIANT_AND_VERSION, _OF_UUID5 = 0xF000_C000_0000_0000_0000, 0x5000_8000_0000_0000_0000


class AttemptId(NamedTuple):
    """One dispatch of one JobTask: `attempt` counts from 1."""

    job_task_id: UUID
    attempt: int

    def __str__(self) -> str:
        return f"{self.job_task_id}/{self.attempt}"


def new_id() -> UUID:
    """A random id, for what has no identity before it is made: invocations, hosts, commands."""
    return uuid4()


def job_task_id(job_invocation_id: UUID, host_id: UUID) -> UUID:
    """The id of the JobTask of one host in one invocation; the same for whoever computes it."""
    return uuid5(job_invocation_id, str(host_id))


def item_id(*parts: object) -> UUID:
    """The id of an item that follows from its parts, so that a repeat carries the same id and is dropped by readers.

    It is `uuid5` of them, written out because every item of every message has one.
    """
    hashed = _BEFORE_ITEMS.copy()
    hashed.update("\x1f".join([_text(part.int) if type(part) is UUID else str(part) for part in parts]).encode())
    number = int.from_bytes(hashed.digest()[:16], "big") & ~_VARIANT_AND_VERSION | _OF_UUID5
    made = object.__new__(UUID)
    object.__setattr__(made, "int", number)
    object.__setattr__(made, "is_safe", SafeUUID.unknown)
    return made


def item_id_prefix(*parts: object) -> bytes:
    """What `item_id` takes the digest of, as far as the first parts: for who makes very many that differ in the last."""
    return _ITEMS.bytes + "".join(f"{part}\x1f" for part in parts).encode()


# What is said of one job task follows one on the other.
@lru_cache(maxsize=4096)
def _text(number: int) -> str:
    return str(UUID(int=number))
