"""Ten kills on the real thing, as part of every run of the tests; `make chaos` does many."""

from pathlib import Path

import pytest
from chaos.campaign import Campaign, prepared
from chaos.schedule import draw
from support.sshd import NoSshd

KILLS = 10
SEED = 4


@pytest.mark.timeout(420)
def test_ten_kills_lose_double_contradict_and_cut_nothing(
    hosts_directory: Path, host_user: str, tmp_path: Path
) -> None:
    try:
        with prepared(hosts_directory, host_user, tmp_path / "data") as (installation, fleet):
            campaign = Campaign(installation, fleet, SEED, print)
            for strikes in draw(SEED, KILLS):
                campaign.strike_at_random(strikes)
            campaign.judge()
    except NoSshd as error:
        pytest.skip(str(error))
    assert campaign.result() == f"kills {KILLS} lost 0 doubled 0 contradictory 0 output_gaps 0", campaign.findings.notes


def test_a_seed_is_a_schedule() -> None:
    assert draw(7, 30) == draw(7, 30)
    assert draw(7, 30) != draw(8, 30)
    assert sum(map(len, draw(7, 30))) == 30
