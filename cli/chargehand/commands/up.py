"""`up` and `down`. Owns their options and words; the work is in `chargehand.up`."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import click

from ..config import DEFAULT_PORT
from ..errors import CommandError, ExitStatus
from ..help import Command
from ..options import Asked, common_options

if TYPE_CHECKING:
    from ..up.banner import Banner
    from ..up.layout import DataDirectory
    from ..up.stack import Stack


@click.command(cls=Command)
@click.option("--port", type=click.IntRange(1, 65535), default=DEFAULT_PORT, show_default=True, help="The page's port.")
@click.option("--detach", is_flag=True, help="Return when everything answers; it goes on running.")
@click.option("--tell-fd", type=int, hidden=True)
@common_options
def up(asked: Asked, port: int, detach: bool, tell_fd: int | None) -> int:
    """Start everything on this machine: Kafka, the services and the page.

    All of it is in one data directory, which is found again by the next start. It listens on this machine only.
    """
    from ..up.layout import DataDirectory

    data = DataDirectory(asked.settings.data)
    if detach:
        return _detach(asked, data, port)
    return _foreground(asked, data, port) if tell_fd is None else _background(data, port, tell_fd)


def _foreground(asked: Asked, data: DataDirectory, port: int) -> int:
    from ..up.running import Up, run_stack

    async def show(stack: Stack, banner: Banner, stop: asyncio.Event) -> int:
        _show(asked, banner.text(), banner.document())
        await stop.wait()
        asked.screen.say("stopping")
        return ExitStatus.SUCCEEDED

    asked.screen.say(f"starting in {data.root}")
    return asyncio.run(run_stack(Up(data, port, asked.screen.say), show))


def _background(data: DataDirectory, port: int, descriptor: int) -> int:
    from ..up.running import Up, error_document, run_stack, tell

    async def stay(stack: Stack, banner: Banner, stop: asyncio.Event) -> int:
        tell(descriptor, {"text": banner.text(), "document": banner.document()})
        await stop.wait()
        return ExitStatus.SUCCEEDED

    try:
        return asyncio.run(run_stack(Up(data, port, lambda _: None, is_detached=True), stay))
    except CommandError as error:
        tell(descriptor, error_document(error))
        return error.status


def _detach(asked: Asked, data: DataDirectory, port: int) -> int:
    from ..up.running import start_detached

    answer = start_detached(data, port)
    _show(asked, answer["text"], answer["document"])
    return ExitStatus.SUCCEEDED


def _show(asked: Asked, text: str, document: dict[str, object]) -> None:
    if asked.screen.is_table:
        asked.screen.print(text)
    elif asked.screen.output == "json":
        asked.screen.json(document)
    else:
        asked.screen.json_lines([document])
    sys.stdout.flush()


@click.command(cls=Command)
@common_options
def down(asked: Asked) -> int:
    """Stop what `up` started. Jobs in flight go on on their hosts and are found again by the next start."""
    from ..up.layout import DataDirectory
    from ..up.stopping import stop_everything

    asked.screen.say(stop_everything(DataDirectory(asked.settings.data)))
    return ExitStatus.SUCCEEDED
