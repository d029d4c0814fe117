"""The repository keeps the form that its documents describe: folders, packages, names, lengths, words that must not appear."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WHEEL = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
PACKAGES = [ROOT / path for path in WHEEL["packages"]]
LONGEST_FUNCTION_LINES = 60


def tracked(*patterns: str) -> list[Path]:
    """Files of the repository, without what git ignores; also those not committed yet."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *patterns]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def sources() -> list[Path]:
    """Python files of the packages."""
    return [path for package in PACKAGES for path in sorted(package.rglob("*.py"))]


def lines() -> Iterator[tuple[str, str]]:
    """Every line that people wrote, with its place."""
    for path in tracked():
        if path.suffix in {".lock", ".png", ".json", ".jsonl"} or path.name == "LICENSE":
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            yield f"{path.relative_to(ROOT)}:{number}", line


def paths_of_this_machine() -> list[str]:
    """Where this repository and this Python are, if the path is long enough to be told from an ordinary word."""
    return [str(path) for path in (ROOT, Path(sys.base_prefix)) if len(path.parts) > 2 and path.parts[1] != "usr"]


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_every_package_is_installed_in_place_and_linted() -> None:
    parents = {str(package.parent.relative_to(ROOT)) for package in PACKAGES}
    assert parents == set(WHEEL["dev-mode-dirs"])
    assert {package.name for package in PACKAGES} == set(PYPROJECT["tool"]["importlinter"]["root_packages"])


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for path in sources()}
    assert [str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").exists()] == []
    assert [package.name for package in PACKAGES if not (package / "py.typed").exists()] == []


def test_every_module_says_what_it_owns() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in sources()
        if path.read_text(encoding="utf-8").strip()
        and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []


def test_no_function_is_longer_than_a_page() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in tracked("*.py")
        for node in functions(path)
        if (node.end_lineno or node.lineno) - node.lineno + 1 > LONGEST_FUNCTION_LINES
    ]
    assert long == []


def test_no_class_is_named_for_nothing() -> None:
    """A Manager, Handler, Processor, Helper or Utils says nothing about what it is."""
    empty_word = re.compile(r"(Manager|Handler|Processor|Helper|Utils?)$")
    named = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and empty_word.search(node.name)
    ]
    assert named == []


def test_test_files_have_names_of_their_own() -> None:
    names = Counter(path.name for path in tracked("tests/**/test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_tests_are_no_packages() -> None:
    """pytest imports them by path; an __init__.py would give them a second name."""
    assert [str(path) for path in tracked("tests/**/test_*.py") if (path.parent / "__init__.py").exists()] == []


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("a note that something is left for later", r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b"),
        ("the host of a package registry", r"py" r"pi\.org|python" r"hosted\.org|ma" r"ven\.org|npm" r"js\.(org|com)"),
        ("a path of this machine", "|".join(map(re.escape, paths_of_this_machine())) or r"(?!)"),
    ],
)
def test_nothing_holds(what: str, pattern: str) -> None:
    forbidden = re.compile(pattern)
    assert [where for where, line in lines() if forbidden.search(line)] == [], f"{what} stands in the repository"


def test_every_document_that_is_named_is_here() -> None:
    named = re.compile(r"\b(docs/[a-z0-9/._-]+\.md)|(?<![\w/.-])([A-Z]{4,})(?:\.md| sections?\b)")
    missing = [
        f"{where}: {document}"
        for where, line in lines()
        for path, stem in named.findall(line)
        if not (ROOT / (document := path or f"{stem}.md")).exists()
    ]
    assert missing == []


def test_make_shows_at_most_twelve_commands_and_each_says_what_it_does() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    shown = re.findall(r"^([a-z-]+):.*## (\S.*)$", makefile, flags=re.MULTILINE)
    assert 0 < len(shown) <= 12
    phony = set(re.findall(r"^\.PHONY: (.+)$", makefile, flags=re.MULTILINE))
    assert {name for name, _ in shown} <= phony


def test_continuous_integration_runs_the_same_command_as_people() -> None:
    run = ROOT / ".ci" / "run"
    assert run.stat().st_mode & 0o111
    assert run.read_text(encoding="utf-8").splitlines()[-1] == "exec make test"
