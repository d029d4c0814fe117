"""The rules every run keeps: skips are counted, or failures with CI set; what tests leave behind fails the run and is killed."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from support.processes import SESSION_VARIABLE
from support.waiting import wait_until

TESTS = Path(__file__).parents[2]
SKIPPING = """
import pytest

def test_that_cannot_run_here():
    pytest.skip("no such thing on this machine")

@pytest.mark.skipif(True, reason="no such thing on this machine")
def test_nor_this():
    pass

@pytest.mark.xfail(reason="known")
def test_that_is_expected_to_fail():
    assert False
"""
LEAKING = """
import subprocess
from pathlib import Path

def test_that_forgets_a_daemon():
    # The shell ends at once: its child belongs to nobody we know, only its environment is ours.
    subprocess.run(["/bin/sh", "-c", "setsid sleep 600 > /dev/null 2>&1 & echo $! > daemon"], check=True)

def test_that_forgets_a_child():
    child = subprocess.Popen(["/bin/sleep", "600"])
    Path("child").write_text(str(child.pid))
"""


def run_tests(directory: Path, text: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (directory / "test_some.py").write_text(text)
    (directory / "conftest.py").write_text('pytest_plugins = ["support.workers", "support.leaks", "support.skips"]\n')
    (directory / "pytest.ini").write_text(f"[pytest]\npythonpath = {TESTS}\n")
    inherited = {name: value for name, value in os.environ.items() if name not in ("CI", SESSION_VARIABLE)}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, "test_some.py"],
        cwd=directory,
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_skips_are_counted_with_their_reason(tmp_path: Path) -> None:
    run = run_tests(tmp_path, SKIPPING)
    assert run.returncode == 0
    assert "2 skipped" in run.stdout
    assert "   2 no such thing on this machine" in run.stdout


def test_with_ci_set_a_skip_is_a_failure(tmp_path: Path) -> None:
    run = run_tests(tmp_path, SKIPPING, CI="true")
    assert run.returncode == pytest.ExitCode.TESTS_FAILED
    assert "1 failed, 1 xfailed, 1 error" in run.stdout  # a mark skips before the test begins
    assert "everything a test needs has to be there: no such thing on this machine" in run.stdout


def test_with_ci_set_a_skipped_file_is_a_failure(tmp_path: Path) -> None:
    run = run_tests(tmp_path, "import pytest\npytest.importorskip('no_such_library')\n", CI="1")
    assert run.returncode != 0
    assert "no_such_library" in run.stdout


def test_what_stays_behind_fails_the_run_and_is_killed(tmp_path: Path) -> None:
    run = run_tests(tmp_path, LEAKING)
    left = [int((tmp_path / name).read_text()) for name in ("child", "daemon")]
    assert run.returncode == pytest.ExitCode.TESTS_FAILED
    assert "2 passed" in run.stdout
    assert "left behind by tests, and killed" in run.stdout
    assert all(f"{pid} " in run.stdout for pid in left[:1])
    assert run.stdout.count("sleep 600") == 2
    wait_until(lambda: not any(map(is_running, left)))


def test_of_several_processes_the_one_that_directs_them_tells_what_each_has_left(tmp_path: Path) -> None:
    run = run_tests(tmp_path, LEAKING + SKIPPING, "--numprocesses", "2")
    left = [int((tmp_path / name).read_text()) for name in ("child", "daemon")]
    assert run.returncode == pytest.ExitCode.TESTS_FAILED
    assert "2 passed, 2 skipped" in run.stdout
    assert "   2 no such thing on this machine" in run.stdout
    assert run.stdout.count("sleep 600") == 2
    wait_until(lambda: not any(map(is_running, left)))


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
