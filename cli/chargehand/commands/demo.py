"""`demo`. Owns where its data is, how long it stays, and that nothing of it is left."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..config import DEFAULT_PORT
from ..errors import CommandError, ExitStatus
from ..help import Command
from ..options import Asked, common_options

if TYPE_CHECKING:
    from ..up.banner import Banner
    from ..up.stack import Stack

_HOSTS_WITHIN_S = 30.0
_LOOK_AGAIN_S = 0.05


@click.command(cls=Command)
@click.option("--port", type=click.IntRange(1, 65535), default=DEFAULT_PORT, show_default=True, help="The page's port.")
@common_options
def demo(asked: Asked, port: int) -> int:
    """Show it at work: everything is started, and a job runs on 203 hosts made for the purpose.

    Three of them are real ssh servers in one process, which run shells of this account in a scratch home. In a terminal it
    stays until Ctrl-C; elsewhere (or with CI=true) it ends by itself. Its data is removed at the end, unless --data is given.
    """
    began = time.monotonic()
    given = asked.flags.get("data")
    root = Path(given).expanduser().absolute() if given else Path(tempfile.mkdtemp(prefix="chargehand-demo-"))
    asked.flags["data"] = str(root)
    mark = f"{os.getpid()}-{root.name}"
    try:
        return asyncio.run(_demo(asked, root, port, mark, is_temporary=given is None, began=began))
    finally:
        _clear_up(mark, None if given else root)


async def _demo(asked: Asked, root: Path, port: int, mark: str, *, is_temporary: bool, began: float) -> int:
    from ..up.layout import DataDirectory
    from ..up.running import Up, run_stack

    async def show(stack: Stack, banner: Banner, stop: asyncio.Event) -> int:
        return await _show(asked, stack, banner, stop, mark, began)

    asked.screen.say(f"starting in {root}")
    return await run_stack(Up(DataDirectory(root), port, asked.screen.say, is_temporary=is_temporary), show)


async def _show(asked: Asked, stack: Stack, banner: Banner, stop: asyncio.Event, mark: str, began: float) -> int:
    from ..demo.showing import tell, what_next
    from ..up.layout import LOCAL_PROXY
    from ..up.stack import in_daemon_thread

    asked.screen.say(f"started in {time.monotonic() - began:.1f} s")
    real = await _start_hosts(stack, banner.data, mark)
    telling = in_daemon_thread(lambda: tell(asked, real, LOCAL_PROXY, began, stop.is_set))
    stopping = asyncio.create_task(stop.wait())
    either: set[asyncio.Future[Any]] = {telling, stopping}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if stop.is_set():
        telling.cancel()
        return ExitStatus.INTERRUPTED
    shown = telling.result()
    is_staying = _is_staying()
    asked.screen.print(what_next(banner.data, banner.login_url, is_staying))
    if shown is not None:
        asked.screen.say(f"(first verdict {shown.first_verdict_s:.1f} s after the command)")
    if is_staying:
        await stop.wait()
        asked.screen.say("stopping")
    return ExitStatus.SUCCEEDED


async def _start_hosts(stack: Stack, data: Path, mark: str) -> list[dict[str, object]]:
    """The three ssh hosts; what they say of themselves."""
    from ..demo.mark import MARK
    from ..demo.showing import read_hosts
    from ..up.child import Program
    from ..up.programs import inherited

    directory = data / "demo"
    await asyncio.to_thread(directory.mkdir, mode=0o700, exist_ok=True)
    program = Program(
        name="demo-hosts",
        argv=(sys.executable, "-m", "chargehand.demo.hosts", str(directory)),
        environment={**inherited(os.environ), MARK: mark},
        log=data / "logs" / "demo-hosts.log",
    )
    await stack.add(program)
    try:
        async with asyncio.timeout(_HOSTS_WITHIN_S):
            while not (rows := read_hosts(directory / "hosts.json")):  # noqa: ASYNC110 (another process writes it)
                await asyncio.sleep(_LOOK_AGAIN_S)
    except TimeoutError:
        raise CommandError(
            "the demonstration's ssh hosts did not start.",
            why=f"they said nothing within {_HOSTS_WITHIN_S:g} s.",
            do=f"see {program.log}.",
            status=ExitStatus.UNREACHABLE,
        ) from None
    return rows


def _is_staying() -> bool:
    has_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    return has_terminal and os.environ.get("CI", "").lower() not in ("1", "true", "yes")


def _clear_up(mark: str, temporary: Path | None) -> None:
    from ..demo.leftovers import end_marked

    end_marked(mark)
    if temporary is not None:
        shutil.rmtree(temporary, ignore_errors=True)
