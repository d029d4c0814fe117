"""Output of hosts as harmless HTML: colours become classes, every other control character is shown, nothing is obeyed.

Owns the reading of escape sequences. Everything from a host is data: text is escaped, and no byte of it becomes a tag, an
attribute or a command (docs/explanation on trust).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape

_COLOURS = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")
_CODES = [
    *range(0x09),
    *range(0x0B, 0x20),
    *range(0x7F, 0xA0),
    0x061C,
    0x200E,
    0x200F,
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
]
_PICTURES = {
    code: chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else f"<U+{code:04X}>" for code in _CODES
}
_CLASS = "".join(re.escape(chr(code)) for code in _CODES)
_CONTROL = re.compile(f"\x1b\\[([0-9;:]{{0,64}})m|\r\n|(?:(?!\x1b\\[[0-9;:]{{0,64}}m|\r\n)[{_CLASS}])+")
_IN_A_LINE = {**_PICTURES, 0x09: "\u2409", 0x0A: "\u240a"}
_MAX_CODE = 107


@dataclass(frozen=True, slots=True)
class Style:
    """How text looks now. Colours are names of classes, empty for the default."""

    foreground: str = ""
    background: str = ""
    is_bold: bool = False
    is_faint: bool = False
    is_italic: bool = False
    is_underlined: bool = False
    is_inverse: bool = False

    @property
    def classes(self) -> str:
        """The value of a class attribute; only words of ours are in it."""
        flags = (
            (self.is_bold, "bold"),
            (self.is_faint, "faint"),
            (self.is_italic, "italic"),
            (self.is_underlined, "underline"),
            (self.is_inverse, "inverse"),
        )
        words = [word for is_set, word in flags if is_set]
        words += [f"fg-{self.foreground}"] if self.foreground else []
        words += [f"bg-{self.background}"] if self.background else []
        return " ".join(words)


def render(data: bytes, style: Style | None = None) -> tuple[str, Style]:
    """HTML of some output, and the style in force after it. Bytes that are no UTF-8 are shown as U+FFFD."""
    style = style or Style()
    parts: list[str] = []
    for text, codes in _pieces(data.decode("utf-8", "replace")):
        if text:
            parts.append(_span(text, style))
        if codes is not None:
            style = _restyled(style, codes)
    return "".join(parts), style


def _pieces(text: str) -> Iterator[tuple[str, str | None]]:
    """Runs of HTML-escaped text, each with the codes of the colour sequence that follows it, if one does."""
    run: list[str] = []
    position = 0
    for match in _CONTROL.finditer(text):
        run.append(escape(text[position : match.start()]))
        position = match.end()
        if match[1] is not None:
            yield "".join(run), match[1]
            run = []
        else:
            run.append("\n" if match[0] == "\r\n" else _shown(match[0]))
    run.append(escape(text[position:]))
    yield "".join(run), None


def _span(escaped: str, style: Style) -> str:
    classes = style.classes
    return f'<span class="{classes}">{escaped}</span>' if classes else escaped


def _shown(characters: str) -> str:
    """Control characters as something to see."""
    return f'<span class="control">{escape(characters.translate(_PICTURES))}</span>'


def visible(text: str) -> str:
    """Plain text with every control character shown, for where no line break belongs."""
    return text.translate(_IN_A_LINE)


def _restyled(style: Style, codes: str) -> Style:
    numbers = [int(code) if code else 0 for code in re.split("[;:]", codes)] if len(codes) <= 64 else []
    position = 0
    while position < len(numbers):
        code = numbers[position]
        position += 1
        if code in (38, 48):
            colour, used = _extended(numbers[position:])
            position += used
            style = replace(style, foreground=colour) if code == 38 else replace(style, background=colour)
        elif code <= _MAX_CODE:
            style = _with_code(style, code)
    return style


def _with_code(style: Style, code: int) -> Style:
    match code:
        case 0:
            return Style()
        case 1:
            return replace(style, is_bold=True)
        case 2:
            return replace(style, is_faint=True)
        case 3:
            return replace(style, is_italic=True)
        case 4:
            return replace(style, is_underlined=True)
        case 7:
            return replace(style, is_inverse=True)
        case 22:
            return replace(style, is_bold=False, is_faint=False)
        case 23:
            return replace(style, is_italic=False)
        case 24:
            return replace(style, is_underlined=False)
        case 27:
            return replace(style, is_inverse=False)
        case _:
            return _with_colour(style, code)


def _with_colour(style: Style, code: int) -> Style:
    if code in range(30, 38) or code in range(90, 98):
        return replace(style, foreground=("bright-" if code >= 90 else "") + _COLOURS[code % 10])
    if code in range(40, 48) or code in range(100, 108):
        return replace(style, background=("bright-" if code >= 100 else "") + _COLOURS[code % 10])
    if code == 39:
        return replace(style, foreground="")
    return replace(style, background="") if code == 49 else style


def _extended(numbers: list[int]) -> tuple[str, int]:
    """A colour of 256, or of millions, as the nearest of the sixteen that themes know; and how many numbers it took."""
    if numbers[:1] == [5] and len(numbers) >= 2:
        return _of_256(numbers[1]), 2
    if numbers[:1] == [2] and len(numbers) >= 4:
        return _nearest(*(min(255, number) for number in numbers[1:4])), 4
    return "", len(numbers)


def _of_256(number: int) -> str:
    if number < 16:
        return ("bright-" if number >= 8 else "") + _COLOURS[number % 8]
    if number < 232:
        levels = (0, 95, 135, 175, 215, 255)
        cube = number - 16
        return _nearest(levels[cube // 36], levels[cube // 6 % 6], levels[cube % 6])
    grey = 8 + 10 * (min(number, 255) - 232)
    return _nearest(grey, grey, grey)


def _nearest(red: int, green: int, blue: int) -> str:
    brightest = max(red, green, blue)
    bits = sum(1 << n for n, level in enumerate((red, green, blue)) if level > brightest / 2 and level > 47)
    return ("bright-" if brightest > 200 else "") + _COLOURS[bits]


_FLAGS = ("bold", "faint", "italic", "underlined", "inverse")
_NAMES = frozenset({*_COLOURS, *(f"bright-{colour}" for colour in _COLOURS)})


def text_of(style: Style) -> str:
    """A style as a word for a URL or a header."""
    flags = [flag for flag in _FLAGS if getattr(style, f"is_{flag}")]
    return ".".join([style.foreground or "-", style.background or "-", *flags]) if style != Style() else ""


def style_of(text: str) -> Style:
    """The style of such a word; the default one for anything else."""
    colours, flags = text.split(".")[:2], text.split(".")[2:]
    if len(colours) != 2 or not set(colours) <= {*_NAMES, "-"} or not set(flags) <= set(_FLAGS):
        return Style()
    foreground, background = ("" if colour == "-" else colour for colour in colours)
    return Style(foreground, background, **{f"is_{flag}": True for flag in flags})
