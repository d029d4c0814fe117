"""Running a stack from start to stop: signals, the login link, and telling a waiting parent.

Owns the life of the supervisor process; what runs in it is the stack's.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from ..client.errors import ClientError
from ..client.http import Client
from ..errors import CommandError, ExitStatus
from .banner import Banner
from .layout import DataDirectory
from .logs import open_log
from .stack import Report, Stack

_LINK_WITHIN_S = 20.0
_LOOK_AGAIN_S = 0.1


@dataclass(frozen=True, slots=True)
class Up:
    """What to run, and who is told."""

    data: DataDirectory
    port: int
    report: Report
    is_temporary: bool = False
    is_detached: bool = False


async def run_stack(up: Up, use: Callable[[Stack, Banner, asyncio.Event], Awaitable[int]]) -> int:
    """Start, hand over to `use`, and stop when it returns or a signal comes. Returns what `use` returned, 130 after Ctrl-C
    before that."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    stack = Stack(up.data, up.port, up.report)
    starting = asyncio.create_task(stack.start())
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
        return ExitStatus.INTERRUPTED
    starting.result()
    try:
        banner = await asyncio.to_thread(make_banner, up, stack)
        return await use(stack, banner, stop)
    finally:
        stopped.cancel()
        await stack.stop()


def make_banner(up: Up, stack: Stack) -> Banner:
    """The words for this stack, with a login link that works. CommandError if the page does not give one."""
    token = json.loads(up.data.client.read_text(encoding="utf-8"))["token"]
    with Client(stack.server, token) as client:
        link = ask_patiently(client.login_link)
        hosts = client.status().hosts
    return Banner(
        version=version("chargehand"),
        login_url=link,
        server=stack.server,
        data=up.data.root,
        kafka=stack.kafka,
        pid=os.getpid(),
        hosts=hosts,
        is_temporary=up.is_temporary,
        is_detached=up.is_detached,
    )


def ask_patiently(ask: Callable[[], Any]) -> Any:
    """Ask again while the page has not heard of the token yet: it reads the log as everyone does."""
    deadline = time.monotonic() + _LINK_WITHIN_S
    while True:
        try:
            return ask()
        except ClientError as error:
            if time.monotonic() > deadline:
                raise CommandError(
                    "the page gives no login link.",
                    why=str(error),
                    do="see the logs of the gateway and the planner.",
                    status=ExitStatus.UNREACHABLE,
                ) from error
            time.sleep(_LOOK_AGAIN_S)


# --- detached ------------------------------------------------------------------------------------------------------------


def start_detached(data: DataDirectory, port: int) -> dict[str, Any]:
    """Start an `up` that outlives us; its banner's document once everything answers. CommandError with its own words if not."""
    data.make()
    reading, writing = os.pipe()
    log = open_log(data.log_of("up"))
    argv = [sys.executable, "-m", "chargehand", "up", "--data", str(data.root), "--port", str(port)]
    process = subprocess.Popen(
        [*argv, "--tell-fd", str(writing)],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        pass_fds=(writing,),
    )
    os.close(writing)
    os.close(log)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        answer = pipe.read()
    if not answer:
        raise CommandError(
            "it did not start.",
            why=f"process {process.pid} ended without a word.",
            do=f"see {data.log_of('up')}.",
            status=ExitStatus.UNREACHABLE,
        )
    document: dict[str, Any] = json.loads(answer)
    if "error" in document:
        raise CommandError(**document["error"] | {"status": ExitStatus(document["error"]["status"])})
    return document


def tell(descriptor: int, document: dict[str, Any]) -> None:
    """Answer a parent that waits, once."""
    with os.fdopen(descriptor, "w", encoding="utf-8") as pipe:
        json.dump(document, pipe)


def error_document(error: CommandError) -> dict[str, Any]:
    return {"error": {"what": error.what, "why": error.why, "do": error.do, "status": int(error.status)}}
