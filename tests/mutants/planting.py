"""Planting: a module is loaded with some of its text replaced. Owns the import hook; which text, is in rules.py and bugs.py."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType


@dataclass(frozen=True)
class Edit:
    """`old` stands in the module exactly once, and becomes `new`."""

    module: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """A rule removed, or a bug planted. `faults` are the kinds under which it is looked for; empty: all. `breaks`: the promise
    that must be seen broken; empty: any. `first_seed`: where to begin, if the story that shows it is one in very many."""

    name: str
    what: str
    edits: tuple[Edit, ...]
    faults: tuple[str, ...] = ()
    breaks: str = ""
    first_seed: int = 0


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, edits: Sequence[Edit]) -> None:
        super().__init__(name, path)
        self._edits = edits

    def get_code(self, fullname: str) -> CodeType | None:
        """Always from the text: a cached one would be the whole module."""
        text = changed(Path(self.path).read_text(encoding="utf-8"), self._edits)
        return compile(text, self.path, "exec", dont_inherit=True)


def changed(text: str, edits: Sequence[Edit]) -> str:
    """The text with its replacements. ValueError: what is to be replaced is not there, or not once."""
    for edit in edits:
        if text.count(edit.old) != 1:
            raise ValueError(f"{edit.module}: {text.count(edit.old)} times in the module: {edit.old!r}")
        text = text.replace(edit.old, edit.new)
    return text


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, edits: Sequence[Edit]) -> None:
        self._edits: dict[str, list[Edit]] = {}
        for edit in edits:
            self._edits.setdefault(edit.module, []).append(edit)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._edits:
            return None
        found = importlib.machinery.PathFinder.find_spec(fullname, path)
        if found is None or found.origin is None:
            return None
        loader = _Loader(fullname, found.origin, self._edits[fullname])
        return importlib.util.spec_from_file_location(fullname, found.origin, loader=loader)


def plant(mutant: Mutant) -> None:
    """From here on, this process imports the mutant. Nothing of it may be imported before."""
    early = [edit.module for edit in mutant.edits if edit.module in sys.modules]
    if early:
        raise RuntimeError(f"imported before the mutant was planted: {early}")
    sys.meta_path.insert(0, _Finder(mutant.edits))


def source_of(module: str) -> str:
    """The text of a module of the project."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None, module
    return Path(spec.origin).read_text(encoding="utf-8")
