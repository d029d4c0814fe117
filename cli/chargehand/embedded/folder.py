"""The broker's folder: what lies where, for whom, and how it is read and written.

    installation.json   cluster id and ports: the same ones after a restart, when they are free
    running.json        the running broker and who started it, so that a second start finds the first
    start.lock          held while someone starts: two at once become one after the other
    passwords/NAME      one file for each account
    data/ logs/ tmp/    Kafka's own

Everything is for its owner only (0700, files 0600). Owns paths and formats; nothing is started or decided here.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .configuration import DATA, FORMING
from .errors import LauncherError
from .ports import Ports
from .processes import ProcessMark

_OTHER_START_WITHIN_S = 180.0
_LOOK_AGAIN_S = 0.05
_TAIL_BYTES = 8192
_SHOWN_LINES = 4
_STACK_FRAME = ("\tat ", "\t... ")


@dataclass(frozen=True)
class Installation:
    """What stays the same from the first start on."""

    cluster_id: str
    ports: Ports


@dataclass(frozen=True)
class Running:
    """A broker, the process that started it, and where it listens."""

    broker: ProcessMark
    starter: ProcessMark
    ports: Ports


@dataclass(frozen=True)
class BrokerFolder:
    """One folder, one broker."""

    root: Path

    def make(self) -> None:
        """Make what is missing. LauncherError when it belongs to someone else or cannot be written."""
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.root.chmod(0o700)
            for name in ("passwords", "logs", "tmp"):
                (self.root / name).mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise LauncherError(
                f"Kafka's folder {self.root} cannot be used.",
                why=str(error),
                do="name a data directory that belongs to you and can be written.",
            ) from error

    @contextlib.contextmanager
    def only_starter(self, report: Callable[[str], None]) -> Iterator[None]:
        """Hold the folder while starting. LauncherError when another start does not come to its end."""
        with (self.root / "start.lock").open("a") as lock:
            _acquire(lock.fileno(), report, self.root)
            yield

    def is_formatted(self) -> bool:
        return (self.root / DATA).exists()

    def begin_format(self) -> str:
        """The name of a directory to format; what earlier ones left is removed."""
        for path in self.root.glob(f"{FORMING}*"):
            shutil.rmtree(path, ignore_errors=True)
        return f"{FORMING}{secrets.token_hex(4)}"

    def finish_format(self, formed: str) -> None:
        (self.root / formed).rename(self.root / DATA)

    def clear_scratch(self) -> None:
        """Remove the native libraries that a killed broker had unpacked."""
        shutil.rmtree(self.root / "tmp", ignore_errors=True)
        (self.root / "tmp").mkdir(mode=0o700, exist_ok=True)

    def password_file(self, account: str) -> Path:
        return self.root / "passwords" / account

    def password(self, account: str) -> str:
        """The password of an account. LauncherError when its file is gone: Kafka itself does not know it in clear."""
        try:
            return self.password_file(account).read_text(encoding="ascii")
        except OSError as error:
            raise LauncherError(
                f"The password of Kafka's account {account} cannot be read.",
                why=str(error),
                do=f"put the file back from a backup; without it the topics in {self.root / DATA} cannot be reached.",
            ) from error

    def make_password(self, account: str) -> str:
        """The password of an account, drawn at random when it has none yet."""
        if not self.password_file(account).exists():
            self.write(f"passwords/{account}", secrets.token_urlsafe(32))
        return self.password(account)

    def installation(self) -> Installation | None:
        row = self._read("installation.json")
        return None if row is None else Installation(row["cluster_id"], Ports(**row["ports"]))

    def save_installation(self, installation: Installation) -> None:
        self.write("installation.json", json.dumps(asdict(installation)))

    def running(self) -> Running | None:
        """What was started last, whether or not it still runs."""
        row = self._read("running.json")
        if row is None:
            return None
        return Running(ProcessMark(**row["broker"]), ProcessMark(**row["starter"]), Ports(**row["ports"]))

    def save_running(self, running: Running) -> None:
        self.write("running.json", json.dumps(asdict(running)))

    def forget_running(self) -> None:
        self.remove("running.json")

    def write(self, name: str, text: str) -> None:
        """Write a file, whole or not at all."""
        path = self.root / name
        scratch = path.with_name(f".{path.name}.new")
        scratch.unlink(missing_ok=True)
        with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
            stream.write(text)
        scratch.replace(path)

    def remove(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    @property
    def log(self) -> Path:
        return self.root / "logs" / "kafka.log"

    @property
    def console(self) -> Path:
        """What went wrong since the last start: Kafka's errors, and what the Java runtime itself says."""
        return self.root / "logs" / "console.log"

    def last_words(self) -> str:
        """The last errors of this start."""
        return last_lines(_tail(self.console))

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.root / name
        try:
            row: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise LauncherError(
                f"{path} cannot be read.", why=str(error), do="if no Kafka runs in this folder, remove the file."
            ) from error
        return row


def last_lines(text: str) -> str:
    """The end of a Java program's output, for a message to a person: without where in its code it was."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(_STACK_FRAME)]
    return "\n    ".join(lines[-_SHOWN_LINES:]) or "it said nothing"


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""


def _acquire(lock: int, report: Callable[[str], None], root: Path) -> None:
    deadline = time.monotonic() + _OTHER_START_WITHIN_S
    has_said = False
    while not _try_lock(lock):
        if not has_said:
            report(f"another start of Kafka is under way in {root}; waiting for it")
            has_said = True
        if time.monotonic() > deadline:
            raise LauncherError(
                "Kafka is being started by someone else, without an end.",
                why=f"{root / 'start.lock'} has been held for {_OTHER_START_WITHIN_S:g} s.",
                do="find the process that holds it (fuser or lsof name it) and end it.",
            )
        time.sleep(_LOOK_AGAIN_S)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
