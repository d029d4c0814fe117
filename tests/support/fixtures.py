"""The fixtures tests ask for by name. Owns scope and teardown; how each thing is made is in the modules beside this one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chargehand.embedded.errors import LauncherError
from chargehand.embedded.jars import kafka_jars
from chargehand.embedded.kafka import KafkaAddress

from support.kafka import running_kafka

_ORIGINS = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_ORIGINS] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which broker and which database the tests ran against."""
    for line in config.stash[_ORIGINS]:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def kafka(pytestconfig: pytest.Config) -> Iterator[KafkaAddress]:
    """A real Kafka, one for the whole run: tests keep apart by topics, keys and groups of their own."""
    with running_kafka() as found:
        pytestconfig.stash[_ORIGINS].append(f"kafka: {found.origin}")
        yield found.address


@pytest.fixture(scope="session")
def kafka_home() -> Path:
    """The folder with the jars of Apache Kafka, fetched now if this machine does not have them yet."""
    try:
        return kafka_jars(print)[0].parent
    except LauncherError as error:
        pytest.skip(f"Apache Kafka cannot be fetched: {error.why}")
