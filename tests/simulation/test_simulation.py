"""The simulation: the real cores under faults keep every promise, and a run is the same whenever and wherever it is run."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from chargehand.simulation import FAULTS, Fault, draw, run, shrink
from chargehand.simulation.series import run_series

SEEDS = 500


def test_500_seeds_of_all_faults_break_no_promise_and_repeat_bit_for_bit() -> None:
    series = run_series(range(SEEDS), twice_every=100)
    assert series.failed == [], series.failure and "\n".join(series.failure.story[-100:])
    assert series.differing == []
    assert series.job_tasks > 1500 and len(series.verdicts) >= 8, "the seeds bring about most kinds of ends"


@pytest.mark.parametrize("kind", FAULTS)
def test_each_kind_of_fault_alone_breaks_no_promise(kind: str) -> None:
    assert run_series(range(20), faults=(kind,), twice_every=0).failed == []


def test_without_faults_every_job_task_ends_by_its_own_exit_status() -> None:
    outcome = run(draw(7, 300, ()))
    assert outcome.broken == () and outcome.job_tasks == 300
    assert set(dict(outcome.verdicts)) == {"succeeded", "exit_status"}
    assert sum(dict(outcome.verdicts).values()) == 300


def test_a_run_is_the_same_in_another_process_with_other_hashes() -> None:
    script = "from chargehand.simulation import draw, run; print([run(draw(seed)).digest for seed in range(10)])"
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_the_story_does_not_change_the_run() -> None:
    plain, told = run(draw(11)), run(draw(11), is_told=True)
    assert replace(told, story=()) == plain and told.story


def test_shrinking_leaves_what_is_needed_to_fail_and_nothing_else() -> None:
    guilty = Fault(1.0, "cut", 0, 5.0)
    scenario = draw(3)
    scenario = replace(scenario, faults=(*scenario.faults, guilty))
    shorter = shrink(scenario, lambda one: guilty in one.faults)
    assert shorter.faults == (guilty,)
    assert len(shorter.invocations) == 1 and shorter.invocations[0].hosts == 1
    assert shorter.agents == 1 and shorter.dispatchers == 1


def test_an_unknown_kind_of_fault_is_refused() -> None:
    with pytest.raises(ValueError, match="no such kind of fault: earthquake; known: slow"):
        draw(1, None, ("earthquake",))


# --- the command


def _simulate(*arguments: str, planted: str = "") -> subprocess.CompletedProcess[str]:
    plant = f"from mutants.__main__ import MUTANTS; from mutants.planting import plant; plant(MUTANTS[{planted!r}])"
    script = f"import sys; {plant if planted else ''}\nfrom chargehand.main import run; sys.exit(run(sys.argv[1:]))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, "simulate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_the_command_tells_what_was_run_and_that_nothing_broke() -> None:
    done = _simulate("--hosts", "20", "--seed", "5", "--faults", "cut,reboot", "--output", "json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["seeds"] == 1 and document["failed_seeds"] == [] == document["differing_seeds"]
    assert document["job_tasks"] == sum(document["verdicts"].values()) > 0


def test_the_command_tells_the_story_of_a_run() -> None:
    done = _simulate("--seed", "5", "--faults", "none", "--hosts", "1", "--story")
    assert done.returncode == 0
    assert "AttemptDue" in done.stdout and "JobInvocationEnded" in done.stdout and "promises broken: 0" in done.stdout


def test_a_broken_promise_is_exit_status_1_with_its_seed_and_the_shortest_story() -> None:
    done = _simulate("--seed", "0", "--seeds", "20", planted="CANC")
    assert done.returncode == 1
    assert "broken at seed" in done.stderr and "the shortest scenario found that still breaks it" in done.stderr
    assert "CancelRequested" in done.stderr and "JobTaskEnded" in done.stderr


def test_an_unknown_kind_of_fault_is_refused_in_words() -> None:
    done = _simulate("--faults", "earthquake")
    assert done.returncode == 2
    assert "there is no kind of fault called 'earthquake'" in done.stderr and "slow" in done.stderr
