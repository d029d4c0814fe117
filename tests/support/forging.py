"""Messages that must have no effect, of every type: about things that are really there, and not said by whom they claim.

Owns how each kind is made: from the table of message types and one example of each (the golden log).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from chargehand_chassis.clock import now
from chargehand_chassis.kafka import partition_of
from chargehand_chassis.keys import OwnKeys
from chargehand_schemas.base import AttemptItem, InvocationItem, Item, as_utc
from chargehand_schemas.envelope import CONTENT_TYPE, CONTENT_TYPE_WITH_BYTES, Envelope, join_value, signed_bytes
from chargehand_schemas.progress import ProgressReport
from chargehand_schemas.reasons import DeadLetterReason, Role
from chargehand_schemas.registry import MESSAGE_TYPES, MessageType, find_type
from chargehand_schemas.topics import (
    COMMANDS,
    EXECUTION_EVENTS,
    HOST_EVENTS,
    PROGRESS_REPORTS,
    PROXY_COMMANDS,
    PROXY_EVENTS,
    TOPICS,
)

GOLDEN = Path(__file__).parents[1] / "data" / "golden_log_v1.jsonl"
PROXY, OTHER_PROXY = "local", "elsewhere"
TOO_OLD = timedelta(minutes=6)
_BY_AGENTS = (EXECUTION_EVENTS, PROGRESS_REPORTS, HOST_EVENTS, PROXY_EVENTS)


@dataclass(frozen=True)
class Forgery:
    """A record for one partition. `letter`: the reason its dead letter must give; None where there is none to be."""

    kind: str
    message: MessageType
    topic: str
    partition: int
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]
    letter: DeadLetterReason | None

    @property
    def name(self) -> str:
        return f"{self.kind}: {self.message.topic.base} {self.message.noun}.{self.message.verb}"


@dataclass(frozen=True)
class Keys:
    """What the forger holds: the real keys of every role, those of an agent of another proxy, and ones nobody knows."""

    of_roles: Mapping[Role, OwnKeys]
    of_other_agent: OwnKeys
    unknown: OwnKeys

    def writer(self, message: MessageType) -> OwnKeys:
        """The key of one who may write it; of a program rather than of the gateway, as that one's age is not looked at."""
        roles = sorted(self.of_roles, key=lambda role: role is Role.GATEWAY)
        return self.of_roles[next(role for role in roles if message.may_be_written_by(role))]

    def stranger(self, message: MessageType) -> OwnKeys:
        """The key of one who is enrolled, and may not write it."""
        return self.of_roles[next(role for role in self.of_roles if not message.may_be_written_by(role))]


@dataclass(frozen=True)
class Forger:
    """Makes them. `aims`: by field, what is really there, so that whatever is believed does harm."""

    keys: Keys
    aims: Mapping[str, Any]
    partitions: int

    def all(self) -> Iterator[Forgery]:
        """Every type in every way that there is for it; late ones by their rightful writers are apart."""
        for message in MESSAGE_TYPES:
            item = self.item(message)
            writer, whole = self.keys.writer(message), DeadLetterReason
            yield self.forge("unsigned", message, item, None, whole.UNSIGNED)
            yield self.forge("wrong key", message, item, self.keys.unknown, whole.UNKNOWN_KEY)
            yield self.forge("stolen name", message, item, self.keys.unknown, whole.BAD_SIGNATURE, kid=writer.kid)
            yield self.forge("other role", message, item, self.keys.stranger(message), whole.ROLE_NOT_ALLOWED)
            if message.topic in _BY_AGENTS:
                agent = self.keys.of_other_agent
                yield self.forge("other proxy", message, item, agent, whole.SUBJECT_NOT_ALLOWED)
            if message.topic is PROXY_COMMANDS:
                other = item.model_copy(update={"proxy": OTHER_PROXY})
                yield self.forge("other proxy", message, other, writer, whole.SUBJECT_NOT_ALLOWED)
            if message.topic is COMMANDS:
                yield self.forge("late", message, item, writer, whole.TOO_OLD, written=now() - TOO_OLD)

    def late_facts(self, ended: Mapping[str, Any]) -> Iterator[Forgery]:
        """By their rightful writers: facts about an attempt whose job task has its verdict, and its command once more, expired."""
        for message in MESSAGE_TYPES:
            is_run = message.topic is PROXY_COMMANDS and message.verb == "run"
            if message.topic is EXECUTION_EVENTS or is_run:
                past = {name: now() - TOO_OLD for name in ("issued_at", "not_after", "run_deadline")} if is_run else {}
                item = self.item(message, {**ended, **past, **({"attempt": 7} if is_run else {})})
                yield self.forge("late", message, item, self.keys.writer(message), None)

    def item(self, message: MessageType, aims: Mapping[str, Any] | None = None) -> Item:
        """The example of a type, about what is there."""
        fields = {**self.aims, **(aims or {}), "id": uuid4(), "time": now()}
        known = message.model.model_fields.keys() & fields.keys()
        return EXAMPLES[message].model_copy(update={name: fields[name] for name in known})

    def forge(
        self,
        kind: str,
        message: MessageType,
        item: Item,
        keys: OwnKeys | None,
        letter: DeadLetterReason | None,
        *,
        kid: str = "",
        written: datetime | None = None,
    ) -> Forgery:
        """The record of an item, signed with these keys (None: not at all) under their name or another."""
        topic = PROXY_COMMANDS.of(PROXY) if message.topic is PROXY_COMMANDS else message.topic.name
        key = _key(item)
        raw = b"x" * item.length if isinstance(item, ProgressReport) else None
        value = join_value(f'{{"items":[{item.model_dump_json()}]}}'.encode(), raw)
        envelope = Envelope(
            message.name, "forger/1", str(item.id), as_utc(written or now()),
            CONTENT_TYPE if raw is None else CONTENT_TYPE_WITH_BYTES, kid or (keys.kid if keys else ""), b"",
        )  # fmt: skip
        if keys is not None:
            envelope = replace(envelope, proof=keys.sign(signed_bytes(topic, key.encode(), envelope, value)))
        place = partition_of(key, self.partitions)
        return Forgery(kind, message, topic, place, key.encode(), value, envelope.headers(), letter)


def _key(item: Item) -> str:
    match item:
        case ProgressReport():
            return str(item.job_task_id)
        case AttemptItem() if hasattr(item, "host"):
            return str(getattr(item, "host_id", item.id))
        case InvocationItem():
            return str(item.job_invocation_id)
        case _:
            return str(item.id)


def _examples() -> dict[MessageType, Item]:
    found = {}
    for line in GOLDEN.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        base, _, name = row["type"].partition(" ")
        message = find_type(next(topic for topic in TOPICS if topic.base == base), name.rpartition(".v")[0])
        assert message is not None
        found[message] = message.model.model_validate_json(json.dumps(row["item"]))
    return found


EXAMPLES = _examples()
"""One item of each type."""
