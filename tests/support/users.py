"""A user of the system for one run: jobs on test hosts run as this one, not as root. Owns making and removing it.

Only root can; everyone else's hosts run as themselves. The name holds the number of the process that made it, so that the next
run removes what a killed one could not.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from support.processes import kill

_NAME = re.compile(r"cgt(\d+)[a-z]?")
_TRIES = 40
_LOOK_AGAIN_S = 0.25


@contextlib.contextmanager
def throw_away_user(home: Path, *, suffix: str = "", shell: str = "/bin/sh") -> Iterator[str]:
    """The name of a user with this home (made, 0700), without a password; `suffix` (one letter) tells several apart."""
    _remove_stale()
    name = f"cgt{os.getpid()}{suffix}"
    # '*' and not the default '!': with that sshd takes the account for a locked one and refuses its key.
    _change(["useradd", "--no-create-home", "--user-group", "-d", str(home), "-s", shell, "-p", "*", name])
    try:
        give_home(home, name)
        yield name
    finally:
        _remove(name)


def give_home(home: Path, user: str) -> None:
    """Make a home directory that belongs to the user."""
    home.mkdir(mode=0o700, exist_ok=True)
    entry = pwd.getpwnam(user)
    os.chown(home, entry.pw_uid, entry.pw_gid)


def _remove(name: str) -> None:
    uid = pwd.getpwnam(name).pw_uid
    kill(process for process in psutil.process_iter() if _belongs_to(process, uid))
    _change(["userdel", name])


def _belongs_to(process: psutil.Process, uid: int) -> bool:
    try:
        return uid in process.uids()
    except psutil.Error:
        return False


def _remove_stale() -> None:
    for entry in pwd.getpwall():
        match = _NAME.fullmatch(entry.pw_name)
        if match and not psutil.pid_exists(int(match[1])):
            _remove(entry.pw_name)


def _change(command: list[str]) -> None:
    """Another run may hold the lock of the user database for a moment."""
    for _ in range(_TRIES):
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            return
        if "lock" not in answer.stderr:
            break
        time.sleep(_LOOK_AGAIN_S)
    raise OSError(f"{' '.join(command)}: {answer.stderr.strip()}")
