"""What tests need from the system, installed where that is possible: run by `make test` as `python -m support.prepare`.

Owns the list. As root on Debian and its kin what is missing is installed; elsewhere it is named, and the tests that need it are
skipped and say so.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from chargehand.embedded.errors import LauncherError
from chargehand.embedded.jars import kafka_jars

from support.daemons import find_program

# Program looked for, Debian package that brings it, what the tests do with it.
NEEDED = (
    ("sshd", "openssh-server", "hosts that jobs run on"),
    ("ssh-keygen", "openssh-client", "certificates of hosts"),
    ("dash", "dash", "a shell the host-side wrapper must work in"),
    ("busybox", "busybox", "a shell the host-side wrapper must work in"),
    ("ksh", "ksh", "a shell the host-side wrapper must work in"),
    ("crontab", "cron", "what a host runs its check-in by"),
    ("sudo", "sudo", "scripts that run as another user"),
    ("doas", "opendoas", "scripts that run as another user"),
    ("unshare", "util-linux", "hosts with users of their own"),
    ("useradd", "passwd", "hosts with users of their own"),
    ("ip", "iproute2", "network segments that cannot see each other"),
    ("faketime", "faketime", "hosts whose clocks are wrong"),
)
_POLICY = Path("/usr/sbin/policy-rc.d")


def main() -> int:
    """Install or name what is missing, fetch Kafka; always 0: the tests themselves judge what they lack."""
    missing = [(package, purpose) for program, package, purpose in NEEDED if find_program(program) is None]
    if missing:
        _provide(missing)
    try:
        kafka_jars(_say)
    except LauncherError as error:
        _say(str(error))
    return 0


def _provide(missing: list[tuple[str, str]]) -> None:
    packages = list(dict.fromkeys(package for package, _ in missing))
    if os.geteuid() != 0 or find_program("apt-get") is None:
        for package, purpose in missing:
            _say(f"not installed: {package} ({purpose}); tests that need it are skipped")
        return
    _say(f"installing with apt-get: {', '.join(packages)}")
    with _nothing_started():
        if _apt_get("install", *packages) != 0:
            _apt_get("update")
            if _apt_get("install", *packages) != 0:
                _say("apt-get could not install them; tests that need them are skipped")


def _apt_get(verb: str, *packages: str) -> int:
    command = ["apt-get", "-q", "-y", verb, *(["--no-install-recommends"] if packages else []), *packages]
    answer = subprocess.run(
        command, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}, capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        _say((answer.stderr.strip() or answer.stdout.strip())[-600:])
    return answer.returncode


@contextlib.contextmanager
def _nothing_started() -> Iterator[None]:
    """Debian starts a service when it is installed; an ssh server on all addresses is not what a test run may leave."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()


def _say(line: str) -> None:
    print(f"prepare: {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
