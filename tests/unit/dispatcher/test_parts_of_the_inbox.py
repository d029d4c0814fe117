"""What is read at once is worked on in parts of a bounded size, each partition in its order."""

from dataclasses import dataclass
from typing import Any

from chargehand_chassis.kafka import TopicPartition
from chargehand_dispatcher.shell.intake import parts_of
from hypothesis import given
from hypothesis import strategies as st


@dataclass(frozen=True)
class Record:
    """As much of a record as is looked at."""

    offset: int
    value: bytes | None


@given(st.lists(st.lists(st.integers(0, 50), max_size=8), max_size=4), st.integers(1, 100))
def test_parts_hold_everything_in_order_and_none_is_larger_than_asked_by_more_than_a_record(
    sizes: list[list[int]], most: int
) -> None:
    records = {
        TopicPartition("facts", number): [Record(n, b"x" * size or None) for n, size in enumerate(some)]
        for number, some in enumerate(sizes)
    }
    parts: list[Any] = list(parts_of(records, most))  # type: ignore[arg-type]
    for partition, some in records.items():
        assert [record for part in parts for record in part.get(partition, [])] == some
    for part in parts:
        filled = [len(record.value or b"") for some in part.values() for record in some]
        assert filled
        assert sum(filled[:-1]) < most
