"""The fold of output by range (docs/protocol.md, rule RANGE; S69)."""

from itertools import pairwise

from chargehand_reporter.core.output import Chunk, Omission, Piece, StreamState, fold_output, may_close_hole
from hypothesis import given
from hypothesis import strategies as st

Held = dict[int, Piece]


class Store:
    """What a store keeps of one stream, in memory."""

    def __init__(self) -> None:
        self.state = StreamState()
        self.data = b""
        self.held: Held = {}

    def take(self, *pieces: Piece) -> None:
        known = tuple(self.held.values()) if may_close_hole(self.state, pieces) else ()
        folded = fold_output(self.state, known, pieces)
        for piece in folded.appended:
            assert piece.offset == len(self.data), "a stored segment begins where the one before ended"
            self.data += piece.data
        for start in folded.released:
            del self.held[start]
        for waiting in folded.held:
            kept = self.held.get(waiting.start)
            if kept is None or kept.end < waiting.end:
                self.held[waiting.start] = waiting
        self.state = folded.state


def test_a_chunk_cut_differently_is_trimmed_to_what_lies_beyond_the_stored_end() -> None:
    store = Store()
    store.take(Chunk(0, b"a" * 100))
    store.take(Chunk(0, b"a" * 100 + b"b" * 80))
    store.take(Chunk(50, b"a" * 50 + b"b" * 50))
    assert store.data == b"a" * 100 + b"b" * 80
    assert store.state.end == store.state.stored == 180


def test_a_chunk_beyond_a_hole_waits_and_is_not_counted() -> None:
    store = Store()
    store.take(Chunk(10, b"later\n"))
    assert (store.data, store.state.end, store.state.newlines) == (b"", 0, 0)
    assert list(store.held) == [10]


def test_a_shorter_piece_does_not_replace_the_one_that_waits() -> None:
    store = Store()
    store.take(Chunk(4, b"5678"))
    store.take(Chunk(4, b"5"), Chunk(4, b""))
    store.take(Chunk(0, b"1234"))
    assert store.data == b"12345678"


def test_what_waits_is_taken_when_the_hole_is_filled() -> None:
    store = Store()
    store.take(Chunk(4, b"5678"))
    store.take(Chunk(6, b"789\n"))
    store.take(Chunk(0, b"1234"))
    assert store.data == b"123456789\n"
    assert store.held == {}
    assert store.state.newlines == 1


def test_an_omission_is_stepped_over_and_nobody_waits_for_it() -> None:
    store = Store()
    store.take(Chunk(0, b"head"))
    store.take(Chunk(1000, b"tail"))
    store.take(Omission(4, 1000))
    assert store.data == b"headtail"
    assert store.state.omitted == ((4, 1000),)
    assert store.state.end == 1004
    assert store.state.stored == 8


def test_an_omission_told_in_two_parts_is_one() -> None:
    store = Store()
    store.take(Chunk(0, b"head"), Omission(4, 500), Omission(500, 1000), Omission(4, 1000))
    assert store.state.omitted == ((4, 1000),)


def test_the_tail_is_the_last_two_kibibytes_whatever_the_chunks() -> None:
    store = Store()
    data = bytes(range(256)) * 20
    for start in range(0, len(data), 700):
        store.take(Chunk(start, data[start : start + 700]))
    assert store.state.tail == data[-2048:]


def test_an_empty_chunk_changes_nothing() -> None:
    store = Store()
    store.take(Chunk(0, b""))
    assert store.state == StreamState()
    assert store.held == {}


HOST = st.binary(min_size=1, max_size=400)


@st.composite
def reported(draw: st.DrawFn) -> tuple[bytes, tuple[int, int] | None, list[list[Piece]]]:
    """A stream, the range a cap left out of it, and groups of pieces of it: cut anyhow, in any order, any number of times."""
    data = draw(HOST)
    omitted = None
    if draw(st.booleans()):
        start = draw(st.integers(0, len(data) - 1))
        omitted = (start, draw(st.integers(start + 1, len(data))))
    spans = [(0, len(data))] if omitted is None else [(0, omitted[0]), (omitted[1], len(data))]
    pieces: list[Piece] = [] if omitted is None else [Omission(*omitted)]
    for low, high in spans:
        for _ in range(2):
            cuts = [low, *sorted(draw(st.lists(st.integers(low, high), max_size=6))), high]
            pieces += [Chunk(a, data[a:b]) for a, b in pairwise(cuts)]
    pieces += draw(st.lists(st.sampled_from(pieces), max_size=8))
    shuffled = draw(st.permutations(pieces))
    groups: list[list[Piece]] = [[]]
    for piece in shuffled:
        groups[-1].append(piece)
        if draw(st.booleans()):
            groups.append([])
    return data, omitted, groups


@given(reported())
def test_any_order_cut_and_repetition_gives_the_same_stream(
    case: tuple[bytes, tuple[int, int] | None, list[list[Piece]]],
) -> None:
    data, omitted, groups = case
    store = Store()
    for group in groups:
        store.take(*group)
    expected = data if omitted is None else data[: omitted[0]] + data[omitted[1] :]
    assert store.data == expected
    assert store.held == {}
    assert store.state == StreamState(
        end=len(data),
        stored=len(expected),
        newlines=expected.count(b"\n"),
        tail=expected[-2048:],
        omitted=() if omitted is None else (omitted,),
    )
