"""What `--help` looks like: click's own text, with colours on a terminal.

Owns colours and widths only. rich is not imported for it: that alone costs more than `--help` may take.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

_MAX_WIDTH = 110


class Help(click.HelpFormatter):
    """Headings bold, names coloured; click takes the colours out again where no terminal is."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        super().write_usage(click.style(prog, bold=True), args, prefix)

    def write_heading(self, heading: str) -> None:
        super().write_heading(click.style(heading, bold=True))

    def write_dl(self, rows: Sequence[tuple[str, str]], col_max: int = 34, col_spacing: int = 2) -> None:
        super().write_dl([(click.style(name, fg="cyan"), text) for name, text in rows], col_max, col_spacing)


class Context(click.Context):
    formatter_class = Help

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("help_option_names", ["-h", "--help"])
        kwargs.setdefault("max_content_width", _MAX_WIDTH)
        super().__init__(*args, **kwargs)


class Command(click.Command):
    context_class = Context


class Group(click.Group):
    context_class = Context
    command_class = Command
