"""Hosts of whatever `ansible-inventory --list` reads: its JSON parsed as data, and running it.

Owns the mapping of variables. Ansible is a process, never an import; a template in a variable stays text and is never rendered;
passwords and other `ansible_` settings are not taken over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .hosts import MAX_PARAMETER_CHARACTERS, Inventory, Problem, Row, build, failed

COMMAND = "ansible-inventory"
_FIELDS = {
    "address": ("ansible_host", "ansible_ssh_host"),
    "port": ("ansible_port", "ansible_ssh_port"),
    "user": ("ansible_user", "ansible_ssh_user"),
    "identity_file": ("ansible_ssh_private_key_file", "ansible_private_key_file"),
}
_ORIGIN = re.compile(r"^(?P<what>.+)\nOrigin: (?P<file>[^<\n]+?):(?P<line>\d+)(?::\d+)?$", re.MULTILINE)
_NO_GROUPS = ("all", "ungrouped")
_MAX_GROUPS = 256
_BY_SSH = ("ssh", "smart", "paramiko", "paramiko_ssh", "ansible.netcommon.libssh")


def parse_listing(document: bytes, file: str) -> Inventory:
    """The hosts of the JSON that `ansible-inventory --list` printed for `file`."""
    try:
        listing = json.loads(document)
    except (ValueError, RecursionError) as error:
        return failed(file, f"{COMMAND} did not print JSON: {str(error)[:200]}")
    if not isinstance(listing, dict):
        return failed(file, f"{COMMAND} did not print a JSON object")
    variables = _mapping(_mapping(listing.get("_meta")).get("hostvars"))
    groups = _groups_by_host(listing)
    names = sorted(set(groups) | {name for name in variables if isinstance(name, str)})
    if not names:
        return failed(file, "names no host")
    problems: list[Problem] = []
    left_out: dict[str, int] = {}
    rows = [_row(file, name, _mapping(variables.get(name)), groups.get(name, ()), problems, left_out) for name in names]
    return build(rows, problems, _notes(left_out))


def explain(errors: str, file: str) -> Problem:
    """Why it could not read `file`, from what it wrote to stderr: file and line where it names them."""
    origin = _ORIGIN.search(errors)
    if origin is not None:
        return Problem(origin["file"], int(origin["line"]), origin["what"].strip()[:500])
    lines = [line.strip() for line in errors.splitlines() if line.startswith(("[WARNING]", "[ERROR]"))]
    words = " ".join(dict.fromkeys(lines)) or " ".join(errors.split()) or "it does not say why"
    return Problem(file, 0, f"{COMMAND} cannot read it: {words[:1500]}")


def _row(
    file: str,
    name: str,
    variables: Mapping[str, Any],
    groups: Iterable[str],
    problems: list[Problem],
    left_out: dict[str, int],
) -> Row:
    fields: dict[str, Any] = {"name": name, "groups": sorted(groups)[:_MAX_GROUPS]}
    for field, candidates in _FIELDS.items():
        for variable in candidates:
            if variable in variables:
                _take(fields, field, variable, variables[variable], Problem(file, 0, f"host {name!r}: "), problems)
                break
    fields["parameters"] = dict(_parameters(variables, left_out))
    if variables.get("ansible_connection", "ssh") not in _BY_SSH:
        left_out["ansible_connection"] = left_out.get("ansible_connection", 0) + 1
    return Row(file, 0, fields)


def _take(
    fields: dict[str, Any], field: str, variable: str, value: Any, about: Problem, problems: list[Problem]
) -> None:
    text = _text(value)
    if text is None or "{{" in text or "{%" in text:
        why = "is a template, and templates in an inventory are not evaluated" if text else "is no text"
        problems.append(Problem(about.file, 0, f"{about.what}{variable} {why}"))
    elif text:
        fields[field] = text


def _parameters(variables: Mapping[str, Any], left_out: dict[str, int]) -> Iterator[tuple[str, str]]:
    for name, value in variables.items():
        if name.startswith("ansible_"):
            continue
        text = _text(value)
        if text is None or len(text) > MAX_PARAMETER_CHARACTERS or not 1 <= len(name) <= 255:
            left_out[name[:64]] = left_out.get(name[:64], 0) + 1
        else:
            yield name, text


def _text(value: Any) -> str | None:
    """A simple value as text; None for lists, objects and what a vault keeps."""
    if isinstance(value, dict) and set(value) == {"__ansible_unsafe"}:
        value = value["__ansible_unsafe"]
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, bool | int | float) else None


def _notes(left_out: Mapping[str, int]) -> Iterator[str]:
    for name, count in sorted(left_out.items())[:20]:
        why = "they will be reached by ssh" if name == "ansible_connection" else "no simple value, or too long"
        yield f"variable {name!r} of {count} host{'s' if count > 1 else ''} is left out: {why}"


# --- groups ------------------------------------------------------------------------------------------------------------


def _groups_by_host(listing: Mapping[str, Any]) -> dict[str, set[str]]:
    """Of each host the groups it is in, by itself or through children."""
    parents = _parents(listing)
    found: dict[str, set[str]] = {}
    for group, content in listing.items():
        for name in _strings(_mapping(content).get("hosts")):
            found.setdefault(name, set()).update(_upwards(group, parents))
    return found


def _parents(listing: Mapping[str, Any]) -> dict[str, set[str]]:
    parents: dict[str, set[str]] = {}
    for group, content in listing.items():
        for child in _strings(_mapping(content).get("children")):
            parents.setdefault(child, set()).add(group)
    return parents


def _upwards(group: str, parents: Mapping[str, set[str]]) -> set[str]:
    """The group and all above it; a cycle ends where it began."""
    found, waiting = set[str](), [group]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(parents.get(name, ()))
    return {name for name in found if name not in _NO_GROUPS}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _strings(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
