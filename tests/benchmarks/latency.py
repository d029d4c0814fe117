"""One command on one host, its connection open: from publishing InvokeJob to the verdict at the client.

Owns the rounds: each asks the pipeline for some jobs on a simulated host and on a real one, then Ansible for the same on the same
real host, its connection open too. The first of each opens connections and is not counted.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.ansible import Ansible
from benchmarks.figures import Figure, at_most, percentile, ratio
from benchmarks.place import Place, Size, enrolled_client, expect_succeeded
from chargehand.client.kafka import KafkaClient
from chargehand_schemas.commands import Targeting
from support.installation import Installation
from support.sshd import SshHost

_ROUNDS = {Size.SHORT: 1, Size.SMALL: 10, Size.FULL: 10}
_JOBS_A_ROUND = {Size.SHORT: 5, Size.SMALL: 20, Size.FULL: 50}
_COMMAND = "echo hello"
_SIMULATED = "latency00001"
_P50_MS = 80
_P99_MS = 250
_SHARE_OF_ANSIBLE = 0.1


@dataclass
class _Run:
    """Milliseconds of each call."""

    simulated: list[float] = field(default_factory=list)
    real: list[float] = field(default_factory=list)
    ansible: list[float] = field(default_factory=list)


def measure(place: Place) -> list[Figure]:
    """Percentiles on both kinds of host, Ansible's median, and the share of it."""
    with (
        place.installation() as installation,
        place.fleet(1, "near", per_sshd=1) as fleet,
        place.directory() as directory,
    ):
        installation.import_simulated(1, prefix="latency")
        installation.import_hosts(fleet.hosts)
        runs = asyncio.run(_measure(installation, fleet.hosts[0], directory / "ansible", place.size))
    ours = Figure("sshd host, p50", "ms", tuple(percentile(run.real, 0.5) for run in runs), at_most(_P50_MS))
    ansible = Figure("`ansible -m raw`, warm, p50", "ms", tuple(percentile(run.ansible, 0.5) for run in runs))
    return [
        Figure("simulated host, p50", "ms", tuple(percentile(run.simulated, 0.5) for run in runs), at_most(_P50_MS)),
        Figure("simulated host, p99", "ms", tuple(percentile(run.simulated, 0.99) for run in runs), at_most(_P99_MS)),
        ours,
        Figure("sshd host, p99", "ms", tuple(percentile(run.real, 0.99) for run in runs), at_most(_P99_MS)),
        ansible,
        ratio("sshd host ÷ ansible", ours, ansible, at_most(_SHARE_OF_ANSIBLE)),
    ]


async def _measure(installation: Installation, host: SshHost, directory: Path, size: Size) -> list[_Run]:
    with Ansible([host], directory) as ansible:
        async with enrolled_client(installation) as client:
            await _job_ms(client, _SIMULATED)
            await _job_ms(client, host.name)
            await asyncio.to_thread(ansible.run, _COMMAND)
            return [await _run(client, ansible, host.name, size) for _ in range(size.runs)]


async def _run(client: KafkaClient, ansible: Ansible, real: str, size: Size) -> _Run:
    run = _Run()
    for _ in range(_ROUNDS[size]):
        for _ in range(_JOBS_A_ROUND[size]):
            run.simulated.append(await _job_ms(client, _SIMULATED))
            run.real.append(await _job_ms(client, real))
        run.ansible.append(1000 * (await asyncio.to_thread(ansible.run, _COMMAND)).took_s)
    return run


async def _job_ms(client: KafkaClient, host: str) -> float:
    began = time.perf_counter()
    accepted = await client.invoke(targeting=Targeting(host_names=(host,)), inputs={"command": _COMMAND})
    ended = await client.wait(accepted.job_invocation_id)
    took_ms = 1000 * (time.perf_counter() - began)
    expect_succeeded(ended, 1)
    return took_ms
