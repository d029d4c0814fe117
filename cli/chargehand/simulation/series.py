"""Many seeds, one after the other: what they ran, how they ended, and the first scenario that breaks a promise, shortened.

Owns the counting. How fast it went is for whoever has a clock.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from .run import Outcome, run
from .scenario import FAULTS, Scenario, draw
from .shrinking import shrink

COLLECT_EVERY = 50


@dataclass
class Series:
    """What was seen. `failed` has the seeds with a broken promise; `failure` is the first of them, shortened and told."""

    seeds: int = 0
    job_tasks: int = 0
    records: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    failed: list[int] = field(default_factory=list)
    failure: Outcome | None = None
    differing: list[int] = field(default_factory=list)


@contextmanager
def _without_collector() -> Iterator[None]:
    """A run makes many objects that live to its end: looking through them again and again took a quarter of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@_without_collector()
def run_series(
    seeds: Iterable[int],
    hosts: int | None = None,
    faults: Collection[str] = tuple(FAULTS),
    *,
    twice_every: int = 100,
    seen: Callable[[Series], None] = lambda series: None,
) -> Series:
    """Run these seeds. One in `twice_every` is run again: a run that differs from itself is in `differing`."""
    series = Series()
    for seed in seeds:
        if series.seeds % COLLECT_EVERY == 0:
            gc.collect()
        outcome = run(draw(seed, hosts, faults))
        series.seeds += 1
        series.job_tasks += outcome.job_tasks
        series.records += outcome.records
        series.verdicts.update(dict(outcome.verdicts))
        if twice_every and seed % twice_every == 0 and not _is_same(run(draw(seed, hosts, faults)), outcome):
            series.differing.append(seed)
        if outcome.broken:
            series.failed.append(seed)
            if series.failure is None:
                series.failure = explain(outcome.scenario)
        seen(series)
    return series


def explain(scenario: Scenario) -> Outcome:
    """The shortest scenario found that still breaks a promise, run once more and told."""
    return run(shrink(scenario, lambda shorter: bool(run(shorter).broken)), is_told=True)


def _is_same(one: Outcome, other: Outcome) -> bool:
    return replace(one, broken=()) == replace(other, broken=()) and str(one.broken) == str(other.broken)
