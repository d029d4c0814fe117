"""Programs that tests start and that do not outlive them, as our own user or as another. Owns how the user is changed."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Sequence
from pathlib import Path

from chargehand.embedded.processes import BoundProcess

from support.processes import SESSION_VARIABLE, track

_ADMIN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def find_program(name: str) -> str | None:
    """The full path of a program, also where only root's PATH leads."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_ADMIN_PATH}")


def start_daemon(argv: Sequence[str], *, directory: Path, output: Path, user: str | None = None) -> BoundProcess:
    """Start a program that stays in the foreground. It is killed when this process ends, however it ends."""
    environment = {
        "PATH": _ADMIN_PATH,
        "LC_ALL": "C.UTF-8",
        SESSION_VARIABLE: os.environ.get(SESSION_VARIABLE, ""),
    }
    command = as_user(argv, user) if user else list(argv)
    process = BoundProcess(command, directory=directory, environment=environment, output=output)
    track(process.pid)
    return process


def as_user(argv: Sequence[str], user: str) -> list[str]:
    """The command that runs this one as another user. A change of user forgets with whom a process is to die: so said again."""
    setpriv = find_program("setpriv")
    if setpriv is None:
        raise FileNotFoundError("setpriv (util-linux) is needed to run programs as another user")
    entry = pwd.getpwnam(user)
    identity = [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
    return [setpriv, *identity, "--pdeathsig=KILL", "--", *argv]
