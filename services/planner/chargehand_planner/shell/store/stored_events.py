"""Events as the streams hold them: the type's name and the JSON of the model, the same as in Kafka.

Owns that encoding. Old versions come up through the schemas' upcasters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from uuid import UUID

from chargehand_schemas.base import Item
from chargehand_schemas.registry import MESSAGE_TYPES, split_type, type_of
from chargehand_schemas.topics import CATALOG_EVENTS, PLANNING_EVENTS, PROXY_COMMANDS
from chargehand_schemas.upcasters import upcast
from eventsourcing.persistence import StoredEvent

from ...core.events import JobInvocationClosed, TargetingCopied
from ...core.outcomes import Append

_TOPICS = (CATALOG_EVENTS, PLANNING_EVENTS, PROXY_COMMANDS)
_OWN: dict[type[Item], tuple[str, int]] = {
    TargetingCopied: ("chargehand.planner.targeting-copied", 1),
    JobInvocationClosed: ("chargehand.planner.job-invocation-closed", 1),
}


@cache
def type_name(model: type[Item]) -> str:
    """The name an event is stored under."""
    if model in _OWN:
        family, version = _OWN[model]
        return f"{family}.v{version}"
    return type_of(model).name


@cache
def _models() -> dict[str, tuple[type[Item], int]]:
    # A name of a type is unique in its topic only.
    published = {m.family: (m.model, m.version) for m in MESSAGE_TYPES if m.topic in _TOPICS}
    return published | {family: (model, version) for model, (family, version) in _OWN.items()}


def model_named(name: str) -> type[Item]:
    """The model of a stored type, whatever its version. LookupError if there is none."""
    family, _ = _split(name)
    return _models()[family][0]


def _split(name: str) -> tuple[str, int]:
    parts = split_type(name)
    if parts is None:
        raise LookupError(f"{name!r} is no type of event")
    return parts


def encode(appends: Iterable[Append]) -> list[StoredEvent]:
    """Rows of the event table, in order."""
    return [
        StoredEvent(
            originator_id=append.stream,
            originator_version=append.version,
            topic=type_name(type(append.event)),
            state=append.event.model_dump_json().encode(),
        )
        for append in appends
    ]


def decode(name: str, state: bytes) -> Item:
    """The event of a row, in its present version. LookupError for a type or a version that nobody knows."""
    family, version = _split(name)
    model, present = _models()[family]
    if version == present:
        return model.model_validate_json(state)
    return model.model_validate(upcast(family, version, present, json.loads(state)))


def append_of(stored: StoredEvent) -> Append:
    """A row as it was appended."""
    stream = stored.originator_id if isinstance(stored.originator_id, UUID) else UUID(stored.originator_id)
    return Append(stream, stored.originator_version, decode(stored.topic, stored.state))
