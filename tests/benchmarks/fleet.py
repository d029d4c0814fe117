"""200 real OpenSSH hosts, the whole pipeline: hosts a second on new connections and on open ones, beside Ansible and parallel-ssh.

Owns the turns: in each run the pipeline and then each peer, every one first after all connections were cut on the hosts' side, then
again at once; before that, pipeline and Ansible have run once, uncounted. Ours verifies host keys, and so does Ansible; parallel-ssh
does not. Ansible's time has the start of its interpreter in it, as its users have it; that of parallel-ssh has not; ours is a service
that runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import parallel_ssh
from benchmarks.ansible import Ansible
from benchmarks.figures import Figure, Limit, at_least, ratio
from benchmarks.place import Place, Size, enrolled_client, expect_succeeded
from benchmarks.usage import Services, spending
from chargehand.client.kafka import KafkaClient
from chargehand_schemas.commands import Targeting
from support.installation import Installation
from support.sshd import SshdFleet

_HOSTS = {Size.SHORT: 4, Size.SMALL: 200, Size.FULL: 200}
_PER_SSHD = 16
_ANSIBLE_FORKS = 50
_PARALLEL_SSH_AT_ONCE = 50
_COMMAND = "echo hello"
_LEAST_OF_PARALLEL_SSH = 1.0
_LEAST_OF_ANSIBLE = 2.0
_LEAST_OF_ANSIBLE_WARM = 5.0


@dataclass(frozen=True, slots=True)
class _Turn:
    """One command on all hosts. `agent_cpu_s` is what of it our proxy agent spent; a peer is all agent."""

    hosts: int
    took_s: float
    cpu_s: float
    agent_cpu_s: float

    @property
    def rate(self) -> float:
        return self.hosts / self.took_s


_Turns = dict[str, list[_Turn]]


def measure(place: Place) -> list[Figure]:
    """Hosts a second and processor time of each, and how many times the peers' rate ours is."""
    count = _HOSTS[place.size]
    with (
        place.installation() as installation,
        place.fleet(count, "fleet", per_sshd=_PER_SSHD) as fleet,
        place.directory() as directory,
    ):
        installation.import_hosts(fleet.hosts)
        turns = asyncio.run(_measure(installation, fleet, directory / "ansible", place.size.runs))
    return _figures(turns)


async def _measure(installation: Installation, fleet: SshdFleet, directory: Path, times: int) -> _Turns:
    turns: _Turns = {}
    python = parallel_ssh.interpreter()
    with Ansible(fleet.hosts, directory, forks=_ANSIBLE_FORKS) as ansible:
        async with enrolled_client(installation) as client:
            await _ours(client, installation, fleet)
            await asyncio.to_thread(_ansible, ansible, len(fleet.hosts))
            for _ in range(times):
                _cut(fleet)
                for kind in ("new", "open"):
                    _add(turns, f"chargehand, {kind}", await _ours(client, installation, fleet))
                _cut(fleet)
                for kind in ("new", "open"):
                    _add(turns, f"ansible raw, {kind}", await asyncio.to_thread(_ansible, ansible, len(fleet.hosts)))
                if python is not None:
                    _cut(fleet)
                    _add(turns, "parallel-ssh, new", await asyncio.to_thread(_parallel_ssh, python, fleet))
    return turns


def _add(turns: _Turns, name: str, turn: _Turn) -> None:
    turns.setdefault(name, []).append(turn)


def _cut(fleet: SshdFleet) -> None:
    """End every connection, whoever has it, on each sshd once."""
    for host in fleet.hosts[::_PER_SSHD]:
        fleet.cut_connections(host.name)


async def _ours(client: KafkaClient, installation: Installation, fleet: SshdFleet) -> _Turn:
    names = tuple(host.name for host in fleet.hosts)
    with spending(Services(installation)) as spent:
        began = time.perf_counter()
        accepted = await client.invoke(targeting=Targeting(host_names=names), inputs={"command": _COMMAND})
        ended = await client.wait(accepted.job_invocation_id)
        took_s = time.perf_counter() - began
    expect_succeeded(ended, len(names))
    return _Turn(len(names), took_s, spent.ours_cpu_s, spent.cpu_s["proxy-agent"])


def _ansible(ansible: Ansible, hosts: int) -> _Turn:
    call = ansible.run(_COMMAND)
    return _Turn(hosts, call.took_s, call.cpu_s, call.cpu_s)


def _parallel_ssh(python: str, fleet: SshdFleet) -> _Turn:
    rows = [host.inventory_row() for host in fleet.hosts]
    took_s, cpu_s = parallel_ssh.run(python, rows, _COMMAND, _PARALLEL_SSH_AT_ONCE)
    return _Turn(len(rows), took_s, cpu_s, cpu_s)


def _figures(turns: _Turns) -> list[Figure]:
    rates = {name: _figure(name, "hosts/s", turns, lambda turn: turn.rate) for name in turns}
    cpu = [_figure(name, "ms CPU/host", turns, lambda turn: 1000 * turn.cpu_s / turn.hosts) for name in turns]
    agent = [
        _figure(f"{name}: the agent alone", "ms CPU/host", turns, lambda turn: 1000 * turn.agent_cpu_s / turn.hosts)
        for name in turns
        if name.startswith("chargehand")
    ]
    return [*rates.values(), *cpu, *agent, *_ratios(rates)]


def _figure(name: str, unit: str, turns: _Turns, value: Callable[[_Turn], float]) -> Figure:
    return Figure(name, unit, tuple(map(value, turns[name.partition(":")[0]])))


def _ratios(rates: dict[str, Figure]) -> list[Figure]:
    """Ours over each peer that was measured."""
    wanted: list[tuple[str, str, Limit]] = [
        ("new", "parallel-ssh, new", at_least(_LEAST_OF_PARALLEL_SSH)),
        ("new", "ansible raw, new", at_least(_LEAST_OF_ANSIBLE)),
        ("open", "ansible raw, open", at_least(_LEAST_OF_ANSIBLE_WARM)),
    ]
    return [
        ratio(f"chargehand, {kind} ÷ {peer}", rates[f"chargehand, {kind}"], rates[peer], limit)
        for kind, peer, limit in wanted
        if peer in rates
    ]
