"""A run in several processes (pytest-xdist): what each has to tell at its end reaches the one that prints.

Owns that way, and the name that a process of the run has. Which tests run where is xdist's: whole files, one after another.
"""

from __future__ import annotations

from typing import Any

import pytest

_TOLD = pytest.StashKey[dict[str, list[str]]]()
_KEY = "told"


def worker_of(config: pytest.Config) -> str:
    """The name of this process among those that run tests; empty: it is the only one, or the one that directs them."""
    workerinput: dict[str, Any] = getattr(config, "workerinput", {})
    return str(workerinput.get("workerid", ""))


def told(config: pytest.Config, what: str) -> list[str]:
    """Lines about something, to be added to; where they are printed, those of all."""
    return config.stash[_TOLD].setdefault(what, [])


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.stash[_TOLD] = {}
    if worker_of(config):
        # What xdist takes home from here.
        config.workeroutput[_KEY] = config.stash[_TOLD]  # type: ignore[attr-defined]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object | None) -> None:
    """One of them has ended; `error`: it did so by itself, and has told nothing."""
    for what, lines in getattr(node, "workeroutput", {}).get(_KEY, {}).items():
        told(node.config, what).extend(lines)
