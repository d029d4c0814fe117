"""The ssh provider with 100 good hosts, alone and beside 1,000 that accept a connection and never say a word.

Owns the comparison: how long a good host takes from the wish to its end, and what the bad ones cost in memory. The bad ones are
one server in a process of its own, to which each comes as another user, so that no connection is shared.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import psutil
import uvloop
from benchmarks.figures import Figure, at_most, percentile, ratio
from benchmarks.place import Place, Size, own_process
from benchmarks.ssh_provider import as_in_the_agent, simulated_hosts, visit
from chargehand_proxy_agent.providers.port import Target
from chargehand_proxy_agent.providers.ssh import SshProvider, SshSettings

_GOOD = {Size.SHORT: 10, Size.SMALL: 100, Size.FULL: 100}
_BAD = {Size.SHORT: 30, Size.SMALL: 1_000, Size.FULL: 1_000}
_MOST_TIMES = 1.1
_MOST_MIB = 64.0


def measure(place: Place) -> list[Figure]:
    """p99 of the good hosts, alone and beside the others in turns; and the memory that the others took."""
    alone: list[float] = []
    beside: list[float] = []
    memory: list[float] = []
    with (
        place.directory() as directory,
        simulated_hosts(_GOOD[place.size], directory) as targets,
        as_in_the_agent(),
        _silent_server() as port,
    ):
        bad = [
            Target(f"bad{n}", f"bad{n}", address="127.0.0.1", port=port, user=f"x{n}") for n in range(_BAD[place.size])
        ]
        for run in range(place.size.runs):
            alone.append(_run(targets, [], directory / f"alone{run}")[0])
            took, mib = _run(targets, bad, directory / f"beside{run}")
            beside.append(took)
            memory.append(mib)
    by_itself = Figure("100 good hosts alone, p99", "ms", tuple(alone))
    with_bad = Figure("100 good hosts beside 1,000 that hang, p99", "ms", tuple(beside))
    return [
        by_itself,
        with_bad,
        ratio("beside ÷ alone", with_bad, by_itself, at_most(_MOST_TIMES)),
        Figure("memory for the 1,000", "MiB RSS", tuple(memory), at_most(_MOST_MIB)),
    ]


def _run(targets: Sequence[Target], bad: Sequence[Target], data: Path) -> tuple[float, float]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_visit_all(targets, bad, data))


async def _visit_all(targets: Sequence[Target], bad: Sequence[Target], data: Path) -> tuple[float, float]:
    settings = SshSettings(
        data_dir=data,
        config_files=(),
        known_hosts_files=(),
        identity_files=(),
        connect_timeout=timedelta(seconds=60),
        answer_timeout=timedelta(seconds=60),
    )
    provider, process = SshProvider(settings), psutil.Process()
    before = process.memory_info().rss
    try:
        async with _hanging(provider, bad):
            took = await asyncio.gather(*(_timed(provider, target) for target in targets))
            memory = (process.memory_info().rss - before) / 2**20
        return 1000 * percentile(took, 0.99), max(0.0, memory)
    finally:
        await provider.close()


async def _timed(provider: SshProvider, target: Target) -> float:
    began = time.perf_counter()
    await visit(provider, target)
    return time.perf_counter() - began


@contextlib.asynccontextmanager
async def _hanging(provider: SshProvider, bad: Sequence[Target]) -> AsyncIterator[None]:
    """Connections to these under way."""
    tasks = [asyncio.create_task(provider.open(target)) for target in bad]
    await asyncio.sleep(0)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def _silent_server() -> Iterator[int]:
    """The port of the bad ones, while their process runs."""
    with own_process("benchmarks.silent_hosts") as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()
