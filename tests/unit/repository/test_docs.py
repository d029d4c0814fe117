"""The documents keep their word: rows, rules, links, generated pages and decisions are what they say they are."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import generate
import pytest
from chargehand_schemas.reasons import JobTaskStatus, Reason

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
ROWS = {f"S{number}" for number in range(1, 111)}
RULES = {
    *("ACK", "WM", "ACCEPTORS", "TRUTH", "TOMB", "HDL", "FENCE", "LATE", "PIN", "BOOT", "KEEP", "LOST", "CANC", "BIND"),
    *("REST", "RET", "CLK", "CHK", "TRY", "PICK", "RANGE", "OUTORD", "SOLO", "JID", "ONE"),
    *("ATTID", "SEQ", "ASK", "REOPEN", "PRESS", "KEY"),
}


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def pages() -> list[Path]:
    return [*sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("*.md"))]


def test_every_row_stands_once() -> None:
    listed = re.findall(r"^\| (S\d+) \| [^|]+ \| [^|]+ \|$", text(DOCS / "requirements.md"), flags=re.MULTILINE)
    assert sorted(listed) == sorted(ROWS)


def test_the_readme_says_of_every_row_whether_it_works() -> None:
    lines = re.findall(r"^\| (S\d.*) \| (works|not yet) \| ", text(ROOT / "README.md"), flags=re.MULTILINE)
    works = {row: status == "works" for rows, status in lines for row in rows.split(", ")}
    assert works == {row: row in generate.rows_shown() for row in ROWS}


def test_end_to_end_tests_name_only_rows_that_exist() -> None:
    assert set(generate.rows_shown()) - ROWS == set()


def test_every_rule_of_the_protocol_stands_once() -> None:
    headings = re.findall(r"^### (\w+)$", text(DOCS / "protocol.md"), flags=re.MULTILINE)
    assert sorted(headings) == sorted(RULES)


def test_code_and_documents_name_only_rules_that_exist() -> None:
    named = re.compile(r"\brules? ([A-Z][A-Z, and]*[A-Z])\b")
    folders = ("schemas", "services", "cli", "tests", "docs")
    unknown = [
        f"{path.relative_to(ROOT)}: {rule}"
        for folder in folders
        for path in (ROOT / folder).rglob("*.[pm][yd]")
        for words in named.findall(text(path))
        for rule in re.findall(r"[A-Z]+", words)
        if rule not in RULES
    ]
    assert unknown == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text(page)):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        goal = (page.parent / name).resolve() if name else page
        assert goal.exists(), f"{target} is not there"
        assert not anchor or anchor in anchors(goal), f"{target}: no such heading"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as forges make them."""
    headings = re.findall(r"^#+ (.+)$", text(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_can_be_found_from_the_index() -> None:
    seen: set[Path] = set()
    waiting = [DOCS / "index.md", ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        seen.add(page)
        for target in re.findall(r"\]\(([^)#\s]+\.md)", text(page)):
            goal = (page.parent / target).resolve()
            if goal.exists() and goal not in seen:
                waiting.append(goal)
    assert [str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if page not in seen] == []


@pytest.mark.parametrize("page", sorted((DOCS / "adr").glob("0*.md")), ids=lambda page: page.stem)
def test_a_decision_has_context_decision_and_consequence_on_one_screen(page: Path) -> None:
    lines = text(page).splitlines()
    assert re.fullmatch(rf"# {page.stem[:4]}\. \S.*", lines[0])
    assert [line for line in lines if line.startswith("## ")] == ["## Context", "## Decision", "## Consequence"]
    assert len(lines) <= 40
    assert f"[{lines[0].removeprefix('# ')}]({page.name})" in text(DOCS / "adr" / "index.md")


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = [int(page.name[:4]) for page in sorted((DOCS / "adr").glob("0*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))


def test_the_glossary_explains_every_status_and_reason() -> None:
    glossary = text(DOCS / "glossary.md")
    words = [*JobTaskStatus, *Reason]
    assert [word.value for word in words if not re.search(rf"\b{word.value}\b", glossary)] == []


def test_generated_pages_are_up_to_date() -> None:
    stale = [path.name for path, wanted in generate.pages().items() if text(path) != wanted]
    assert stale == [], "run `make docs`"


def test_every_setting_and_metric_is_described() -> None:
    for page in ("settings.md", "metrics.md", "topics.md"):
        empty = [line for line in text(DOCS / "reference" / page).splitlines() if re.search(r"\|\s+\|$", line)]
        assert empty == [], page


def test_documents_name_only_make_commands_that_exist() -> None:
    makefile = text(ROOT / "Makefile")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    named = {
        (page.name, target)
        for page in pages()
        for code in re.findall(r"`([^`\n]+)`|^\s*\$? ?(make .+)$", text(page), flags=re.MULTILINE)
        for target in re.findall(r"^make ([a-z-]+)\b", code[0] or code[1])
    }
    assert sorted(pair for pair in named if pair[1] not in targets) == []


def test_the_license_is_apache_2_whole() -> None:
    license_text = text(ROOT / "LICENSE")
    assert "Apache License" in license_text
    assert "Version 2.0, January 2004" in license_text
    assert "END OF TERMS AND CONDITIONS" in license_text


def test_make_help_lists_the_commands() -> None:
    listed = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout
    assert re.findall(r"^  make (\w+)", listed, flags=re.MULTILINE)[:3] == ["help", "demo", "test"]


def test_every_window_of_at_most_once_names_tests_that_are_there() -> None:
    page = DOCS / "explanation" / "at-most-once.md"
    links = re.findall(r"\[([^\]]+)\]\(([^)\s]+/test_\w+\.py)\)", text(page))
    named = [(words, page.parent / target) for words, target in links if not words.startswith("tests that arm")]
    missing = [words for words, path in named if f"_{words.replace(' ', '_')}(" not in text(path)]
    assert missing == []
    rows = [line for line in text(page).splitlines() if line.startswith("| ")]
    shown = [line for line in rows if "/tests/" in line]
    assert len(shown) >= 30, "a window without a test"
