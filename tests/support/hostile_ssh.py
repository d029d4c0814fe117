"""Servers that mean ill: raw ones that never become ssh servers, and one that logs us in and then says whatever a test wants."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import asyncssh
from chargehand_proxy_agent.providers.port import Target

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Answer = Callable[["asyncssh.SSHServerProcess[bytes]"], Awaitable[None]]


@contextlib.asynccontextmanager
async def raw_server(talk: Talk) -> AsyncIterator[int]:
    """The port of a server on loopback that talks so to each connection, and ends them all when the test is over."""
    talks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await talk(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)


async def hang(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    """Accept, and never say a word."""
    await asyncio.Event().wait()


async def hang_up(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    """Accept, and close."""


async def hang_after_banner(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-tarpit\r\n")
    await asyncio.Event().wait()


async def endless_banner(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"not yet\r\n" * 1000)
        await writer.drain()


async def slow_endless_banner(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"not yet\r\n")
        await asyncio.sleep(0.05)


async def endless_line(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-")
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def garbage(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-garbage\r\n" + bytes(range(256)) * 4000)
    await asyncio.Event().wait()


class _Anyone(asyncssh.SSHServer):
    def begin_auth(self, username: str) -> bool:
        return False


@dataclass(frozen=True)
class LyingHost:
    """An ssh server in this process that takes anyone and answers every command in its own way."""

    port: int
    host_key: str

    def target(self, **changes: object) -> Target:
        fields: dict[str, object] = {
            "host_id": "liar",
            "name": "liar",
            "address": "127.0.0.1",
            "port": self.port,
            "user": "anyone",
            "host_keys": (self.host_key,),
        }
        return Target(**(fields | changes))  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def lying_host(
    answer: Answer, *, host_key: asyncssh.SSHKey | None = None, takes_anyone: bool = True, **options: object
) -> AsyncIterator[LyingHost]:
    key = host_key or asyncssh.generate_private_key("ssh-ed25519")
    running: set[asyncio.Task[None]] = set()

    async def serve(process: asyncssh.SSHServerProcess[bytes]) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        with contextlib.suppress(asyncssh.Error, OSError, asyncio.CancelledError):
            await answer(process)

    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[key],
        server_factory=_Anyone if takes_anyone else asyncssh.SSHServer,
        process_factory=serve,
        encoding=None,
        **options,
    )
    public = key.export_public_key().decode("ascii").strip()
    try:
        yield LyingHost(server.get_port(), public)
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def hello(process: asyncssh.SSHServerProcess[bytes]) -> None:
    """Answer the opening as a real host does; raises when there is none."""
    opening = bytearray()
    while b"printf" not in opening or not opening.endswith(b"}\n"):
        data = await process.stdin.read(65536)
        assert data, "no opening"
        opening += data
    nonce = next(line for line in opening.split(b"\n") if line.startswith(b"printf")).split()[-3]
    process.stdout.write(b"\nchargehand " + nonce + b" 11111111-2222-3333-4444-555555555555 100000.00\n")


async def take_order(process: asyncssh.SSHServerProcess[bytes]) -> bytes:
    """The order, which names its own length."""
    order = bytearray()
    while b"\n" not in order or len(order) < int(order.split(b"\n")[0].split()[-1]):
        order += await process.stdin.read(65536)
    return bytes(order)


def keep_order(sent: list[bytes]) -> Answer:
    """Answers a start as if all was well, and keeps what it was sent."""

    async def answer(process: asyncssh.SSHServerProcess[bytes]) -> None:
        await hello(process)
        sent.append(await take_order(process))
        process.stdout.write(b"started 0 0\nended 0 - exited 1 1 0 0\n")
        process.exit(0)

    return answer
