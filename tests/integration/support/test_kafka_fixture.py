"""Which Kafka the tests take, and how soon they know that there is no Docker."""

import socket
import time

import pytest
from chargehand.embedded.kafka import KafkaAddress
from support.docker import docker_answers
from support.kafka import _container_files, running_kafka

SCRAM = "SCRAM-SHA-256=[name=chargehand,password=secret]"


def test_a_broker_named_in_the_environment_comes_first(kafka: KafkaAddress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARGEHAND_TEST_KAFKA", kafka.bootstrap)
    monkeypatch.setenv("CHARGEHAND_TEST_KAFKA_USER", kafka.username)
    monkeypatch.setenv("CHARGEHAND_TEST_KAFKA_PASSWORD_FILE", str(kafka.password_file))
    with running_kafka() as named:
        assert named.address == kafka
        assert named.origin == f"named in the environment, {kafka.bootstrap}"


def test_a_docker_that_takes_connections_and_never_answers_is_given_up_within_two_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        assert not docker_answers.__wrapped__()
        assert time.monotonic() - began < 2.5


def test_the_broker_in_a_container_is_the_launchers_but_for_the_address_inside() -> None:
    files = _container_files(23456, "secret")
    rows = dict(line.split("=", 1) for line in files["server.properties"].splitlines())
    assert rows["listeners"] == "SASL_PLAINTEXT://0.0.0.0:23456,CONTROLLER://127.0.0.1:23457"
    assert rows["advertised.listeners"] == "SASL_PLAINTEXT://127.0.0.1:23456"
    assert SCRAM in files["format.arguments"].splitlines()
