"""A log that cannot be written stops nobody: neither a service nor the supervisor that starts it again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from chargehand.up.layout import DataDirectory
from chargehand.up.stack import Stack

FULL = Path("/dev/full")
needs_it = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
PROGRAM = """
import logging, sys
from chargehand_chassis.logs import configure_logs
log = configure_logs("test", "1", "info", sys.argv[1])
log.info("hello", why="ü")
logging.getLogger("a library").error("hello")
print("went on")
sys.exit(78)
"""


@needs_it
@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_service_goes_on_and_ends_with_its_own_status(log_format: str) -> None:
    with FULL.open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, log_format], stdout=subprocess.PIPE, stderr=full, text=True, check=False
        )
    assert (done.returncode, done.stdout) == (78, "went on\n")


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_what_can_be_written_is_a_line_each(log_format: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, log_format], capture_output=True, text=True, check=False)
    assert len(done.stderr.splitlines()) == 2
    assert all("hello" in line for line in done.stderr.splitlines())


@needs_it
def test_the_supervisor_goes_on_and_says_what_it_cannot_write(tmp_path: Path) -> None:
    said: list[str] = []
    data = DataDirectory(tmp_path / "data")
    data.make()
    data.log_of("up").symlink_to(FULL)
    stack = Stack(data, 7373, said.append)
    stack._tell("something happened", is_grave=True)
    (data.root / f".up.json.{os.getpid()}").symlink_to(FULL)
    stack._save()
    assert said[0] == "something happened"
    assert "up.json cannot be written" in said[1]
