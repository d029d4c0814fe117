"""CSV and JSON lines with the columns name, address, port, user, identity_file, host_key, proxy, groups. Pure.

Owns both formats. Any other column is a parameter of the host, as text.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from io import StringIO
from typing import Any

from .hosts import COLUMNS, Inventory, Problem, Row, build, failed, row_of_columns

_MAX_CELL_CHARACTERS = 1024 * 1024
_LISTS = ("groups", "host_key")


def parse_csv(text: str, file: str) -> Inventory:
    """CSV with a heading. `groups` and `host_key` may hold several values, apart by `;`."""
    csv.field_size_limit(_MAX_CELL_CHARACTERS)
    reader = csv.reader(StringIO(text, newline=""), strict=True)
    try:
        heading = [name.strip() for name in next(reader)]
    except StopIteration:
        return failed(file, "empty: the first line names the columns, " + ",".join(COLUMNS))
    except csv.Error as error:
        return failed(file, f"not CSV: {error}", 1)
    wrong = _wrong_heading(heading)
    if wrong:
        return failed(file, wrong, 1)
    problems: list[Problem] = []
    return build(list(_csv_rows(reader, heading, file, problems)), problems)


def _csv_rows(reader: Any, heading: list[str], file: str, problems: list[Problem]) -> Iterator[Row]:
    line = reader.line_num + 1
    try:
        for cells in reader:
            first, line = line, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(heading):
                problems.append(Problem(file, first, f"{len(cells)} cells, the heading has {len(heading)}"))
                continue
            yield row_of_columns(file, first, dict(zip(heading, map(_cell, heading, cells), strict=True)))
    except csv.Error as error:
        problems.append(Problem(file, line, f"not CSV: {error}"))


def _cell(column: str, text: str) -> Any:
    text = text.strip()
    if column in _LISTS:
        return [part.strip() for part in text.replace("\n", ";").split(";") if part.strip()]
    return text


def _wrong_heading(heading: list[str]) -> str:
    if "name" not in heading:
        return f"no column `name` in the heading: {', '.join(heading)[:200]}"
    twice = sorted({name for name in heading if heading.count(name) > 1})
    if twice:
        return f"column {twice[0]!r} stands twice in the heading"
    return "a column without a name in the heading" if "" in heading else ""


def parse_json_lines(text: str, file: str) -> Inventory:
    """One JSON object a line. `groups` and `host_key` are lists or text; a parameter's list or object stays JSON text."""
    rows: list[Row] = []
    problems: list[Problem] = []
    # Not splitlines: U+2028 and the like are text within JSON.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        document = _object(line)
        if isinstance(document, str):
            problems.append(Problem(file, number, document))
        else:
            rows.append(row_of_columns(file, number, {name: _value(name, value) for name, value in document.items()}))
    if not rows and not problems:
        return failed(file, "empty: one JSON object a line is wanted")
    return build(rows, problems)


def _object(line: str) -> dict[str, Any] | str:
    try:
        document = json.loads(line, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {str(error)[:200]}"
    return document if isinstance(document, dict) else "not a JSON object"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return document


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _value(name: str, value: Any) -> Any:
    if name in _LISTS and isinstance(value, str):
        return _cell(name, value)
    if name in COLUMNS or value is None:
        return value
    return parameter_text(value)


def parameter_text(value: Any) -> str:
    """A parameter is text: numbers and truth values as JSON writes them, lists and objects as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
