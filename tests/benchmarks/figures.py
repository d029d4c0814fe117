"""What a benchmark has found, and how it is told: a figure has one value for each run, and the median counts.

Owns medians, percentiles, limits and the table. Nothing is measured here.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Limit:
    """What a figure ought to be, at least or at most, in its own unit."""

    word: Literal["≥", "≤"]
    value: float

    def is_kept_by(self, value: float) -> bool:
        return value >= self.value if self.word == "≥" else value <= self.value


def at_least(value: float) -> Limit:
    return Limit("≥", value)


def at_most(value: float) -> Limit:
    return Limit("≤", value)


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that was measured, once in each run."""

    name: str
    unit: str
    runs: tuple[float, ...]
    limit: Limit | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    @property
    def verdict(self) -> str:
        """Whether the median keeps the limit, in a word; empty where there is none."""
        if self.limit is None:
            return ""
        return "kept" if self.limit.is_kept_by(self.median) else "missed"


def ratio(name: str, over: Figure, under: Figure, limit: Limit | None = None) -> Figure:
    """How many times the one is the other, run by run."""
    return Figure(name, "×", tuple(a / b for a, b in zip(over.runs, under.runs, strict=True)), limit)


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that so many of all (0 to 1) do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def table(figures: Sequence[Figure]) -> str:
    """The figures as a Markdown table."""
    lines = ["| figure | median | runs | wanted | |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *map(_row, figures)])


def _row(figure: Figure) -> str:
    runs = ", ".join(map(shown, figure.runs)) if len(figure.runs) > 1 else ""
    wanted = f"{figure.limit.word} {shown(figure.limit.value)}" if figure.limit else ""
    return f"| {figure.name} | {shown(figure.median)} {figure.unit} | {runs} | {wanted} | {figure.verdict} |"


def shown(value: float) -> str:
    """Three digits that mean something, and no more."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"
