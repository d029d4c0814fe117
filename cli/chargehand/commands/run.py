"""`run SERVICE`: one service in the foreground. Owns the list of services; nothing of them is known here but their door."""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click

from ..errors import CommandError, ExitStatus
from ..help import Command

_DOORS = {
    "planner": ("chargehand_planner.shell.service", "planner"),
    "dispatcher": ("chargehand_dispatcher.shell.service", "dispatcher"),
    "proxy-agent": ("chargehand_proxy_agent.shell.service", "proxy-agent"),
    "reporter": ("chargehand_reporter.shell.service", "reporter"),
    "gateway": ("chargehand_reporter.shell.gateway", "reporter"),
}
"""Of each service the module with its `main() -> int`, and the extra that brings its libraries."""


@click.command(cls=Command)
@click.argument("service", type=click.Choice(list(_DOORS)))
@click.option(
    "--late-settings", is_flag=True, hidden=True, help="Take further settings from standard input, up to a dot."
)
def run(service: str, late_settings: bool) -> int:
    """Run one service in the foreground.

    Its settings are environment variables that begin with CHARGEHAND_; the reference lists them.
    """
    module, extra = _DOORS[service]
    try:
        door = import_module(module)
    except ModuleNotFoundError as error:
        raise CommandError(
            f"the {service} cannot be started.",
            why=f"the module {error.name} is not installed.",
            do=f"install chargehand[{extra}].",
            status=ExitStatus.NEEDS_A_PERSON,
        ) from error
    if late_settings and not _take_settings():
        return ExitStatus.SUCCEEDED
    status: int = door.main()
    return status


def _take_settings() -> bool:
    """NAME=VALUE lines into the environment; whether the dot came that ends them. Without it whoever started us is gone."""
    for line in sys.stdin:
        name, sign, value = line.rstrip("\n").partition("=")
        if name == "." and not sign:
            return True
        os.environ[name] = value
    return False
