"""Files of the operator that are read once and again only when they change. Owns that cache; what is in them is read elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

Value = TypeVar("Value")
Stamp = tuple[int, int, int]


class FileCache(Generic[Value]):
    """The value made of some files, made anew when one of them was changed, came or went."""

    def __init__(self, paths: Sequence[Path], read: Callable[[list[Path]], Value]) -> None:
        self._paths = [path.expanduser() for path in paths]
        self._read = read
        self._made: tuple[tuple[Stamp | None, ...], Value] | None = None

    def get(self) -> Value:
        """OSError and ValueError of `read` pass through, and are not kept."""
        stamps = tuple(map(_stamp, self._paths))
        if self._made is None or self._made[0] != stamps:
            there = [path for path, stamp in zip(self._paths, stamps, strict=True) if stamp is not None]
            self._made = stamps, self._read(there)
        return self._made[1]


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
