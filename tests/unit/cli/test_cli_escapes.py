"""What hosts print: colours only on a terminal, nothing at all in a pipe, and no byte lost that is text."""

import re

import pytest
from chargehand.terminal.escapes import Escapes, OutputFilter, harmless, stripped, visible
from hypothesis import given
from hypothesis import strategies as st


def through(escapes: Escapes, *pieces: bytes) -> bytes:
    screen = OutputFilter(escapes)
    return b"".join([*map(screen.feed, pieces), screen.feed(b"", final=True)])


def test_colours_pass_to_a_terminal_and_are_switched_off_at_the_end() -> None:
    assert harmless("\x1b[1;31mred") == "\x1b[1;31mred\x1b[0m"
    assert harmless("\x1b[31mred\x1b[0m") == "\x1b[31mred\x1b[0m"
    assert harmless("\x1b[38;5;8mgrey\x1b[m") == "\x1b[38;5;8mgrey\x1b[m"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("\x1b]0;title\x07", "^[]0;title^G"),
        ("\x1b[2J", "^[[2J"),
        ("\x1b[8mhidden", "^[[8mhidden"),
        ("\x1b]52;c;aGk=\x07", "^[]52;c;aGk=^G"),
        ("safe\rEVIL", "safe^MEVIL"),
        ("\x9b31m", "\\x9b31m"),
        ("a\u202eb", "a\\u202eb"),
        ("back\x08\x08", "back^H^H"),
        ("\x1bc", "^[c"),
    ],
)
def test_everything_that_acts_on_a_terminal_is_shown_instead(written: str, shown: str) -> None:
    assert harmless(written) == shown


def test_windows_line_ends_are_line_ends() -> None:
    assert through(Escapes.COLOURS, b"a\r", b"\nb\r\n") == b"a\nb\n"


@pytest.mark.parametrize(
    "written",
    [
        "\x1b[1;31mtext\x1b[0m",
        "\x1b]0;title\x07text",
        "\x1b]8;;http://x\x1b\\text\x1b]8;;\x1b\\",
        "te\x1b(Bxt",
        "\x9b1mtext",
    ],
)
def test_a_pipe_gets_the_text_alone(written: str) -> None:
    assert stripped(written) == "text"


def test_a_sequence_cut_in_two_is_seen_as_one() -> None:
    assert through(Escapes.STRIPPED, b"a\x1b", b"[3", b"1mb") == b"ab"
    assert through(Escapes.COLOURS, b"a\x1b[3", b"1mb") == b"a\x1b[31mb\x1b[0m"
    assert through(Escapes.COLOURS, b"\x1b]0;ti", b"tle\x07") == b"^[]0;title^G"


def test_bytes_that_are_no_utf_8_pass_a_pipe_unchanged_and_are_shown_on_a_terminal() -> None:
    assert through(Escapes.STRIPPED, b"caf\xe9 \xc3", b"\xa9\xff") == b"caf\xe9 \xc3\xa9\xff"
    assert through(Escapes.COLOURS, b"caf\xe9") == b"caf\\xe9"


def test_raw_is_raw() -> None:
    assert through(Escapes.RAW, b"\x1b[2J\xff") == b"\x1b[2J\xff"


def test_a_name_has_no_line_end_and_no_colour() -> None:
    assert visible("web1\n\x1b[31m") == "web1␤^[[31m"


_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_no_control_character_reaches_a_terminal_but_in_a_colour(pieces: list[bytes]) -> None:
    shown = through(Escapes.COLOURS, *pieces).decode()
    assert not _CONTROL.search(re.sub(r"\x1b\[[0-9;:]*m", "", shown))


@given(st.text(alphabet=st.sampled_from("ab\x1b[]0;m\x07\\\r\n\x9b"), max_size=30), st.integers(0, 30))
def test_where_a_stream_is_cut_makes_no_difference(text: str, place: int) -> None:
    data = text.encode()
    assert through(Escapes.STRIPPED, data[:place], data[place:]) == through(Escapes.STRIPPED, data)


@given(st.binary(max_size=200).filter(lambda data: not re.search(rb"[\x00-\x08\x0b-\x1f\x7f\x80-\xff]", data)))
def test_plain_text_is_not_changed(data: bytes) -> None:
    assert through(Escapes.STRIPPED, data) == through(Escapes.COLOURS, data) == data
