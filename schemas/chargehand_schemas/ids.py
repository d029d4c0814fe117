"""Identities: which are drawn at random and which follow from others (docs/protocol.md, rule ATTID).

Owns how an id is made. No message and no store enters here.
"""

from __future__ import annotations

from hashlib import sha1
from typing import NamedTuple
from uuid import UUID, uuid4, uuid5

_ITEMS = UUID("6f1c5b0e-5f0f-5a53-9b7f-0a3f4a4d2c11")


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
    digest = sha1(_ITEMS.bytes + "\x1f".join(map(str, parts)).encode(), usedforsecurity=False).digest()
    return UUID(bytes=digest[:16], version=5)


def item_id_prefix(*parts: object) -> bytes:
    """What `item_id` takes the digest of, as far as the first parts: for who makes very many that differ in the last."""
    return _ITEMS.bytes + "".join(f"{part}\x1f" for part in parts).encode()
