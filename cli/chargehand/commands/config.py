"""`config show`. Owns its table; where settings come from is in `chargehand.config`."""

from __future__ import annotations

import os

import click

from ..config import NAMES, config_file, find_server
from ..errors import CommandError
from ..help import Command
from ..options import Asked, common_options


@click.command(cls=Command)
@click.option("--origin", is_flag=True, help="Also say who said so.")
@common_options
def show(asked: Asked, origin: bool) -> int:
    """Each setting in force. Flag > environment > context > default."""
    rows = [(name, asked.settings[name], asked.settings.rows[name].origin) for name in NAMES]
    rows.append(("talks to", *_server(asked)))
    rows.append(("contexts", str(config_file(os.environ)), "file"))
    if asked.screen.is_table:
        asked.screen.table(("setting", "value", "origin"), rows) if origin else asked.screen.table(
            ("setting", "value"), [row[:2] for row in rows]
        )
    elif asked.screen.output == "json":
        asked.screen.json([_document(*row) for row in rows])
    else:
        asked.screen.json_lines(_document(*row) for row in rows)
    return 0


def _server(asked: Asked) -> tuple[str, str]:
    try:
        server = find_server(asked.settings)
    except CommandError as error:
        return "", error.why
    token = f"; token: {server.token_origin}" if server.token_origin else ""
    return server.url, server.origin + token


def _document(name: str, value: str, origin: str) -> dict[str, str]:
    return {"name": name, "value": value, "origin": origin}
