"""The rule for tests that cannot run here: skipped with the reason, counted at the end; with CI=true a failure.

Owns that rule. Why a single test is skipped is its own business.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator, Sequence
from typing import TypeVar

import pytest

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

_NOT_CI = ("", "0", "false", "no")


def is_ci() -> bool:
    """Whether this run is told to be one in which everything has to be there."""
    return os.environ.get("CI", "").lower() not in _NOT_CI


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    return _judged(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    return _judged(report)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts = count_reasons(terminalreporter.stats.get("skipped", []))
    if counts:
        terminalreporter.section(f"{counts.total()} skipped", yellow=True)
        for reason, count in counts.most_common():
            terminalreporter.write_line(f"{count:4} {reason}")


def count_reasons(reports: Sequence[pytest.TestReport | pytest.CollectReport]) -> Counter[str]:
    """How many were skipped for which reason."""
    return Counter(map(reason_of, reports))


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Why a test was skipped, in its own words."""
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return str(report.longrepr)


def _judged(report: Report) -> Report:
    if report.skipped and not hasattr(report, "wasxfail") and is_ci():
        report.outcome = "failed"
        report.longrepr = f"skipped, and CI is set, where everything a test needs has to be there: {reason_of(report)}"
    return report
