"""`status` and `open`. Owns their words and what counts as running."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any
from urllib.parse import urlsplit

import click

from ..config import Rank, Server
from ..errors import CommandError, ExitStatus
from ..help import Command
from ..options import Asked, common_options
from .frame import client_errors


@click.command(cls=Command)
@common_options
def status(asked: Asked) -> int:
    """Say what runs, and which server a command would talk to.

    Exit status 0: everything is ready; 3: it is not.
    """
    if asked.settings.rank("server") < min(Rank.DEFAULT, asked.settings.rank("data")) and asked.settings["server"]:
        return _remote(asked, asked.server)
    return _local(asked)


def _local(asked: Asked) -> int:
    from ..up.layout import DataDirectory
    from ..up.state import load_state, services_document

    data = DataDirectory(asked.settings.data)
    state = load_state(data)
    origin = asked.settings.rows["data"].origin
    is_running = state is not None and state.is_running()
    services = services_document(state.services, asyncio.run(_statuses(state.services))) if state else []
    is_ready = is_running and bool(services) and all(row["status"] == "ready" for row in services)
    document = {
        "server": state.server if state and is_running else "",
        "origin": f"{data.root} ({origin})",
        "status": _word(is_running, is_ready, state.status if state else ""),
        "pid": state.pid if state and is_running else None,
        "services": services,
    }
    _print(asked, document)
    return ExitStatus.SUCCEEDED if is_ready else ExitStatus.UNREACHABLE


def _word(is_running: bool, is_ready: bool, said: str) -> str:
    if not is_running:
        return "stopped"
    return "ready" if is_ready else ("not ready" if said == "ready" else said)


async def _statuses(children: Any) -> list[str]:
    return list(await asyncio.gather(*(_status_of(child) for child in children)))


async def _status_of(child: Any) -> str:
    from ..up.health import ask

    if not child.pid or not child.mark.is_running():
        return "stopped"
    port = urlsplit(child.health).port if child.health else None
    if port is None:
        return "ready"
    answer = await ask(port, "/readyz")
    if answer is None:
        return "does not answer"
    return "ready" if answer[0] == 200 else answer[1]


def _remote(asked: Asked, server: Server) -> int:
    with client_errors(asked):
        found = asked.client.status()
    document = {
        "server": server.url,
        "origin": server.origin,
        "status": "ready",
        "pid": None,
        "services": [],
        **found.model_dump(mode="json"),
    }
    _print(asked, document)
    return ExitStatus.SUCCEEDED


def _print(asked: Asked, document: dict[str, Any]) -> None:
    if asked.screen.output == "json":
        asked.screen.json(document)
    elif asked.screen.output == "jsonl":
        asked.screen.json_lines([document])
    else:
        where = document["server"] or "nothing"
        asked.screen.say(f"Commands talk to {where}, because of {document['origin']}: {document['status']}.")
        rows = [(row["name"], str(row["pid"] or ""), row["status"], row["address"]) for row in document["services"]]
        rows += [
            (name, "", str(document[name]), "") for name in ("version", "login", "hosts", "proxies") if name in document
        ]
        asked.screen.table(("name", "process", "status", "address"), rows, empty="")


@click.command(cls=Command)
@click.option("--no-browser", is_flag=True, help="Only print the link.")
@common_options
def open_(asked: Asked, no_browser: bool) -> int:
    """Log the browser in: prints a link that works once, and opens it where there is a display."""
    with client_errors(asked):
        link = asked.client.login_link()
    asked.screen.print(link)
    if not no_browser and _has_display() and not _opened(link):
        raise CommandError("no browser was opened.", why="none was found.", do="open the printed link yourself.")
    return ExitStatus.SUCCEEDED


def _has_display() -> bool:
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _opened(link: str) -> bool:
    import webbrowser

    return webbrowser.open(link)
