"""Output of a stream by offset: nothing lost, nothing twice, caps said plainly, digests over what was published."""

import hashlib
from collections.abc import Iterable

from chargehand_proxy_agent.core.output import (
    NOTHING,
    Chunk,
    Gap,
    OutputLimits,
    Piece,
    StreamOutput,
    acknowledge,
    close,
    leave_out,
    observe,
    resumed,
)
from hypothesis import given
from hypothesis import strategies as st

LIMITS = OutputLimits(report_bytes=4, head_bytes=10, tail_bytes=3)
WIDE = OutputLimits(report_bytes=4)


def folded(pieces: Iterable[Piece]) -> tuple[bytes, list[tuple[int, int]]]:
    """What a reader has in the end, with the holes that were named."""
    whole, gaps, end = b"", [], 0
    for piece in pieces:
        if isinstance(piece, Gap):
            assert piece.start == end
            gaps.append((piece.start, piece.end))
            end = piece.end
        else:
            assert piece.offset == end
            whole += piece.data
            end = piece.end
    return whole, gaps


def test_long_output_is_cut_into_reports() -> None:
    stream, pieces = observe(NOTHING, 0, b"abcdefghi", WIDE)
    assert pieces == (Chunk(0, b"abcd"), Chunk(4, b"efgh"), Chunk(8, b"i"))
    assert (stream.seen, stream.out, stream.kept, stream.unacknowledged) == (9, 9, 9, 9)
    assert acknowledge(stream, 9).unacknowledged == 0
    assert acknowledge(acknowledge(stream, 9), 4).acked == 9, "an older acknowledgement takes nothing back"


def test_what_lies_beyond_a_hole_is_not_taken() -> None:
    assert observe(NOTHING, 3, b"def", WIDE) == (NOTHING, ())


def test_a_cap_keeps_head_and_tail_and_names_what_is_between() -> None:
    stream, pieces = observe(NOTHING, 0, b"0123456789abcdefghij", LIMITS)
    closed, rest = close(stream, 20, LIMITS)
    assert folded((*pieces, *rest)) == (b"0123456789hij", [(10, 17)])
    assert (closed.kept, closed.seen, closed.out) == (13, 20, 20)
    assert closed.sha256() == hashlib.sha256(b"0123456789hij").hexdigest()


def test_a_cap_without_a_tail_names_all_beyond_the_head() -> None:
    limits = OutputLimits(report_bytes=64, head_bytes=4, tail_bytes=0)
    stream, pieces = observe(NOTHING, 0, b"0123456789", limits)
    _, rest = close(stream, 10, limits)
    assert folded((*pieces, *rest)) == (b"0123", [(4, 10)])


def test_a_providers_own_omission_is_passed_on_and_output_goes_on_behind_it() -> None:
    stream, first = observe(NOTHING, 0, b"abc", WIDE)
    stream, gap = leave_out(stream, 3, 100)
    stream, last = observe(stream, 100, b"xyz", WIDE)
    assert folded((*first, *gap, *last)) == (b"abcxyz", [(3, 100)])
    assert leave_out(stream, 3, 100) == (stream, ()), "said once"
    assert leave_out(stream, 200, 300) == (stream, ()), "not what goes on from here"


def test_after_a_restart_all_is_hashed_and_only_the_rest_is_published() -> None:
    stream, pieces = observe(resumed(5), 0, b"abcdefg", WIDE)
    assert pieces == (Chunk(5, b"fg"),)
    assert (stream.kept, stream.sha256()) == (7, hashlib.sha256(b"abcdefg").hexdigest())
    assert stream.unacknowledged == 2


def test_newlines_are_those_of_what_was_published() -> None:
    stream, _ = observe(NOTHING, 0, b"a\nb\n", WIDE)
    assert stream.newlines == 2


@given(st.binary(max_size=200), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 60)), max_size=40))
def test_any_overlapping_cuts_publish_each_byte_once_and_in_order(whole: bytes, cuts: list[tuple[int, int]]) -> None:
    """RANGE."""
    stream: StreamOutput = NOTHING
    pieces: list[Piece] = []
    for offset, length in [*cuts, (0, 200)]:
        stream, more = observe(stream, offset, whole[offset : offset + length], WIDE)
        pieces += more
    stream, more = close(stream, len(whole), WIDE)
    assert folded((*pieces, *more)) == (whole, [])
    assert stream.sha256() == hashlib.sha256(whole).hexdigest()


@given(st.binary(max_size=100), st.lists(st.integers(1, 20), max_size=20), st.integers(0, 30), st.integers(0, 10))
def test_any_cap_keeps_a_head_and_a_tail_and_leaves_no_unnamed_hole(
    whole: bytes, sizes: list[int], head: int, tail: int
) -> None:
    limits = OutputLimits(report_bytes=7, head_bytes=head, tail_bytes=tail)
    stream, pieces, offset = NOTHING, list[Piece](), 0
    for size in [*sizes, 100]:
        stream, more = observe(stream, offset, whole[offset : offset + size], limits)
        pieces += more
        offset += size
    stream, more = close(stream, len(whole), limits)
    kept, gaps = folded((*pieces, *more))
    if len(whole) <= head + tail:
        assert (kept, gaps) == (whole, [])
    else:
        assert (kept, gaps) == (whole[:head] + whole[len(whole) - tail :], [(head, len(whole) - tail)])
    assert stream.sha256() == hashlib.sha256(kept).hexdigest()
