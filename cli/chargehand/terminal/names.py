"""Host names folded for people: `web[001-040],db1`. Every name comes out exactly once. Pure.

Owns the folding only.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

_DIGITS = re.compile(r"([0-9]+)")


def fold(names: Iterable[str]) -> str:
    """Names in order, those that differ in one number under one bracket: `web[1-3,7].example.com,db1`.

    The number folded on is the one that varies most among names of the same shape. Numbers with leading zeros keep their
    width, and fold only with numbers of that width.
    """
    shapes: dict[tuple[str, ...], list[tuple[str, ...]]] = defaultdict(list)
    for name in sorted(set(names), key=natural_key):
        parts = tuple(_DIGITS.split(name))
        shapes[parts[::2]].append(parts)
    folded = [piece for members in shapes.values() for piece in _fold_shape(members)]
    return ",".join(sorted(folded, key=natural_key))


def natural_key(name: str) -> tuple[tuple[str, int], ...]:
    """Sorts web2 before web10."""
    parts = _DIGITS.split(name)
    return tuple(
        (text, int(parts[index * 2 + 1]) if index * 2 + 1 < len(parts) else -1) for index, text in enumerate(parts[::2])
    )


def _fold_shape(members: Sequence[tuple[str, ...]]) -> list[str]:
    if len(members[0]) == 1:
        return [members[0][0]]
    axis = max(range(1, len(members[0]), 2), key=lambda place: (len({parts[place] for parts in members}), place))
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for parts in members:
        groups["".join(parts[:axis]), "".join(parts[axis + 1 :])].append(parts[axis])
    return [piece for (before, after), numbers in groups.items() for piece in _fold_numbers(before, numbers, after)]


def _fold_numbers(before: str, numbers: Sequence[str], after: str) -> list[str]:
    """One piece per width of zero-padded numbers, and one for those without padding."""
    padded = {len(number) for number in numbers if number[0] == "0" and len(number) > 1}
    by_width: dict[int, list[str]] = defaultdict(list)
    for number in numbers:
        by_width[len(number) if len(number) in padded else 0].append(number)
    return [f"{before}{_brackets(members, width)}{after}" for width, members in by_width.items()]


def _brackets(numbers: Sequence[str], width: int) -> str:
    if len(numbers) == 1:
        return numbers[0]
    runs: list[list[int]] = []
    for value in sorted(int(number) for number in numbers):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return "[" + ",".join(_run(low, high, width) for low, high in runs) + "]"


def _run(low: int, high: int, width: int) -> str:
    return f"{low:0{width}d}" if low == high else f"{low:0{width}d}-{high:0{width}d}"
