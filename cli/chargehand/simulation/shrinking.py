"""From a failing scenario to a short one that still fails: fewer faults, fewer invocations, fewer hosts.

Owns the search. Whatever is taken away, the rest is run anew, and kept away only if some promise is still broken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from .scenario import Planned, Scenario

MOST_RUNS = 300


def shrink(scenario: Scenario, fails: Callable[[Scenario], bool], most_runs: int = MOST_RUNS) -> Scenario:
    """The shortest scenario found that fails; the given one if nothing can be left out."""
    left = most_runs
    is_shorter = True
    while is_shorter and left > 0:
        is_shorter = False
        for shorter in _shorter(scenario):
            left -= 1
            if fails(shorter):
                scenario, is_shorter = shorter, True
                break
            if left <= 0:
                break
    return scenario


def _shorter(scenario: Scenario) -> Iterator[Scenario]:
    faults = scenario.faults
    size = len(faults) // 2
    while size:
        for start in range(0, len(faults), size):
            yield replace(scenario, faults=faults[:start] + faults[start + size :])
        size //= 2
    if len(scenario.invocations) > 1:
        for number in range(len(scenario.invocations)):
            yield replace(scenario, invocations=_without(scenario.invocations, number))
    for number, planned in enumerate(scenario.invocations):
        if planned.hosts > 1:
            fewer = replace(planned, hosts=max(1, planned.hosts // 2))
            yield replace(scenario, invocations=_with(scenario.invocations, number, fewer))
            yield replace(
                scenario, invocations=_with(scenario.invocations, number, replace(planned, hosts=planned.hosts - 1))
            )
    if scenario.dispatchers > 1:
        yield replace(scenario, dispatchers=1)
    if scenario.planners > 1:
        yield replace(scenario, planners=1)
    if scenario.agents > 1:
        yield replace(scenario, agents=1)


def _without(invocations: tuple[Planned, ...], number: int) -> tuple[Planned, ...]:
    return invocations[:number] + invocations[number + 1 :]


def _with(invocations: tuple[Planned, ...], number: int, planned: Planned) -> tuple[Planned, ...]:
    return (*invocations[:number], planned, *invocations[number + 1 :])
