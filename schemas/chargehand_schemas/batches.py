"""Packing items into messages: one type, one partition, at most 500 items or 256 KiB each (docs/adr/0002-every-message-is-a-batch.md).

Owns the limits of a batch and its order. Kafka and signatures do not enter here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from .base import MAX_ITEMS_PER_MESSAGE, MAX_MESSAGE_BYTES, Item
from .topics import topic_named

_FRAME_BYTES = 16


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One item on its way: where to, under which key, and for output its raw bytes."""

    topic: str
    key: str
    item: Item
    raw: bytes | None = None


@dataclass(frozen=True, slots=True)
class Packed:
    """One message: its topic, partition, the key of its first item, its id, the model of its items, the JSON document, the raw bytes."""

    topic: str
    partition: int
    key: str
    id: str
    model: type[Item]
    document: bytes
    raw: bytes | None
    count: int


def pack(
    outgoing: Iterable[tuple[Outgoing, int]],
    *,
    max_items: int = MAX_ITEMS_PER_MESSAGE,
    max_bytes: int = MAX_MESSAGE_BYTES,
) -> Iterator[Packed]:
    """Messages of (item, partition) pairs. Order within a partition is kept: a change of type there begins a new message.

    An item larger than `max_bytes` travels alone. Messages come out in the order in which their first items came in.
    """
    done: list[list[tuple[Outgoing, bytes]]] = []
    open_by_partition: dict[tuple[str, int], tuple[list[tuple[Outgoing, bytes]], int]] = {}
    partitions: list[int] = []
    for out, partition in outgoing:
        document = out.item.model_dump_json().encode()
        size = len(document) + len(out.raw or b"") + 1
        place = (out.topic, partition)
        rows, filled = open_by_partition.get(place, ([], 0))
        if not rows or not _fits(rows, filled, out, size, max_items, max_bytes):
            rows, filled = [], _FRAME_BYTES
            done.append(rows)
            partitions.append(partition)
        rows.append((out, document))
        open_by_partition[place] = (rows, filled + size)
    for rows, partition in zip(done, partitions, strict=True):
        yield _packed(rows, partition)


def _fits(
    rows: Sequence[tuple[Outgoing, bytes]], filled: int, out: Outgoing, size: int, max_items: int, max_bytes: int
) -> bool:
    first = rows[0][0]
    if _travels_alone(first.topic):
        return False
    same = type(first.item) is type(out.item) and (first.raw is None) == (out.raw is None)
    return same and len(rows) < max_items and filled + size <= max_bytes


@cache
def _travels_alone(topic: str) -> bool:
    """A compacted topic keeps the last message of each key: one item a message, under its own key."""
    found = topic_named(topic)
    return found is not None and found.is_compacted


def _packed(rows: Sequence[tuple[Outgoing, bytes]], partition: int) -> Packed:
    first, last = rows[0][0], rows[-1][0]
    raw = None if first.raw is None else b"".join(out.raw or b"" for out, _ in rows)
    documents = [document for _, document in rows]
    ids = (str(first.item.id), str(last.item.id))
    return put_together(first.topic, partition, first.key, type(first.item), documents, ids, raw)


def put_together(
    topic: str, partition: int, key: str, model: type[Item], documents: Sequence[bytes], ids: tuple[str, str],
    raw: bytes | None = None,
) -> Packed:  # fmt: skip
    """One message of items that are JSON already; `ids`: of the first and of the last. The limits of a batch are the caller's."""
    identity = ids[0] if len(documents) == 1 else f"{ids[0]}+{len(documents)}+{ids[1]}"
    document = b'{"items":[' + b",".join(documents) + b"]}"
    return Packed(topic, partition, key, identity, model, document, raw, len(documents))
