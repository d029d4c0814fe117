"""The main job as its users see it, row by row (docs/requirements.md), through the command line, HTTP and the topics only."""

import asyncio
import hashlib
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from chargehand.checker.recording import InvocationLog
from chargehand.client.kafka import KafkaClient
from chargehand_chassis.kafka import KeyringFollower, Received, TopicFollower
from chargehand_chassis.keys import load_pinned_planner
from chargehand_schemas.accumulated import AccumulatedProgressReport
from chargehand_schemas.commands import Targeting
from chargehand_schemas.execution import AttemptEnded, AttemptStarted
from chargehand_schemas.notifications import JobInvocationEndedNotification
from chargehand_schemas.topics import ACCUMULATED_PROGRESS_REPORTS, EXECUTION_EVENTS, PROXY_COMMANDS
from support.installation import Installation
from support.sshd import SshdFleet

NAMES = [f"web{n}" for n in range(1, 7)]
HOSTS = [option for name in NAMES for option in ("--host", name)]


def spans(log: InvocationLog) -> list[tuple[datetime, datetime]]:
    """When each attempt ran, by its host's own report."""
    found = []
    for facts in log.facts.values():
        started = [e.item.started_at for e in facts if isinstance(e.item, AttemptStarted)]
        ended = [e.item.ended_at for e in facts if isinstance(e.item, AttemptEnded)]
        found.append((min(started), min(ended)))
    return found


def most_at_once(log: InvocationLog) -> int:
    """The largest number of attempts that ran at one instant."""
    steps = sorted([(start, 1) for start, _ in spans(log)] + [(end, -1) for _, end in spans(log)])
    most = running = 0
    for _, change in steps:
        running += change
        most = max(most, running)
    return most


def log_of(installation: Installation, document: dict[str, Any]) -> InvocationLog:
    return installation.recording().invocations[UUID(document["job_invocation_id"])]


def test_s1_a_job_runs_in_parallel_on_its_hosts(checked: Installation) -> None:
    """S1: six hosts sleep two seconds at the same time."""
    document = checked.exec(*HOSTS, command=["sleep", "2"])
    assert document["counts"] == {"succeeded": 6}
    assert most_at_once(log_of(checked, document)) == 6


def test_s3_s10_s23_a_plain_ssh_host_runs_the_command_of_a_template(checked: Installation, fleet: SshdFleet) -> None:
    """S3, S10, S23: nothing but sshd and sh on the host; the template "Run Command" of provider ssh."""
    document = checked.json("invoke", "Run Command", "--host", "web1", "--input", 'command=echo "$0 $HOME"; id -un')
    (job_task,) = document["job_tasks"]
    assert (document["status"], job_task["status"], job_task["exit_status"]) == ("succeeded", "succeeded", 0)
    done = checked.run("job", "output", document["job_invocation_id"], "--host", "web1")
    host = fleet.host("web1")
    assert str(host.home) in done.stdout
    assert host.user in done.stdout.splitlines()[-1]


def test_s5_progress_reports_are_folded_into_one_accumulated_report(checked: Installation) -> None:
    """S5: an AccumulatedProgressReport on its topic, with exit status, lengths, digest and tail."""
    document = checked.exec("--host", "web2", command=["sh", "-c", "echo one; echo two >&2; exit 3"], status=1)
    (job_task,) = document["job_tasks"]
    report = asyncio.run(last_accumulated(checked, UUID(job_task["job_task_id"])))
    stdout, stderr = report.streams["stdout"], report.streams["stderr"]  # type: ignore[index]
    assert (report.status, report.reason, report.exit_status) == ("failed", "exit_status", 3)
    assert (stdout.tail, stderr.tail, stdout.complete, stdout.newlines) == (b"one\n", b"two\n", True, 1)
    assert stdout.digest == hashlib.sha256(b"one\n").hexdigest()


async def last_accumulated(installation: Installation, job_task_id: UUID) -> AccumulatedProgressReport:
    """The last report of a job task, once it says that the job task has ended."""
    keyring = KeyringFollower(installation.kafka(), load_pinned_planner(installation.data / "keys/planner.pub.json"))
    topic = TopicFollower(installation.kafka(), [ACCUMULATED_PROGRESS_REPORTS.name])
    await keyring.start()
    await topic.start()
    try:
        async with asyncio.timeout(30):
            while True:
                for records in (await topic.getmany(200)).values():
                    for message in [await keyring.read(record) for record in records]:
                        assert isinstance(message, Received)
                        for item in message.items:
                            assert isinstance(item, AccumulatedProgressReport)
                            if item.job_task_id == job_task_id and item.status.is_verdict:
                                return item
    finally:
        await topic.stop()
        await keyring.stop()


def test_s7_commands_and_reports_travel_in_bulk_both_ways(checked: Installation) -> None:
    """S7: 600 hosts take far fewer messages than hosts, to the proxy and back."""
    before = asyncio.run(message_counts(checked))
    targets = ["--expect-hosts", "600", *(o for n in range(1, 601) for o in ("--host", f"sim{n:05d}"))]
    document = checked.exec(*targets, command=["uptime"])
    assert document["counts"] == {"succeeded": 600}
    after = asyncio.run(message_counts(checked))
    to_proxy = after[PROXY_COMMANDS.of("local")] - before[PROXY_COMMANDS.of("local")]
    from_proxy = after[EXECUTION_EVENTS.name] - before[EXECUTION_EVENTS.name]
    assert to_proxy <= 60
    assert from_proxy <= 3 * 60


async def message_counts(installation: Installation) -> Counter[str]:
    topics = TopicFollower(installation.kafka(), [PROXY_COMMANDS.of("local"), EXECUTION_EVENTS.name])
    await topics.start()
    try:
        counts: Counter[str] = Counter()
        for partition, end in (await topics.end_offsets()).items():
            counts[partition.topic] += end
        return counts
    finally:
        await topics.stop()


def test_s28_the_command_line_runs_a_job_and_its_exit_status_tells(checked: Installation) -> None:
    """S28: 0 when every host succeeded, 1 when one did not, with equal output gathered under folded names."""
    good = checked.run("exec", *HOSTS, "--", "echo", "hello")
    assert "web[1-6]" in good.stdout
    assert good.stdout.count("hello") == 1
    bad = checked.run("exec", *HOSTS, "--", "sh", "-c", "case $HOME in *web3*) exit 9;; esac; echo fine", status=1)
    assert "web3" in bad.stdout
    assert "9" in bad.stdout


def test_s29_hosts_are_named_by_their_ids(checked: Installation) -> None:
    """S29: a selection of hosts by id, as checkboxes give it, through HTTP."""
    with checked.http() as http:
        ids = {
            row["host"]["name"]: row["host_id"] for row in http.get("/hosts", params={"name": "web"}).json()["items"]
        }
        chosen = [ids["web2"], ids["web5"]]
        answer = http.post("/job-invocations", json={"targeting": {"host_ids": chosen}, "inputs": {"command": "true"}})
        assert answer.status_code == 201, answer.text
        location = answer.headers["location"]
    document = checked.json("job", "watch", location.rpartition("/")[2])
    assert {row["host"] for row in document["job_tasks"]} == {"web2", "web5"}


def test_s56_no_more_hosts_run_at_once_than_the_concurrency_allows(checked: Installation) -> None:
    """S56: six hosts, two at a time, by the hosts' own times and by the log (the checker)."""
    document = checked.exec(*HOSTS, "--concurrency", "2", command=["sleep", "0.5"])
    log = log_of(checked, document)
    assert most_at_once(log) == 2
    assert log.scheduled is not None
    assert log.scheduled.properties.concurrency == 2


def test_s63_one_host_shows_state_output_and_exit_status(checked: Installation) -> None:
    """S63, through HTTP: output by offset and by Range, both streams, exact bytes."""
    document = checked.exec(
        "--host", "web4", command=["sh", "-c", "printf 'a\\377\\000b'; echo err >&2; exit 4"], status=1
    )
    (job_task,) = document["job_tasks"]
    with checked.http() as http:
        path = f"/job-tasks/{job_task['job_task_id']}"
        shown = http.get(path).json()
        assert (shown["status"], shown["reason"], shown["exit_status"]) == ("failed", "exit_status", 4)
        whole = http.get(f"{path}/output", params={"stream": "stdout"})
        assert (whole.content, whole.headers["x-content-type-options"]) == (b"a\xff\x00b", "nosniff")
        assert http.get(f"{path}/output", params={"stream": "stdout", "offset": 2}).content == b"\x00b"
        part = http.get(f"{path}/output", params={"stream": "stdout"}, headers={"Range": "bytes=1-2"})
        assert (part.status_code, part.content) == (206, b"\xff\x00")
        assert http.get(f"{path}/output", params={"stream": "stderr"}).content == b"err\n"


def test_s64_a_bulk_job_shows_how_many_succeeded_failed_and_wait(checked: Installation) -> None:
    """S64: while it runs and when it has ended."""
    command = ["sh", "-c", "case $HOME in *web1|*web2) exit 1;; esac; sleep 1"]
    started = checked.json("exec", *HOSTS, "--concurrency", "3", "--async", "--", *command)
    identity = started["job_invocation_id"]
    with checked.http() as http:
        seen = []
        for _ in range(600):
            document = http.get(f"/job-invocations/{identity}").json()
            seen.append(document["counts"])
            if document["ended_at"]:
                break
            time.sleep(0.02)
    assert document["counts"] == {"succeeded": 4, "failed": 2}
    assert document["reasons"] == {"exit_status": 2}
    assert any(counts.get("waiting") for counts in seen)
    assert all(sum(counts.values()) in (0, 6) for counts in seen)


def test_s69_the_log_of_one_host_is_seen_while_it_grows(checked: Installation) -> None:
    """S69: each line arrives within a second of being written, long before the end."""
    command = ["sh", "-c", "for n in 1 2 3 4; do date +%s.%N; sleep 0.7; done"]
    started = checked.json("exec", "--host", "web6", "--async", "--", *command)
    with checked.http() as http:
        listed = http.get(f"/job-invocations/{started['job_invocation_id']}/job-tasks").json()["items"]
        path = f"/job-tasks/{listed[0]['job_task_id']}/output"
        delays: list[float] = []
        with http.stream("GET", path, params={"stream": "stdout", "follow": "true"}) as answer:
            for line in answer.iter_lines():
                delays.append(time.time() - float(line))
    assert len(delays) == 4
    assert max(delays) < 2.0
    assert checked.run("job", "watch", started["job_invocation_id"]).returncode == 0


def test_an_enrolled_program_runs_a_job_over_kafka_and_is_told_its_end(checked: Installation, tmp_path: Path) -> None:
    """All three ways of use: a signed InvokeJob from the Python client, HTTP to read, notifications to be told."""
    token = tmp_path / "token"
    checked.run("proxy", "enrol", "nightly", "--role", "service_account", "--token-file", str(token))
    document = asyncio.run(run_over_kafka(checked, token.read_text().strip(), tmp_path / "nightly.json"))
    assert (document.status, document.counts) == ("succeeded", {"succeeded": 2})
    with checked.http() as http:
        shown = http.get(f"/job-invocations/{document.job_invocation_id}").json()
    assert (shown["status"], shown["actor"]) == ("succeeded", "service:nightly")


async def run_over_kafka(installation: Installation, token: str, key_file: Path) -> JobInvocationEndedNotification:
    planner = installation.data / "keys" / "planner.pub.json"
    await KafkaClient.enrol(installation.kafka(), token, key_file=key_file, planner_key_file=planner)
    async with KafkaClient(installation.kafka(), key_file=key_file, planner_key_file=planner) as client:
        heard = client.notifications()
        accepted = await client.invoke(targeting=Targeting(host_names=("web1", "web3")), inputs={"command": "true"})
        async with asyncio.timeout(60):
            async for event in heard:
                item = event.item
                if (
                    isinstance(item, JobInvocationEndedNotification)
                    and item.job_invocation_id == accepted.job_invocation_id
                ):
                    return item
    raise AssertionError("no notification")
