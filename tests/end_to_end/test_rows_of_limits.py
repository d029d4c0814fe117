"""Limits that change, batches that halt, cancels that ask what else: rows S55, S56, S60 and S107 as their users see them."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from chargehand.client.kafka import KafkaClient
from chargehand_schemas.commands import TemplateInput
from chargehand_schemas.dispatch import AttemptDue, ConcurrencyChanged
from chargehand_schemas.properties import ExecutionProperties
from support.installation import Installation
from support.sshd import SshdFleet
from support.waiting import wait_until

NAMES = [f"web{n}" for n in range(1, 7)]
WITHIN = timedelta(seconds=20)


def on(*names: str) -> list[str]:
    return [option for name in names for option in ("--host", name)]


def begun(installation: Installation, *options: str, command: list[str]) -> str:
    """A job that is not watched: its id."""
    return installation.run("exec", *options, "--async", "--", *command).stdout.strip()


def document(installation: Installation, job: str) -> Any:
    return installation.json("job", "show", job, status=None)


def statuses(installation: Installation, job: str) -> list[str]:
    return sorted(row["status"] for row in document(installation, job)["job_tasks"])


def file_of(fleet: SshdFleet, name: str, file: str) -> Path:
    return Path(next(host.home for host in fleet.hosts if host.name == name)) / file


WAIT_FOR_FILE = ["sh", "-c", 'until [ -e "$HOME/go" ]; do sleep 0.05; done']


@pytest.fixture
def gate(fleet: SshdFleet) -> Any:
    """Lets jobs that wait for the file `go` go on, on some hosts or all."""

    def let_go(*names: str) -> None:
        for name in names or NAMES:
            file_of(fleet, name, "go").touch()

    yield let_go
    let_go()
    for name in NAMES:
        file_of(fleet, name, "go").unlink(missing_ok=True)


def test_s56_the_concurrency_of_a_running_job_is_changed(checked: Installation, gate: Any) -> None:
    """S56: raised, more start at once; lowered, what runs, runs out. An edit of what has ended is refused."""
    job = begun(checked, *on(*NAMES), "--concurrency", "1", command=WAIT_FOR_FILE)
    wait_until(lambda: statuses(checked, job).count("running") == 1, within=WITHIN)
    checked.run("job", "edit", job, "--concurrency", "3")
    wait_until(lambda: statuses(checked, job).count("running") == 3, within=WITHIN)
    assert "at most 3 at once" in checked.run("job", "show", job).stderr
    checked.run("job", "edit", job, "--concurrency", "1")
    gate()
    checked.run("job", "watch", job)
    log = checked.recording().invocations[UUID(job)]
    spoken = [entry.item for entry in log.dispatch if isinstance(entry.item, AttemptDue | ConcurrencyChanged)]
    limits = [item.concurrency for item in spoken if isinstance(item, ConcurrencyChanged)]
    assert limits == [3, 1]
    refused = checked.run("job", "edit", job, "--concurrency", "2", status=2)
    assert "ended" in refused.stderr


def test_s56_a_proxy_has_a_size_that_holds_over_all_jobs(checked: Installation, gate: Any) -> None:
    """S56: two jobs together take no more of a proxy than it was given, and more at once when it is given more."""
    proxy = "local"
    checked.run("proxy", "edit", proxy, "--concurrency", "2")
    try:
        jobs = [begun(checked, *on(*names), command=WAIT_FOR_FILE) for names in (NAMES[:3], NAMES[3:])]
        wait_until(lambda: sum(statuses(checked, one).count("running") for one in jobs) == 2, within=WITHIN)
        shown = {row["proxy"]: row["concurrency"] for row in checked.json("proxy", "list")}
        assert shown[proxy] == 2
        checked.run("proxy", "edit", proxy, "--concurrency", "4")
        wait_until(lambda: sum(statuses(checked, one).count("running") for one in jobs) == 4, within=WITHIN)
        gate()
        for one in jobs:
            checked.run("job", "watch", one)
    finally:
        checked.run("proxy", "edit", proxy, "--concurrency", "default")
    dues = [due for one in jobs for due in checked.recording().invocations[UUID(one)].dues.values()]
    assert {due.proxy_limit for due in dues} <= {2, 4}
    assert "no-such" in checked.run("proxy", "edit", "no-such", "--concurrency", "2", status=2).stderr


def test_s60_a_cancel_on_one_host_says_what_else_goes_on(checked: Installation, gate: Any) -> None:
    """S60: "this host" or "the whole job"; what has ended says so and stays; twice changes nothing."""
    job = begun(checked, *on("web1", "web2", "web3"), command=WAIT_FOR_FILE)
    wait_until(lambda: statuses(checked, job) == ["running"] * 3, within=WITHIN)
    told = checked.run("job", "cancel", job, "--host", "web2")
    assert "web2" in told.stdout
    assert "2 other hosts go on" in told.stderr
    assert f"chargehand job cancel {job}" in told.stderr
    wait_until(lambda: statuses(checked, job) == ["cancelled", "running", "running"], within=WITHIN)
    again = checked.run("job", "cancel", job, "--host", "web2", status=2)
    assert "web2 (cancelled) has ended before" in again.stderr
    gate("web1")
    wait_until(lambda: "succeeded" in statuses(checked, job), within=WITHIN)
    both = checked.run("job", "cancel", job, "--host", "web1", "--host", "web3")
    assert "web1 (succeeded) has ended before" in both.stderr
    wait_until(lambda: statuses(checked, job) == ["cancelled", "cancelled", "succeeded"], within=WITHIN)
    assert "ended" in checked.run("job", "cancel", job, status=2).stderr
    paged = begun(checked, *on("web4", "web5"), command=WAIT_FOR_FILE)
    with checked.http() as http:
        (row,) = http.get(f"/job-invocations/{paged}/job-tasks", params={"host": "web4"}).json()["items"]
        page = http.get(f"/job-tasks/{row['job_task_id']}", headers={"Accept": "text/html"}).text
        assert "Cancel on this host" in page
        assert "Cancel the whole job" in page
        assert http.post(f"/job-invocations/{paged}/cancel", data={"host_id": row["host_id"]}).status_code == 303
    wait_until(lambda: "cancelled" in statuses(checked, paged), within=WITHIN)
    gate("web5")
    wait_until(lambda: statuses(checked, paged) == ["cancelled", "succeeded"], within=WITHIN)
    unknown = checked.run("job", "cancel", "00000000-0000-4000-8000-000000000000", status=2)
    assert "there is no such thing" in unknown.stderr


def test_s107_a_rolling_job_halts_and_goes_on_from_there(checked: Installation, fleet: SshdFleet) -> None:
    """S107: hosts in the order given, batch by batch; the failure in the second batch halts it; done again from there."""
    order = ["web3", "web1", "web5", "web2", "web6", "web4"]
    script = 'date +%s%N >> "$HOME/rolled"; [ ! -e "$HOME/broken" ]'
    file_of(fleet, "web5", "broken").touch()
    halted = checked.exec(
        *on(*order), "--rolling", "1,2", "--description", "roll out", command=["sh", "-c", script], status=1
    )
    job = halted["job_invocation_id"]
    rows = {row["host"]: row for row in halted["job_tasks"]}
    assert [rows[name]["status"] for name in order] == ["succeeded"] * 2 + ["failed"] * 4
    assert [rows[name]["reason"] for name in order[2:]] == ["exit_status", "halted", "halted", "halted"]
    assert (halted["halt"]["host_name"], halted["halt"]["batch"], halted["halt"]["ordinal"]) == ("web5", 2, 2)
    shown = checked.run("job", "show", job, status=1)
    assert "at web5, host 3 of 6 (batch 2): 1 failure, 0 allowed" in shown.stderr
    assert rows["web4"]["detail"] == "web5, host 3 of 6, was failure 1; at most 0 are allowed"
    times = {name: int(file_of(fleet, name, "rolled").read_text().split()[0]) for name in order[:3]}
    assert times["web3"] < min(times["web1"], times["web5"])
    plan = checked.json("job", "show", job, "--plan")
    assert [(row["host"], row["batch"]) for row in plan] == list(zip(order, (1, 2, 2, 3, 3, 4), strict=True))

    file_of(fleet, "web5", "broken").unlink()
    again = checked.json("job", "rerun", job, "--from-halt")
    assert again["rerun_of"] == job
    assert again["description"] == "roll out"
    assert again["counts"] == {"succeeded": 4}
    ran = {name: len(file_of(fleet, name, "rolled").read_text().split()) for name in order}
    assert ran == {"web3": 1, "web1": 1, "web5": 2, "web2": 1, "web6": 1, "web4": 1}
    assert "was not halted" in checked.run("job", "rerun", again["job_invocation_id"], "--from-halt", status=2).stderr


def test_s107_as_many_may_fail_as_are_allowed(checked: Installation) -> None:
    """S107: with a limit of one failure it goes on after the first; one more host is cancelled before its turn."""
    document = checked.exec(
        *on(*NAMES), "--rolling", "50%", "--failure-limit", "1", command=["sh", "-c", '[ "${HOME##*/}" != web2 ]'],
        status=1,
    )  # fmt: skip
    assert document["counts"] == {"succeeded": 5, "failed": 1}
    assert document["halt"] is None


def test_s55_the_plan_is_shown_beforehand_and_holds(checked: Installation) -> None:
    """S55: when each host is due is known as soon as the job is accepted, and nothing starts before."""
    job = begun(checked, *on(*NAMES), "--splay", "4s", "--start-at", "+6s", command=["true"])
    assert document(checked, job)["status"] == "scheduled"
    wait_until(lambda: len(checked.json("job", "show", job, "--plan")) == 6, within=WITHIN)
    plan = {UUID(row["job_task_id"]): row for row in checked.json("job", "show", job, "--plan")}
    checked.run("job", "watch", job)
    assert {UUID(row["job_task_id"]): row["due_at"] for row in checked.json("job", "show", job, "--plan")} == {
        one: row["due_at"] for one, row in plan.items()
    }
    log = checked.recording().invocations[UUID(job)]
    for due in log.dues.values():
        assert due.issued_at.isoformat() >= plan[due.job_task_id]["due_at"].replace("Z", "+00:00")


def test_s16_s17_s18_s19_s31_a_templates_properties_hold_unless_the_invocation_says_otherwise(
    checked: Installation, fleet: SshdFleet, tmp_path: Path
) -> None:
    """S16, S17, S18, S19: tries, interval, splay and time limit of the template; S31: each of them overridden for one run."""
    token = tmp_path / "token"
    checked.run("proxy", "enrol", "author", "--role", "service_account", "--token-file", str(token))
    asyncio.run(save_template(checked, token.read_text().strip(), tmp_path / "author.json"))
    plain = checked.json("invoke", "Flaky", "--host", "web4", "--input", "seconds=0", status=1)
    log = checked.recording().invocations[UUID(plain["job_invocation_id"])]
    assert log.scheduled is not None
    assert log.scheduled.properties == FLAKY
    (row,) = plain["job_tasks"]
    assert (row["reason"], row["attempts"]) == ("exit_status", 2)
    first, second = sorted(log.dues.values(), key=lambda due: due.attempt)
    assert first.issued_at > log.scheduled.start_at, "it is splayed"
    assert second.issued_at - first.issued_at >= FLAKY.retry_interval
    slow = checked.json("invoke", "Flaky", "--host", "web4", "--input", "seconds=1234.19", "--tries", "1", status=1)
    (row,) = slow["job_tasks"]
    assert (row["reason"], row["attempts"]) == ("timed_out", 1)
    overridden = checked.json(
        "invoke", "Flaky", "--host", "web4", "--input", "seconds=0", "--tries", "3", "--retry-interval", "0s",
        "--splay", "0s", "--execution-timeout", "30s", status=1,
    )  # fmt: skip
    properties = checked.recording().invocations[UUID(overridden["job_invocation_id"])].scheduled
    assert properties is not None
    assert (properties.properties.tries, properties.properties.splay) == (3, timedelta(0))
    assert overridden["job_tasks"][0]["attempts"] == 3


FLAKY = ExecutionProperties(
    tries=2,
    retry_interval=timedelta(seconds=1),
    splay=timedelta(seconds=1),
    execution_timeout_interval=timedelta(seconds=2),
)


async def save_template(installation: Installation, token: str, key_file: Path) -> None:
    planner = installation.data / "keys" / "planner.pub.json"
    await KafkaClient.enrol(installation.kafka(), token, key_file=key_file, planner_key_file=planner)
    async with KafkaClient(installation.kafka(), key_file=key_file, planner_key_file=planner) as client:
        inputs = (TemplateInput(name="seconds", required=True),)
        decided = await client.save_template(
            "Flaky", 'sleep {{ input("seconds") }}; exit 1', inputs=inputs, properties=FLAKY
        )
    assert decided.decision == "handled"


ABSURD = (
    (("--concurrency", "0"), "concurrency"),
    (("--tries", "10000"), "tries"),
    (("--retry-interval", "-1s"), "duration"),
    (("--splay", "9999d"), "splay"),
    (("--execution-timeout", "0s"), "execution_timeout_interval"),
    (("--rolling", "1,x"), "batches"),
    (("--rolling", "120%"), "batches"),
    (("--failure-limit", "1"), "--rolling"),
    (("--start-before", "2020-01-01T00:00"), "start_before"),
)


def test_absurd_limits_are_refused_by_name_and_nothing_runs(checked: Installation, fleet: SshdFleet) -> None:
    for options, word in ABSURD:
        done = checked.run("exec", "--host", "web1", *options, "--", "touch", "absurd", status=2)
        assert word in done.stderr, options
    assert not file_of(fleet, "web1", "absurd").exists()


def test_absurd_limits_are_refused_over_http_too(checked: Installation, gate: Any) -> None:
    job = begun(checked, *on("web1"), command=WAIT_FOR_FILE)
    with checked.http() as http:
        for body in (
            {"concurrency": 0},
            {"concurrency": -3},
            {"concurrency": "many"},
            {},
            {"concurrency": 2, "tries": 3},
        ):
            answer = http.post(f"/job-invocations/{job}/edit", json=body)
            assert answer.status_code == 422, body
            assert answer.json()["code"] == "malformed"
        assert http.post("/proxies/default", json={"concurrency": 0}).status_code == 422
        assert http.post("/proxies/-x", json={"concurrency": 1}).status_code == 404
        assert http.post(f"/job-invocations/{job}/rerun", json={}).json()["code"] == "still_running"
        targeting = {"host_names": ["web1"]}
        absurd: tuple[dict[str, Any], ...] = (
            {"tries": 0},
            {"splay": -1},
            {"rolling": {"batches": []}},
            {"rolling": {"batches": ["0"]}},
        )
        for overrides in absurd:
            wrong = {"targeting": targeting, "inputs": {"command": "true"}, "overrides": overrides}
            assert http.post("/job-invocations", json=wrong).status_code == 422, overrides
    gate()
    checked.run("job", "watch", job)
