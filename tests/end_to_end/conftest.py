"""One installation with real ssh hosts and simulated ones, as a user has it; after each test the checker reads its topics."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from chargehand.up.ports import any_free
from support.installation import Installation
from support.sshd import NoSshd, SshdFleet

REAL_HOSTS = 6
SIMULATED_HOSTS = 600


@pytest.fixture(scope="session")
def fleet(hosts_directory: Path, host_user: str) -> Iterator[SshdFleet]:
    """Real OpenSSH hosts web1 to web6."""
    try:
        made = SshdFleet(REAL_HOSTS, scratch=hosts_directory, user=host_user, prefix="web")
    except NoSshd as error:
        pytest.skip(str(error))
    yield made
    made.close()


@pytest.fixture(scope="session")
def check_in_address() -> str:
    """Where the installation's hosts check in."""
    return f"127.0.0.1:{any_free(1)[0]}"


@pytest.fixture(scope="session")
def installation(
    tmp_path_factory: pytest.TempPathFactory, fleet: SshdFleet, check_in_address: str
) -> Iterator[Installation]:
    """`chargehand up` with the fleet and 600 simulated hosts (sim00001 …) in its inventory."""
    data = tmp_path_factory.mktemp("installation") / "data"
    made = Installation(data, {"CHECK_IN_ADDRESS": check_in_address})
    try:
        made.start()
        made.import_hosts(fleet.hosts)
        made.import_simulated(SIMULATED_HOSTS)
        yield made
    finally:
        made.stop()


@pytest.fixture
def checked(installation: Installation) -> Iterator[Installation]:
    """The installation; afterwards its topics must break no promise."""
    yield installation
    found = installation.violations()
    assert not found, "\n".join(map(str, found))
