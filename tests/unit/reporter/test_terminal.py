"""Output on a page: colours are kept, everything else a host can send is shown and not obeyed."""

import re

import pytest
from chargehand_reporter.core.terminal import Style, render, visible
from hypothesis import example, given
from hypothesis import strategies as st


def html(data: bytes) -> str:
    return render(data)[0]


def test_colours_become_classes_and_end_where_they_end() -> None:
    assert html(b"\x1b[1;31mfailed\x1b[0m ok") == '<span class="bold fg-red">failed</span> ok'
    assert html(b"\x1b[92mgreen\x1b[39m plain") == '<span class="fg-bright-green">green</span> plain'


def test_colours_of_256_and_of_millions_become_the_nearest_of_sixteen() -> None:
    assert html(b"\x1b[38;5;196mred") == '<span class="fg-bright-red">red</span>'
    assert html(b"\x1b[48;2;0;0;128mblue") == '<span class="bg-blue">blue</span>'
    assert html(b"\x1b[38;5;9;4mx") == '<span class="underline fg-bright-red">x</span>'


def test_a_style_goes_on_in_the_next_piece() -> None:
    _, style = render(b"\x1b[33m")
    assert style == Style(foreground="yellow")
    assert render(b"more", style)[0] == '<span class="fg-yellow">more</span>'


@pytest.mark.parametrize(
    "attack",
    [
        b"<script>alert(1)</script>",
        b"</pre><img src=x onerror=alert(1)>",
        b"\x1b[31m<svg/onload=alert(1)>\x1b[0m",
        b'" onmouseover="alert(1)',
        b'\x1b["><script>m',
        b'\x1b[38;5;1"><script>m',
    ],
)
def test_tags_of_a_host_are_text(attack: bytes) -> None:
    shown = html(attack)
    assert re.sub(r'</?span( class="[a-z -]+")?>', "", shown).count("<") == 0
    assert "onerror=" not in re.sub(r"&lt;.*?&gt;", "", shown)


@pytest.mark.parametrize(
    ("sequence", "seen"),
    [
        (b"\x1b]0;title\x07", "␛"),
        (b"\x1b]52;c;ZXZpbA==\x07", "␇"),
        (b'\x1bP$q"p\x1b\\', "␛"),
        (b"\x1b[2J\x1b[H", "␛"),
        (b"\x1b[1A\x1b[2K", "␛"),
        (b"good\rbad", "␍"),
        (b"a\x08b", "␈"),
        (b"\x00\x7f", "␡"),
        ("\x9b31m".encode(), "&lt;U+009B&gt;"),
        ("admin\u202etxt.exe".encode(), "&lt;U+202E&gt;"),
        ("\u2066x\u2069".encode(), "&lt;U+2066&gt;"),
        (b"\xff\xfe", "\ufffd"),
    ],
)
def test_other_controls_are_shown(sequence: bytes, seen: str) -> None:
    assert seen in html(sequence)


def test_line_ends_of_windows_are_line_ends() -> None:
    assert html(b"a\r\nb\tc\n") == "a\nb\tc\n"


def test_a_line_of_text_shows_its_controls_too() -> None:
    assert visible("web1\x1b[31m\n\u202e<b>") == "web1␛[31m␊<U+202E><b>"


@given(st.binary(max_size=300))
@example(b"\x1b[" + b"9" * 64 + b"m")
@example(b"\x1b[38;5m\x1b[48;2;1m\x1b[m")
def test_whatever_is_sent_only_our_spans_are_tags(data: bytes) -> None:
    shown = html(data)
    rest = re.sub(r'<span class="[a-z -]+">|</span>', "", shown)
    assert "<" not in rest
    assert ">" not in rest
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown)
