"""The fixtures tests ask for by name. Owns scope and teardown; how each thing is made is in the modules beside this one."""

from __future__ import annotations

import getpass
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from chargehand.embedded.errors import LauncherError
from chargehand.embedded.jars import kafka_jars
from chargehand.embedded.kafka import KafkaAddress

from support.distant_hosts import DistantHosts, distant_hosts
from support.kafka import running_kafka
from support.netns import NoNamespaces, Segment, two_segments
from support.postgres import NoPostgres, PostgresServer, running_postgres
from support.sshd import NoSshd, SshdFleet
from support.users import throw_away_user
from support.workers import told

_ORIGINS = "origins"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which broker and which database the tests ran against."""
    for line in dict.fromkeys(told(config, _ORIGINS)):
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def kafka(pytestconfig: pytest.Config) -> Iterator[KafkaAddress]:
    """A real Kafka, one for the whole run: tests keep apart by topics, keys and groups of their own."""
    with running_kafka() as found:
        told(pytestconfig, _ORIGINS).append(f"kafka: {found.origin}")
        yield found.address


@pytest.fixture(scope="session")
def kafka_home() -> Path:
    """The folder with the jars of Apache Kafka, fetched now if this machine does not have them yet."""
    try:
        return kafka_jars(print)[0].parent
    except LauncherError as error:
        pytest.skip(f"Apache Kafka cannot be fetched: {error.why}")


@pytest.fixture(scope="session")
def postgres_server(pytestconfig: pytest.Config) -> Iterator[PostgresServer]:
    """A real PostgreSQL, one for the whole run."""
    try:
        with running_postgres() as server:
            told(pytestconfig, _ORIGINS).append(f"postgres: {server.origin}")
            yield server
    except NoPostgres as error:
        pytest.skip(str(error))


@pytest.fixture
def postgres(postgres_server: PostgresServer) -> Iterator[Callable[[], str]]:
    """Makes a fresh database at each call and gives its DSN (postgresql://…); all are dropped after the test."""
    made: list[str] = []

    def create() -> str:
        made.append(postgres_server.create_database())
        return made[-1]

    yield create
    for dsn in made:
        postgres_server.drop_database(dsn)


@pytest.fixture(scope="session")
def hosts_directory() -> Iterator[Path]:
    """Where homes of test hosts lie: other users may pass through, which pytest's own directories do not allow."""
    with tempfile.TemporaryDirectory(prefix="chargehand-hosts-") as directory:
        Path(directory).chmod(0o711)
        yield Path(directory)


@pytest.fixture(scope="session")
def host_user(hosts_directory: Path) -> Iterator[str]:
    """As whom jobs run on test hosts: a user made for this run when we are root, else our own."""
    if os.geteuid() != 0:
        yield getpass.getuser()
        return
    with throw_away_user(hosts_directory / "user") as name:
        yield name


class MakesFleets(Protocol):
    """What the fixture `sshd_fleet` gives: `count` hosts named prefix1, prefix2, …; see SshdFleet."""

    def __call__(self, count: int, *, prefix: str = "host", per_sshd: int = 1) -> SshdFleet: ...


@pytest.fixture
def sshd_fleet(hosts_directory: Path, host_user: str) -> Iterator[MakesFleets]:
    """Starts fleets of real sshd hosts; they are switched off and removed after the test."""
    fleets: list[SshdFleet] = []

    def make(count: int, *, prefix: str = "host", per_sshd: int = 1) -> SshdFleet:
        try:
            fleet = SshdFleet(count, scratch=hosts_directory, user=host_user, prefix=prefix, per_sshd=per_sshd)
        except NoSshd as error:
            pytest.skip(str(error))
        fleets.append(fleet)
        return fleet

    yield make
    for fleet in fleets:
        fleet.close()


@pytest.fixture
def segments(hosts_directory: Path, host_user: str) -> Iterator[tuple[Segment, Segment]]:
    """Two network segments that cannot see each other, each with a site and one ssh host (S2)."""
    try:
        with two_segments(scratch=hosts_directory, user=host_user) as pair:
            yield pair
    except (NoNamespaces, NoSshd) as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def distant(hosts_directory: Path, host_user: str) -> Iterator[DistantHosts]:
    """A site and its hosts far away, behind a relay; no hosts are there yet."""
    try:
        with distant_hosts(scratch=hosts_directory, user=host_user) as made:
            yield made
    except NoNamespaces as error:
        pytest.skip(str(error))
