"""What may be believed of a verified message, and what of it becomes a dead letter (docs/explanation/trust.md).

Owns the checks that need no state: who speaks, and whether it is said where the owner of the invocation reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID

from chargehand_chassis.kafka import Received, Rejected, TopicPartition, partition_of
from chargehand_chassis.kafka.records import KafkaRecord
from chargehand_schemas.base import InvocationItem, Item
from chargehand_schemas.execution import AttemptFact
from chargehand_schemas.reasons import DeadLetterReason


def may_say(message: Received, item: Item) -> bool:
    """An agent speaks for its own proxy, and for itself."""
    if not isinstance(item, AttemptFact):
        return True
    is_itself = not message.writer.agent_id or item.agent_id == message.writer.agent_id
    return item.proxy == message.writer.subject and is_itself


def is_in_place(message: Received, item: Item, partitions: int) -> bool:
    """An item stands in the partition of its invocation: nobody speaks past the position of its owner."""
    if not isinstance(item, InvocationItem):
        return True
    return _place_of(item.job_invocation_id, partitions) == message.partition


# Items of one invocation come together.
@lru_cache(maxsize=1024)
def _place_of(job_invocation_id: UUID, partitions: int) -> int:
    return partition_of(str(job_invocation_id), partitions)


def parts_of(
    records: Mapping[TopicPartition, Sequence[KafkaRecord]], most_bytes: int
) -> Iterator[dict[TopicPartition, list[KafkaRecord]]]:
    """Records of several partitions in parts of about so many bytes, each partition in its order."""
    part: dict[TopicPartition, list[KafkaRecord]] = {}
    filled = 0
    for partition, some in records.items():
        for record in some:
            if part and filled >= most_bytes:
                yield part
                part, filled = {}, 0
            part.setdefault(partition, []).append(record)
            filled += len(record.value or b"")
    if part:
        yield part


def of_another_proxy(message: Received, record: Any) -> Rejected:
    """The dead letter of an agent that speaks for what is not its own."""
    detail = f"key {message.writer.kid} speaks for {message.writer.subject} and its own attempts only"
    return _rejected(message, record, DeadLetterReason.SUBJECT_NOT_ALLOWED, detail)


def out_of_place(message: Received, record: Any) -> Rejected:
    """The dead letter of an item in the wrong partition."""
    detail = "about an invocation of another partition than the one it stands in"
    return _rejected(message, record, DeadLetterReason.INVALID, detail)


def _rejected(message: Received, record: Any, reason: DeadLetterReason, detail: str) -> Rejected:
    return Rejected(message.topic, message.partition, message.offset, reason, detail, record)
