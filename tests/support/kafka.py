"""A Kafka for the whole run: one named in the environment, one in Docker, or the launcher's own. Owns that order.

CHARGEHAND_TEST_KAFKA=host:port names a broker; CHARGEHAND_TEST_KAFKA_USER and CHARGEHAND_TEST_KAFKA_PASSWORD_FILE say as whom
to come (SCRAM-SHA-256); without them it lets everyone in.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from chargehand.embedded.configuration import format_arguments, server_properties
from chargehand.embedded.jars import KAFKA_VERSION
from chargehand.embedded.kafka import OWNER, EmbeddedKafka, KafkaAddress
from chargehand.embedded.ports import choose_ports
from chargehand_chassis.kafka_ready import kafka_ready

from support.docker import docker_answers
from support.processes import track

Answer = TypeVar("Answer")

IMAGE = f"apache/kafka:{KAFKA_VERSION}"
_READY_WITHIN = timedelta(seconds=60)
_CONTAINER_DIRECTORY = "/tmp/chargehand"
_CONTAINER_COMMAND = (
    f"cd {_CONTAINER_DIRECTORY} && /opt/kafka/bin/kafka-storage.sh @format.arguments && "
    "exec /opt/kafka/bin/kafka-server-start.sh server.properties"
)


@dataclass(frozen=True)
class FoundKafka:
    """A broker that works, and where it came from, in words."""

    address: KafkaAddress
    origin: str


@contextlib.contextmanager
def running_kafka() -> Iterator[FoundKafka]:
    """A broker for as long as the context is open."""
    with tempfile.TemporaryDirectory(prefix="chargehand-kafka-") as scratch, contextlib.ExitStack() as stack:
        yield _named(Path(scratch)) or _in_docker(Path(scratch), stack) or _launched(Path(scratch), stack)


def _named(scratch: Path) -> FoundKafka | None:
    bootstrap = os.environ.get("CHARGEHAND_TEST_KAFKA")
    if not bootstrap:
        return None
    user = os.environ.get("CHARGEHAND_TEST_KAFKA_USER", "")
    empty = scratch / "no-password"
    empty.touch()
    address = KafkaAddress(bootstrap, user, Path(os.environ.get("CHARGEHAND_TEST_KAFKA_PASSWORD_FILE") or empty))
    _await_ready(address)
    return FoundKafka(address, f"named in the environment, {bootstrap}")


def _launched(scratch: Path, stack: contextlib.ExitStack) -> FoundKafka:
    began = time.monotonic()
    broker = EmbeddedKafka(scratch / "broker", report=print)
    stack.callback(broker.stop)
    address = _apart(broker.start)
    track(broker.pid or 0)
    return FoundKafka(
        address, f"our launcher, Apache Kafka {KAFKA_VERSION} at {address.bootstrap}, {time.monotonic() - began:.1f} s"
    )


def _in_docker(scratch: Path, stack: contextlib.ExitStack) -> FoundKafka | None:
    if not docker_answers():
        return None
    from testcontainers.core.container import DockerContainer

    port = choose_ports().broker
    password_file = scratch / "password"
    password_file.write_text(secrets.token_urlsafe(32), encoding="ascii")
    address = KafkaAddress(f"127.0.0.1:{port}", OWNER, password_file)
    container = DockerContainer(IMAGE).with_command(["bash", "-c", _CONTAINER_COMMAND])
    ports: dict[Any, Any] = container.ports
    ports[port] = ("127.0.0.1", port)
    for name, text in _container_files(port, password_file.read_text(encoding="ascii")).items():
        container.with_copy_into_container(text.encode(), f"{_CONTAINER_DIRECTORY}/{name}")
    try:
        stack.enter_context(container)
        _await_ready(address)
    except Exception as error:  # noqa: BLE001 (an engine that cannot get or run the image: the launcher is next)
        print(f"Kafka in Docker did not work, so the launcher is used: {error}")
        return None
    return FoundKafka(address, f"Docker, {IMAGE} at {address.bootstrap}")


def _container_files(port: int, password: str) -> dict[str, str]:
    """The launcher's own configuration, but for the address inside the container."""
    properties = server_properties(
        port=port,
        controller_port=port + 1,
        owner=OWNER,
        broker_password=secrets.token_urlsafe(32),
        data="/tmp/chargehand-data",
    )
    inside = properties.replace("\nlisteners=SASL_PLAINTEXT://127.0.0.1:", "\nlisteners=SASL_PLAINTEXT://0.0.0.0:")
    arguments = format_arguments("AAAAAAAAAAAAAAAAAAAAAQ", "server.properties", {OWNER: password})
    return {"server.properties": inside, "format.arguments": arguments}


def _await_ready(address: KafkaAddress) -> None:
    password = address.password_file.read_text(encoding="ascii").strip()
    ready = kafka_ready(address.bootstrap, address.username, password, within=_READY_WITHIN)
    _apart(lambda: asyncio.run(ready))


def _apart(call: Callable[[], Answer]) -> Answer:
    """In a thread of its own: the thread of the tests has an event loop, and may be inside it."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result()
