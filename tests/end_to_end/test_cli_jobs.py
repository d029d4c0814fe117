"""The command line against a running installation: what it prints where, and its exit statuses."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.installation import Installation


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation with 60 simulated hosts."""
    made = Installation(tmp_path_factory.mktemp("cli") / "data")
    try:
        made.start()
        made.import_simulated(60)
        yield made
    finally:
        made.stop()


def test_data_goes_to_stdout_and_all_else_to_stderr(small: Installation) -> None:
    done = small.run("exec", "--host", "sim00001", "--output", "json", "--", "true")
    document = json.loads(done.stdout)
    assert (document["status"], document["counts"]) == ("succeeded", {"succeeded": 1})
    assert "page http://" in done.stderr


def test_a_host_that_does_not_exist_is_refused_with_one_that_does(small: Installation) -> None:
    done = small.run("exec", "--host", "sim0001", "--", "true", status=2)
    assert "no such host" in done.stderr
    assert "sim00001" in done.stderr


def test_a_template_that_does_not_exist_is_refused(small: Installation) -> None:
    assert "no such template" in small.run("invoke", "Run Comand", "--host", "sim00001", status=2).stderr


def test_without_a_terminal_many_hosts_must_be_said_beforehand(small: Installation) -> None:
    done = small.run("exec", "--all", "--", "true", status=2)
    assert "--expect-hosts 60" in done.stderr
    assert "60 were expected" not in small.run("exec", "--all", "--expect-hosts", "60", "--", "true").stderr
    refused = small.run("exec", "--all", "--expect-hosts", "59", "--", "true", status=2)
    assert "unexpected hosts" in refused.stderr


def test_on_a_terminal_the_number_is_typed(small: Installation) -> None:
    assert ask_on_a_terminal(small, "59\n") == 2
    assert ask_on_a_terminal(small, "60\n") == 0


def ask_on_a_terminal(installation: Installation, answer: str) -> int:
    """`exec --all` with a terminal of its own, and what is typed there."""
    environment = {**os.environ, "CHARGEHAND_DATA": str(installation.data), "TERM": "xterm"}
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "chargehand", "exec", "--all", "--", "true"],
            stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        said = b""
        while b"Type the number" not in said:
            said += os.read(ours, 4096)
        os.write(ours, answer.encode())
        drain(ours)
        return process.wait(60)
    finally:
        os.close(ours)


def drain(descriptor: int) -> None:
    try:
        while os.read(descriptor, 65_536):
            pass
    except OSError:
        return  # the other end is closed: it has ended


def test_a_wrong_token_exits_4(small: Installation, tmp_path: Path) -> None:
    environment = {**os.environ, "CHARGEHAND_TOKEN": "cgt_wrong", "CHARGEHAND_SERVER": small.banner["server"]}
    done = subprocess.run(
        [sys.executable, "-m", "chargehand", "job", "list"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4
    assert "who you are" in done.stderr


def test_watching_times_out_and_the_job_goes_on(small: Installation) -> None:
    document = small.json("exec", "--host", "sim00002", "--start-at", "+1h", "--async", "--", "true")
    done = small.run("job", "watch", document["job_invocation_id"], "--timeout", "1s", status=124)
    assert "the job goes on" in done.stderr
    assert "chargehand job cancel" in done.stderr
    small.run("job", "cancel", document["job_invocation_id"])
    assert small.run("job", "watch", document["job_invocation_id"], status=1)


def test_ctrl_c_stops_watching_only(small: Installation) -> None:
    document = small.json("exec", "--host", "sim00003", "--start-at", "+1h", "--async", "--", "true")
    environment = {**os.environ, "CHARGEHAND_DATA": str(small.data)}
    process = subprocess.Popen(
        [sys.executable, "-m", "chargehand", "job", "watch", "@last"],
        env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(2)  # it says nothing while nothing happens: there is no event to wait for
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "the job goes on" in errors
    assert small.json("job", "show", document["job_invocation_id"][:8])["status"] in ("scheduled", "running")
    small.run("job", "cancel", document["job_invocation_id"][:8])


def test_cancelling_what_is_over_is_refused(small: Installation) -> None:
    small.exec("--host", "sim00004", command=["true"])
    assert "already ended" in small.run("job", "cancel", "@last", status=2).stderr


def test_a_job_that_failed_makes_show_and_watch_exit_1(small: Installation) -> None:
    document = small.exec("--host", "sim00005", command=["false"], status=None)
    if document["status"] == "failed":
        small.run("job", "show", "@last", status=1)
        small.run("job", "watch", "@last", status=1)


def test_lists_are_lines_for_programs(small: Installation) -> None:
    rows = small.run("host", "list", "sim0000", "--output", "jsonl").stdout.splitlines()
    assert [json.loads(row)["host"]["name"] for row in rows] == [f"sim{n:05d}" for n in range(1, 10)]
    small.exec("--host", "sim00001", command=["true"])
    newest = json.loads(small.run("job", "list", "--limit", "1", "--output", "jsonl").stdout)
    assert newest["status"] == "succeeded"


def test_an_import_says_what_changes_and_a_dry_run_changes_nothing(small: Installation, tmp_path: Path) -> None:
    file = tmp_path / "hosts.csv"
    file.write_text("name,address,provider\nsim00001,,simulated\nextra1,10.0.0.1,simulated\n")
    assert small.run("host", "import", str(file), "--dry-run").stdout.splitlines()[-1] == (
        "1 would be registered, 0 would be changed, 1 would be unchanged"
    )
    assert small.run("host", "import", str(file)).stdout == "1 registered, 0 changed, 1 unchanged\n"
    file.write_text("name,address,provider\nextra1,10.0.0.2,simulated\n")
    assert small.run("host", "import", str(file)).stdout == "0 registered, 1 changed, 0 unchanged\n"
    assert small.json("host", "show", "extra1")["host"]["address"] == "10.0.0.2"
    assert small.run("host", "remove", "extra1", status=2)
    assert small.run("host", "remove", "extra1", "--yes").stdout == "1 removed\n"
    assert small.run("host", "show", "extra1", status=2)


def test_events_are_read_from_kafka_and_verified(small: Installation) -> None:
    small.exec("--host", "sim00001", command=["true"])
    done = small.run("event", "tail", "notifications", "--from", "beginning", "--no-follow", "--output", "jsonl")
    types = [json.loads(line)["type"] for line in done.stdout.splitlines()]
    assert "chargehand.job-invocation.ended.v1" in types
    assert not any("no effect" in name for name in types)


def test_the_proxy_and_its_agent_are_listed(small: Installation) -> None:
    (row,) = small.json("proxy", "list")
    assert (row["proxy"], row["agents"]) == ("local", ["local-1"])


def test_a_one_time_token_is_written_for_its_owner_only(small: Installation, tmp_path: Path) -> None:
    file = tmp_path / "north.token"
    small.run("proxy", "enrol", "north", "--token-file", str(file))
    assert file.stat().st_mode & 0o077 == 0
    assert file.read_text().startswith("cge_")
    assert small.run("proxy", "enrol", "north", "--token-file", str(file), status=2)
