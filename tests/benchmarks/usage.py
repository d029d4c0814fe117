"""What processes cost: processor time and memory, of trees and of the services of one installation.

Owns reading /proc (by psutil). Memory is PSS: a page that several processes share counts in each by its share, so that sums mean
something. Times are seconds of one core.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import psutil
from support.installation import Installation

KAFKA = "kafka"
SUPERVISOR = "supervisor"
_SAMPLE_EVERY_S = 1.0
_MIB = 1024 * 1024


def cpu_s(processes: Iterable[psutil.Process]) -> float:
    """Processor time of these and of all children they have buried."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])
    return total


def pss_mib(processes: Iterable[psutil.Process]) -> float:
    """Memory of these, shared pages by their share."""
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total / _MIB


def tree(pid: int) -> list[psutil.Process]:
    """A process and everything below it; empty if it is gone."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


class Services:
    """The processes of an `up` by name: each service, its Kafka, and the supervisor."""

    def __init__(self, installation: Installation) -> None:
        document = json.loads((installation.data / "up.json").read_text(encoding="utf-8"))
        self._pids: dict[str, int] = {row["name"]: int(row["pid"]) for row in document["services"]}
        self._supervisor = psutil.Process(int(document["pid"]))

    def cpu_s(self) -> dict[str, float]:
        """Processor time of each so far."""
        return {name: cpu_s(processes) for name, processes in self._processes()}

    def pss_mib(self) -> dict[str, float]:
        """Memory of each now."""
        return {name: pss_mib(processes) for name, processes in self._processes()}

    def _processes(self) -> Iterator[tuple[str, list[psutil.Process]]]:
        for name, pid in self._pids.items():
            yield name, tree(pid)
        yield SUPERVISOR, [self._supervisor]


@dataclass
class Spent:
    """What the services spent while something was measured: processor time of each, and the most memory each had."""

    cpu_s: dict[str, float] = field(default_factory=dict)
    pss_mib: dict[str, float] = field(default_factory=dict)

    @property
    def ours_cpu_s(self) -> float:
        """All but Kafka."""
        return sum(value for name, value in self.cpu_s.items() if name != KAFKA)

    @property
    def ours_pss_mib(self) -> float:
        """All but Kafka."""
        return sum(value for name, value in self.pss_mib.items() if name != KAFKA)


@contextlib.contextmanager
def spending(services: Services) -> Iterator[Spent]:
    """Processor time that is spent inside the `with`; there when it is left."""
    spent, before = Spent(), services.cpu_s()
    yield spent
    after = services.cpu_s()
    spent.cpu_s = {name: after[name] - before[name] for name in after}


@contextlib.contextmanager
def spending_and_memory(services: Services) -> Iterator[Spent]:
    """The same, and the most memory of each. Looking at it takes a little of the processors, so not where milliseconds count."""
    is_over = threading.Event()
    with spending(services) as spent:
        sampler = threading.Thread(target=_sample, args=(services, spent, is_over), daemon=True)
        sampler.start()
        try:
            yield spent
        finally:
            is_over.set()
            sampler.join()


def _sample(services: Services, spent: Spent, is_over: threading.Event) -> None:
    """Keep the most of each, once a second and at the end. The time this takes is ours, not the services'."""
    while True:
        is_last = is_over.wait(_SAMPLE_EVERY_S)
        for name, value in services.pss_mib().items():
            spent.pss_mib[name] = max(value, spent.pss_mib.get(name, 0.0))
        if is_last:
            return
