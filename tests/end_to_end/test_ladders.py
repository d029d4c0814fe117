"""Every attempt kept with its own output, and the steps of each with time, place in the log and actor, on a real host."""

import os
import re
import signal
from datetime import UTC, datetime, timedelta
from typing import Any

from support.installation import Installation
from support.waiting import wait_until

WITHIN = timedelta(seconds=60)
RETRY_INTERVAL = timedelta(seconds=6)
SCRIPT = (
    'n=$(($(cat "$HOME/ladder" 2>/dev/null || echo 0) + 1)); echo $n > "$HOME/ladder"; '
    'echo "try $n"; echo "trouble $n" >&2; [ $n -ge 3 ] || exit $((n + 10))'
)
STEPS = ["dispatched", "bound", "delivered", "started", "output", "output", "ended"]
NAMES = re.compile(r"(dispatcher|planner|agent)/[\w./-]+|user:\w+")


def document_of(installation: Installation, job: str) -> dict[str, Any]:
    """The job task over HTTP; its position in the live stream is the store's own."""
    (row,) = installation.json("job", "show", job, "--host", "web1", status=None)["job_tasks"]
    with installation.http() as http:
        document: dict[str, Any] = http.get(f"/job-tasks/{row['job_task_id']}").json()
    assert document["attempts_detail"] == row["attempts_detail"]
    return {name: value for name, value in document.items() if name != "position"}


def kinds(steps: list[dict[str, Any]]) -> list[str]:
    return [step["kind"] for step in steps]


def test_s54_s62_every_attempt_keeps_its_output_its_exit_status_and_its_ladder(checked: Installation) -> None:
    """S54, S62: also when the reporter is killed between two tries, and in a read model that is built anew."""
    options = ["--host", "web1", "--tries", "3", "--retry-interval", f"{RETRY_INTERVAL.seconds}s", "--async"]
    job = checked.run("exec", *options, "--", "sh", "-c", SCRIPT).stdout.strip()
    waiting, said = _while_it_waits(checked, job)
    assert (waiting["status"], waiting["tried"], waiting["tries"], waiting["attempts"]) == ("waiting", 1, 3, 1)
    assert re.search(r"host +web1 +waiting, next try at \d\d:\d\d:\d\d, in \d s: after exit status", said)
    assert re.search(r"tries +1 of 3 failed, 1 attempt", said)
    os.kill(checked.pid_of("reporter"), signal.SIGKILL)
    ended = checked.json("job", "watch", job, "--timeout", "100s", within_s=120)
    assert ended["counts"] == {"succeeded": 1}
    wait_until(lambda: len(document_of(checked, job)["attempts_detail"][2]["steps"]) == len(STEPS), within=WITHIN)

    document = document_of(checked, job)
    attempts = document["attempts_detail"]
    assert [one["exit_status"] for one in attempts] == [11, 12, 0]
    assert kinds(document["steps"]) == ["accepted", "planned", "verdict"]
    assert [kinds(one["steps"]) for one in attempts] == [[*STEPS, "next_try"], [*STEPS, "next_try"], STEPS]
    for n, one in enumerate(attempts, start=1):
        _check_output(checked, job, document["job_task_id"], n)
        _check_steps(one["steps"])
        assert one["streams"]["stdout"]["length"] == len("try 1\n")
    assert checked.run("job", "output", job, "--host", "web1").stdout == "try 3\n"
    missing = checked.run("job", "output", job, "--host", "web1", "--attempt", "4", status=None)
    assert missing.returncode != 0
    assert "it has 3" in missing.stderr

    ladder = _ladder(checked, job)
    rows = [line.split("\t") for line in ladder.splitlines()]
    expected = ["accepted", "planned", *STEPS, "next try", *STEPS, "next try", *STEPS, "verdict"]
    assert [row[1] for row in rows] == expected
    assert [row[0] for row in rows] == ["", "", *"1" * 8, *"2" * 8, *"3" * 7, ""]
    assert all(re.fullmatch(r"(\+.+)?", row[3]) and NAMES.fullmatch(row[4]) for row in rows)
    assert all(
        re.fullmatch(r"(planning|dispatch|execution)-events \d+:\d+|progress-reports \d+:\d+", r[5]) for r in rows
    )

    _build_read_model_anew(checked)
    wait_until(lambda: _is_again(checked, job, document), within=WITHIN)
    assert document_of(checked, job) == document
    assert _ladder(checked, job) == ladder
    for n in (1, 2, 3):
        _check_output(checked, job, document["job_task_id"], n)


def _while_it_waits(installation: Installation, job: str) -> tuple[dict[str, Any], str]:
    """The job task as HTTP and the command line show it between its first and its second try."""
    found: dict[str, Any] = {}
    wait_until(lambda: installation.json("job", "show", job, status=None)["job_tasks"], within=WITHIN)
    (row,) = installation.json("job", "show", job, status=None)["job_tasks"]

    def is_waiting() -> bool:
        found.update(http.get(f"/job-tasks/{row['job_task_id']}").json())
        return found["next_try_at"] is not None

    with installation.http() as http:
        wait_until(is_waiting, within=WITHIN)
    left = datetime.fromisoformat(found["next_try_at"]) - datetime.now(UTC)
    assert timedelta(0) < left < RETRY_INTERVAL
    return found, installation.run("job", "show", job, "--host", "web1", status=None).stderr


def _check_output(installation: Installation, job: str, job_task_id: str, n: int) -> None:
    """By the command line and over HTTP, also followed."""
    read = installation.run("job", "output", job, "--host", "web1", "--attempt", str(n))
    assert (read.stdout, read.stderr) == (f"try {n}\n", f"trouble {n}\n")
    followed = installation.run("job", "output", job, "--host", "web1", "--attempt", str(n), "--follow")
    assert (followed.stdout, followed.stderr) == (read.stdout, read.stderr)
    with installation.http() as http:
        answer = http.get(f"/job-tasks/{job_task_id}/output", params={"attempt": n, "stream": "stderr"})
    assert (answer.text, answer.headers["chargehand-attempt"]) == (f"trouble {n}\n", str(n))


def _check_steps(steps: list[dict[str, Any]]) -> None:
    """In the broker's order, none late, each with a place of its own, whoever said it."""
    heard = [step["heard_at"] for step in steps]
    assert heard == sorted(heard)
    assert not any(step["late"] or step["more"] for step in steps)
    assert all(NAMES.fullmatch(step["actor"]) for step in steps)
    places = [(step["topic"], step["partition"], step["offset"]) for step in steps if step["kind"] != "output"]
    assert len(set(places)) == len(places)


def _ladder(installation: Installation, job: str) -> str:
    return installation.run("job", "show", job, "--host", "web1", "--ladder").stdout


def _build_read_model_anew(installation: Installation) -> None:
    """The output stays: its store is the primary copy."""
    installation.stop()
    for path in (installation.data / "reporter").glob("reporter.db*"):
        path.unlink()
    installation.start()


def _is_again(installation: Installation, job: str, document: dict[str, Any]) -> bool:
    shown = installation.run("job", "show", job, "--host", "web1", "--output", "json", status=None)
    return shown.returncode == 0 and document_of(installation, job) == document


def test_a_ladder_is_that_of_one_host(checked: Installation) -> None:
    job = checked.exec("--host", "web2", "--host", "web3", command=["true"])["job_invocation_id"]
    for hosts in ((), ("--host", "web2", "--host", "web3"), ("--host", "web*")):
        refused = checked.run("job", "show", job, *hosts, "--ladder", status=None)
        assert refused.returncode != 0
        assert "--host NAME --ladder" in refused.stderr
    both = checked.run("job", "show", job, "--host", "web3", "--host", "web2").stdout.splitlines()
    assert [line.split("\t")[0] for line in both] == ["web3", "web2"]
    unknown = checked.run("job", "show", job, "--host", "web9", "--ladder", status=None)
    assert "none of the job's hosts" in unknown.stderr
    assert checked.json("job", "show", job, "--host", "web2", "--ladder")["job_tasks"][0]["steps"]
