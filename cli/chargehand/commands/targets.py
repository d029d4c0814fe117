"""Which hosts a job is for, and asking before it is many (docs/reference/commands.md).

Owns the limits: all, or more than 50, is asked; over 10 % of the inventory the number is typed; without a terminal it must
be said beforehand. What was confirmed is what the planner enforces.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING
from uuid import UUID

import click
from chargehand_schemas.commands import Targeting

from ..errors import CommandError
from ..terminal.escapes import visible

if TYPE_CHECKING:
    from ..client.http import Client
    from ..terminal.screen import Screen

MANY = 50
LARGE_SHARE = 0.1
_NAMED = 5


class Ask(Enum):
    """What is asked before a job runs."""

    NOTHING = "nothing"
    YES = "yes"
    NUMBER = "number"


def how_to_ask(count: int, total: int, *, is_all: bool) -> Ask:
    """What is asked for `count` of `total` hosts."""
    if not is_all and count <= MANY:
        return Ask.NOTHING
    return Ask.NUMBER if count > total * LARGE_SHARE else Ask.YES


def targeting(hosts: Sequence[str], is_all: bool) -> Targeting:
    """The targeting of `--host` (names, or whole ids) and `--all`. CommandError if it is neither, or both."""
    if is_all and hosts:
        raise CommandError("--all and --host exclude each other.", why="both were given.", do="leave one of them out.")
    if not is_all and not hosts:
        raise CommandError(
            "no host is named.",
            why="neither --host nor --all was given.",
            do="name hosts with --host, or all with --all.",
        )
    ids = {name: found for name in hosts if (found := _as_id(name)) is not None}
    names = tuple(dict.fromkeys(name for name in hosts if name not in ids))
    try:
        return Targeting(all=is_all, host_names=names, host_ids=tuple(dict.fromkeys(ids.values())))
    except ValueError as error:
        wrong = next((name for name in names if not _is_name(name)), names[0] if names else "")
        raise CommandError(
            f"{visible(wrong)!r} is no host name.", why="it has characters no host name has.", do="mend it."
        ) from error


def confirm(
    screen: Screen, client: Client, chosen: Targeting, *, is_confirmed: bool, expect_hosts: int | None
) -> int | None:
    """Ask if it must be asked. The number of hosts the planner is to enforce; None: no number was said."""
    count = client.host_count() if chosen.all else len(chosen.host_names) + len(chosen.host_ids)
    ask = how_to_ask(count, client.host_count() if chosen.all or count > MANY else count, is_all=chosen.all)
    if ask is Ask.NOTHING or is_confirmed or expect_hosts is not None or not count:
        return expect_hosts
    if not screen.may_ask:
        raise CommandError(
            f"this would run on {count} hosts.",
            why="nobody can be asked: this is no terminal.",
            do=f"give --expect-hosts {count} (then it runs on exactly so many) or --yes.",
        )
    screen.say(f"This runs on {count} hosts: {', '.join(_some_names(client, chosen))}{' …' if count > _NAMED else ''}")
    if not _agreed(ask, count):
        raise CommandError("nothing was run.", why="it was not confirmed.", do="run it again when it is what you want.")
    return count


def confirm_count(screen: Screen, count: int, *, is_confirmed: bool, expect_hosts: int | None) -> int | None:
    """The same where the hosts are those of an earlier job, `count` at most."""
    if count <= MANY or is_confirmed or expect_hosts is not None:
        return expect_hosts
    if not screen.may_ask:
        raise CommandError(
            f"this would run on up to {count} hosts.",
            why="nobody can be asked: this is no terminal.",
            do="give --yes, or --expect-hosts with their number.",
        )
    screen.say(f"This runs on up to {count} hosts.")
    if not _agreed(Ask.YES, count):
        raise CommandError("nothing was run.", why="it was not confirmed.", do="run it again when it is what you want.")
    return None


def _agreed(ask: Ask, count: int) -> bool:
    if ask is Ask.YES:
        return click.confirm("Go on?", err=True)
    answer: str = click.prompt("Type the number of hosts to go on", err=True)
    return answer.strip() == str(count)


def _some_names(client: Client, chosen: Targeting) -> list[str]:
    if chosen.all:
        return [visible(document.host.name) for document in client.hosts(limit=_NAMED)]
    return [visible(name) for name in (*chosen.host_names, *map(str, chosen.host_ids))][:_NAMED]


def _as_id(name: str) -> UUID | None:
    if len(name) != 36:
        return None
    try:
        return UUID(name)
    except ValueError:
        return None


def _is_name(name: str) -> bool:
    try:
        Targeting(host_names=(name,))
    except ValueError:
        return False
    return True
