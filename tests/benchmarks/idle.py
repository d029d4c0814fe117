"""An installation with nothing to do: processor time and memory of all services, Kafka's own apart.

Owns the waiting. It has hosts and has run a job, as any that is idle; what the job left to do is given time to be over.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from benchmarks.figures import Figure, at_most
from benchmarks.place import Place, Size, enrolled_client, expect_succeeded
from benchmarks.usage import Services, Spent, spending_and_memory
from chargehand_schemas.commands import Targeting
from support.installation import Installation

_HOSTS = {Size.SHORT: 10, Size.SMALL: 1_000, Size.FULL: 1_000}
_SETTLED_AFTER_S = {Size.SHORT: 0, Size.SMALL: 30, Size.FULL: 30}
_WATCHED_S = {Size.SHORT: 1, Size.SMALL: 60, Size.FULL: 60}
_MOST_CPU_PERCENT = 2
_MOST_PSS_MIB = 500


@dataclass(frozen=True, slots=True)
class _Watch:
    took_s: float
    spent: Spent

    def percent(self, name: str) -> float:
        """Of one core."""
        return 100 * self.spent.cpu_s[name] / self.took_s


def measure(place: Place) -> list[Figure]:
    """Share of one core and memory, of all services together and of each."""
    with place.installation() as installation:
        asyncio.run(_work(installation, _HOSTS[place.size]))
        time.sleep(_SETTLED_AFTER_S[place.size])
        services = Services(installation)
        watches = [_watch(services, _WATCHED_S[place.size]) for _ in range(place.size.runs)]
    return _figures(watches)


async def _work(installation: Installation, hosts: int) -> None:
    installation.import_simulated(hosts, prefix="idle")
    names = tuple(f"idle{n:05d}" for n in range(1, hosts + 1))
    async with enrolled_client(installation) as client:
        accepted = await client.invoke(targeting=Targeting(host_names=names), inputs={"command": "uptime"})
        expect_succeeded(await client.wait(accepted.job_invocation_id), hosts)


def _watch(services: Services, seconds: float) -> _Watch:
    began = time.perf_counter()
    with spending_and_memory(services) as spent:
        time.sleep(seconds)
    return _Watch(time.perf_counter() - began, spent)


def _figures(watches: list[_Watch]) -> list[Figure]:
    names = list(watches[0].spent.cpu_s)
    total = tuple(100 * watch.spent.ours_cpu_s / watch.took_s for watch in watches)
    memory = tuple(watch.spent.ours_pss_mib for watch in watches)
    return [
        Figure("CPU of all services", "% of one core", total, at_most(_MOST_CPU_PERCENT)),
        *(Figure(f"CPU of {name}", "% of one core", tuple(w.percent(name) for w in watches)) for name in names),
        Figure("memory of all services", "MiB PSS", memory, at_most(_MOST_PSS_MIB)),
        *(Figure(f"memory of {name}", "MiB PSS", tuple(w.spent.pss_mib[name] for w in watches)) for name in names),
    ]
