"""Jobs as other users on their hosts, as those who invoke them see it (docs/requirements.md): sudo, su and doas as they are."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from chargehand.client.kafka import KafkaClient
from chargehand_chassis.clock import now
from chargehand_chassis.kafka import Publisher
from chargehand_chassis.keys import load_keys
from chargehand_schemas.batches import Outgoing
from chargehand_schemas.commands import SaveJobTemplate, TemplateInput
from chargehand_schemas.planning import AttemptBound
from chargehand_schemas.topics import COMMANDS
from support.canaries import in_files, in_topics, leaks, watched_processes
from support.installation import Installation
from support.own_etc import NoOwnEtc, OwnEtc, own_etc
from support.sshd import NoSshd, SshdFleet

OPS_PASSWORD = "canary-of-the-one-who-connects-4471"
APP_PASSWORD = "canary-of-the-app-user-5582"
WRONG = "canary-that-is-no-password-6693"
SUDOERS = """
Defaults lecture=always
{ops} ALL=(deploy) NOPASSWD: ALL
{ops} ALL=(app, forbidden, {login}) PASSWD: ALL
"""
LOGIN = "admin"


@pytest.fixture(scope="module")
def etc(hosts_directory: Path, host_user: str) -> Iterator[OwnEtc]:
    try:
        with own_etc(hosts_directory) as made:
            made.write("sudoers", SUDOERS.format(ops=host_user, login=LOGIN))
            made.write("doas.conf", f"permit {host_user} as app\n")
            made.set_password(host_user, OPS_PASSWORD)
            for name in ("deploy", "forbidden", "stranger", LOGIN):
                made.add_user(name)
            made.add_user("app", password=APP_PASSWORD)
            yield made
    except NoOwnEtc as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def hosts(etc: OwnEtc, hosts_directory: Path, host_user: str) -> Iterator[SshdFleet]:
    try:
        made = SshdFleet(2, scratch=hosts_directory, user=host_user, prefix="ops", via=etc.via)
    except NoSshd as error:
        pytest.skip(str(error))
    with contextlib.closing(made):
        yield made


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, hosts: SshdFleet) -> Iterator[Installation]:
    data = tmp_path_factory.mktemp("effective-users") / "data"
    made = Installation(data, {"LOG_LEVEL": "debug", "DENIED_EFFECTIVE_USERS": '["forb*"]'})
    made.start()
    try:
        made.import_hosts(hosts.hosts)
        yield made
    finally:
        made.stop()


@pytest.fixture
def checked(own: Installation) -> Iterator[Installation]:
    yield own
    found = own.violations()
    assert not found, "\n".join(map(str, found))


def output(own: Installation, document: dict[str, Any], stream: str = "stdout") -> str:
    job, (row, *_) = document["job_invocation_id"], document["job_tasks"]
    return own.run("job", "output", job, "--host", row["host"], "--stream", stream).stdout


def with_password(
    own: Installation, password: str, *options: str, command: list[str], status: int = 0
) -> dict[str, Any]:
    """A job whose password comes from standard input."""
    options = (*options, "--effective-user-password-file", "-", "--output", "json")
    done = own.run("exec", *options, "--", *command, stdin=f"{password}\n", status=status)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_s57_s94_s99_a_job_runs_as_the_user_its_invocation_names(checked: Installation) -> None:
    """S57, S94, S99: and it is a fact of the attempt, in the log and wherever the job is shown."""
    document = checked.exec("--host", "ops1", "--host", "ops2", "--user", "deploy", command=["id", "-un"])
    assert document["counts"] == {"succeeded": 2} and document["effective_user"] == "deploy"
    assert output(checked, document) == "deploy\n"
    job = document["job_invocation_id"]
    assert "as       deploy" in checked.run("job", "show", job).stderr + checked.run("job", "show", job).stdout
    planning = checked.recording().invocations[UUID(job)].planning
    assert [e.item.effective_user for e in planning if isinstance(e.item, AttemptBound)] == ["deploy"] * 2
    with checked.http() as http:
        page = http.get(f"/job-invocations/{job}", headers={"Accept": "text/html"}).text
        assert "As user" in page and "deploy" in page
        task = http.get(f"/job-tasks/{document['job_tasks'][0]['job_task_id']}").json()
    assert [attempt["effective_user"] for attempt in task["attempts_detail"]] == ["deploy"]
    plain = checked.exec("--host", "ops1", command=["id", "-un"])
    assert plain["effective_user"] == "" and output(checked, plain).startswith("cgt")


def test_s57_a_password_that_becoming_the_user_takes_is_given_once_and_found_nowhere(
    checked: Installation, hosts: SshdFleet, etc: OwnEtc
) -> None:
    """S57: by sudo -S, by su and by doas on a terminal; whatever the host shows, it does not show the password."""
    secrets = {"the connecting user's": OPS_PASSWORD, "the app user's": APP_PASSWORD, "a wrong one": WRONG}
    command = ["sh", "-c", "id -un; env; cat /proc/$$/environ; ps -ef; cat /proc/self/cmdline; sleep 0.5"]
    with watched_processes(secrets) as seen:
        for method, password in (("sudo", OPS_PASSWORD), ("su", APP_PASSWORD), ("doas", OPS_PASSWORD)):
            import_with(checked, hosts, method)
            document = with_password(checked, password, "--host", "ops1", "--user", "app", command=command)
            assert output(checked, document).startswith("app\n") and output(checked, document, "stderr") == ""
            refused = with_password(checked, WRONG, "--host", "ops1", "--user", "app", command=["id"], status=1)
            (row,) = refused["job_tasks"]
            told = checked.run(
                "job", "show", refused["job_invocation_id"], "--host", "ops1", "--ladder", status=1
            ).stdout
            assert (row["status"], row["reason"], row["attempts"]) == ("failed", "refused", 1), told
            assert f"wrong password: {method} did not take it" in row["detail"]
    import_with(checked, hosts, "sudo")
    places = [*in_files(checked.data), *asyncio.run(in_topics(checked))]
    places += [
        (str(path), path.read_bytes()) for host in hosts.hosts for path in host.home.rglob("*") if path.is_file()
    ]
    places += [("the host's sshd", hosts.log("ops1").encode())]
    places += [("stderr of up", (checked.data.parent / "data.up.stderr").read_bytes())]
    assert (leaks(secrets, places), seen) == ([], set())


def import_with(own: Installation, hosts: SshdFleet, method: str) -> None:
    """The hosts again, with this way of becoming another user."""
    rows = [json.dumps({**host.inventory_row(), "effective_user_method": method}) for host in hosts.hosts]
    path = own.data.parent / "ways.jsonl"
    path.write_text("\n".join(rows) + "\n")
    own.run("host", "import", str(path), "--format", "jsonl")


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ("stranger", "none was given"),
        ("app", "wants the password of the connecting user and none was given"),
        ("nosuchuser", "no such user on the host"),
        ("forbidden", "this agent's policy does not let scripts run as 'forbidden'"),
    ],
)
def test_s57_s99_a_user_that_cannot_be_had_is_a_verdict_in_words(checked: Installation, user: str, words: str) -> None:
    """S57, S99: at once, tried once, and nothing ran; the last of them by the agent's own policy."""
    document = checked.exec("--host", "ops1", "--user", user, "--tries", "3", command=["id"], status=1)
    (row,) = document["job_tasks"]
    assert (row["status"], row["reason"], row["attempts"]) == ("failed", "refused", 1)
    assert words in row["detail"], row["detail"]
    assert row["started_at"] is None
    assert "trust you" not in row["detail"]


def test_s96_a_templates_user_is_its_default_its_rule_or_the_person_who_invokes(
    checked: Installation, tmp_path: Path
) -> None:
    """S96: as the template says: a default, one that may not be overridden, and the invoker's own login."""
    asyncio.run(save_templates(checked, tmp_path))
    default = checked.json("invoke", "As deploy", "--host", "ops1")
    assert output(checked, default) == "deploy\n"
    refused = checked.run("invoke", "As deploy", "--host", "ops1", "--user", "app", status=2)
    assert "always runs as 'deploy', not as 'app'" in " ".join((refused.stderr + refused.stdout).split())
    path = tmp_path / "password"
    path.write_text(OPS_PASSWORD)
    mine = checked.json("invoke", "As myself", "--host", "ops1", "--effective-user-password-file", str(path))
    assert output(checked, mine) == f"{LOGIN}\n" and mine["effective_user"] == LOGIN


async def save_templates(own: Installation, tmp_path: Path) -> None:
    """Published by an enrolled program."""
    own.run("proxy", "enrol", "catalog", "--role", "service_account", "--token-file", str(tmp_path / "token"))
    pinned, key = own.data / "keys" / "planner.pub.json", tmp_path / "catalog.json"
    token = (tmp_path / "token").read_text().strip()
    await KafkaClient.enrol(own.kafka(), token, key_file=key, planner_key_file=pinned)
    common = {"actor": "service:catalog", "body": "id -un", "inputs": tuple[TemplateInput, ...]()}
    fixed = {"name": "As deploy", "effective_user": "deploy", "effective_user_overridable": False}
    mine = {"name": "As myself", "effective_user_current_user": True}
    publisher = Publisher(own.kafka(), load_keys(key), "service/catalog")
    await publisher.start()
    try:
        for fields in (fixed, mine):
            save = SaveJobTemplate(id=uuid4(), time=now(), **common, **fields)
            await publisher.publish([Outgoing(COMMANDS.name, save.name, save)])
    finally:
        await publisher.stop()
