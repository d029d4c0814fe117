"""From rows of any format to host records, or what is wrong with them, by file and line. Pure.

Owns the columns, their limits (those of the schemas) and duplicates. If one row is wrong, nothing is imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from chargehand_schemas.commands import HostRecord
from pydantic import ValidationError

MAX_HOSTS = 1_000_000
MAX_PARAMETER_CHARACTERS = 16_384
COLUMNS = ("name", "address", "port", "user", "identity_file", "host_key", "proxy", "groups")
"""The columns of a table; any other column is a parameter of the host."""

_FIELD_OF_COLUMN = {"host_key": "host_keys"}
_COLUMN_OF_FIELD = {"host_keys": "host_key"}
_WANTED = {
    "name": "letters, digits and . _ : - (no blank, not beginning or ending with - . or :), at most 254",
    "address": "a host name or an IP address",
    "port": "a number from 1 to 65535",
    "user": "letters, digits and . _ @ $ -, at most 64, not beginning with -",
    "identity_file": "a path that does not begin with -",
    "host_key": "at most 16 public keys of at most 16384 characters",
    "proxy": "small letters, digits and -, at most 63",
    "groups": "at most 256 names of at most 255 characters",
    "parameters": "names of at most 255 and values of at most 16384 characters",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and where. Line 0: the file as a whole."""

    file: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}" if self.line else f"{self.file}: {self.what}"


@dataclass(frozen=True, slots=True)
class Row:
    """One host as a file names it: fields of HostRecord by name, with where they stand."""

    file: str
    line: int
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a file says. With problems there are no hosts; `notes` say what was left out and why."""

    hosts: tuple[HostRecord, ...] = ()
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    def with_defaults(self, *, proxy: str | None, accept_new: bool) -> Inventory:
        """Hosts without a proxy get this one; all of them trust the key seen first, if so asked."""
        hosts = tuple(
            host.model_copy(update={"proxy": host.proxy or proxy, "accept_new": host.accept_new or accept_new})
            for host in self.hosts
        )
        return replace(self, hosts=hosts)


def failed(file: str, what: str, line: int = 0) -> Inventory:
    """An inventory that cannot be read."""
    return Inventory(problems=(Problem(file, line, what),))


def build(rows: Iterable[Row], problems: Iterable[Problem] = (), notes: Iterable[str] = ()) -> Inventory:
    """The hosts of these rows; or, if any is wrong, only what is wrong."""
    found, hosts = list(problems), list[HostRecord]()
    places: dict[str, Row] = {}
    for row in rows:
        host = _record(row, found)
        if host is None:
            continue
        first = places.setdefault(host.name, row)
        if first is not row:
            found.append(Problem(row.file, row.line, f"host {host.name!r} stands already at {_place(first)}"))
        hosts.append(host)
    if len(hosts) > MAX_HOSTS:
        found.append(Problem(next(iter(places.values())).file, 0, f"{len(hosts)} hosts, more than {MAX_HOSTS}"))
    return Inventory((), tuple(found), tuple(notes)) if found else Inventory(tuple(hosts), (), tuple(notes))


def row_of_columns(file: str, line: int, cells: Mapping[str, Any]) -> Row:
    """A row of named cells: those of COLUMNS are fields, the others parameters. Empty cells are absent."""
    fields: dict[str, Any] = {"parameters": {}}
    for column, value in cells.items():
        if value in ("", None, [], ()):
            continue
        if column in COLUMNS:
            fields[_FIELD_OF_COLUMN.get(column, column)] = value
        else:
            fields["parameters"][column] = value
    return Row(file, line, fields)


def _record(row: Row, problems: list[Problem]) -> HostRecord | None:
    if not row.fields.get("name"):
        problems.append(Problem(row.file, row.line, "no name: every host needs one"))
        return None
    try:
        return HostRecord.model_validate(row.fields)
    except ValidationError as error:
        problems.append(Problem(row.file, row.line, _first_error(row, error)))
        return None


def _first_error(row: Row, error: ValidationError) -> str:
    place = error.errors(include_url=False)[0]["loc"]
    field = str(place[0])
    column = _COLUMN_OF_FIELD.get(field, field)
    value = row.fields.get(field)
    if field == "parameters" and len(place) > 1:
        return f"parameter {str(place[1])[:64]!r} cannot be taken: wanted are {_WANTED['parameters']}"
    return f"{column} {str(value)[:80]!r} cannot be taken: wanted is {_WANTED.get(column, 'something else')}"


def _place(row: Row) -> str:
    return f"{row.file}:{row.line}" if row.line else row.file
