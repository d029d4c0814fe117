"""A disk of a few megabytes, that can be full, and that can be mounted read-only. Owns mounting it (Linux, root) and its ballast."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024


class NoDisk(Exception):
    """None can be mounted here; the text says why."""


@dataclass(frozen=True)
class SmallDisk:
    """A tmpfs at `root`."""

    root: Path

    def fill(self) -> None:
        """Not a byte more goes onto it."""
        with self._ballast.open("ab", buffering=0) as ballast:
            for size in (MIB, 4096, 1):
                with contextlib.suppress(OSError):
                    while True:
                        ballast.write(b"\0" * size)

    def free(self) -> None:
        """There is room again."""
        self._ballast.unlink()

    def make_read_only(self) -> None:
        """For everybody; no file on it may be open for writing."""
        _run("mount", "-o", "remount,ro", str(self.root))

    @property
    def _ballast(self) -> Path:
        return self.root / "ballast"


@contextlib.contextmanager
def small_disk(root: Path, mib: int) -> Iterator[SmallDisk]:
    """A disk at a directory that is made for it. NoDisk where none can be mounted."""
    if os.geteuid() != 0:
        raise NoDisk("only root mounts disks")
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        _run("mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0700", "tmpfs", str(root))
    except (OSError, subprocess.CalledProcessError) as error:
        raise NoDisk(f"no tmpfs can be mounted here: {error}") from error
    try:
        yield SmallDisk(root)
    finally:
        # Lazily: what a test left open goes with its process.
        _run("umount", "-l", str(root))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
