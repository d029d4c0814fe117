"""What the launcher knows before anything runs: the lock, Java's version, Kafka's configuration, ports."""

import socket
from pathlib import Path

import pytest
from chargehand.embedded.configuration import format_arguments, java_options, server_properties
from chargehand.embedded.errors import LauncherError
from chargehand.embedded.jars import KAFKA_VERSION, kafka_jars, locked_jars, missing_jars, parse_lock
from chargehand.embedded.java import parse_major
from chargehand.embedded.kafka import new_cluster_id
from chargehand.embedded.ports import choose_ports, is_free


@pytest.mark.parametrize(
    ("text", "major"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('java version "1.8.0_392"', 8),
        ('openjdk version "25-ea" 2026-03-17', 25),
        ('Picked up JAVA_TOOL_OPTIONS: -Xmx1g\nopenjdk version "21.0.5" 2024-10-15', 21),
        ("The operation couldn't be completed. Unable to locate a Java Runtime.", None),
    ],
)
def test_the_feature_release_is_read_from_what_java_says(text: str, major: int | None) -> None:
    assert parse_major(text) == major


def test_every_line_of_the_lock_is_one_file_with_one_digest() -> None:
    jars = locked_jars()
    assert len(jars) == len({jar.file_name for jar in jars}) == 46
    assert all(len(bytes.fromhex(jar.sha256)) == 32 for jar in jars)
    assert f"kafka_2.13-{KAFKA_VERSION}.jar" in {jar.file_name for jar in jars}


def test_a_lock_line_is_read_whole() -> None:
    (jar,) = parse_lock(f"org.example:part-one:1.0 {'ab' * 32}\n\n")
    assert (jar.group, jar.artifact, jar.version, jar.file_name) == (
        "org.example",
        "part-one",
        "1.0",
        "part-one-1.0.jar",
    )


def test_a_file_with_the_right_name_and_other_content_is_missing(tmp_path: Path) -> None:
    (tmp_path / locked_jars()[0].file_name).write_bytes(b"something else")
    assert missing_jars(tmp_path) == list(locked_jars())


def test_a_folder_without_kafka_is_refused_and_never_written_to(tmp_path: Path) -> None:
    with pytest.raises(LauncherError, match="46 of 46 files are missing") as refusal:
        kafka_jars(print, home=tmp_path)
    assert refusal.value.do
    assert list(tmp_path.iterdir()) == []


def test_only_loopback_and_only_accounts_are_configured() -> None:
    text = server_properties(port=20001, controller_port=20002, owner="chargehand", broker_password="b-secret")
    rows = dict(line.split("=", 1) for line in text.splitlines())
    assert rows["listeners"] == "SASL_PLAINTEXT://127.0.0.1:20001,CONTROLLER://127.0.0.1:20002"
    assert set(rows["listener.security.protocol.map"].split(",")) == {
        "SASL_PLAINTEXT:SASL_PLAINTEXT",
        "CONTROLLER:SASL_PLAINTEXT",
    }
    assert rows["super.users"] == "User:broker;User:chargehand"
    assert rows["auto.create.topics.enable"] == "false"
    assert "/" not in rows["log.dirs"]


def test_the_format_makes_every_account() -> None:
    text = format_arguments("cluster", "format.properties", {"chargehand": "p1", "guest": "p2"})
    assert text.splitlines() == [
        *("format", "--standalone", "-t", "cluster", "-c", "format.properties"),
        *("--add-scram", "SCRAM-SHA-256=[name=chargehand,password=p1]"),
        *("--add-scram", "SCRAM-SHA-256=[name=guest,password=p2]"),
    ]


def test_heap_and_class_path_go_into_the_options_file() -> None:
    lines = java_options(
        [Path("/a b/one.jar"), Path('/c"d/two.jar')], smallest_heap_mib=128, largest_heap_mib=512
    ).splitlines()
    assert lines[:2] == ["-Xms128m", "-Xmx512m"]
    assert lines[-1] == '-cp "/a b/one.jar:/c\\"d/two.jar"'


def test_chosen_ports_are_free_and_below_those_of_outgoing_connections() -> None:
    ports = choose_ports()
    assert ports.broker != ports.controller
    assert ports.are_free()
    assert max(ports.broker, ports.controller) < 32768


def test_a_port_somebody_listens_on_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not is_free(port)
    assert is_free(port)


def test_the_id_of_a_cluster_is_never_taken_for_an_option() -> None:
    """One random id in 64 would begin with a dash."""
    ids = [new_cluster_id() for _ in range(2_000)]
    assert len(set(ids)) == 2_000
    assert all(len(one) == 22 and one[0] not in "-_" for one in ids)
