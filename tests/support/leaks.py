"""The rule that nothing stays: a process that a test started and that lives when the run is over fails the run.

Owns the check at the end. Fixtures stop what they start; this is who notices when they do not.
"""

from __future__ import annotations

import os
import secrets
import time

import pytest

from support.processes import SESSION_VARIABLE, describe, kill, ours
from support.workers import told, worker_of

_LEAKS = "left behind"
_GRACE_S = 2.0


def pytest_configure(config: pytest.Config) -> None:
    """Each process that runs tests marks what it starts; the mark of the one that directs them is the beginning of theirs."""
    mark = os.environ.setdefault(SESSION_VARIABLE, secrets.token_hex(8))
    worker = worker_of(config)
    if worker:
        os.environ[SESSION_VARIABLE] = f"{mark}.{worker}."


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fixtures are torn down by now. What was just told to end has a moment to do so."""
    deadline = time.monotonic() + _GRACE_S
    while ours() and time.monotonic() < deadline:
        time.sleep(0.05)
    left = ours()
    leaks = told(session.config, _LEAKS)
    leaks += sorted(map(describe, left))
    kill(left)
    if leaks and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    leaks = told(config, _LEAKS)
    if leaks:
        terminalreporter.section("left behind by tests, and killed", red=True)
        terminalreporter.write_line("\n".join(leaks))
