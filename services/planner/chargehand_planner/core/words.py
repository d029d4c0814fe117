"""Names in sentences: lists that stay short, and what somebody may have meant.

Owns wording that several decisions share.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher, get_close_matches

SHOWN = 5
_CLOSEST = 100


def listed(names: Sequence[str], shown: int = SHOWN) -> str:
    """`a, b, c and 7 more`."""
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")


def counted(count: int, noun: str) -> str:
    """`1 host`, `3 hosts`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing. Of names that are equally close, the first in order."""
    close = get_close_matches(name, list(candidates), n=_CLOSEST, cutoff=0.6)
    if not close:
        return ""
    best = min(close, key=lambda one: (-SequenceMatcher(None, one, name).ratio(), one))
    return f"; did you mean {best!r}?"
