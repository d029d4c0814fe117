"""Opening inventories: which format a file has, its text, and ansible-inventory as a process with limits.

Owns the I/O of the importers. What a file means is in the module of its format.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

from .ansible import COMMAND, explain, parse_listing
from .hosts import Inventory, failed
from .ssh_config import parse_ssh_config
from .tables import parse_csv, parse_json_lines

FORMATS = ("ansible", "ssh-config", "csv", "jsonl")
MAX_FILE_BYTES = 256 * 1024 * 1024
MAX_LISTING_BYTES = 1024 * 1024 * 1024
ANSIBLE_WITHIN = timedelta(minutes=10)
_SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_ANSIBLE_SUFFIXES = frozenset({".ini", ".yml", ".yaml", ".json", ".py", ".sh", ".toml"})
_HOST_LINE = re.compile(r"^[ \t]*host[ \t=]+\S", re.IGNORECASE | re.MULTILINE)
_ANSIBLE_LINE = re.compile(r"^\s*(\[[^\]]+\]|all:|---)", re.MULTILINE)


def read_inventory(path: str, format: str | None = None) -> Inventory:
    """The hosts of a file, a directory (ansible) or `-` (stdin: csv or jsonl). Never raises for what is in it."""
    if path == "-":
        return _read_stdin(format)
    chosen = format or detect(path)
    match chosen:
        case "ansible":
            return _read_ansible(path)
        case "ssh-config":
            return parse_ssh_config(str(Path(path).expanduser()), ConfigFiles())
        case _:
            text = _read_text(path)
            return text if isinstance(text, Inventory) else _parse(chosen, text, path)


def detect(path: str) -> str:
    """The format of a file: by its ending, else by its content; what is nothing else is for ansible-inventory."""
    file = Path(path).expanduser()
    suffix = file.suffix.lower()
    if file.is_dir() or suffix in _ANSIBLE_SUFFIXES:
        return "ansible"
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    try:
        with file.open("rb") as stream:
            start = stream.read(65_536).decode("utf-8", "replace")
    except OSError:
        return "csv"  # reading it as text says what is wrong with it
    return _detect_by_content(start)


def _detect_by_content(start: str) -> str:
    if start.startswith("#!") or _ANSIBLE_LINE.search(start):
        return "ansible"
    if start.lstrip().startswith("{"):
        return "jsonl"
    if _HOST_LINE.search(start):
        return "ssh-config"
    heading = start.split("\n", 1)[0].strip().split(",")
    return "csv" if "name" in [cell.strip() for cell in heading] else "ansible"


class ConfigFiles:
    """ssh configuration files on this machine."""

    def included(self, pattern: str) -> Sequence[str]:
        path = os.path.expanduser(pattern)  # noqa: PTH111 (a pattern, no path)
        if not path.startswith("/"):
            path = str(Path("~/.ssh").expanduser() / path)
        return sorted(glob.glob(path))  # noqa: PTH207 (absolute patterns)

    def read(self, path: str) -> str:
        text = _read_text(path)
        if isinstance(text, Inventory):
            raise ValueError(text.problems[0].what)
        return text


# --- text --------------------------------------------------------------------------------------------------------------


def _parse(format: str, text: str, name: str) -> Inventory:
    return parse_csv(text, name) if format == "csv" else parse_json_lines(text, name)


def _read_stdin(format: str | None) -> Inventory:
    if format not in ("csv", "jsonl"):
        return failed("-", "from standard input csv and jsonl can be read: say which with --format")
    text = _decoded(sys.stdin.buffer, "standard input")
    return text if isinstance(text, Inventory) else _parse(format, text, "standard input")


def _read_text(path: str) -> str | Inventory:
    try:
        with Path(path).expanduser().open("rb") as stream:
            return _decoded(stream, path)
    except OSError as error:
        return failed(path, f"cannot be read: {error.strerror or error}")


def _decoded(stream: BinaryIO, name: str) -> str | Inventory:
    data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        return failed(name, f"more than {MAX_FILE_BYTES} bytes: cut it into several files")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return failed(name, f"not UTF-8: byte 0x{data[error.start]:02x}", data.count(b"\n", 0, error.start) + 1)


# --- ansible-inventory -------------------------------------------------------------------------------------------------


def _read_ansible(path: str) -> Inventory:
    source = Path(path).expanduser().absolute()
    if not source.exists():
        return failed(path, "cannot be read: No such file or directory")
    command = _find_command()
    if command is None:
        return failed(
            path,
            f"{COMMAND} is not installed, and it is what reads Ansible's inventories: install ansible-core "
            "(for instance `uv tool install ansible-core`), or export the hosts as CSV",
        )
    with tempfile.TemporaryFile() as listing, tempfile.TemporaryFile() as errors:
        process = _start([command, "--list", "-i", str(source)], listing, errors)
        why = _await(process, listing)
        if why:
            return failed(path, why)
        if process.returncode != 0:
            return Inventory(problems=(explain(_text_of(errors), path),))
        listing.seek(0)
        inventory = parse_listing(listing.read(), path)
        return replace(inventory, notes=inventory.notes + _warnings(_text_of(errors)))


def _find_command() -> str | None:
    """Beside this interpreter (a virtual environment that is not activated), else on PATH."""
    beside = Path(sys.executable).parent / COMMAND
    return str(beside) if os.access(beside, os.X_OK) else shutil.which(COMMAND)


def _start(argv: Sequence[str], listing: BinaryIO, errors: BinaryIO) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true",
        "ANSIBLE_LOCALHOST_WARNING": "false",
    }
    return subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=listing, stderr=errors, env=environment, start_new_session=True
    )


def _await(process: subprocess.Popen[bytes], listing: BinaryIO) -> str:
    """Wait for it within the limits on time and size; in words which was passed, or nothing."""
    left_s = ANSIBLE_WITHIN.total_seconds()
    try:
        while left_s > 0:
            try:
                process.wait(min(0.5, left_s))
                return ""
            except subprocess.TimeoutExpired:
                left_s -= 0.5
            if os.fstat(listing.fileno()).st_size > MAX_LISTING_BYTES:
                return f"{COMMAND} printed more than {MAX_LISTING_BYTES} bytes"
        return f"{COMMAND} did not end within {ANSIBLE_WITHIN.total_seconds():g} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _text_of(errors: BinaryIO) -> str:
    errors.seek(0)
    return errors.read(262_144).decode("utf-8", "replace")


def _warnings(errors: str) -> tuple[str, ...]:
    return tuple(line.strip()[:300] for line in errors.splitlines() if line.startswith("[WARNING]"))[:20]
