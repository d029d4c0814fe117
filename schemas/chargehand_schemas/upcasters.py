"""Old versions of messages, brought up to the present one, step by step, before they are validated.

Owns the table of steps. A step is a pure function from the JSON object of one item in version n to that in version n + 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
Steps = Mapping[tuple[str, int], Upcaster]

STEPS: Steps = {}


def upcast(family: str, version: int, present: int, item: dict[str, Any], steps: Steps = STEPS) -> dict[str, Any]:
    """The item as version `present` of `family`. LookupError if a step between is missing."""
    for step in range(version, present):
        item = steps[(family, step)](item)
    return item
