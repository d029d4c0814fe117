"""Hosts of an OpenSSH client configuration (ssh_config(5)): every concrete name after `Host` is a host. Pure.

Owns Host patterns, Include and the rule that the first value counts. `Match` is not judged: what stands under it is left
out, with a note. ProxyJump and ProxyCommand are not copied: a host with one keeps its alias as its address, so that the ssh
configuration of the proxy's user, where the alias stands, decides.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from heapq import merge
from itertools import takewhile
from typing import Any, Protocol

from .hosts import Inventory, Problem, Row, build, failed

MAX_DEPTH = 16
MAX_FILES = 1000
_FIELDS = {"hostname": "address", "port": "port", "user": "user", "identityfile": "identity_file"}
_INDIRECT = ("proxyjump", "proxycommand")
_WORD = re.compile(r"^\s*([A-Za-z][A-Za-z0-9]*)(?:\s*=\s*|\s+)(.*?)\s*$")

Patterns = tuple[str, ...]


class Files(Protocol):
    """What the parser needs of a file system."""

    def included(self, pattern: str) -> Sequence[str]:
        """The paths an Include argument stands for, sorted; relative ones lie in ~/.ssh."""

    def read(self, path: str) -> str:
        """The text of a file. OSError or ValueError if it cannot be read."""


@dataclass(frozen=True, slots=True)
class Directive:
    """One line that counts for hosts which every `Host` line above it matches (its own file's and those it is included in)."""

    file: str
    line: int
    keyword: str
    value: str
    conditions: tuple[Patterns, ...]


@dataclass(slots=True)
class _Reading:
    files: Files
    directives: list[Directive] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    count: int = 0


def parse_ssh_config(path: str, files: Files) -> Inventory:
    """The hosts of this file and of what it includes."""
    reading = _Reading(files)
    _read_file(reading, path, (), ())
    if reading.problems:
        return Inventory(problems=tuple(reading.problems), notes=tuple(reading.notes))
    rows = list(_rows(reading))
    if not rows:
        return failed(path, "no concrete name after any `Host`: patterns alone are no hosts")
    return build(rows, notes=reading.notes)


def matches(name: str, patterns: Patterns) -> bool:
    """Whether a `Host` line takes this name: one pattern does, and none with `!` does."""
    taken = False
    for pattern in patterns:
        if fnmatchcase(name, _escaped(pattern.removeprefix("!"))):
            if pattern.startswith("!"):
                return False
            taken = True
    return taken


def _escaped(pattern: str) -> str:
    """ssh knows * and ? only; a [ is an ordinary character there."""
    return pattern.replace("[", "[[]")


# --- reading lines -----------------------------------------------------------------------------------------------------


def _read_file(reading: _Reading, path: str, conditions: tuple[Patterns, ...], above: tuple[str, ...]) -> None:
    reading.count += 1
    if path in above or len(above) >= MAX_DEPTH or reading.count > MAX_FILES:
        reading.problems.append(Problem(path, 0, _why_too_deep(path, above)))
        return
    try:
        text = reading.files.read(path)
    except (OSError, ValueError) as error:
        reading.problems.append(Problem(path, 0, f"cannot be read: {error}"))
        return
    _read_lines(reading, path, text, conditions, (*above, path))


def _why_too_deep(path: str, above: tuple[str, ...]) -> str:
    if path in above:
        return "includes itself: " + " includes ".join((*above[above.index(path) :], path))
    return f"too many files are included, one in another (at most {MAX_DEPTH} deep and {MAX_FILES} in all)"


def _read_lines(reading: _Reading, path: str, text: str, outer: tuple[Patterns, ...], above: tuple[str, ...]) -> None:
    conditions: tuple[Patterns, ...] | None = outer
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        keyword, arguments = _words(stripped)
        if not keyword or arguments is None:
            reading.problems.append(Problem(path, number, f"not a line of ssh_config: {stripped[:80]!r}"))
        elif keyword == "host":
            conditions = (*outer, arguments)
            reading.directives.append(Directive(path, number, keyword, " ".join(arguments), conditions))
        elif keyword == "match":
            reading.notes.append(
                f"{path}:{number}: what stands under `Match` is left out; the proxy's own ssh honours it"
            )
            conditions = None
        elif conditions is None:
            continue
        elif keyword == "include":
            _include(reading, path, number, arguments, conditions, above)
        elif arguments:
            reading.directives.append(Directive(path, number, keyword, arguments[0], conditions))


def _include(
    reading: _Reading,
    path: str,
    number: int,
    arguments: Patterns,
    conditions: tuple[Patterns, ...],
    above: tuple[str, ...],
) -> None:
    for pattern in arguments:
        found = reading.files.included(pattern)
        if not found:
            reading.notes.append(f"{path}:{number}: Include {pattern} finds no file")
        for included in found:
            _read_file(reading, included, conditions, above)


def _words(line: str) -> tuple[str, Patterns | None]:
    """The keyword in small letters and its arguments; None instead of them when a quote is not closed."""
    match = _WORD.match(line)
    if match is None:
        return line.split()[0].lower() if line.replace("_", "").isalnum() else "", ()
    lexer = shlex.shlex(match[2], posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters, lexer.quotes, lexer.escape = True, "", '"', ""
    try:
        return match[1].lower(), tuple(takewhile(lambda word: not word.startswith("#"), lexer))
    except ValueError:
        return match[1].lower(), None


# --- resolving ---------------------------------------------------------------------------------------------------------


class _Index:
    """Which directives may count for a name, in their order: most stand under a `Host` line with concrete names only."""

    def __init__(self, directives: Sequence[Directive]) -> None:
        self._by_name: dict[str, list[tuple[int, Directive]]] = {}
        self._by_pattern: list[tuple[int, Directive]] = []
        for place in enumerate(directives):
            conditions = place[1].conditions
            if conditions and all(map(_is_concrete, conditions[-1])):
                for name in set(conditions[-1]):
                    self._by_name.setdefault(name, []).append(place)
            else:
                self._by_pattern.append(place)

    def of(self, name: str) -> Iterator[Directive]:
        for _, directive in merge(self._by_name.get(name, ()), self._by_pattern, key=lambda place: place[0]):
            if _applies(directive, name):
                yield directive


def _rows(reading: _Reading) -> Iterator[Row]:
    index, seen = _Index([d for d in reading.directives if d.keyword != "host"]), set[str]()
    for directive in reading.directives:
        if directive.keyword != "host":
            continue
        for name in filter(_is_concrete, directive.conditions[-1]):
            if name not in seen and _applies(directive, name):
                seen.add(name)
                yield Row(directive.file, directive.line, _fields(index.of(name), name, reading.notes))


def _is_concrete(pattern: str) -> bool:
    return not any(character in pattern for character in "*?!")


def _applies(directive: Directive, name: str) -> bool:
    return all(matches(name, patterns) for patterns in directive.conditions)


def _fields(directives: Iterable[Directive], name: str, notes: list[str]) -> dict[str, Any]:
    first: dict[str, str] = {}
    for directive in directives:
        first.setdefault(directive.keyword, directive.value)
    fields: dict[str, Any] = {"name": name}
    indirect = [word for word in _INDIRECT if first.get(word, "none").lower() != "none"]
    if indirect:
        notes.append(f"{name}: {indirect[0]} is left to the ssh configuration of the proxy's user")
        return fields
    for keyword, column in _FIELDS.items():
        if keyword in first and first[keyword].lower() != "none":
            fields[column] = _expanded(first[keyword], name) if keyword == "hostname" else first[keyword]
    return fields


def _expanded(value: str, name: str) -> str:
    return re.sub(r"%[h%]", lambda match: name if match.group() == "%h" else "%", value)
