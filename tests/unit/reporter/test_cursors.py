"""Places in lists, ids by prefix, ranges of bytes."""

import pytest
from chargehand_reporter.core.cursors import ByteRange, id_range, read_cursor, read_range, write_cursor


def test_a_cursor_comes_back_as_it_was_written() -> None:
    assert read_cursor(write_cursor("web1", "ab12"), (str, str)) == ("web1", "ab12")
    assert read_cursor(write_cursor(17, "ü"), (int, str)) == (17, "ü")


@pytest.mark.parametrize("text", ["x", "....", "W10", "e30", "bnVsbA", "a" * 5000, write_cursor(1, "a"), "WzEsMl0\x00"])
def test_anything_else_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match="`after`"):
        read_cursor(text, (str, str))


def test_a_prefix_is_the_range_of_ids_that_begin_with_it() -> None:
    low, high = id_range("abc1") or (b"", b"")
    assert low.hex() == "abc1" + "0" * 28
    assert high.hex() == "abc1" + "f" * 28
    low, high = id_range("6F1C5B0E-5f0f-5a53-9b7f-0a3f4a4d2c11") or (b"", b"")
    assert low == high


@pytest.mark.parametrize("text", ["", "abc", "xyzw", "abc1'--", "@last", "6f1c5b0e-5f0f-5a53-9b7f-0a3f4a4d2c111"])
def test_what_is_no_prefix_of_an_id_is_none(text: str) -> None:
    assert id_range(text) is None


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-0", ByteRange(0, 1)),
        ("bytes=2-", ByteRange(2, 10)),
        ("bytes=2-99", ByteRange(2, 10)),
        ("bytes=-3", ByteRange(7, 10)),
        ("bytes=-99", ByteRange(0, 10)),
        ("Bytes=1-1", ByteRange(1, 2)),
        ("bytes=5-2", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("lines=1-2", None),
        ("bytes=0-1,3-4", None),
        ("bytes=" + "1" * 40 + "-", None),
    ],
)
def test_a_range_is_read_as_the_standard_says(header: str | None, expected: ByteRange | None) -> None:
    assert read_range(header, 10) == expected


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=99-100", "bytes=-0"])
def test_a_range_beyond_the_end_cannot_be_satisfied(header: str) -> None:
    assert isinstance(read_range(header, 10), str)


def test_a_thousand_ranges_cost_nothing() -> None:
    assert read_range("bytes=" + ",".join("0-" for _ in range(100_000)), 10) is None
