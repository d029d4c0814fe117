"""Log files of the children: appended to by the child itself, turned over by the supervisor when they are large.

Owns size and number. The child writes to the file, not to a pipe of ours: a supervisor that is stopped or gone holds up nobody.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

MAX_BYTES = 16 * 1024 * 1024
KEPT = 3
_TAIL_BYTES = 64 * 1024
_LINE = 300
_EVERYWHERE = frozenset({"event", "level", "timestamp", "service", "instance", "exception"})


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
    """The last lines of a log."""
    try:
        with path.open("rb") as file:
            start = max(0, path.stat().st_size - _TAIL_BYTES)
            file.seek(start)
            text = file.read().decode("utf-8", "replace")
            text = text.partition("\n")[2] if start else text
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-count:]


def last_words(path: Path, count: int = 3) -> list[str]:
    """The last different things that went wrong by a log, for a person: of our JSON lines what they say, others as they are."""
    words = [gist(line) for line in last_lines(path, 200)]
    return list(dict.fromkeys(word for word in reversed(words) if word))[:count][::-1]


def gist(line: str) -> str:
    """A record of a service in words; "" if nothing is wrong in it. What is no record stays as it is."""
    try:
        record = json.loads(line)
    except ValueError:
        return "" if line.lstrip().startswith("{") else line
    if not isinstance(record, dict) or record.get("level") not in ("warning", "error", "critical"):
        return ""
    errors = record.get("errors") or {k: v for k, v in record.items() if k not in _EVERYWHERE}
    return f"{record.get('event')}: {'; '.join(map(str, errors)) if isinstance(errors, list) else errors}"[:_LINE]


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")
