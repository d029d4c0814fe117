"""`host list|show|import|remove`. Owns their options and columns, and what a dry run compares; parsing is in `inventory`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ..errors import CommandError, ExitStatus
from ..help import Command
from ..options import Asked, common_options
from ..terminal.escapes import visible
from .completions import complete_hosts

if TYPE_CHECKING:
    from chargehand_schemas.api import HostDocument
    from chargehand_schemas.commands import HostRecord

    from ..inventory.hosts import Inventory

_SHOWN_PROBLEMS = 20


@click.command(cls=Command)
@click.argument("name", required=False)
@click.option("--limit", type=click.IntRange(1), help="At most so many.")
@common_options
def list_(asked: Asked, name: str | None, limit: int | None) -> int:
    """The hosts of the inventory; with NAME those whose name contains it."""
    from .frame import client_errors, print_documents

    with client_errors(asked):
        print_documents(
            asked,
            asked.client.hosts(name=name, limit=limit),
            ("name", "address", "port", "user", "proxy", "reachable", "groups"),
            _row,
            empty="no hosts; register some: chargehand host import ~/.ssh/config",
        )
    return 0


def _row(document: HostDocument) -> Sequence[str]:
    host = document.host
    reachable = "" if document.reachable is None else ("yes" if document.reachable else "no")
    return (
        host.name,
        host.address,
        str(host.port or ""),
        host.user,
        host.proxy or "",
        reachable,
        ",".join(host.groups),
    )


@click.command(cls=Command)
@click.argument("name", shell_complete=complete_hosts)
@common_options
def show(asked: Asked, name: str) -> int:
    """One host, by name or id.

    What stands behind `reported` is what the host says of itself, with its last check-in; nobody has verified it.
    """
    from .frame import client_errors

    with client_errors(asked):
        document = asked.client.host(name)
    if asked.screen.output == "json":
        asked.screen.json(document.model_dump(mode="json"))
    elif asked.screen.output == "jsonl":
        asked.screen.json_lines([document.model_dump(mode="json")])
    else:
        asked.screen.table(("field", "value"), _fields(document))
    return 0


def _fields(document: HostDocument) -> list[tuple[str, str]]:
    host = document.host
    rows = [("name", host.name), ("id", str(document.host_id)), ("version", str(document.version))]
    rows += [("address", host.address), ("port", str(host.port or "")), ("user", host.user)]
    rows += [("identity_file", host.identity_file), ("proxy", host.proxy or ""), ("groups", ", ".join(host.groups))]
    rows += [("host_key", key) for key in host.host_keys]
    rows += [("parameter", f"{name} = {value}") for name, value in host.parameters.items()]
    if document.reachable is not None:
        rows.append(("reachable", "yes" if document.reachable else f"no: {document.reachability_detail}"))
    if document.last_check_in is not None:
        rows.append(("last check-in", document.last_check_in.isoformat(timespec="seconds")))
    rows += [(f"reported {name}", value) for name, value in document.reported_facts.items()]
    return [row for row in rows if row[1]]


@click.command(cls=Command)
@click.argument("file")
@click.option(
    "--format", type=click.Choice(["ansible", "ssh-config", "csv", "jsonl"]), help="Of the file; else it is seen."
)
@click.option("--proxy", metavar="NAME", help="Hosts without a proxy of their own are reached through this one.")
@click.option("--accept-new", is_flag=True, help="Trust the key each host shows first, and only that one.")
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@common_options
def import_(asked: Asked, file: str, format: str | None, proxy: str | None, accept_new: bool, dry_run: bool) -> int:
    """Register hosts from a file, or change those of the same name.

    FILE is an ssh configuration, whatever ansible-inventory reads, CSV with a heading, or JSON lines; - is standard input. The
    columns of the last two are name, address, port, user, identity_file, host_key, proxy and groups; any other is a parameter.
    If anything in it is wrong, nothing is imported.
    """
    from ..inventory.reading import read_inventory

    inventory = read_inventory(file, format)
    for note in inventory.notes:
        asked.screen.say(f"note: {visible(note)}")
    if inventory.problems:
        raise _not_imported(asked, file, inventory)
    hosts = inventory.with_defaults(proxy=proxy, accept_new=accept_new).hosts
    return _show_changes(asked, hosts) if dry_run else _register(asked, hosts)


def _not_imported(asked: Asked, file: str, inventory: Inventory) -> CommandError:
    for problem in inventory.problems[:_SHOWN_PROBLEMS]:
        asked.screen.say(visible(str(problem)))
    left = len(inventory.problems) - _SHOWN_PROBLEMS
    if left > 0:
        asked.screen.say(f"and {left} more")
    count = len(inventory.problems)
    return CommandError(
        f"nothing was imported from {file}.",
        why=f"{count} {'things in it are' if count > 1 else 'thing in it is'} wrong; the first: {visible(str(inventory.problems[0]))}",
        do="mend that and import it again; --format says how to read it, should it be something else.",
    )


def _register(asked: Asked, hosts: Sequence[HostRecord]) -> int:
    from .frame import client_errors

    with client_errors(asked):
        counts = asked.client.register_hosts(hosts)
    _print_counts(asked, counts)
    return ExitStatus.SUCCEEDED


def _show_changes(asked: Asked, hosts: Sequence[HostRecord]) -> int:
    from .frame import client_errors

    with client_errors(asked):
        present = {document.host.name: document.host for document in asked.client.hosts()}
    changes = [(host.name, *_change(host, present.get(host.name))) for host in hosts]
    if asked.screen.is_table:
        rows = [row for row in changes if row[1] != "unchanged"]
        asked.screen.table(("host", "would be", "what"), rows, empty="nothing would change")
    counts = {word: sum(1 for row in changes if row[1] == word) for word in ("registered", "changed", "unchanged")}
    _print_counts(asked, counts, "would be ")
    return ExitStatus.SUCCEEDED


def _change(host: HostRecord, present: HostRecord | None) -> tuple[str, str]:
    if present is None:
        return "registered", host.address
    if host == present:
        return "unchanged", ""
    old, new = present.model_dump(), host.model_dump()
    return "changed", ", ".join(f"{field}: {old[field]} -> {new[field]}" for field in new if old[field] != new[field])


def _print_counts(asked: Asked, counts: dict[str, int], would: str = "") -> None:
    if asked.screen.is_table:
        asked.screen.print(", ".join(f"{count} {would}{word}" for word, count in counts.items()))
    else:
        asked.screen.json_lines([counts])


@click.command(cls=Command)
@click.argument("names", nargs=-1, required=True, shell_complete=complete_hosts)
@click.option("--yes", "-y", "is_confirmed", is_flag=True, help="Do not ask.")
@common_options
def remove(asked: Asked, names: Sequence[str], is_confirmed: bool) -> int:
    """Take hosts out of the inventory; what ran on them stays recorded."""
    from .frame import client_errors

    with client_errors(asked):
        hosts = [asked.client.host(name) for name in dict.fromkeys(names)]
        if not is_confirmed:
            _confirm(asked, hosts)
        counts = asked.client.remove_hosts(host.host_id for host in hosts)
    _print_counts(asked, counts)
    return ExitStatus.SUCCEEDED


def _confirm(asked: Asked, hosts: Sequence[HostDocument]) -> None:
    names = ", ".join(visible(host.host.name) for host in hosts[:5])
    if not asked.screen.may_ask:
        raise CommandError(
            f"this would remove {len(hosts)} hosts.", why="nobody can be asked: this is no terminal.", do="give --yes."
        )
    asked.screen.say(f"This removes {len(hosts)} hosts: {names}{' …' if len(hosts) > 5 else ''}")
    if not click.confirm("Go on?", err=True):
        raise CommandError(
            "nothing was removed.", why="it was not confirmed.", do="run it again when it is what you want."
        )
