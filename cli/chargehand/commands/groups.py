"""The groups of verbs under a noun: tables only, so that listing them imports nothing more."""

from __future__ import annotations

import click

from ..lazy import LazyGroup
from ..options import Asked, common_options


@click.group(
    cls=LazyGroup,
    rows={
        "list": ("job:list_", "The latest jobs."),
        "show": ("job:show", "One job with its job tasks."),
        "watch": ("job:watch", "Watch a job to its end."),
        "output": ("output:output", "What a job printed on its hosts."),
        "cancel": ("changing:cancel", "Cancel a job, or its part on some hosts."),
        "edit": ("changing:edit", "Change a job while it runs."),
        "rerun": ("changing:rerun", "Do a job again, or only where it failed."),
    },
)
@common_options
def job(asked: Asked) -> None:
    """Jobs. An ID is a job's id, a unique beginning of it, or @last."""


@click.group(
    cls=LazyGroup,
    rows={
        "list": ("host:list_", "The hosts of the inventory."),
        "show": ("host:show", "One host."),
        "import": ("host:import_", "Register hosts from a file."),
        "remove": ("host:remove", "Take hosts out of the inventory."),
    },
)
@common_options
def host(asked: Asked) -> None:
    """Hosts."""


@click.group(
    cls=LazyGroup,
    rows={
        "list": ("proxy:list_", "The proxies and their agents."),
        "edit": ("proxy:edit", "Say how many attempts a proxy takes at once."),
        "enrol": ("proxy:enrol", "Make a one-time token for an agent or a program."),
    },
)
@common_options
def proxy(asked: Asked) -> None:
    """Proxies: what reaches the hosts; and programs, which use Kafka under a key of their own."""


@click.group(cls=LazyGroup, rows={"tail": ("event:tail", "Follow events as they are written.")})
@common_options
def event(asked: Asked) -> None:
    """Events: every fact, as the services write and read them."""


@click.group(cls=LazyGroup, rows={"show": ("config:show", "Each setting, its value, and who said so.")})
@common_options
def config(asked: Asked) -> None:
    """Settings of this command line."""
