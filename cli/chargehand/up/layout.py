"""The data directory: which file lies where, and whether a directory may become one.

Owns paths and modes. What stands in the files is owned by who writes them.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..errors import CommandError

LOCAL_PROXY = "local"


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """One installation on this machine; readable by its owner only."""

    root: Path

    @property
    def marker(self) -> Path:
        return self.root / "installation.json"

    @property
    def lock(self) -> Path:
        return self.root / "up.lock"

    @property
    def state(self) -> Path:
        return self.root / "up.json"

    @property
    def client(self) -> Path:
        return self.root / "client.json"

    @property
    def admin(self) -> Path:
        return self.root / "admin.json"

    @property
    def settings(self) -> Path:
        return self.root / "settings.toml"

    @property
    def kafka(self) -> Path:
        return self.root / "kafka"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def planner_key(self) -> Path:
        return self.keys / "planner.pub.json"

    @property
    def trusted_keys(self) -> Path:
        return self.root / "trusted_keys.json"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def key_of(self, name: str) -> Path:
        return self.keys / f"{name}.json"

    def log_of(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def installation(self) -> str:
        """The name of this installation, drawn when it was made."""
        return str(json.loads(self.marker.read_text(encoding="utf-8"))["installation"])

    def make(self) -> bool:
        """Make what is missing; whether this is its first start. CommandError if the directory is something else."""
        self._check()
        try:
            for directory in (self.root, self.keys, self.logs):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.root.chmod(0o700)
        except OSError as error:
            raise _unusable(self.root, f"it cannot be made or written: {error.strerror}") from error
        is_first = not self.marker.exists()
        if is_first:
            write_private(self.marker, {"installation": uuid4().hex[:12], "layout": 1})
        return is_first

    def _check(self) -> None:
        """A directory with anything else in it than settings for it is never taken over: `--data ~` would make a home unreadable."""
        if self.root.is_dir():
            if not self.marker.exists() and any(file != self.settings for file in self.root.iterdir()):
                raise _unusable(self.root, "it holds other files, and was not made by `chargehand up`")
            if self.root.stat().st_uid != os.geteuid():
                raise _unusable(self.root, "it belongs to another account")
        elif self.root.exists():
            raise _unusable(self.root, "it is no directory")


def write_private(path: Path, document: Any) -> None:
    """Write JSON, whole or not at all, readable by its owner only."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


def _unusable(root: Path, why: str) -> CommandError:
    return CommandError(
        f"{root} cannot be a data directory.", why=f"{why}.", do="name another (an empty or a new one) with --data DIR."
    )
