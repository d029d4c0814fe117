"""A network that is slow, stands still, and breaks: a TCP relay of the tests' own, run in a namespace by distant_hosts.py.

`python -m support.delaying_relay SHOWN REAL`: what connects to an address of the network SHOWN is carried to the same address of
the network REAL. Told by lines of JSON on its input, each answered by a line; it ends when its input does. It never looks at bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import resource
import sys
from collections import defaultdict
from collections.abc import Callable
from typing import Any

_CHUNK_BYTES = 65_536
_MOST_WAITING_CHUNKS = 64
_Piece = tuple[float, bytes]


class Host:
    """What holds for the connections to one host, and which there are."""

    def __init__(self) -> None:
        self.links: set[Link] = set()
        self.flows = asyncio.Event()
        self.flows.set()
        self.cut_every_bytes = 0
        self.cuts = 0

    def cut(self) -> int:
        """End all its connections as a broken network does: what is on its way is lost. How many they were."""
        links = list(self.links)
        for link in links:
            link.cut()
        self.cuts += len(links)
        return len(links)


class Link:
    """One connection, both halves of it."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self._ends = (near, far)

    def cut(self) -> None:
        for end in self._ends:
            end.transport.abort()


class Relay:
    """All of it. `delay_s` is of each direction."""

    def __init__(self, shown: str, real: str) -> None:
        self.delay_s = 0.0
        self._shift = int(ipaddress.ip_address(real)) - int(ipaddress.ip_address(shown))
        self._hosts: defaultdict[str, Host] = defaultdict(Host)
        self._servers: list[asyncio.Server] = []

    async def obey(self, order: dict[str, Any]) -> object:
        """Do what is asked; when it returns it is so."""
        host = self._hosts[order["host"]] if "host" in order else None
        match order["do"], host:
            case "listen", None:
                self._servers.append(await asyncio.start_server(self._carry, "0.0.0.0", order["port"], backlog=1024))  # noqa: S104
            case "delay", None:
                self.delay_s = order["s"]
            case "pause", Host():
                host.flows.clear()
            case "flow", Host():
                host.flows.set()
            case "cut", Host():
                return host.cut()
            case "cut", None:
                return sum(one.cut() for one in self._hosts.values())
            case "cut_every", Host():
                host.cut_every_bytes = order["bytes"]
            case "cuts", Host():
                return host.cuts
            case _:
                raise ValueError(f"no such order: {order}")
        return None

    async def _carry(self, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        address, port = near.get_extra_info("sockname")[:2]
        host = self._hosts[address]
        try:
            answers, far = await asyncio.open_connection(str(ipaddress.ip_address(address) + self._shift), port)
        except OSError:
            near.transport.abort()
            return
        link = Link(near, far)
        host.links.add(link)
        try:
            await asyncio.gather(
                self._flow(reader, far, host, lambda _: None), self._flow(answers, near, host, _cutter(host, link))
            )
        finally:
            host.links.discard(link)
            link.cut()

    async def _flow(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, host: Host, passed: Callable[[int], None]
    ) -> None:
        """One direction: each piece arrives `delay_s` after it was sent, in order, and not while the host stands still."""
        pieces: asyncio.Queue[_Piece] = asyncio.Queue(_MOST_WAITING_CHUNKS)
        giving = asyncio.create_task(_give(pieces, target, host, passed))
        loop = asyncio.get_running_loop()
        try:
            with contextlib.suppress(OSError):
                while data := await source.read(_CHUNK_BYTES):
                    await pieces.put((loop.time() + self.delay_s, data))
            await pieces.put((loop.time() + self.delay_s, b""))
            await giving
        finally:
            giving.cancel()


async def _give(
    pieces: asyncio.Queue[_Piece], target: asyncio.StreamWriter, host: Host, passed: Callable[[int], None]
) -> None:
    loop = asyncio.get_running_loop()
    is_open = True
    while True:
        due, data = await pieces.get()
        await asyncio.sleep(due - loop.time())
        await host.flows.wait()
        if not data:
            with contextlib.suppress(OSError):
                target.write_eof()
            return
        # Also when nobody takes it any more: who sends must not be held up by that.
        with contextlib.suppress(OSError):
            if is_open:
                target.write(data)
                await target.drain()
                passed(len(data))
        is_open = not target.transport.is_closing()


def _cutter(host: Host, link: Link) -> Callable[[int], None]:
    """Cuts the connection when so many bytes have come from the host over it."""
    count = 0

    def passed(size: int) -> None:
        nonlocal count
        count += size
        if host.cut_every_bytes and count >= host.cut_every_bytes and link in host.links:
            host.links.discard(link)
            host.cuts += 1
            link.cut()

    return passed


async def _serve(shown: str, real: str) -> None:
    relay, loop = Relay(shown, real), asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await relay.obey(json.loads(line))), flush=True)


def main() -> None:
    """Relay until the input ends."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(_serve(*sys.argv[1:]))


if __name__ == "__main__":
    main()
