"""The ssh provider alone against many simulated ssh hosts: processor time of the client for each, connecting and connected.

Owns the visits: open, start an attempt, follow it to its end, give the connection back; on the event loop that the agent runs on. Kafka
and the agent are not in it, and the hosts (ssh_hosts.py) are another process. Each host key is verified.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncssh
import uvloop
from benchmarks.figures import Figure, at_most
from benchmarks.place import Place, Size, WrongResult, own_process
from benchmarks.ssh_hosts import PRINTED
from chargehand_chassis.runner import calm_garbage_collector
from chargehand_proxy_agent.providers.port import Ended, Target
from chargehand_proxy_agent.providers.ssh import SshProvider, SshSettings
from support.visits import outcome, start, start_order

_HOSTS = {Size.SHORT: 20, Size.SMALL: 1_000, Size.FULL: 1_000}
_AT_ONCE = 100
_MOST_MS_NEW = 1.8
_MOST_MS_OPEN = 0.5


@dataclass(frozen=True, slots=True)
class _Pass:
    """One visit to each host."""

    hosts: int
    took_s: float
    cpu_s: float

    @property
    def ms(self) -> float:
        return 1000 * self.cpu_s / self.hosts

    @property
    def rate(self) -> float:
        return self.hosts / self.took_s


def measure(place: Place) -> list[Figure]:
    """Client CPU for each host, and hosts a second, on new and on open connections."""
    with place.directory() as directory, simulated_hosts(_HOSTS[place.size], directory) as targets, as_in_the_agent():
        runs = [_run(targets, directory / f"agent{n}") for n in range(place.size.runs)]
    new, again = ([run[which] for run in runs] for which in (0, 1))
    return [
        Figure("new connections", "ms CPU/host", tuple(one.ms for one in new), at_most(_MOST_MS_NEW)),
        Figure("new connections", "hosts/s", tuple(one.rate for one in new)),
        Figure("open connections", "ms CPU/host", tuple(one.ms for one in again), at_most(_MOST_MS_OPEN)),
        Figure("open connections", "hosts/s", tuple(one.rate for one in again)),
    ]


@contextlib.contextmanager
def as_in_the_agent() -> Iterator[None]:
    """Garbage is collected as the agent has it; then as it was."""
    before = gc.get_threshold()
    calm_garbage_collector()
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _run(targets: Sequence[Target], data: Path) -> tuple[_Pass, _Pass]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_visit_twice(targets, data))


async def _visit_twice(targets: Sequence[Target], data: Path) -> tuple[_Pass, _Pass]:
    provider = SshProvider(SshSettings(data_dir=data, config_files=(), known_hosts_files=(), identity_files=()))
    try:
        new, again = await _visit_all(provider, targets), await _visit_all(provider, targets)
        if provider.connections != len(targets):
            raise WrongResult(f"{provider.connections} connections to {len(targets)} hosts")
        return new, again
    finally:
        await provider.close()


async def _visit_all(provider: SshProvider, targets: Sequence[Target]) -> _Pass:
    room = asyncio.Semaphore(_AT_ONCE)
    cpu_s, began = time.process_time(), time.perf_counter()
    await asyncio.gather(*(_visit(provider, target, room) for target in targets))
    return _Pass(len(targets), time.perf_counter() - began, time.process_time() - cpu_s)


async def _visit(provider: SshProvider, target: Target, room: asyncio.Semaphore) -> None:
    async with room:
        await visit(provider, target)


async def visit(provider: SshProvider, target: Target) -> None:
    """Open, start, follow to the end, give back."""
    host = await provider.open(target)
    try:
        seen = outcome(await start(host, start_order("echo hello")))
    finally:
        await host.release()
    if not isinstance(seen.final, Ended) or seen.exit_status != 0 or seen.stdout != PRINTED:
        raise WrongResult(f"{target.name}: {seen}")


@contextlib.contextmanager
def simulated_hosts(count: int, directory: Path) -> Iterator[list[Target]]:
    """The hosts, while their process runs."""
    identity = directory / "identity"
    identity.touch(mode=0o600)
    identity.write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_private_key())
    with own_process("benchmarks.ssh_hosts", str(count)) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            hosts = enumerate(json.loads(process.stdout.readline()), 1)
            yield [_target(n, port, key, identity) for n, (port, key) in hosts]
        finally:
            process.stdin.close()


def _target(number: int, port: int, key: str, identity: Path) -> Target:
    return Target(
        host_id=str(number),
        name=f"far{number}",
        address="127.0.0.1",
        port=port,
        user="anyone",
        identity_file=str(identity),
        host_keys=(key,),
    )
