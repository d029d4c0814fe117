"""Twenty secrets of a running installation, looked for wherever they must not be: topics, logs, stores, processes, tracebacks."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from chargehand_chassis.kafka import connection
from chargehand_schemas.topics import TOPICS
from support.installation import Installation
from support.sshd import SshdFleet

PASSWORD_OF_AN_INVENTORY = "hunter2-of-an-inventory-file"
INVENTORY = """
[web]
web9 ansible_host=127.16.0.9 ansible_user=deploy ansible_password={password} ansible_become_password={password}
"""
OWN_FILES = re.compile(r"keys/[a-z-]+\.json|kafka/passwords/[a-z]+|client\.json|kafka/server\.properties")
"""The files whose purpose is to hold a secret; readable by their owner only. Kafka reads its own password from its settings."""


@pytest.fixture
def own(tmp_path: Path, fleet: SshdFleet) -> Iterator[Installation]:
    made = Installation(tmp_path / "data", {"LOG_LEVEL": "debug"})
    made.start()
    made.import_hosts(fleet.hosts[:2])
    yield made
    made.stop()


def secrets_of_files(data: Path) -> dict[str, str]:
    """Keys, passwords and the token, by where they come from."""
    found = {f"kafka/{path.name}": path.read_text().strip() for path in (data / "kafka" / "passwords").iterdir()}
    for path in (data / "keys").glob("*.json"):
        document = json.loads(path.read_text())
        found |= {f"{path.stem}.{name}": value for name, value in document.items() if name.endswith("_seed")}
    return found | {"token": json.loads((data / "client.json").read_text())["token"]}


def secrets_of_use(own: Installation, fleet: SshdFleet, scratch: Path) -> dict[str, str]:
    """What comes up while it is used: links, a cookie, tokens of enrolment, a login's key, a password somebody wrote down."""
    found = {"first link": own.banner["login_url"], "second link": own.run("open", "--no-browser").stdout.strip()}
    found = {name: link.split("code=")[1] for name, link in found.items()}
    with httpx.Client(trust_env=False) as browser:
        browser.get(own.banner["login_url"])
        (cookie,) = browser.cookies.jar
        assert cookie.value is not None
        found["cookie"] = cookie.value
        assert browser.get(own.banner["server"] + "/login?code=" + found["cookie"]).status_code == 401
    for name, role in (("site-b", "agent"), ("nightly", "service_account")):
        path = scratch / f"{name}.token"
        own.run("proxy", "enrol", name, "--role", role, "--token-file", str(path))
        found[f"enrolment of {name}"] = path.read_text().strip()
    inventory = scratch / "inventory.ini"
    inventory.write_text(INVENTORY.format(password=PASSWORD_OF_AN_INVENTORY))
    own.run("host", "import", str(inventory), "--format", "ansible")
    lines = fleet.hosts[0].identity_file.read_text().splitlines()
    return found | {"password in an inventory": PASSWORD_OF_AN_INVENTORY, "ssh key": lines[2]}


def forms(secret: str) -> list[bytes]:
    """As it is, in base64 from any place of three, and as bytes where it is hexadecimal."""
    raw = secret.encode()
    found = [raw, *(base64.b64encode(raw[shift:])[4:-8] for shift in range(3))]
    if re.fullmatch("[0-9a-f]{64}", secret):
        found.append(bytes.fromhex(secret))
    return found


def in_files(data: Path) -> Iterator[tuple[str, bytes]]:
    """Logs, stores, Kafka's log, whatever else lies in the data directory."""
    for path in data.rglob("*"):
        place = str(path.relative_to(data))
        if path.is_file() and not OWN_FILES.fullmatch(place):
            yield place, path.read_bytes()


def in_processes(pid: int) -> Iterator[tuple[str, bytes]]:
    """Arguments and environments, as anybody of this account can read them."""
    supervisor = psutil.Process(pid)
    for process in (supervisor, *supervisor.children(recursive=True)):
        for name in ("cmdline", "environ"):
            try:
                yield f"{name} of {process.pid}", Path(f"/proc/{process.pid}/{name}").read_bytes()
            except OSError:
                continue


async def in_topics(own: Installation) -> list[tuple[str, bytes]]:
    """Every record of every topic, key, headers and value, not compressed any more."""
    consumer = AIOKafkaConsumer(**connection(own.kafka()), enable_auto_commit=False)
    await consumer.start()
    found = []
    try:
        names = [topic.of("local") if topic.is_per_proxy else topic.name for topic in TOPICS]
        parts = [TopicPartition(name, n) for name in names for n in range(own.kafka().partitions)]
        consumer.assign(parts)
        await consumer.seek_to_beginning(*parts)
        ends = await consumer.end_offsets(parts)
        while any([await consumer.position(part) < end for part, end in ends.items()]):
            for part, records in (await consumer.getmany(timeout_ms=500)).items():
                for record in records:
                    headers = b"".join(value for _, value in record.headers)
                    found.append((str(part), b"|".join([record.key or b"", headers, record.value or b""])))
    finally:
        await consumer.stop()
    return found


def leaks(secrets: dict[str, str], places: list[tuple[str, bytes]]) -> list[str]:
    return sorted(
        f"{name} in {place}"
        for place, content in places
        for name, secret in secrets.items()
        if any(form in content for form in forms(secret))
    )


def test_twenty_secrets_are_nowhere_but_in_their_own_files(own: Installation, fleet: SshdFleet, tmp_path: Path) -> None:
    secrets = secrets_of_files(own.data) | secrets_of_use(own, fleet, tmp_path)
    assert len(secrets) >= 20, sorted(secrets)
    assert all(len(secret) >= 20 for secret in secrets.values())
    assert own.exec("--host", "web1", "--host", "web2", command=["env"])["counts"] == {"succeeded": 2}
    traceback = own.run("job", "show", "no-such-job", "--debug", status=None)
    os.kill(own.pid_of("reporter"), 9)
    shown = [("screen", (traceback.stdout + traceback.stderr).encode())]
    shown.append(("stderr of up", (own.data.parent / "data.up.stderr").read_bytes()))
    places = [*in_files(own.data), *in_processes(own.banner["pid"]), *asyncio.run(in_topics(own)), *shown]
    assert len(places) > 50
    assert leaks(secrets, places) == []
    assert leaks({"planted": "plan-ted-secret-here!"}, [("here", b"x plan-ted-secret-here! y")]) == ["planted in here"]


def test_files_that_hold_a_secret_are_their_owners(own: Installation) -> None:
    holders = [path for path in own.data.rglob("*") if OWN_FILES.fullmatch(str(path.relative_to(own.data)))]
    assert len(holders) >= 9
    assert {path.stat().st_mode & 0o077 for path in holders} == {0}
    assert own.data.stat().st_mode & 0o077 == 0
