"""Network namespaces: sites, where agents run, and segments, a site with a host that only this site reaches.

Owns the namespaces (Linux, root). Nothing leads from one segment to the other or to this machine's own network; the one way out
of a site is `relay`, which carries one loopback port of ours into it (Kafka), as a site's outbound connection would.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import psutil

from support.daemons import find_program
from support.sshd import SshdFleet, SshHost

_CLONE_NEWNET = 0x40000000
_NAME = re.compile(r"cgt(\d+)\w+")
_CHUNK_BYTES = 65_536


class NoNamespaces(Exception):
    """They cannot be made here; the text says why."""


@dataclass(frozen=True)
class Site:
    """Where an agent runs: a namespace, and the proxy that is named after its place."""

    name: str
    namespace: str

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command that runs this one in the site; it keeps its process number, environment and directory."""
        return [*into(self.namespace), *argv]

    @contextlib.contextmanager
    def relay(self, port: int) -> Iterator[None]:
        """Make 127.0.0.1:port of this machine reachable at 127.0.0.1:port of the site."""
        listener = _listen_inside(self.namespace, port)
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=_serve, args=(loop, listener, port), name=f"relay {self.name}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


@dataclass(frozen=True)
class Segment:
    """A site and its host, on a wire of their own."""

    site: Site
    fleet: SshdFleet

    @property
    def host(self) -> SshHost:
        return self.fleet.hosts[0]


def into(namespace: str) -> list[str]:
    """The beginning of a command that is to run in a namespace."""
    return [str(find_program("nsenter")), f"--net=/run/netns/{namespace}", "--"]


@contextlib.contextmanager
def two_segments(*, scratch: Path, user: str) -> Iterator[tuple[Segment, Segment]]:
    """Two segments, each with one host. NoNamespaces where they cannot be made, and why."""
    with contextlib.ExitStack() as stack:
        north, south = (
            stack.enter_context(_segment(name, number, scratch, user))
            for number, name in enumerate(("north", "south"), start=1)
        )
        yield north, south


@contextlib.contextmanager
def _segment(name: str, number: int, scratch: Path, user: str) -> Iterator[Segment]:
    site_address, host_address = f"10.199.{number}.1", f"10.199.{number}.2"
    with namespaces(f"site{number}", f"host{number}") as (site, host), contextlib.ExitStack() as stack:
        join(site, host, "wire", f"{site_address}/30", f"{host_address}/30")
        fleet = SshdFleet(1, scratch=scratch, user=user, prefix=name, addresses=[host_address], via=into(host))
        stack.callback(fleet.close)
        yield Segment(Site(name, site), fleet)


@contextlib.contextmanager
def namespaces(*names: str) -> Iterator[list[str]]:
    """New network namespaces, by their full names; gone afterwards, with all that is in them, whatever happened. NoNamespaces."""
    _check_possible()
    _remove_stale()
    made = [f"cgt{os.getpid()}{name}" for name in names]
    with contextlib.ExitStack() as stack:
        for namespace in made:
            ip("netns", "add", namespace)
            stack.callback(ip, "netns", "delete", namespace)
            ip("-n", namespace, "link", "set", "lo", "up")
        yield made


def join(one: str, other: str, wire: str, one_address: str, other_address: str) -> None:
    """A wire between two namespaces, of the same name in both; addresses with their prefix length."""
    ip("-n", one, "link", "add", wire, "type", "veth", "peer", "name", wire, "netns", other)
    for namespace, address in ((one, one_address), (other, other_address)):
        ip("-n", namespace, "address", "add", address, "dev", wire)
        ip("-n", namespace, "link", "set", wire, "up")


def _check_possible() -> None:
    if os.geteuid() != 0:
        raise NoNamespaces("network namespaces need root")
    missing = [program for program in ("ip", "nsenter") if find_program(program) is None]
    if missing:
        raise NoNamespaces(f"network namespaces need {' and '.join(missing)} (Debian: iproute2, util-linux)")


def ip(*arguments: str) -> None:
    """iproute2's command. NoNamespaces with its complaint."""
    answer = subprocess.run([str(find_program("ip")), *arguments], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise NoNamespaces(f"ip {' '.join(arguments)}: {answer.stderr.strip()}")


def _remove_stale() -> None:
    """Remove what a killed run could not; its number is in the name."""
    for path in Path("/run/netns").glob("cgt*"):
        match = _NAME.fullmatch(path.name)
        if match and not psutil.pid_exists(int(match[1])):
            ip("netns", "delete", path.name)


def _listen_inside(namespace: str, port: int) -> socket.socket:
    """A socket belongs to the namespace in which it was made: so it is made by a thread that goes there and ends."""
    made: Future[socket.socket] = Future()
    threading.Thread(target=_make_listener, args=(made, namespace, port)).start()
    return made.result()


def _make_listener(made: Future[socket.socket], namespace: str, port: int) -> None:
    try:
        with Path(f"/run/netns/{namespace}").open("rb") as door:
            if ctypes.CDLL(None, use_errno=True).setns(door.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        made.set_result(socket.create_server(("127.0.0.1", port)))
    except OSError as error:
        made.set_exception(error)


def _serve(loop: asyncio.AbstractEventLoop, listener: socket.socket, port: int) -> None:
    async def carry(inside: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            back.close()
            return
        await asyncio.gather(_copy(inside, writer), _copy(reader, back))

    server = loop.run_until_complete(asyncio.start_server(carry, sock=listener))
    loop.run_forever()
    server.close()
    loop.run_until_complete(_cancel_all())


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await source.read(_CHUNK_BYTES):
            target.write(chunk)
            await target.drain()
    target.close()
