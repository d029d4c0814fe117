"""What users do wrong, and what hosts do: a clear answer, the right exit status, nothing changed, the others unhindered."""

import asyncio
import json
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from chargehand_chassis.kafka import connection
from chargehand_schemas.topics import COMMANDS, DISPATCH_EVENTS, EXECUTION_EVENTS, PLANNING_EVENTS, PROGRESS_REPORTS
from support.installation import Installation
from support.sshd import SshdFleet


def test_no_such_host_is_refused_and_named(checked: Installation) -> None:
    done = checked.run("exec", "--host", "wbe1", "--", "true", status=2)
    assert "wbe1" in done.stderr
    assert "web1" in done.stderr


def test_no_such_template_is_refused(checked: Installation) -> None:
    done = checked.run("invoke", "Run Comand", "--host", "web1", status=2)
    assert "Run Comand" in done.stderr


def test_an_unknown_or_missing_input_is_refused(checked: Installation) -> None:
    assert "comand" in checked.run("invoke", "Run Command", "--host", "web1", "--input", "comand=ls", status=2).stderr
    assert "command" in checked.run("invoke", "Run Command", "--host", "web1", status=2).stderr


def test_all_hosts_need_a_word_without_a_terminal(checked: Installation) -> None:
    done = checked.run("exec", "--all", "--", "true", status=2)
    assert "--yes" in done.stderr
    wrong = checked.run("exec", "--all", "--expect-hosts", "3", "--", "true", status=2)
    assert "3" in wrong.stderr


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("hosts.csv", "name,port\nweb77,22\nweb78,many\n", "3"),
        ("hosts.jsonl", '{"name": "web77"}\n{"name": \n', "2"),
        ("hosts.jsonl", '{"name": "-oProxyCommand=id"}\n', "1"),
        ("hosts.csv", "name,address\nweb77,a b\n", "2"),
    ],
)
def test_an_unreadable_inventory_changes_nothing_and_names_file_and_line(
    checked: Installation, tmp_path: Path, name: str, text: str, line: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    done = checked.run("host", "import", str(path), status=2)
    assert name in done.stderr
    assert line in done.stderr
    with checked.http() as http:
        assert http.get("/hosts", params={"name": "web77"}).json()["items"] == []


def test_http_without_a_token_or_from_a_foreign_page_is_refused(checked: Installation) -> None:
    with checked.http() as http:
        assert http.get("/job-invocations", headers={"Authorization": ""}).status_code == 401
        foreign = http.post("/job-invocations", json={}, headers={"Origin": "https://evil.example"})
        assert foreign.status_code == 403
        assert http.get("/job-invocations", headers={"Host": "evil.example"}).status_code in (400, 403, 421)
        assert foreign.headers["content-type"] == "application/problem+json"


async def test_malformed_unsigned_and_unknown_messages_have_no_effect_and_stop_no_partition(
    checked: Installation,
) -> None:
    producer = AIOKafkaProducer(**connection(checked.kafka()))
    await producer.start()
    topics = (COMMANDS, PLANNING_EVENTS, DISPATCH_EVENTS, EXECUTION_EVENTS, PROGRESS_REPORTS)
    for topic in topics:
        for partition in range(checked.kafka().partitions):
            for value in (b"", b"\xff\xfe", b"{", b'{"items":[{}]}', b"[" * 10_000, b"x" * 900_000):
                headers = [("ce_specversion", b"1.0"), ("ce_type", b"chargehand.attempt.due.v9")]
                await producer.send_and_wait(topic.name, value, partition=partition, headers=headers)
    await producer.stop()
    document = await asyncio.to_thread(checked.exec, "--host", "web1", command=["echo", "alive"])
    assert document["counts"] == {"succeeded": 1}


def test_a_host_that_cannot_be_reached_hinders_no_other(checked: Installation, fleet: SshdFleet) -> None:
    fleet.power_off("web5")
    try:
        targets = [option for name in ("web4", "web5", "web6") for option in ("--host", name)]
        document = checked.exec(*targets, command=["true"], status=1)
    finally:
        fleet.power_on("web5")
    by_host = {row["host"]: (row["status"], row["reason"]) for row in document["job_tasks"]}
    assert by_host["web5"] == ("failed", "could_not_connect")
    assert by_host["web4"] == by_host["web6"] == ("succeeded", None)


def test_a_changed_host_key_is_a_verdict_and_nothing_is_sent(checked: Installation, fleet: SshdFleet) -> None:
    marker = fleet.host("web2").home / "ran-under-a-changed-key"
    checked.exec("--host", "web2", command=["true"])
    fleet.change_host_key("web2")
    try:
        document = checked.exec("--host", "web2", command=["touch", str(marker)], status=1)
        (job_task,) = document["job_tasks"]
        assert job_task["reason"] == "could_not_connect"
        assert "key" in job_task["detail"]
        assert not marker.exists()
    finally:
        checked.import_hosts([fleet.host("web2")])
    assert checked.exec("--host", "web2", command=["true"])["counts"] == {"succeeded": 1}


def test_json_errors_are_for_programs(checked: Installation) -> None:
    with checked.http() as http:
        answer = http.post(
            "/job-invocations", json={"targeting": {"host_names": ["nobody"]}, "inputs": {"command": "x"}}
        )
    problem = json.loads(answer.content)
    assert (answer.status_code, problem["code"]) == (422, "no_such_host")
    assert "nobody" in problem["detail"]
