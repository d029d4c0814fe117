"""Cores take values and return values: checked on their source, so that the simulation runs what production runs.

docs/adr/0019-pure-cores-effects-as-data.md.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
CORES = sorted(ROOT.glob("services/*/chargehand_*/core"))
# Messages, and what messages are made of.
MESSAGES = ("chargehand_schemas", "chargehand_search", "pydantic", "pydantic_core")
# Modules of Python that only compute. What reads a clock, draws a number, or touches the world is not among them.
PURE = {
    *(
        "__future__",
        "abc",
        "base64",
        "bisect",
        "codecs",
        "collections",
        "contextlib",
        "copy",
        "dataclasses",
        "datetime",
        "difflib",
        "enum",
    ),
    *(
        "fractions",
        "fnmatch",
        "functools",
        "hashlib",
        "heapq",
        "hmac",
        "html",
        "ipaddress",
        "itertools",
        "json",
        "math",
        "operator",
        "re",
        "string",
    ),
    *("textwrap", "types", "typing", "unicodedata", "uuid"),
}
# Names in those modules that are not pure all the same.
IMPURE_CALLS = {"now", "utcnow", "today", "fromtimestamp", "uuid1", "uuid4", "new_id", "open", "print", "input"}
ALLOWED = {("datetime", "fromtimestamp")}


def modules() -> list[Path]:
    return [path for core in CORES for path in sorted(core.rglob("*.py"))]


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def own_package(path: Path) -> str:
    return next(parent.name for parent in path.parents if parent.name.startswith("chargehand_"))


def test_every_service_has_a_core() -> None:
    assert [core.parent.name for core in CORES] == [
        "chargehand_dispatcher",
        "chargehand_planner",
        "chargehand_proxy_agent",
        "chargehand_reporter",
    ]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT / "services")))
def test_a_core_imports_messages_and_what_only_computes(path: Path) -> None:
    own = own_package(path)
    for node in nodes(path):
        match node:
            case ast.Import():
                names = [alias.name for alias in node.names]
            case ast.ImportFrom(level=0, module=str(module)):
                names = [module]
            case ast.ImportFrom(level=level, module=module):
                assert level < depth(path), f"line {node.lineno}: leaves the core"
                names = []
            case _:
                continue
        for name in names:
            head = name.partition(".")[0]
            is_own_core = name == f"{own}.core" or name.startswith(f"{own}.core.")
            assert head in PURE or head in MESSAGES or is_own_core, f"line {node.lineno}: imports {name}"


def depth(path: Path) -> int:
    """How many dots it takes from this module to leave its core."""
    core = next(core for core in CORES if path.is_relative_to(core))
    return len(path.relative_to(core).parts) + 1


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT / "services")))
def test_a_core_never_awaits_reads_a_clock_draws_or_prints(path: Path) -> None:
    for node in nodes(path):
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith), (
            f"line {node.lineno}"
        )
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            owner = getattr(getattr(node.func, "value", None), "id", "")
            assert name not in IMPURE_CALLS or (owner, name) in ALLOWED, f"line {node.lineno}: calls {name}"
