"""Live names for the shell's completion, from the server, within 300 ms or not at all. Owns that limit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..client.http import Client

_WITHIN = timedelta(milliseconds=300)
_AT_MOST = 100


def complete_hosts(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Names of hosts that begin with what was typed."""
    return _ask(
        ctx,
        lambda client: (document.host.name for document in client.hosts(name=incomplete, limit=_AT_MOST)),
        incomplete,
    )


def complete_jobs(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Ids of the latest jobs that begin with what was typed."""
    found = _ask(
        ctx, lambda client: (str(job.job_invocation_id) for job in client.job_invocations(limit=_AT_MOST)), incomplete
    )
    return [*found, "@last"] if "@last".startswith(incomplete) else found


def _ask(ctx: click.Context, names: Callable[[Client], Iterable[str]], incomplete: str) -> list[str]:
    from ..client.errors import ClientError
    from ..client.http import Client
    from ..config import find_server, resolve
    from ..errors import CommandError

    flags = {name: value for name, value in ctx.params.items() if name in ("data", "server", "context")}
    try:
        server = find_server(resolve(flags))
        with Client(server.url, server.token, timeout=_WITHIN) as client:
            return [name for name in names(client) if name.startswith(incomplete)]
    except (CommandError, ClientError):
        return []
