"""Log files of the children: appended to by the child itself, turned over by the supervisor when they are large.

Owns size and number. The child writes to the file, not to a pipe of ours: a supervisor that is stopped or gone holds up nobody.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

MAX_BYTES = 16 * 1024 * 1024
KEPT = 3
_TAIL_BYTES = 16 * 1024


def open_log(path: Path) -> int:
    """A descriptor that appends, for a child."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def turn_over(path: Path, max_bytes: int = MAX_BYTES) -> bool:
    """Keep a large file as `.1` (older ones move on) and empty it; its writer appends, and so goes on at the beginning."""
    try:
        if path.stat().st_size < max_bytes:
            return False
        for number in range(KEPT - 1, 0, -1):
            older = _numbered(path, number)
            if older.exists():
                older.replace(_numbered(path, number + 1))
        shutil.copyfile(path, _numbered(path, 1))
        _numbered(path, 1).chmod(0o600)
        os.truncate(path, 0)
    except OSError:
        return False  # a full disk: the log stays as it is, and is looked at again later
    return True


def last_lines(path: Path, count: int = 8) -> list[str]:
    """The last lines of a log, each cut to 300 characters."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line[:300] for line in text.splitlines() if line.strip()][-count:]


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")
