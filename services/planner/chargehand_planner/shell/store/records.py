"""What is written to the store in one transaction, and what is read for publishing: plain values.

Owns their shape. How a table holds them is in tables.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

from chargehand_chassis.errors import TransientFailure
from chargehand_schemas.base import Item
from chargehand_schemas.batches import Outgoing
from chargehand_schemas.dispatch import AttemptDue
from chargehand_schemas.planning import ScriptRendered

from ...core.bindings import Binding
from ...core.job_invocations import JobInvocation
from ...core.outcomes import Append

Position: TypeAlias = "tuple[str, int]"
"""A topic and a partition."""


class Conflict(TransientFailure):
    """Another writer took the place of an event, a name or a binding meanwhile: read again, decide again."""


class Fenced(TransientFailure):
    """Another instance owns a partition now: nothing was written, and nothing of it may be."""


@dataclass(frozen=True, slots=True)
class Due:
    """A due attempt that waits for a slow rendering, and the partition it came by."""

    due: AttemptDue
    partition: Position


Parked: TypeAlias = Due


@dataclass(frozen=True, slots=True)
class Offer:
    """What an agent of a proxy says it can do."""

    proxy: str
    agent_id: str
    providers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HostReport:
    """The last thing of one kind that was observed of a host. `document` is the item in JSON."""

    host_id: UUID
    kind: str
    reported_at: datetime
    document: str


@dataclass(frozen=True, slots=True)
class Change:
    """One transaction. `positions` are the offsets to go on from, `times` the broker's times (ms) of the messages before them;
    `tokens` prove that their partitions are owned.

    `items` are published after all events that were stored before; scripts before them, those that are new.
    """

    appends: Sequence[Append] = ()
    invocations: Sequence[JobInvocation] = ()
    sealed_inputs: Mapping[UUID, Mapping[str, str]] = field(default_factory=dict)
    handled: Sequence[UUID] = ()
    bindings: Sequence[Binding] = ()
    scripts: Sequence[ScriptRendered] = ()
    items: Sequence[Item] = ()
    parked: Sequence[Due] = ()
    unparked: Sequence[tuple[UUID, int]] = ()
    offers: Sequence[Offer] = ()
    reports: Sequence[HostReport] = ()
    positions: Mapping[Position, int] = field(default_factory=dict)
    times: Mapping[Position, int] = field(default_factory=dict)
    tokens: Mapping[Position, str] = field(default_factory=dict)
    moment: datetime | None = None


@dataclass(frozen=True, slots=True)
class Sending:
    """What is published next, in this order, and what to note when it is acknowledged."""

    outgoing: Sequence[Outgoing] = ()
    notification_id: int | None = None
    outbox_ids: Sequence[int] = ()

    @property
    def is_empty(self) -> bool:
        return self.notification_id is None and not self.outbox_ids
