"""Makes the secrets of an installation with many machines: keys of each service, passwords, an ssh key, host keys of practice hosts.

    python prepare.py FOLDER

FOLDER gets one folder for each party, holding what that party needs and nothing of the others: copy each to its machine, or
mount it as docker-compose.yml does. What is there already is kept. No secret is printed, and none is in an image.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import asyncssh
from chargehand.embedded.configuration import format_arguments, server_properties
from chargehand.up.credentials import AGENT, make_keys, make_token
from chargehand.up.layout import LOCAL_PROXY, DataDirectory

SERVICES = {
    "planner": "planner",
    "dispatcher": "dispatcher",
    "proxy-agent": AGENT,
    "reporter": "reporter",
    "gateway": "gateway",
}
HOSTS = ("host-1", "host-2")
GATEWAY = "http://gateway:7373"
KAFKA_ACCOUNT = "chargehand"
CLUSTER_ID = "Y2hhcmdlaGFuZC1kZW1vMQ"
# The accounts inside the images: our own, apache/kafka's and Debian's postgres.
SERVICE_UID, KAFKA_UID, POSTGRES_UID = 10001, 1000, 999


def prepare(folder: Path) -> None:
    """Make what is missing in FOLDER."""
    installation = DataDirectory(folder / "installation")
    installation.make()
    make_keys(installation)
    make_token(installation, GATEWAY)
    kafka_password = _password(folder / "kafka" / "password", KAFKA_UID)
    store_password = _password(folder / "postgres" / "password", POSTGRES_UID)
    for service, key in SERVICES.items():
        place = folder / service
        _give(installation.key_of(key), place / "keys.json")
        _give(installation.planner_key, place / "planner.pub.json")
        _write(place / "kafka-password", kafka_password)
        if service != "proxy-agent":
            _write(place / "pgpass", f"*:*:*:chargehand:{store_password}\n")
    for source in (installation.trusted_keys, installation.admin):
        _give(source, folder / "planner" / source.name)
    _give(installation.client, folder / "client" / "client.json")
    _kafka(folder / "kafka", kafka_password)
    _practice_hosts(folder)


def _kafka(place: Path, password: str) -> None:
    """The embedded Kafka's own configuration, listening on the containers' network. Made once: it holds the broker's password."""
    if (place / "server.properties").exists():
        return
    properties = server_properties(
        port=9092,
        controller_port=9093,
        owner=KAFKA_ACCOUNT,
        broker_password=secrets.token_urlsafe(32),
        data="/var/lib/kafka/data",
    )
    inside = properties.replace(
        "listeners=SASL_PLAINTEXT://127.0.0.1:9092", "listeners=SASL_PLAINTEXT://0.0.0.0:9092", 1
    )
    inside = inside.replace(
        "advertised.listeners=SASL_PLAINTEXT://127.0.0.1", "advertised.listeners=SASL_PLAINTEXT://kafka"
    )
    _write(
        place / "format.arguments",
        format_arguments(CLUSTER_ID, "server.properties", {KAFKA_ACCOUNT: password}),
        KAFKA_UID,
    )
    _write(place / "server.properties", inside, KAFKA_UID)


def _practice_hosts(folder: Path) -> None:
    """An ssh key for the agent, a host key for each practice host, and the inventory that says which is which."""
    agent = _ssh_key(folder / "proxy-agent" / "id_ed25519", SERVICE_UID)
    rows = ["name,address,port,user,identity_file,host_key,proxy"]
    for host in HOSTS:
        key = _ssh_key(folder / host / "ssh_host_ed25519_key", 0)
        _write(folder / host / "authorized_keys", agent, 0)
        rows.append(f"{host},{host},22,operator,/secrets/id_ed25519,{key.strip()},{LOCAL_PROXY}")
    _write(folder / "client" / "hosts.csv", "\n".join(rows) + "\n")


def _ssh_key(path: Path, owner: int) -> str:
    """The public half of the ssh key at this path, which is made if it is not there."""
    if not path.exists():
        _write(path, asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode(), owner)
    public = asyncssh.read_private_key(path).export_public_key().decode()
    return " ".join(public.split()[:2]) + "\n"


def _password(path: Path, owner: int) -> str:
    if not path.exists():
        _write(path, secrets.token_urlsafe(32), owner)
    return path.read_text(encoding="ascii")


def _give(source: Path, goal: Path) -> None:
    _write(goal, source.read_text(encoding="utf-8"))


def _write(path: Path, text: str, owner: int = SERVICE_UID) -> None:
    """Write a file that its owner alone can read. Only root can give files away; without it all belong to us."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    if os.geteuid() == 0:
        for place in (path.parent, path):
            shutil.chown(place, owner, owner)


def main(arguments: Iterable[str]) -> int:
    match list(arguments):
        case [folder] if not folder.startswith("-"):
            prepare(Path(folder))
            return 0
        case _:
            print(__doc__, file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
