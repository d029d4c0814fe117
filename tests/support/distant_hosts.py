"""Hosts far away: a site, where an agent runs, and hosts that it reaches over a slow network, which stands still and breaks when told.

Owns three network namespaces and the relay between them (delaying_relay.py):

    site ──wire── way: the relay, at every address of 10.198.0.0/16 ──wire── hosts: sshd, at every address of 10.197.0.0/16

A host is 10.198.x.y as the site knows it. The kernel here has no netem, so delays, pauses and cuts are the relay's; what drops
packets is a route of the kernel's, so that to a black hole not even a SYN is answered. Machines whose clock, uptime and boot are
not this machine's are in odd_machines.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from support.netns import Site, into, ip, join, namespaces
from support.processes import track
from support.sshd import SshdFleet, SshHost

_SHOWN, _REAL = "10.198.0.0", "10.197.0.0"
_HOLES = "10.198.255.0/24"
_STOPPED_WITHIN_S = 10


class DistantHosts:
    """Made by `distant_hosts`. Each fleet has addresses of its own."""

    def __init__(self, site: Site, way: str, hosts: str, scratch: Path, user: str, relay: Relay) -> None:
        self.site, self.relay = site, relay
        self._way, self._hosts, self._scratch, self._user = way, hosts, scratch, user
        self._fleets: list[SshdFleet] = []

    def fleet(
        self, count: int, prefix: str, *, via: Sequence[str] = (), variables: Mapping[str, str] = {}
    ) -> SshdFleet:
        """Real OpenSSH hosts, all of one sshd (300 processes of it would be 1.5 GiB): up to 250 in each of 200 fleets. NoSshd.

        `via`: a command by which sshd is run; `variables`: set in its sessions. Ask `shown` for their addresses at the site."""
        number = len(self._fleets)
        addresses = [f"10.197.{2 * number + n // 250}.{n % 250 + 1}" for n in range(count)]
        fleet = SshdFleet(
            count, scratch=self._scratch, user=self._user, prefix=prefix, addresses=addresses,
            via=[*into(self._hosts), *via], variables=variables, is_wide=len(addresses) > 1,
        )  # fmt: skip
        self._fleets.append(fleet)
        self.relay.tell("listen", port=fleet.hosts[0].port)
        return fleet

    def shown(self, fleet: SshdFleet) -> list[SshHost]:
        """The hosts of a fleet as an inventory of the site has them."""
        return [dataclasses.replace(host, address=shown_address(host)) for host in fleet.hosts]

    def black_holes(self, count: int, like: SshHost) -> list[SshHost]:
        """Hosts hole1, hole2, … that answer nothing, and otherwise are as this one."""
        return [dataclasses.replace(like, name=f"hole{n}", address=f"10.198.255.{n}") for n in range(1, count + 1)]

    @contextlib.contextmanager
    def gone(self, host: SshHost) -> Iterator[None]:
        """Until the context is left, every packet to this host is dropped, those of open connections too."""
        route = ("blackhole", f"{shown_address(host)}/32", "table", "local")
        ip("-n", self._way, "route", "add", *route)
        try:
            yield
        finally:
            ip("-n", self._way, "route", "delete", *route)

    def close(self) -> None:
        for fleet in self._fleets:
            fleet.close()


class Relay:
    """The relay as its teller sees it: a process that does what it is told, and says so."""

    def __init__(self, namespace: str) -> None:
        tests = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, (tests, os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [*into(namespace), sys.executable, "-m", "support.delaying_relay", _SHOWN, _REAL],
            env=os.environ | {"PYTHONPATH": path}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        track(self._process.pid)

    def tell(self, what: str, host: SshHost | None = None, **more: object) -> object:
        """Returns when it is so, with what there is to say."""
        about = {} if host is None else {"host": shown_address(host)}
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps({"do": what, **about, **more}), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, "the relay has ended"
        return json.loads(answer)

    def delay(self, round_trip: timedelta) -> None:
        """Of what goes to any host and back, from now on."""
        self.tell("delay", s=round_trip.total_seconds() / 2)

    def cut(self, host: SshHost | None = None) -> int:
        """Break every connection to a host, or to all; what is on its way is lost. How many they were."""
        answer = self.tell("cut", host)
        assert isinstance(answer, int)
        return answer

    def cuts(self, host: SshHost) -> int:
        """How many connections to a host were broken until now."""
        answer = self.tell("cuts", host)
        assert isinstance(answer, int)
        return answer

    @contextlib.contextmanager
    def cutting(self, host: SshHost, every_bytes: int) -> Iterator[None]:
        """Break each connection to a host when so many bytes have come from it."""
        self.tell("cut_every", host, bytes=every_bytes)
        try:
            yield
        finally:
            self.tell("cut_every", host, bytes=0)

    @contextlib.contextmanager
    def paused(self, host: SshHost) -> Iterator[None]:
        """Nothing goes to a host or comes from it; nothing is lost."""
        self.tell("pause", host)
        try:
            yield
        finally:
            self.tell("flow", host)

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_STOPPED_WITHIN_S)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()


def shown_address(host: SshHost) -> str:
    """The address of a host as the site knows it."""
    return host.address.replace("10.197.", "10.198.", 1)


@contextlib.contextmanager
def distant_hosts(*, scratch: Path, user: str) -> Iterator[DistantHosts]:
    """The network, with no hosts yet. NoNamespaces where it cannot be made, and why."""
    with namespaces("farsite", "farway", "farhosts") as (site, way, hosts), contextlib.ExitStack() as stack:
        join(site, way, "near", "10.196.0.1/30", "10.196.0.2/30")
        join(way, hosts, "far", "10.196.0.5/30", "10.196.0.6/30")
        ip("-n", site, "route", "add", f"{_SHOWN}/16", "via", "10.196.0.2")
        ip("-n", way, "route", "add", "local", f"{_SHOWN}/16", "dev", "lo")
        ip("-n", way, "route", "add", "blackhole", _HOLES, "table", "local")
        ip("-n", way, "route", "add", f"{_REAL}/16", "via", "10.196.0.6")
        ip("-n", hosts, "route", "add", "local", f"{_REAL}/16", "dev", "lo")
        relay = Relay(way)
        stack.callback(relay.close)
        made = DistantHosts(Site(f"far-{secrets.token_hex(2)}", site), way, hosts, scratch, user, relay)
        stack.callback(made.close)
        yield made
