"""`up` and its like on a real stack: started, found again, refused twice, killed, stopped; and what it says meanwhile."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest
from chargehand.config import DEFAULT_PORT
from support.installation import Installation
from support.waiting import wait_until


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Installation]:
    """An installation of this test alone, with three simulated hosts; not started."""
    made = Installation(tmp_path / "data")
    yield made
    made.stop()


def below(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


def is_back(installation: Installation, service: str, old: int) -> bool:
    """Whether a service is ready in another process than before."""
    rows = installation.json("status", status=None)["services"]
    return any(row["name"] == service and row["status"] == "ready" and row["pid"] != old for row in rows)


def test_what_was_started_is_found_again_by_the_next_start(own: Installation) -> None:
    own.start()
    own.import_simulated(3)
    own.stop()
    own.start()
    assert [row["host"]["name"] for row in own.json("host", "list")] == ["sim00001", "sim00002", "sim00003"]


def test_status_names_every_process_and_who_said_which_server(own: Installation) -> None:
    own.start()
    document = own.json("status")
    assert (document["status"], document["server"]) == ("ready", own.banner["server"])
    assert document["origin"] == f"{own.data} (CHARGEHAND_DATA in the environment)"
    rows = {row["name"]: row for row in document["services"]}
    assert set(rows) == {"kafka", "planner", "dispatcher", "proxy-agent", "reporter", "gateway"}
    assert {row["status"] for row in rows.values()} == {"ready"}
    assert rows["gateway"]["address"] == own.banner["server"]
    assert all(psutil.pid_exists(row["pid"]) for row in rows.values())


def test_a_second_up_on_the_same_data_is_refused_and_names_the_first(own: Installation) -> None:
    own.start()
    done = own.run("up", status=2)
    assert f"process {own.banner['pid']} is running it" in done.stderr
    assert own.json("status")["status"] == "ready"


def test_the_login_link_works_once(own: Installation) -> None:
    own.start()
    with httpx.Client(trust_env=False) as browser:
        first = browser.get(own.banner["login_url"])
        assert first.is_redirect
        assert "code" not in first.headers["location"]
        page = own.banner["server"] + first.headers["location"]
        assert browser.get(page, headers={"Accept": "text/html"}).status_code == 200
    with httpx.Client(trust_env=False) as another:
        again = another.get(own.banner["login_url"])
        assert not again.is_redirect
        assert another.get(own.banner["server"] + "/status").status_code == 401
    assert own.run("open", "--no-browser").stdout.startswith(own.banner["server"] + "/login?code=")


def test_a_port_that_is_taken_is_changed_for_the_next_and_said_aloud(own: Installation) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", DEFAULT_PORT))
        except OSError:
            pass  # another installation has it: the better
        else:
            taken.listen()
        own.start()
        assert own.banner["server"] != f"http://127.0.0.1:{DEFAULT_PORT}"
    said = (own.data.parent / "data.up.stderr").read_text()
    assert f"port {DEFAULT_PORT} is taken; the page is on port" in said


def test_nothing_survives_a_killed_supervisor_and_the_next_start_finds_everything(own: Installation) -> None:
    own.start()
    own.import_simulated(3)
    own.exec("--host", "sim00001", command=["true"])
    children = below(own.banner["pid"])
    assert len(children) >= 6
    own.kill_tree()
    wait_until(lambda: gone(children), within=timedelta(seconds=30))
    own.start()
    assert len(own.json("host", "list")) == 3
    assert [job["status"] for job in own.json("job", "list")] == ["succeeded"]


def test_a_stop_takes_no_longer_than_ten_seconds_with_an_event_stream_open(own: Installation) -> None:
    own.start()
    own.import_simulated(1)
    document = own.json("exec", "--host", "sim00001", "--start-at", "+1h", "--async", "--", "true")
    children = below(own.banner["pid"])
    headers = {"Accept": "text/event-stream"}
    with (
        own.http() as http,
        http.stream("GET", f"/job-invocations/{document['job_invocation_id']}/events", headers=headers) as stream,
    ):
        assert stream.status_code == 200
        began = time.monotonic()
        own.stop()
        assert time.monotonic() - began < 20  # ten for the services, ten for Kafka after them
    assert gone(children)


def test_detached_it_returns_when_everything_answers_and_down_ends_it(own: Installation) -> None:
    banner = own.json("up", "--detach")
    try:
        assert own.json("status")["pid"] == banner["pid"]
        processes = [psutil.Process(banner["pid"]), *below(banner["pid"])]
        assert own.run("up", "--detach", status=2).stderr.startswith("error: ")
    finally:
        own.run("down")
    assert gone(processes)
    assert own.json("status", status=3)["status"] == "stopped"
    assert "nothing runs" in own.run("down").stderr


def test_a_service_that_is_killed_is_started_again(own: Installation) -> None:
    own.start()
    own.import_simulated(1)
    for service in ("gateway", "reporter", "dispatcher", "planner", "proxy-agent"):
        pid = own.pid_of(service)
        os.kill(pid, signal.SIGKILL)
        wait_until(partial(is_back, own, service, pid), within=timedelta(seconds=30))
    assert own.exec("--host", "sim00001", command=["true"])["status"] == "succeeded"


def test_no_secret_is_an_argument_or_in_an_environment(own: Installation) -> None:
    own.start()
    token = json.loads((own.data / "client.json").read_text())["token"]
    secrets = [token, (Path(own.banner["kafka"]["password_file"])).read_text().strip()]
    secrets += [
        seed
        for path in (own.data / "keys").glob("*.json")
        if "pub" not in path.name
        for seed in json.loads(path.read_text()).values()
    ]
    for process in [psutil.Process(own.banner["pid"]), *below(own.banner["pid"])]:
        told = [*process.cmdline(), *process.environ().values()]
        assert not any(secret in text for secret in secrets for text in told), process.name()


def test_a_data_directory_that_is_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    done = Installation(tmp_path).run("up", status=2)
    assert "holds other files" in done.stderr
    assert subprocess.run(["ls", tmp_path], capture_output=True, text=True, check=True).stdout == "letter.txt\n"
