"""Waiting for what cannot be awaited: another process, a file. Owns the one loop that looks again."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

_LOOK_AGAIN_S = 0.01


def wait_until(is_so: Callable[[], bool], *, within: timedelta = timedelta(seconds=10)) -> None:
    """Return as soon as it is so; AssertionError when it is not so in time."""
    deadline = time.monotonic() + within.total_seconds()
    while not is_so():
        assert time.monotonic() < deadline, f"not so within {within}"
        time.sleep(_LOOK_AGAIN_S)
