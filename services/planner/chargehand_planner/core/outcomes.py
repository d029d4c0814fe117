"""What a decision is: events to append to streams, or a refusal in words.

Owns these two values and the identity of streams. What is decided stands in the modules of the aggregates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias
from uuid import UUID

from chargehand_schemas.base import Item
from chargehand_schemas.ids import item_id
from chargehand_schemas.reasons import Refusal


@dataclass(frozen=True, slots=True)
class Append:
    """An event and its place: version `version` (from 1) of the stream `stream`. A place is taken once."""

    stream: UUID
    version: int
    event: Item


@dataclass(frozen=True, slots=True)
class Decided:
    """The command is carried out by these events; none: nothing was left to do. `counts` are for the one who asked."""

    appends: tuple[Append, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def events(self) -> tuple[Item, ...]:
        return tuple(append.event for append in self.appends)


@dataclass(frozen=True, slots=True)
class Refused:
    """The command changes nothing. `detail` says what was wrong, where, and what to do."""

    reason: Refusal
    detail: str


Outcome: TypeAlias = Decided | Refused


def appended(stream: UUID, version: int, events: Iterable[Item]) -> tuple[Append, ...]:
    """These events after version `version` of a stream."""
    return tuple(Append(stream, number, event) for number, event in enumerate(events, version + 1))


def user_stream(login: str) -> UUID:
    return item_id("user", login)


def proxy_stream(proxy: str) -> UUID:
    return item_id("proxy", proxy)


def key_stream(kid: str) -> UUID:
    return item_id("key", kid)
