"""Servers that mean ill, or are only ill: each ends in one closed word, in bounded time and memory, and the others go on."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncssh
import psutil
import pytest
from chargehand_proxy_agent.providers.port import (
    ConnectionLost,
    CouldNotConnect,
    CouldNotConnectWhy,
    Observation,
    Refused,
    Target,
)
from chargehand_proxy_agent.providers.ssh import SshProvider
from support import hostile_ssh as hostile
from support.ssh_targets import provider_for
from support.visits import look, look_order, outcome, start, start_order

SOON = timedelta(seconds=0.7)
MiB = 1024 * 1024


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Callable[..., SshProvider]]:
    made: list[SshProvider] = []

    def make_one(**changes: object) -> SshProvider:
        made.append(provider_for(tmp_path, **({"connect_timeout": SOON, "answer_timeout": SOON} | changes)))
        return made[-1]

    yield make_one
    for provider in made:
        await provider.close()


def at(port: int, address: str = "127.0.0.1") -> Target:
    return Target("x", "x", address=address, port=port, user="x")


async def why_not(provider: SshProvider, target: Target) -> CouldNotConnectWhy:
    with pytest.raises(CouldNotConnect) as refusal:
        await provider.open(target)
    assert refusal.value.detail.isprintable() and len(refusal.value.detail) < 500
    return refusal.value.why


@pytest.mark.parametrize(
    ("talk", "whys"),
    [
        (hostile.hang, {"timed_out"}),
        (hostile.hang_up, {"protocol_error"}),
        (hostile.hang_after_banner, {"timed_out"}),
        (hostile.endless_banner, {"protocol_error", "timed_out"}),
        (hostile.slow_endless_banner, {"timed_out"}),
        (hostile.endless_line, {"protocol_error"}),
        (hostile.garbage, {"protocol_error"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_what_never_becomes_an_ssh_server_is_given_up_soon_and_cheaply(
    make: Callable[..., SshProvider], talk: hostile.Talk, whys: set[str]
) -> None:
    provider, before = make(), psutil.Process().memory_info().rss
    async with hostile.raw_server(talk) as port:
        begun = time.monotonic()
        assert await why_not(provider, at(port)) in whys
        assert time.monotonic() - begun < 3 * SOON.total_seconds()
    assert psutil.Process().memory_info().rss - before < 64 * MiB


async def test_where_nothing_listens_it_is_refused_and_a_name_nobody_has_is_not_resolved(
    make: Callable[..., SshProvider],
) -> None:
    async with hostile.raw_server(hostile.hang_up) as port:
        pass
    assert await why_not(make(), at(port)) == "refused"
    assert await why_not(make(connect_timeout=timedelta(seconds=20)), at(22, "no-such-host.invalid")) == "resolve"


async def test_a_login_that_is_not_granted_is_an_authentication_failure(
    make: Callable[..., SshProvider], tmp_path: Path
) -> None:
    async def never(_: object) -> None:
        return None

    async with hostile.lying_host(never, takes_anyone=False) as liar:
        assert await why_not(make(), liar.target()) == "authentication"
        not_there = liar.target(identity_file=str(tmp_path / "not-there"))
        assert await why_not(make(), not_there) == "authentication"


async def visited(make: Callable[..., SshProvider], answer: hostile.Answer, **options: Any) -> Observation:
    """The final observation of a start at a host that answers so; memory is watched."""
    before = psutil.Process().memory_info().rss
    async with hostile.lying_host(answer, **options) as liar:
        seen = await start(await make().open(liar.target()), start_order("true", output_cap_bytes=MiB))
    assert psutil.Process().memory_info().rss - before < 64 * MiB
    return seen[-1]


async def test_a_login_that_prints_without_end_gives_no_shell(make: Callable[..., SshProvider]) -> None:
    async def noise(process: asyncssh.SSHServerProcess[bytes]) -> None:
        while True:
            process.stdout.write(b"x" * 65536)
            await process.stdout.drain()

    seen = await visited(make, noise)
    assert isinstance(seen, Refused) and seen.why == "no_shell"


async def test_a_login_that_only_says_goodbye_is_told_in_its_own_words_made_harmless(
    make: Callable[..., SshProvider],
) -> None:
    async def goodbye(process: asyncssh.SSHServerProcess[bytes]) -> None:
        process.stdout.write(b"This account is \x1b[31mnot available\x1b]0;pwned\x07\n")
        process.exit(1)

    seen = await visited(make, goodbye)
    assert isinstance(seen, Refused) and seen.why == "no_shell"
    assert "not available" in seen.detail and seen.detail.isprintable()


async def test_a_host_that_never_answers_is_given_up_and_nothing_was_sent(make: Callable[..., SshProvider]) -> None:
    async def silence(_: object) -> None:
        await asyncio.Event().wait()

    seen = await visited(make, silence)
    assert isinstance(seen, ConnectionLost) and not seen.order_sent


async def test_a_host_without_proc_is_not_supported(make: Callable[..., SshProvider]) -> None:
    async def other(process: asyncssh.SSHServerProcess[bytes]) -> None:
        opening = await process.stdin.read(65536)
        nonce = next(line for line in opening.split(b"\n") if line.startswith(b"printf")).split()[-3]
        process.stdout.write(b"\nchargehand " + nonce + b"  \n")
        await asyncio.Event().wait()

    seen = await visited(make, other)
    assert isinstance(seen, Refused) and seen.why == "unsupported_host"


@pytest.mark.parametrize(
    "lie",
    [
        b"started 0 0\nended 0 - exited 1 1 0\n",
        b"started 0 0\nstarted 0 0\n",
        b"o 5 3\nabc",
        b"o 0 99999999999999999999\n",
        b"o 0 -3\n",
        b"omitted o 0 5\no 0 3\nabc",
        b"ended x - exited 1 1 0 0\n",
        b"ended 0 - conquered 1 1 0 0\n",
        b"never because -\n",
        b"refused nonsense at all\n",
        b"\xff\xfe\n",
        b"x" * 5000,
        b"started 0 0\n",
        b"o 0 10\nabc",
    ],
)
async def test_an_answer_the_wrapper_never_gives_proves_nothing(make: Callable[..., SshProvider], lie: bytes) -> None:
    """Rule TRUTH: what cannot be read is as a connection that was lost."""

    async def answer(process: asyncssh.SSHServerProcess[bytes]) -> None:
        await hostile.hello(process)
        await hostile.take_order(process)
        process.stdout.write(lie)
        process.exit(0)

    seen = await visited(make, answer)
    assert isinstance(seen, ConnectionLost) and seen.order_sent and seen.detail.isprintable()


@pytest.mark.parametrize(
    ("piece", "why"),
    [(b"x" * 65536, "cannot be read"), (b"o %d 65536\n" + b"x" * 65536, "cap")],
    ids=["line", "output"],
)
async def test_a_gigabyte_of_one_line_or_beyond_the_cap_ends_the_visit(
    make: Callable[..., SshProvider], piece: bytes, why: str
) -> None:
    async def pour(process: asyncssh.SSHServerProcess[bytes]) -> None:
        await hostile.hello(process)
        await hostile.take_order(process)
        for offset in range(0, 1024 * MiB, 65536):
            process.stdout.write(piece % offset if b"%" in piece else piece)
            await process.stdout.drain()
            if process.channel.is_closing():
                break

    final = await visited(make, pour)
    assert isinstance(final, ConnectionLost) and why in final.detail


async def test_a_host_whose_window_is_zero_is_given_up(make: Callable[..., SshProvider]) -> None:
    async def hello_only(process: asyncssh.SSHServerProcess[bytes]) -> None:
        await asyncio.Event().wait()

    for options in ({"window": 0}, {"max_pktsize": 0}):
        seen = await visited(make, hello_only, **options)
        assert isinstance(seen, ConnectionLost) and not seen.order_sent


async def test_death_in_the_middle_of_the_answer_is_a_lost_connection(make: Callable[..., SshProvider]) -> None:
    async def die(process: asyncssh.SSHServerProcess[bytes]) -> None:
        await hostile.hello(process)
        await hostile.take_order(process)
        process.stdout.write(b"started 0 0\no 0 1000\nabc")
        await process.stdout.drain()
        process.channel.get_connection().abort()

    seen = await visited(make, die)
    assert isinstance(seen, ConnectionLost) and seen.order_sent


async def test_a_refused_look_is_no_answer(make: Callable[..., SshProvider]) -> None:
    async def refuse(process: asyncssh.SSHServerProcess[bytes]) -> None:
        await hostile.hello(process)
        await hostile.take_order(process)
        process.stdout.write(b"refused bad_directory read-only file system\n")

    async with hostile.lying_host(refuse) as liar:
        (seen,) = await look(await make().open(liar.target()), look_order(start_order("true")))
    assert isinstance(seen, ConnectionLost)


async def test_hosts_that_never_speak_do_not_hold_up_those_that_do(make: Callable[..., SshProvider]) -> None:
    """300 servers that accept and hang, or talk for ever, tried first; a gate of 4 handshakes, and room for 24 open connections."""

    async def good(process: asyncssh.SSHServerProcess[bytes]) -> None:
        await hostile.hello(process)
        await hostile.take_order(process)
        process.stdout.write(b"started 0 0\nended 0 - exited 1 1 0 0\n")

    patient = timedelta(seconds=30)
    provider = make(max_handshakes=4, max_connections=24, connect_timeout=patient, answer_timeout=patient)
    async with AsyncExitStack() as stack:
        ports = [
            await stack.enter_async_context(hostile.raw_server(talk))
            for talk in (hostile.hang, hostile.slow_endless_banner)
        ]
        liars = [await stack.enter_async_context(hostile.lying_host(good)) for _ in range(5)]
        bad = [
            Target("x", "x", address="127.0.0.1", port=port, user=f"x{number}")
            for port in ports
            for number in range(150)
        ]
        tasks = [asyncio.create_task(provider.open(target)) for target in bad]
        await asyncio.sleep(0)
        begun = time.monotonic()
        for liar in liars:
            assert outcome(await start(await provider.open(liar.target()), start_order("true"))).exit_status == 0
        assert time.monotonic() - begun < 5
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_details_from_anywhere_fit_on_a_terminal_line(make: Callable[..., SshProvider]) -> None:
    async def escape(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-1.5-\x1b]0;pwned\x07" + os.urandom(50) + b"\r\n")
        await asyncio.Event().wait()

    async with hostile.raw_server(escape) as port:
        assert await why_not(make(), at(port)) == "protocol_error"
