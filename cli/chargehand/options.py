"""The options every command has, before or after its verb; the last one given counts.

Owns their names and the `Asked` that commands receive. Nothing is resolved before a command wants to know it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from .client.http import Client
    from .config import Server, Settings
    from .terminal.screen import Screen

F = TypeVar("F", bound=Callable[..., Any])

_FLAGS = ("output", "data", "server", "color", "context")


class Asked:
    """What was asked on the command line, and what follows from it: settings, screen, client."""

    def __init__(self) -> None:
        self.flags: dict[str, str | None] = {}
        self.is_debug = False

    def add(self, flags: dict[str, str | None], is_debug: bool) -> None:
        """Options of one level; a deeper one wins."""
        self.flags |= {name: value for name, value in flags.items() if value is not None}
        self.is_debug = self.is_debug or is_debug

    @cached_property
    def settings(self) -> Settings:
        from .config import resolve

        return resolve(self.flags)

    @cached_property
    def screen(self) -> Screen:
        from .terminal.screen import Screen

        return Screen(self.settings["output"], self.settings["color"])

    @cached_property
    def server(self) -> Server:
        from .config import find_server

        return find_server(self.settings)

    @cached_property
    def client(self) -> Client:
        from .client.http import Client

        return Client(self.server.url, self.server.token)


def common_options(function: F) -> F:
    """Give a command the common options, as one argument `asked`."""

    @wraps(function)
    def called(*args: Any, debug: bool, **kwargs: Any) -> Any:
        asked: Asked = click.get_current_context().ensure_object(Asked)
        asked.add({name: kwargs.pop(name) for name in _FLAGS}, debug)
        return function(*args, asked=asked, **kwargs)

    for option in reversed(_OPTIONS):
        called = option(called)
    return called  # type: ignore[return-value]


_OPTIONS = (
    click.option(
        "--output", type=click.Choice(["table", "json", "jsonl"]), help="What to print: for people or programs."
    ),
    click.option("--data", metavar="DIR", help="The data directory of the `up` that is meant."),
    click.option("--server", metavar="URL", help="A server elsewhere; its token: CHARGEHAND_TOKEN_FILE."),
    click.option("--context", metavar="NAME", help="A context of the configuration file."),
    click.option("--color", type=click.Choice(["auto", "always", "never"]), help="Colours on the terminal."),
    click.option("--debug", is_flag=True, help="Show where an error came from."),
)
