"""`python -m support.prepare`: says what it does, and on a prepared machine that is nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import prepare
from support.daemons import find_program

TESTS = Path(__file__).parents[2]


@pytest.mark.skipif(
    any(find_program(program) is None for program, _, _ in prepare.NEEDED), reason="not everything tests need is here"
)
def test_a_prepared_machine_is_left_alone(kafka_home: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "support.prepare"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_nothing_is_started_while_packages_are_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    monkeypatch.setattr(prepare, "_POLICY", policy)
    with prepare._nothing_started():
        assert subprocess.run([policy, "ssh", "start"], check=False).returncode == 101
    assert not policy.exists()
