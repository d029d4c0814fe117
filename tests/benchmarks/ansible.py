"""Ansible's `raw` module as a peer: one command on the same hosts, as its users run it. It verifies host keys.

Owns its inventory, its settings and its processes. Connections are kept open by ControlPersist, which is its default; key exchange is
pinned to curve25519, since the default of OpenSSH before 9.9 costs several times as much and would flatter us.
"""

from __future__ import annotations

import os
import re
import resource
import secrets
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.place import WrongResult
from benchmarks.usage import cpu_s
from support.processes import kill, marked
from support.sshd import SshHost

PROGRAM = Path(sys.executable).with_name("ansible")
_MARK = "CHARGEHAND_BENCH_PEER"
_SUCCEEDED = re.compile(r"^\S+ \| CHANGED \| rc=0 >>$", flags=re.MULTILINE)
_SSH_OPTIONS = "-F /dev/null -o ControlMaster=auto -o ControlPersist=120s -o KexAlgorithms=curve25519-sha256"


@dataclass(frozen=True, slots=True)
class Call:
    """One run: the wall, and processor time of all its processes, those that hold connections open included."""

    took_s: float
    cpu_s: float


class Ansible:
    """`ansible -m raw` on these hosts. Use it as a context manager; it leaves no connection open."""

    def __init__(self, hosts: Sequence[SshHost], directory: Path, *, forks: int = 5) -> None:
        self._hosts, self._directory, self._mark = hosts, directory, secrets.token_hex(8)
        self._forks = forks
        directory.mkdir(mode=0o700)
        (directory / "ansible.cfg").touch()
        (directory / "known_hosts").write_text("".join(host.known_hosts_line() for host in hosts))
        (directory / "inventory").write_text("".join(map(_line, hosts)))

    def __enter__(self) -> Ansible:
        return self

    def __exit__(self, *_: object) -> None:
        kill(list(marked(_MARK, self._mark)))

    def run(self, command: str) -> Call:
        """Run a command on all hosts. WrongResult unless it succeeded on each."""
        before, began = self._cpu_s(), time.perf_counter()
        argv = (str(PROGRAM), "all", "-i", str(self._directory / "inventory"), "-m", "raw", "-a", command)
        process = subprocess.Popen(
            [*argv, "-f", str(self._forks)], env=self._environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        said, complaint = process.communicate()
        took_s = time.perf_counter() - began
        succeeded = len(_SUCCEEDED.findall(said.decode(errors="replace")))
        if succeeded != len(self._hosts):
            raise WrongResult(
                f"ansible: {succeeded} of {len(self._hosts)} succeeded: {said[-500:]!r} {complaint[-500:]!r}"
            )
        return Call(took_s, self._cpu_s() - before)

    def _cpu_s(self) -> float:
        """Of what has ended, and of what stays to hold connections open."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return ended.ru_utime + ended.ru_stime + cpu_s(marked(_MARK, self._mark))

    def _environment(self) -> dict[str, str]:
        known_hosts = self._directory / "known_hosts"
        return {
            **os.environ,
            _MARK: self._mark,
            "ANSIBLE_CONFIG": str(self._directory / "ansible.cfg"),
            "ANSIBLE_HOME": str(self._directory / "home"),
            "ANSIBLE_LOCAL_TEMP": str(self._directory / "tmp"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self._directory / "cp"),
            "ANSIBLE_SSH_ARGS": f"{_SSH_OPTIONS} -o UserKnownHostsFile={known_hosts}",
            "ANSIBLE_HOST_KEY_CHECKING": "True",
            "ANSIBLE_NOCOLOR": "1",
        }


def _line(host: SshHost) -> str:
    return (
        f"{host.name} ansible_host={host.address} ansible_port={host.port} ansible_user={host.user} "
        f"ansible_ssh_private_key_file={host.identity_file}\n"
    )
