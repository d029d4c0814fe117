"""The jars of Apache Kafka: which they are (kafka.lock), where they lie, and fetching those that are missing.

Owns the cache and the check of every digest. What Maven's resolver would choose must not enter: the lock decides, line by line.
"""

from __future__ import annotations

import hashlib
import os
import ssl
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from chargehand_chassis.settings import read_settings
from platformdirs import user_cache_path

from .errors import LauncherError
from .settings import LauncherSettings

KAFKA_VERSION = "4.3.1"
TOTAL_BYTES = 45_035_715
"""All jars of the lock together, said before the first fetch; a test compares it with the real files."""

_THREADS = 8
_TRIES = 3
_HTTP_TIMEOUT_S = 30

Report = Callable[[str], None]


@dataclass(frozen=True)
class Jar:
    """One line of the lock: the Maven coordinates of a file and its SHA-256 (hex)."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        return f"{self.artifact}-{self.version}.jar"

    def lies_in(self, directory: Path) -> bool:
        """Whether the directory holds exactly this file."""
        try:
            return hashlib.sha256((directory / self.file_name).read_bytes()).hexdigest() == self.sha256
        except OSError:
            return False


def parse_lock(text: str) -> tuple[Jar, ...]:
    """The jars of a lock, in the order of the class path: `group:artifact:version sha256`, one a line."""
    return tuple(_parse_line(line) for line in text.splitlines() if line.strip())


def _parse_line(line: str) -> Jar:
    coordinates, sha256 = line.split()
    group, artifact, version = coordinates.split(":")
    return Jar(group, artifact, version, sha256)


@cache
def locked_jars() -> tuple[Jar, ...]:
    """The jars this release runs on."""
    return parse_lock((files(__package__) / "kafka.lock").read_text(encoding="ascii"))


def cache_directory() -> Path:
    """Where fetched jars are kept for every installation of this user."""
    return user_cache_path("chargehand") / f"kafka-{KAFKA_VERSION}"


def kafka_jars(report: Report, home: Path | None = None) -> list[Path]:
    """Every jar, checked, in the order of the class path. What is missing in the cache is fetched; in `home` (default:
    the setting CHARGEHAND_KAFKA_HOME) nothing is ever written. LauncherError when a file is missing and cannot be had."""
    home = home or read_settings(LauncherSettings).kafka_home
    directory = cache_directory() if home is None else _prepared(home)
    if home is None:
        fetch_jars(directory, report)
    return [directory / jar.file_name for jar in locked_jars()]


def fetch_jars(directory: Path, report: Report) -> None:
    """Bring what the directory lacks or holds damaged. Several processes may do so at once: a file appears whole or not."""
    missing = missing_jars(directory)
    if not missing:
        return
    report(_announcement(missing, directory))
    directory.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(_THREADS) as threads:
        try:
            for done, jar in enumerate(threads.map(lambda jar: _fetch(jar, directory), missing), start=1):
                report(f"fetched {done} of {len(missing)}: {jar.file_name}")
        except LauncherError:
            threads.shutdown(cancel_futures=True)  # one file that cannot be had is enough to say so
            raise


def missing_jars(directory: Path) -> list[Jar]:
    """The jars of the lock that are not in the directory, or not as the lock wants them."""
    with ThreadPoolExecutor(_THREADS) as threads:
        present = threads.map(lambda jar: jar.lies_in(directory), locked_jars())
    return [jar for jar, is_there in zip(locked_jars(), present, strict=True) if not is_there]


def _prepared(home: Path) -> Path:
    lacks: dict[Path, list[Jar]] = {}
    for directory in (home, home / "libs"):
        lacks[directory] = missing_jars(directory)
        if not lacks[directory]:
            return directory
    directory, missing = min(lacks.items(), key=lambda row: len(row[1]))
    raise LauncherError(
        f"The folder {home} is not a complete Kafka {KAFKA_VERSION}.",
        why=f"{len(missing)} of {len(locked_jars())} files are missing or differ: {_names(missing)}.",
        do=f"copy {cache_directory()} from a machine where Chargehand has run, or unset CHARGEHAND_KAFKA_HOME.",
    )


def _announcement(missing: list[Jar], directory: Path) -> str:
    size = f"{TOTAL_BYTES / 1e6:.0f} MB" if len(missing) == len(locked_jars()) else "a part of 45 MB"
    return f"fetching Apache Kafka {KAFKA_VERSION} ({len(missing)} files, {size}) into {directory}, once"


def _fetch(jar: Jar, directory: Path) -> Jar:
    failure: Exception | None = None
    for _ in range(_TRIES):
        try:
            return _fetch_once(jar, directory)
        # jgo raises RuntimeError and AssertionError of its own, and what requests raises (an OSError).
        except (OSError, RuntimeError, AssertionError) as error:
            failure = error
    raise LauncherError(
        f"Apache Kafka {KAFKA_VERSION} could not be fetched.",
        why=f"{jar.file_name}: {failure or 'unknown'}",
        do="check the network and try again (what is there is kept), or name a folder that holds the files in "
        "CHARGEHAND_KAFKA_HOME.",
    ) from failure


def _trust_who_the_system_trusts() -> None:
    """requests comes with authorities of its own, and knows none that a company has added to its machines."""
    paths = ssl.get_default_verify_paths()
    bundle = paths.cafile or paths.capath
    if bundle and not os.environ.get("CURL_CA_BUNDLE"):
        os.environ.setdefault("REQUESTS_CA_BUNDLE", bundle)


def _fetch_once(jar: Jar, directory: Path) -> Jar:
    _trust_who_the_system_trusts()
    from jgo.maven import MavenContext, PythonResolver

    # A repository of its own for each try: jgo writes in place, and would take a half-written file for a whole one.
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=directory) as scratch:
        context = MavenContext(resolver=PythonResolver(), repo_cache=Path(scratch), timeout=_HTTP_TIMEOUT_S)
        fetched: Path = context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
        if hashlib.sha256(fetched.read_bytes()).hexdigest() != jar.sha256:
            raise RuntimeError("what was fetched is not the file that was locked (SHA-256 differs)")
        fetched.replace(directory / jar.file_name)
    return jar


def _names(jars: Iterable[Jar]) -> str:
    names = [jar.file_name for jar in jars]
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
