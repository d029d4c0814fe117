"""Many simulated hosts, one invocation: job tasks a second to the last verdict, and what each service spends on them.

Owns the course of it. The whole pipeline runs, with Kafka and SQLite as `chargehand up` has them; only the hosts are simulated. The
clock runs from publishing InvokeJob to the verdict on the job, as an enrolled program sees them over Kafka. The targeting is "all
hosts": so no other host may be there.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import timedelta

from benchmarks.figures import Figure, at_least, at_most, ratio
from benchmarks.place import Place, Size, enrolled_client, expect_succeeded
from benchmarks.usage import KAFKA, Services, Spent, spending_and_memory
from chargehand.client.kafka import KafkaClient
from chargehand_schemas.commands import Targeting
from support.installation import Installation

_HOSTS = {Size.SHORT: (50,), Size.SMALL: (1_000, 10_000), Size.FULL: (1_000, 10_000, 100_000)}
_MEASURED_AGAINST_LIMITS = 10_000
_LEAST_RATE = 500
_LEAST_OF_THE_FIRST = (0.75, 0.7)
_MOST_PSS_MIB = {10_000: 1.2 * 1024, 100_000: 2.0 * 1024}
_JOB_WITHIN = timedelta(minutes=30)


@dataclass(frozen=True, slots=True)
class _Run:
    hosts: int
    took_s: float
    client_cpu_s: float
    spent: Spent

    @property
    def rate(self) -> float:
        return self.hosts / self.took_s

    def cpu_ms(self, name: str) -> float:
        """Of one service, for each job task."""
        return 1000 * self.spent.cpu_s[name] / self.hosts


def measure(place: Place) -> list[Figure]:
    """Figures of each number of hosts, and how the larger numbers compare with the first."""
    figures: list[Figure] = []
    rates: list[Figure] = []
    with place.installation() as installation:
        for hosts in _HOSTS[place.size]:
            installation.import_simulated(hosts, prefix="many")
            runs = asyncio.run(_run_often(installation, hosts, place.size.runs))
            rates.append(_rate(runs))
            figures += [rates[-1], *_costs(runs)]
    return figures + [
        ratio(f"{rate.name} ÷ {rates[0].name}", rate, rates[0], at_least(least))
        for rate, least in zip(rates[1:], _LEAST_OF_THE_FIRST, strict=False)
    ]


async def _run_often(installation: Installation, hosts: int, times: int) -> list[_Run]:
    services = Services(installation)
    async with enrolled_client(installation) as client:
        return [await _run_once(client, services, hosts) for _ in range(times)]


async def _run_once(client: KafkaClient, services: Services, hosts: int) -> _Run:
    with spending_and_memory(services) as spent:
        client_cpu_s, began = time.process_time(), time.perf_counter()
        accepted = await client.invoke(targeting=Targeting(all=True), inputs={"command": "uptime"})
        ended = await client.wait(accepted.job_invocation_id, within=_JOB_WITHIN)
        took_s, client_cpu_s = time.perf_counter() - began, time.process_time() - client_cpu_s
    expect_succeeded(ended, hosts)
    return _Run(hosts, took_s, client_cpu_s, spent)


def _rate(runs: list[_Run]) -> Figure:
    hosts = runs[0].hosts
    limit = at_least(_LEAST_RATE) if hosts == _MEASURED_AGAINST_LIMITS else None
    return Figure(f"{hosts:,} hosts", "job tasks/s", tuple(run.rate for run in runs), limit)


def _costs(runs: list[_Run]) -> list[Figure]:
    """Processor time of each service for each job task, and memory."""
    hosts = f"{runs[0].hosts:,} hosts"
    ours = Figure(
        f"{hosts}: CPU of all services", "ms/job task", tuple(1000 * r.spent.ours_cpu_s / r.hosts for r in runs)
    )
    each = [
        Figure(f"{hosts}: CPU of {name}", "ms/job task", tuple(run.cpu_ms(name) for run in runs))
        for name in runs[0].spent.cpu_s
    ]
    client = Figure(f"{hosts}: CPU of the client", "ms/job task", tuple(1000 * r.client_cpu_s / r.hosts for r in runs))
    return [ours, *each, client, *_memory(hosts, runs)]


def _memory(hosts: str, runs: list[_Run]) -> list[Figure]:
    """The most that each process had, added up."""
    limit = _MOST_PSS_MIB.get(runs[0].hosts)
    ours = tuple(run.spent.ours_pss_mib for run in runs)
    kafka = tuple(run.spent.pss_mib[KAFKA] for run in runs)
    both = tuple(a + b for a, b in zip(ours, kafka, strict=True))
    return [
        Figure(f"{hosts}: memory of all services", "MiB PSS", ours),
        Figure(f"{hosts}: memory of Kafka", "MiB PSS", kafka),
        Figure(f"{hosts}: memory of both", "MiB PSS", both, at_most(limit) if limit else None),
    ]
