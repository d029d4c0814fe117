"""Hosts with users, passwords and rules of their own: a private copy of /etc, which the rest of this machine never sees.

Owns the mount namespace (Linux, root). What is started with `via` in front of it sees the copy in place of /etc; so do sudo, su and
doas there, with users that exist nowhere else.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from chargehand.embedded.processes import BoundProcess

from support.daemons import find_program, start_daemon
from support.waiting import wait_until

_FIRST_UID = 52_000
_WITHIN = timedelta(seconds=20)


class NoOwnEtc(Exception):
    """It cannot be made here; the text says why."""


@dataclass(frozen=True)
class OwnEtc:
    """A copy of /etc at `path`, in force behind `via`."""

    path: Path
    homes: Path
    via: tuple[str, ...]
    first_uid: int

    def run(self, *command: str, feed: str = "") -> str:
        """Run a command there; its output."""
        answer = subprocess.run([*self.via, *command], input=feed, capture_output=True, text=True, check=False)
        if answer.returncode != 0:
            raise OSError(f"{' '.join(command)}: {answer.stderr.strip()}")
        return answer.stdout

    def write(self, name: str, text: str, mode: int = 0o440) -> None:
        """A file of this /etc."""
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="ascii")
        path.chmod(mode)

    def link(self, name: str, program: str) -> None:
        """Another name for a program, in a /usr/local/bin of this place's own."""
        (self.path.parent / "bin" / name).symlink_to(str(find_program(program)))

    def add_user(self, name: str, *, password: str = "", shell: str = "/bin/sh") -> int:
        """A user with a home; their number, which is nobody's on this machine. Without a password none fits."""
        known = self.run("cat", "/etc/passwd").count(f":{self.homes}/")
        uid, home = self.first_uid + known, self.homes / name
        self.run("useradd", "-u", str(uid), "-U", "-M", "-d", str(home), "-s", shell, "-p", "*", name)
        home.mkdir(mode=0o700)
        os.chown(home, uid, uid)
        if password:
            self.set_password(name, password)
        return uid

    def set_password(self, name: str, password: str) -> None:
        self.run("chpasswd", "-c", "SHA256", "-s", "1000", feed=f"{name}:{password}\n")


@contextlib.contextmanager
def own_etc(scratch: Path) -> Iterator[OwnEtc]:
    """NoOwnEtc where it cannot be made."""
    missing = [name for name in ("unshare", "nsenter", "useradd", "sudo", "doas") if find_program(name) is None]
    if os.geteuid() != 0 or missing:
        raise NoOwnEtc(f"a private /etc needs root and {', '.join(missing) or 'mount namespaces'}")
    directory = Path(tempfile.mkdtemp(prefix="etc-", dir=scratch))
    directory.chmod(0o711)
    (directory / "home").mkdir(mode=0o711)
    (directory / "bin").mkdir(mode=0o755)
    subprocess.run(["cp", "-a", "/etc", str(directory)], check=True)
    door = _open(directory)
    try:
        via = (str(find_program("nsenter")), f"--mount=/proc/{door.pid}/ns/mnt", "--")
        uid = _FIRST_UID + 100 * secrets.randbelow(80)
        yield OwnEtc(directory / "etc", directory / "home", via, uid)
    finally:
        door.stop(_WITHIN)
        shutil.rmtree(directory, ignore_errors=True)


def _open(directory: Path) -> BoundProcess:
    ready = directory / "ready"
    script = f"mount --bind {directory}/etc /etc && mount --bind {directory}/bin /usr/local/bin && : >{ready} && exec sleep infinity"
    command = [str(find_program("unshare")), "--mount", "--propagation", "private", "--", "/bin/sh", "-c", script]
    door = start_daemon(command, directory=directory, output=directory / "log")
    wait_until(lambda: ready.exists() or door.exit_status() is not None, within=_WITHIN)
    if not ready.exists():
        raise NoOwnEtc(f"no private /etc: {(directory / 'log').read_text(errors='replace')[-300:]}")
    return door
