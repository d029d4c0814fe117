"""Three ssh hosts in one process: asyncssh's server, real shells of this account, each with a scratch home of its own.

Owns the servers, their keys and what they run. Run as a program: it writes `hosts.json` (what `host import` would read) when it
listens, and ends with its parent. Only the key beside that file is let in, on loopback only.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncssh

from .mark import MARK

NAMES = ("ssh-alpha", "ssh-beta", "ssh-gamma")
USER = "demo"

_LOOPBACK = "127.0.0.1"
_PIECE_BYTES = 65_536
_LOOK_AFTER_PARENT_S = 1.0
_SHELL = "/bin/sh"


class _OnlyTheKey(asyncssh.SSHServer):
    def password_auth_supported(self) -> bool:
        return False


async def serve(directory: Path) -> None:
    """Serve until told to stop. Ports and keys are those of an earlier run in this directory, if there was one."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    client_key = _key(directory / "id_ed25519")
    ports = _earlier_ports(directory)
    servers = [await _listen(directory, name, client_key, ports.get(name, 0)) for name in NAMES]
    rows = [_record(directory, name, server) for name, server in zip(NAMES, servers, strict=True)]
    _write_whole(directory / "hosts.json", json.dumps(rows, indent=1))
    parent = os.getppid()
    while not stop.is_set() and os.getppid() == parent:
        try:
            async with asyncio.timeout(_LOOK_AFTER_PARENT_S):
                await stop.wait()
        except TimeoutError:
            continue
    for server in servers:
        server.close()


async def _listen(directory: Path, name: str, client_key: asyncssh.SSHKey, port: int) -> asyncssh.SSHAcceptor:
    home = directory / "homes" / name
    await asyncio.to_thread(home.mkdir, mode=0o700, parents=True, exist_ok=True)
    host_key = _key(directory / f"{name}.key")
    allowed = asyncssh.import_authorized_keys(client_key.export_public_key().decode())

    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        await _run(process, name, home)

    return await asyncssh.listen(
        _LOOPBACK,
        port,
        server_factory=_OnlyTheKey,
        server_host_keys=[host_key],
        authorized_client_keys=allowed,
        process_factory=run,
        encoding=None,
        reuse_address=True,
        line_editor=False,
    )


async def _run(process: asyncssh.SSHServerProcess[bytes], name: str, home: Path) -> None:
    """One session: a shell with the command, its three streams, its exit status."""
    argv = [_SHELL, "-c", process.command] if process.command else [_SHELL]
    try:
        shell = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=home,
            env=_environment(name, home),
            start_new_session=True,
        )
    except OSError as error:
        process.stderr.write(f"{error}\n".encode())
        process.exit(126)
        return
    stdin, stdout, stderr = _pipes(shell)
    feeding = asyncio.create_task(_feed(process, stdin))
    # Both streams to their ends, and only then the exit status: what comes after it is lost.
    await asyncio.gather(_copy(stdout, process.stdout), _copy(stderr, process.stderr))
    status = await shell.wait()
    feeding.cancel()
    await asyncio.wait({feeding})
    if status < 0:
        process.exit_with_signal(signal.Signals(-status).name.removeprefix("SIG"))
    else:
        process.exit(status)


def _pipes(
    shell: asyncio.subprocess.Process,
) -> tuple[asyncio.StreamWriter, asyncio.StreamReader, asyncio.StreamReader]:
    if shell.stdin is None or shell.stdout is None or shell.stderr is None:
        raise RuntimeError("it was started with three pipes")
    return shell.stdin, shell.stdout, shell.stderr


async def _copy(source: asyncio.StreamReader, target: Any) -> None:
    """Everything of a pipe; to nowhere once the connection is gone, so that the shell is not held up."""
    is_open = True
    while piece := await source.read(_PIECE_BYTES):
        if is_open:
            try:
                target.write(piece)
                await target.drain()
            except (OSError, asyncssh.Error):
                is_open = False


async def _feed(process: asyncssh.SSHServerProcess[bytes], target: asyncio.StreamWriter) -> None:
    try:
        while piece := await process.stdin.read(_PIECE_BYTES):
            target.write(piece)
            await target.drain()
    except (OSError, asyncssh.Error, asyncssh.BreakReceived):
        pass  # the connection or the shell is gone: there is nothing more to feed
    finally:
        target.close()


def _environment(name: str, home: Path) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "USER": os.environ.get("USER", USER),
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        "SHELL": _SHELL,
        "DEMO_HOST": name,
        MARK: os.environ.get(MARK, ""),
        # Tests find what is left of them by this.
        **{key: value for key, value in os.environ.items() if key == "CHARGEHAND_TEST_SESSION"},
    }


def _record(directory: Path, name: str, server: asyncssh.SSHAcceptor) -> dict[str, Any]:
    public = asyncssh.read_public_key(directory / f"{name}.key.pub").export_public_key().decode().strip()
    return {
        "name": name,
        "address": _LOOPBACK,
        "port": server.get_port(),
        "user": USER,
        "identity_file": str(directory / "id_ed25519"),
        "host_keys": [public],
        "groups": ["demo", "real"],
    }


def _earlier_ports(directory: Path) -> dict[str, int]:
    try:
        rows: Sequence[dict[str, Any]] = json.loads((directory / "hosts.json").read_text(encoding="utf-8"))
        return {str(row["name"]): int(row["port"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _key(path: Path) -> asyncssh.SSHKey:
    """The private key of a file, made with it (mode 0600) when it is missing."""
    if not path.exists():
        key = asyncssh.generate_private_key("ssh-ed25519", comment="chargehand-demo")
        key.write_public_key(f"{path}.pub")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key.export_private_key())
    return asyncssh.read_private_key(path)


def _write_whole(path: Path, text: str) -> None:
    scratch = path.with_suffix(".new")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


def main() -> None:
    """`python -m chargehand.demo.hosts DIRECTORY`."""
    asyncio.run(serve(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
