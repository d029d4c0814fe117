"""Machines whose boot, uptime and clock are not this machine's, and which can be rebooted: namespaces and libfaketime.

Owns faking them; nothing of this machine is set. A reboot is another boot id, an uptime that begins anew, and every process gone.
Needs root and a kernel with time namespaces; wall clocks need libfaketime.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from support.daemons import find_program
from support.distant_hosts import DistantHosts

# A host's own /dev/shm: what libfaketime leaves there goes with it.
_BOOTED = """
mount --bind "$1" /proc/sys/kernel/random/boot_id && mount -t tmpfs tmpfs /dev/shm && shift && exec "$@"
"""
# Worked out at each boot: the uptime begins anew.
_BOOTS = """
read -r now rest </proc/uptime
uptime=$1 boot_id=$2 booted=$3 && shift 3
exec unshare --mount ${uptime:+--time --boottime=$((uptime - ${now%.*}))} -- /bin/sh -c "$booted" sh "$boot_id" "$@"
"""


class NoOddMachine(Exception):
    """None can be made here; the text says why."""


class BootId:
    """The boot id of a machine, in a file that is put in the place of the kernel's."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.renew()

    def renew(self) -> None:
        self.value = str(uuid.uuid4())
        # Written in place: it may be mounted somewhere.
        self._path.write_text(f"{self.value}\n", encoding="ascii")

    def command(self, argv: Sequence[str], uptime: timedelta | None = None) -> list[str]:
        """The command that runs this one (by its full path) on a machine that has this boot id, and booted so long ago."""
        if find_program("unshare") is None:
            raise NoOddMachine("unshare (util-linux) is needed for it")
        uptime_s = "" if uptime is None else f"{uptime.total_seconds():.0f}"
        return ["/bin/sh", "-c", _BOOTS, "sh", uptime_s, str(self._path), _BOOTED, *argv]


class OddHost:
    """One host of a distant network with a boot of its own, and if told so an uptime and a wall clock (off by so much)."""

    def __init__(
        self,
        network: DistantHosts,
        name: str,
        folder: Path,
        *,
        uptime: timedelta | None = None,
        clock_off: timedelta = timedelta(0),
    ) -> None:
        self.boot_id = BootId(folder / f"{name}.boot_id")
        variables = _faked(clock_off) if clock_off else {}
        self._fleet = network.fleet(1, name, via=self.boot_id.command([], uptime), variables=variables)
        (self.host,) = network.shown(self._fleet)

    @property
    def name(self) -> str:
        return self.host.name

    @property
    def home(self) -> Path:
        return self.host.home

    def power_off(self) -> None:
        """Everything that ran there is gone at once; its disk is not."""
        self._fleet.power_off(self.name)

    def power_on(self) -> None:
        """It has booted: another boot id."""
        self.boot_id.renew()
        self._fleet.power_on(self.name)


def _faked(clock_off: timedelta) -> dict[str, str]:
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not libraries:
        raise NoOddMachine("a host's clock is faked with libfaketime (Debian: faketime)")
    # Only what programs are told of the time of day: a host's monotonic clock is its kernel's.
    return {
        "LD_PRELOAD": str(libraries[0]),
        "FAKETIME": f"{clock_off.total_seconds():+.0f}",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
