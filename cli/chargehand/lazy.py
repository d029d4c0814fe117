"""Groups whose commands are imported when they are used, so that `--help` and completion start at once.

Owns the table of a group (name, module, one line of help) and the guess at what a mistyped verb meant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import click

from .help import Group

Row = tuple[str, str]
"""`module:attribute` under `chargehand.commands`, and the line that stands in the list of commands."""


class LazyGroup(Group):
    """A group over a table of rows. In lists its commands are stubs: nothing is imported to show their line."""

    def __init__(self, *args: Any, rows: Mapping[str, Row], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rows = rows
        self._is_listing = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._rows)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        row = self._rows.get(cmd_name)
        if row is None:
            return None
        return click.Command(cmd_name, help=row[1]) if self._is_listing else _load(row[0])

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with self._listing():
            super().format_help(ctx, formatter)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        with self._listing():
            return super().shell_complete(ctx, incomplete)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in self._rows and not args[0].startswith("-"):
            raise click.UsageError(self._no_such_command(args[0]), ctx)
        return super().resolve_command(ctx, args)

    @contextmanager
    def _listing(self) -> Iterator[None]:
        self._is_listing = True
        try:
            yield
        finally:
            self._is_listing = False

    def _no_such_command(self, name: str) -> str:
        close = get_close_matches(name, self._rows, n=3, cutoff=0.5)
        meant = f" Did you mean {' or '.join(f'`{word}`' for word in close)}?" if close else ""
        return f"there is no command `{name[:64]}`.{meant}"


def _load(place: str) -> click.Command:
    module, _, attribute = place.partition(":")
    command: click.Command = getattr(import_module(f"chargehand.commands.{module}"), attribute)
    return command
