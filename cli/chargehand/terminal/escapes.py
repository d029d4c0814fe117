"""What a host printed, made harmless for a terminal (docs/explanation/trust.md) or plain for a pipe.

Owns which control sequences pass: on a terminal colours only, everything else is shown; in a pipe none, colours included.
Pure: bytes and text in and out.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from enum import StrEnum


class Escapes(StrEnum):
    """What becomes of control sequences in host output."""

    COLOURS = "colours"
    STRIPPED = "stripped"
    RAW = "raw"


_ESC = "\x1b"
_MAX_SEQUENCE = 4096
_RESET = f"{_ESC}[0m"
_SGR = re.compile(r"\x1b\[[0-9;:]{0,64}m")
_CSI = re.compile(r"(?:\x1b\[|\x9b)[0-?]{0,256}[ -/]{0,16}[@-~]")
# OSC, DCS, SOS, PM and APC carry text up to BEL or ST; the rest are two or three characters.
_TEXT = re.compile(r"(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]{0,4000}(?:\x07|\x1b\\|\x9c)")
_SHORT = re.compile(r"\x1b[ -/]{0,4}[0-~]")
_UNFINISHED = re.compile(
    r"(?:\x1b|\x1b\[[0-?]{0,256}[ -/]{0,16}|\x9b[0-?]{0,256}[ -/]{0,16}|\x1b[ -/]{1,4}"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]{0,4000}\x1b?)\Z"
)
_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f"
_DECEIVING = "\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff"
_TO_SHOW = re.compile(f"[{_CONTROLS}{_DECEIVING}\ud800-\udfff]")
_TO_STRIP = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def visible(text: str) -> str:
    """One piece of text from anywhere (a name, a detail) with every control character shown; newlines and tabs too."""
    return _TO_SHOW.sub(_show, text.replace("\n", "␤").replace("\t", " "))


def harmless(text: str) -> str:
    """Text for a terminal: colours, newlines and tabs pass, a colour left on is switched off, the rest is shown."""
    shown = _shown(text)
    return shown + _RESET if _leaves_colour_on(shown, False) else shown


def stripped(text: str) -> str:
    """Text without control sequences and control characters; newlines, tabs and returns stay."""
    for pattern in (_TEXT, _CSI, _SHORT, _TO_STRIP):
        text = pattern.sub("", text)
    return text


class OutputFilter:
    """Makes a stream of bytes harmless, piece by piece: characters and sequences cut between pieces are joined first."""

    def __init__(self, escapes: Escapes) -> None:
        self._escapes = escapes
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._held = ""
        self._colour_is_on = False

    def feed(self, data: bytes, *, final: bool = False) -> bytes:
        """The bytes to write for these; what may be the beginning of a sequence is held back until more comes or `final`."""
        if self._escapes is Escapes.RAW:
            return data
        text = self._held + self._decoder.decode(data, final)
        self._held = ""
        if not final:
            text, self._held = _cut(text)
        clean = self._coloured(text, final) if self._escapes is Escapes.COLOURS else stripped(text)
        return clean.encode("utf-8", "surrogateescape")

    def _coloured(self, text: str, final: bool) -> str:
        """A colour may last over several pieces; at the end it is switched off."""
        shown = _shown(text)
        self._colour_is_on = _leaves_colour_on(shown, self._colour_is_on)
        return shown + _RESET if final and self._colour_is_on else shown


def _cut(text: str) -> tuple[str, str]:
    """The text up to an unfinished sequence or a lone return at its end, and that rest."""
    tail = text[-_MAX_SEQUENCE:]
    found = _UNFINISHED.search(tail)
    if found is None and tail.endswith("\r"):
        return text[:-1], "\r"
    if found is None:
        return text, ""
    length = len(found.group())
    return text[:-length], text[-length:]


def _shown(text: str) -> str:
    parts: list[str] = []
    position = 0
    for match in _SGR.finditer(text):
        parts.append(_show_controls(text[position : match.start()]))
        parts.append(match.group() if _is_plain_colour(match.group()) else _show_controls(match.group()))
        position = match.end()
    parts.append(_show_controls(text[position:]))
    return "".join(parts)


def _show_controls(text: str) -> str:
    return _TO_SHOW.sub(_show, text.replace("\r\n", "\n"))


def _show(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20:
        return f"^{chr(code + 64)}"
    if code == 0x7F:
        return "^?"
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _is_plain_colour(sequence: str) -> bool:
    """Whether it only colours: 8 conceals what follows, which would hide text."""
    numbers = iter(re.split("[;:]", sequence[2:-1]))
    for number in numbers:
        if number in ("38", "48", "58"):
            _skip_colour(numbers)
        elif number.lstrip("0") == "8":
            return False
    return True


def _skip_colour(numbers: Iterator[str]) -> None:
    kind = next(numbers, "")
    for _ in range({"5": 1, "2": 3}.get(kind, 0)):
        next(numbers, "")


def _leaves_colour_on(text: str, was_on: bool) -> bool:
    sequences = _SGR.findall(text)
    return sequences[-1] not in (_RESET, f"{_ESC}[m") if sequences else was_on
