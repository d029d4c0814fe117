"""`chargehand demo`: a new user's first minute, as continuous integration runs it."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

FIRST_VERDICT_WITHIN_S = 15.0
MARK = "CHARGEHAND_TEST_DEMO"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return {
        **os.environ,
        "CI": "true",
        "TMPDIR": str(scratch),
        "XDG_DATA_HOME": str(tmp_path / "data"),
        MARK: str(tmp_path),
    }


def left(value: str) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == value:
                found.append(" ".join(process.cmdline()))
        except (psutil.Error, OSError):
            continue
    return found


def test_it_runs_its_job_says_what_next_and_leaves_nothing(environment: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "chargehand", "demo"],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "203 hosts: " in done.stdout
    assert re.search(r"failed, .+ · \d+ hosts?: ", done.stdout), "some of them fail, and are shown first"
    assert re.search(r"succeeded · \d+ hosts?: .*sim-\[", done.stdout), "names are folded"
    assert re.search(r"http://127\.0\.0\.1:\d+/login\?code=", done.stdout)
    assert done.stdout.count("   # ") == 5
    verdict = re.search(r"first verdict ([\d.]+) s after the command", done.stderr)
    assert verdict is not None
    assert float(verdict[1]) < FIRST_VERDICT_WITHIN_S
    assert left(str(tmp_path)) == []
    assert list((tmp_path / "scratch").iterdir()) == []
    assert not (tmp_path / "data").exists()


def test_ctrl_c_ends_it_and_leaves_nothing(environment: dict[str, str], tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "chargehand", "demo"],
        env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("job "):
            break
    began = time.monotonic()
    process.send_signal(2)
    process.communicate(timeout=40)
    assert process.returncode == 130
    assert time.monotonic() - began < 25
    assert left(str(tmp_path)) == []
    assert list((tmp_path / "scratch").iterdir()) == []
