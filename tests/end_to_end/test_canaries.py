"""Twenty secrets of a running installation, looked for wherever they must not be: topics, logs, stores, processes, tracebacks."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.canaries import OWN_FILES, in_files, in_processes, in_topics, leaks
from support.installation import Installation
from support.sshd import SshdFleet

PASSWORD_OF_AN_INVENTORY = "hunter2-of-an-inventory-file"
INVENTORY = """
[web]
web9 ansible_host=127.16.0.9 ansible_user=deploy ansible_password={password} ansible_become_password={password}
"""


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
