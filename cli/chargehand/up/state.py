"""What runs, as it stands in up.json: who supervises, which children, where they answer. And the lock that only one holds.

Owns the document and the lock. A process is known by its number and by when it began, so that a number used again is seen.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..embedded.processes import ProcessMark
from .layout import DataDirectory, write_private


@dataclass(frozen=True, slots=True)
class ChildState:
    """One child: its process, its address for people, and where its health is asked."""

    name: str
    pid: int
    began: str
    address: str = ""
    health: str = ""

    @property
    def mark(self) -> ProcessMark:
        return ProcessMark(self.pid, self.began)


@dataclass(frozen=True, slots=True)
class UpState:
    """An `up`. `status` is starting, ready or stopping."""

    pid: int
    began: str
    status: str
    server: str = ""
    kafka: dict[str, str] = field(default_factory=dict)
    services: tuple[ChildState, ...] = ()

    @property
    def mark(self) -> ProcessMark:
        return ProcessMark(self.pid, self.began)

    def is_running(self) -> bool:
        """Whether its supervisor is there."""
        return self.mark.is_running()

    def left_behind(self) -> tuple[ChildState, ...]:
        """Children that are still there."""
        return tuple(child for child in self.services if child.mark.is_running())


def load_state(data: DataDirectory) -> UpState | None:
    """What up.json says; None if there is none, or it cannot be read."""
    try:
        document: dict[str, Any] = json.loads(data.state.read_text(encoding="utf-8"))
        services = tuple(ChildState(**row) for row in document.pop("services"))
        return UpState(**document, services=services)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def save_state(data: DataDirectory, state: UpState) -> None:
    write_private(data.state, asdict(state))


def forget_state(data: DataDirectory) -> None:
    data.state.unlink(missing_ok=True)


class Lock:
    """Held by the supervisor as long as it lives; the kernel gives it back whenever that ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def take(self) -> bool:
        """Whether it is ours now."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def services_document(children: Sequence[ChildState], statuses: Sequence[str]) -> list[dict[str, Any]]:
    """`services[]` of `status --output json`."""
    return [
        {"name": child.name, "pid": child.pid, "status": status, "address": child.address}
        for child, status in zip(children, statuses, strict=True)
    ]
