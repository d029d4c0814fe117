"""Children that die with their parent, and marks by which a process is known again."""

import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from chargehand.embedded.processes import BoundProcess, ProcessMark, end, mark_of, own_mark
from support.waiting import wait_until

SOON = timedelta(seconds=5)
PARENT = """
import sys, time
from pathlib import Path
from chargehand.embedded.processes import BoundProcess
child = BoundProcess(["/bin/sleep", "600"], directory=Path("/"), environment={}, output=Path(sys.argv[1]))
print(child.pid, flush=True)
time.sleep(600)
"""


def start(argv: list[str], tmp_path: Path) -> BoundProcess:
    return BoundProcess(argv, directory=tmp_path, environment={"ONLY": "this"}, output=tmp_path / "output")


def test_a_process_is_known_by_its_mark_until_it_ends(tmp_path: Path) -> None:
    process = start(["/bin/sleep", "600"], tmp_path)
    mark = mark_of(process.pid)
    assert mark is not None
    assert mark.is_running()
    assert not ProcessMark(mark.pid, "another time").is_running()
    process.stop(SOON)
    assert not mark.is_running()
    assert process.exit_status() == -signal.SIGTERM


def test_our_own_process_has_a_mark() -> None:
    assert own_mark() == mark_of(os.getpid())


def test_it_has_its_own_session_our_choice_of_environment_and_its_output_in_a_file(tmp_path: Path) -> None:
    process = start(["/bin/sh", "-c", 'echo "$ONLY $HOME"; exec sleep 600'], tmp_path)
    child = psutil.Process(process.pid)
    assert os.getsid(process.pid) == process.pid
    wait_until(lambda: (tmp_path / "output").read_text() == "this \n")
    assert child.ppid() == os.getpid()
    assert (tmp_path / "output").stat().st_mode & 0o777 == 0o600
    process.stop(SOON)


def test_what_does_not_heed_sigterm_is_killed(tmp_path: Path) -> None:
    process = start(["/bin/sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done"], tmp_path)
    wait_until(lambda: (tmp_path / "output").read_text() == "deaf\n")
    process.stop(timedelta(seconds=0.2))
    assert process.exit_status() == -signal.SIGKILL


def test_someone_elses_child_is_ended_by_its_mark(tmp_path: Path) -> None:
    process = start(["/bin/sleep", "600"], tmp_path)
    mark = mark_of(process.pid)
    assert mark is not None
    assert end(mark, SOON)
    assert not mark.is_running()


def test_a_program_that_does_not_exist_ends_at_once_and_says_so(tmp_path: Path) -> None:
    process = start(["/no/such/program"], tmp_path)
    wait_until(lambda: process.exit_status() is not None)
    assert "No such file" in (tmp_path / "output").read_text()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a child with its parent")
def test_a_child_is_gone_when_its_parent_was_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "output")], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent, parent.stdout:
        child = mark_of(int(parent.stdout.readline()))
        assert child is not None
        parent.kill()
    wait_until(lambda: not child.is_running())
