"""A host without a network: the wrapper's program run by one shell here, in a home of the test's own. No connection, no provider.

Owns one conversation as the ssh provider holds it, so that the wrapper can be tried under each shell, cut off, and raced.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import psutil
from chargehand_proxy_agent.providers.port import LookOrder, StartOrder
from chargehand_proxy_agent.providers.wrapper import (
    Alive,
    Answer,
    Answers,
    Hello,
    Surroundings,
    command,
    look_text,
    opening,
    start_text,
)

MARK = "CHARGEHAND_ATTEMPT"
_CGROUP_MOUNTS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
SHELLS: dict[str, tuple[str, ...]] = {
    "dash": ("dash",),
    "bash": ("bash",),
    "busybox": ("busybox", "ash"),
    "ksh": ("ksh",),
}


def available_shells() -> list[str]:
    """Those of the supported shells that this machine has."""
    return [name for name, argv in SHELLS.items() if shutil.which(argv[0])]


class Conversation:
    """One session: opened, then given an order, then listened to. Closing it is what a cut connection does to the host."""

    def __init__(self, process: asyncio.subprocess.Process, answers: Answers, hello: Hello) -> None:
        self._process, self._answers, self._hello = process, answers, hello

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def boot_id(self) -> str:
        return self._hello.boot_id

    @property
    def uptime(self) -> timedelta:
        return self._hello.uptime

    def give(self, order: StartOrder | LookOrder, *, uptime: timedelta | None = None) -> None:
        """Send the order, seen against the host's own uptime unless told otherwise."""
        around = Surroundings(uptime or self.uptime, allow_memory_filesystem=True)
        text = start_text(order, around) if isinstance(order, StartOrder) else look_text(order, around)
        offsets = dict(order.offsets) if isinstance(order, LookOrder) else {}
        self._answers.expect(offsets, order.output_cap_bytes)
        self.send(text)

    def send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)

    async def heard(self) -> AsyncIterator[Answer]:
        """What it answers, until the final answer or the end of the session."""
        assert self._process.stdout is not None
        while not self._answers.is_over and (data := await self._process.stdout.read(65536)):
            for answer in self._answers.feed(data):
                if not isinstance(answer, Alive):
                    yield answer

    async def finish(self) -> None:
        """Nothing more will be sent: the end of the input, as a cut connection has it too."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.stdin.wait_closed()

    def stop_reading(self) -> None:
        """Take nothing any more, and leave it open."""
        self._process._transport.get_pipe_transport(1).pause_reading()  # type: ignore[attr-defined]

    async def close(self) -> None:
        """As sshd does when the connection is gone: the pipes close, and nobody is told."""
        transport = self._process._transport  # type: ignore[attr-defined]  # the only way to close the reading end
        for descriptor in (0, 1, 2):
            pipe = transport.get_pipe_transport(descriptor)
            if pipe is not None:
                pipe.close()

    async def ended(self) -> int:
        return await self._process.wait()


@dataclass
class ShellHost:
    """A home, a shell, and what the environment of its sessions holds besides."""

    shell: str
    home: Path
    variables: dict[str, str] = field(default_factory=dict)
    umask: int = 0o022
    before: str = ""
    path: str = os.environ["PATH"]
    conversations: list[Conversation] = field(default_factory=list)

    async def open(self, job_task_id: str, attempt: int = 1) -> Conversation:
        """A session up to its hello."""
        argv = [*SHELLS[self.shell], *command(job_task_id, attempt).split()[2:]]
        if self.before:
            argv = ["sh", "-c", f'{self.before}\nexec "$@"', "sh", *argv]
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=self.home,
            env={"HOME": str(self.home), "PATH": self.path, **self.variables},
            umask=self.umask,
            start_new_session=True,
        )
        nonce = secrets.token_hex(16)
        answers = Answers(nonce)
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(opening(nonce))
        while data := await process.stdout.read(4096):
            for answer in answers.feed(data):
                assert isinstance(answer, Hello), answer
                conversation = Conversation(process, answers, answer)
                self.conversations.append(conversation)
                return conversation
        raise AssertionError(f"no hello, exit status {await process.wait()}")

    async def run(self, order: StartOrder | LookOrder) -> list[Answer]:
        """One whole conversation."""
        conversation = await self.open(order.job_task_id, order.attempt)
        conversation.give(order)
        return [answer async for answer in conversation.heard()]

    @property
    def directory(self) -> Path:
        return self.home / ".chargehand" / "run"

    def record(self, order: StartOrder | LookOrder) -> Path:
        return self.directory / f"{order.job_task_id}.{order.attempt}"

    async def power_off(self) -> None:
        """Everything that runs here is gone at once; what is on the disk stays."""
        while running := marked_below(self.home):
            for process in running:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        """End whatever was started here and is still there."""
        await self.power_off()
        for conversation in self.conversations:
            await conversation.close()
            await conversation.ended()
        remove_cages()


def may_make_cages() -> bool:
    """Whether a host here makes cgroups of its own."""
    return any((mount / "cgroup.controllers").exists() and os.access(mount, os.W_OK) for mount in _CGROUP_MOUNTS)


def remove_cages() -> None:
    """What is left of cgroups, the empty ones."""
    for mount in _CGROUP_MOUNTS:
        with contextlib.suppress(OSError):
            for cage in (mount / "chargehand").glob("*-*.*"):
                cage.rmdir()
            (mount / "chargehand").rmdir()


def marked_below(home: Path) -> list[psutil.Process]:
    """Processes whose HOME is this one: ours alone, since no two tests share a home."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("HOME") == str(home):
                found.append(process)
    return found
