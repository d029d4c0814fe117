"""From an address to a socket on which an ssh server has begun to speak. Owns names and TCP.

A handshake costs CPU; waiting does not. So a peer is waited for here, and only one that has sent the beginning of its banner is let
into a bounded number of handshakes. Hosts that accept and never speak cannot hold up the others.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from ..details import harmless
from ..port import CouldNotConnect, CouldNotConnectWhy

MAX_LOOKUPS = 32
KEEP_LOOKUP = timedelta(seconds=30)
_BANNER = b"SSH-"
_WHYS: dict[int, CouldNotConnectWhy] = {errno.ECONNREFUSED: "refused", errno.ETIMEDOUT: "timed_out"}
_HUNG_UP = (errno.ECONNRESET, errno.EPIPE)
_Address = tuple[socket.AddressFamily, tuple[object, ...]]


class Resolver:
    """Addresses of names. Look-ups block in the C library: they have threads of their own, and are kept for a short time."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(MAX_LOOKUPS, thread_name_prefix="ssh-lookup")
        self._kept: dict[tuple[str, int], tuple[float, list[_Address]]] = {}

    async def resolve(self, host: str, port: int) -> list[_Address]:
        """All addresses, at least one. Raises CouldNotConnect (resolve)."""
        literal = _literal(host, port)
        if literal is not None:
            return [literal]
        loop = asyncio.get_running_loop()
        until, kept = self._kept.get((host, port), (0.0, []))
        if loop.time() < until:
            return kept
        try:
            found = await loop.run_in_executor(self._threads, socket.getaddrinfo, host, port, 0, socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise CouldNotConnect("resolve", f"{harmless(host, 80)}: {harmless(str(error))}") from error
        addresses: list[_Address] = [(family, address) for family, _, _, _, address in found]
        self._kept[host, port] = loop.time() + KEEP_LOOKUP.total_seconds(), addresses
        return addresses

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _literal(host: str, port: int) -> _Address | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if "%" in host:
        return None
    return (socket.AF_INET, (host, port)) if address.version == 4 else (socket.AF_INET6, (host, port, 0, 0))


async def dial(addresses: list[_Address]) -> socket.socket:
    """A connected socket to the first address that takes us. The last failure is raised, as OSError."""
    failure: OSError = OSError(errno.EHOSTUNREACH, "no address")
    for family, address in addresses:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_connect(sock, address)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure


async def speaks_ssh(sock: socket.socket) -> bool:
    """Wait for the peer's first bytes, without taking them: are they those of a banner? Raises ConnectionError if it hangs up."""
    loop = asyncio.get_running_loop()
    readable = loop.create_future()
    loop.add_reader(sock.fileno(), _set, readable)
    try:
        await readable
    finally:
        loop.remove_reader(sock.fileno())
    begin = sock.recv(len(_BANNER), socket.MSG_PEEK)
    if not begin:
        raise ConnectionError("hung up before it said what it is (too many logins at once, or not allowed from here?)")
    return begin == _BANNER[: len(begin)]


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def why_of(error: OSError) -> CouldNotConnectWhy:
    """The word for a failure of the network; without a number it is the peer that hung up."""
    if error.errno is None or error.errno in _HUNG_UP:
        return "protocol_error"
    return _WHYS.get(error.errno, "unreachable")
