"""`run SERVICE`: one service in the foreground. Owns the list of services; nothing of them is known here but their door."""

from __future__ import annotations

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
def run(service: str) -> int:
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
            status=ExitStatus.UNREACHABLE,
        ) from error
    status: int = door.main()
    return status
