"""`proxy list|edit|enrol`. Owns the token's file and the words that say how to use it.

Only the public half of a token leaves this machine; its secret half is written to a file and nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import CommandError, ExitStatus
from ..help import Command
from ..options import Asked, common_options
from .types import Duration, Limit

if TYPE_CHECKING:
    from chargehand_schemas.api import ProxyDocument

_VALID = timedelta(hours=1)


@click.command(cls=Command)
@common_options
def list_(asked: Asked) -> int:
    """The proxies, their agents, and when they were last heard."""
    from .frame import client_errors, print_documents

    columns = ("proxy", "status", "agents", "providers", "at once", "follows", "last heard")
    with client_errors(asked):
        print_documents(asked, asked.client.proxies(), columns, _row, empty="no proxies")
    return 0


def _row(proxy: ProxyDocument) -> Sequence[str]:
    heard = proxy.last_heard_at.astimezone().strftime("%Y-%m-%d %H:%M:%S") if proxy.last_heard_at else "never"
    return (
        proxy.proxy,
        proxy.status,
        ", ".join(proxy.agents),
        ", ".join(proxy.providers),
        str(proxy.concurrency or "default"),
        str(proxy.following),
        heard,
    )


@click.command(cls=Command)
@click.argument("name")
@click.option(
    "--concurrency",
    type=Limit("default"),
    required=True,
    help="At most so many attempts at once, over all jobs; default: what the dispatcher is set to.",
)
@common_options
def edit(asked: Asked, name: str, concurrency: int) -> int:
    """Say how many attempts a proxy takes at once: its machine has a size. What runs, runs out."""
    from .frame import client_errors

    with client_errors(asked):
        decision = asked.client.change_proxy(name, concurrency or None)
    if asked.screen.is_table:
        limit = f"at most {concurrency} attempts at once" if concurrency else "as many attempts at once as by default"
        asked.screen.print(f"proxy {name}: {limit} from now on")
    else:
        asked.screen.json_lines([decision.model_dump(mode="json")])
    return ExitStatus.SUCCEEDED


@click.command(cls=Command)
@click.argument("name")
@click.option(
    "--role", type=click.Choice(["agent", "service_account"]), default="agent", show_default=True, help="Of what."
)
@click.option("--actor", "actors", multiple=True, help="A program: whom else it may speak for, as user:LOGIN.")
@click.option("--token-file", "path", type=click.Path(), help="Where the token goes; default: ./NAME.token")
@click.option("--valid", type=Duration(), default=_VALID, show_default="1h", help="How long it can be used.")
@common_options
def enrol(asked: Asked, name: str, role: str, actors: Sequence[str], path: str | None, valid: timedelta) -> int:
    """Make a one-time token: for an agent of the proxy NAME, or for the program NAME, which then signs its own commands."""
    is_program = role == "service_account"
    if actors and not is_program:
        raise CommandError("an agent speaks for nobody.", why="--actor was given.", do="leave it out.")
    file = _issue(asked, name, role, (f"service:{name}", *actors) if is_program else (), path, valid)
    asked.screen.say(_FOR_PROGRAMS.format(file=file) if is_program else _FOR_AGENTS.format(file=file, name=name))
    return ExitStatus.SUCCEEDED


_FOR_AGENTS = """\
Bring {file} and keys/planner.pub.json to the machine of the proxy, and start there:
  CHARGEHAND_PROXY={name} CHARGEHAND_ENROLMENT_TOKEN_FILE={file} CHARGEHAND_PLANNER_KEY_FILE=… \\
  CHARGEHAND_KAFKA_BOOTSTRAP=… CHARGEHAND_DATA=… CHARGEHAND_KEY_FILE=… chargehand run proxy-agent"""
_FOR_PROGRAMS = """\
The program uses {file} once:
  await KafkaClient.enrol(kafka, token, key_file=…, planner_key_file=…)"""


def _issue(asked: Asked, name: str, role: str, actors: Sequence[str], path: str | None, valid: timedelta) -> Path:
    from chargehand_chassis.keys import enrolment_keys, new_enrolment_token
    from chargehand_schemas.api import EnrolmentRequest

    from .frame import client_errors

    token = new_enrolment_token()
    request = EnrolmentRequest(
        token_key=enrolment_keys(token).signing_public.hex(),
        role=role,
        subject=name,
        actors=tuple(dict.fromkeys(actors)),
        expires_at=datetime.now(UTC) + valid,
    )
    file = Path(path or f"{name}.token").absolute()
    _write(file, token)
    try:
        with client_errors(asked):
            asked.client.allow_enrolment(request)
    except CommandError:
        file.unlink(missing_ok=True)
        raise
    if asked.screen.is_table:
        asked.screen.print(str(file))
    else:
        asked.screen.json_lines([{"token_file": str(file), "subject": name, "role": role}])
    return file


def _write(file: Path, token: str) -> None:
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise CommandError(
            f"{file} cannot be written.", why=str(error.strerror), do="name another file with --token-file."
        ) from error
    with os.fdopen(descriptor, "w", encoding="ascii") as stream:
        stream.write(token + "\n")
