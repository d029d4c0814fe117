"""Where output goes: data to stdout, all else to stderr; colours, prompts and bars on a terminal only (docs/reference/commands.md).

Owns the two streams and what may be done with them. rich is imported when the first table is drawn.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from .escapes import Escapes, visible

if TYPE_CHECKING:
    from rich.console import Console


class Screen:
    """The terminal, or what stands in its place. `output` is table, json or jsonl."""

    def __init__(self, output: str, color: str, environment: Mapping[str, str] = os.environ) -> None:
        self.output = output
        self._color = color
        self._environment = environment

    @property
    def is_table(self) -> bool:
        return self.output == "table"

    @property
    def may_ask(self) -> bool:
        """Whether a person can be asked: both streams are a terminal, and the output is for people."""
        return self.is_table and sys.stdin.isatty() and sys.stderr.isatty()

    @property
    def is_live(self) -> bool:
        """Whether a bar may move on stderr."""
        return self.is_table and sys.stderr.isatty() and self._environment.get("TERM") != "dumb"

    def has_colour(self, stream: TextIO) -> bool:
        """`--color`, NO_COLOR, FORCE_COLOR, and else whether it is a terminal."""
        if self._color != "auto":
            return self._color == "always"
        if self._environment.get("NO_COLOR"):
            return False
        return bool(self._environment.get("FORCE_COLOR")) or stream.isatty()

    def escapes(self, is_raw: bool, stream: TextIO) -> Escapes:
        """What becomes of control sequences that hosts print to this stream."""
        if is_raw:
            return Escapes.RAW
        return Escapes.COLOURS if stream.isatty() or self._color == "always" else Escapes.STRIPPED

    def say(self, text: str) -> None:
        """A line for the person: stderr."""
        print(text, file=sys.stderr, flush=True)

    def print(self, text: str = "") -> None:
        """A line of data: stdout."""
        print(text, flush=True)

    def json(self, document: Any) -> None:
        """One document; non-ASCII is escaped, so that nothing in it can act on a terminal."""
        print(json.dumps(document, indent=2), flush=True)

    def json_lines(self, documents: Iterable[Any]) -> None:
        """One document a line."""
        for document in documents:
            print(json.dumps(document, separators=(",", ":")), flush=True)

    def console(self, stream: TextIO) -> Console:
        """rich's console on this stream, with our rule for colours."""
        from rich.console import Console

        colour = self.has_colour(stream)
        return Console(
            file=stream, force_terminal=True if colour else None, no_color=not colour, highlight=False, markup=False
        )

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str = "nothing there") -> None:
        """A table on stdout; its cells are made harmless. In a pipe: one line a row, cells apart by tabs, no heading."""
        cells = [[visible(cell) for cell in row] for row in rows]
        if not sys.stdout.isatty():
            for row in cells:
                print("\t".join(row))
        elif not cells:
            self.say(empty)
        else:
            self._draw(columns, cells)

    def _draw(self, columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in cells:
            table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
        self.console(sys.stdout).print(table)


STYLES = {
    "succeeded": "green",
    "failed": "red",
    "refused": "red",
    "cancelled": "yellow",
    "cancelling": "yellow",
    "running": "cyan",
    "ready": "green",
    "stopped": "red",
}
"""Colours of states, wherever they stand; the word is always there too."""
