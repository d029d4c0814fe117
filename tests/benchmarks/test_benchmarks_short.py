"""Every benchmark at its smallest: it gives figures, and what it measured did what it was to do. Never how long it took."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from benchmarks.__main__ import BENCHMARKS
from benchmarks.dispatcher_load import CHI_SQUARE_MOST, chi_square, splay_of
from benchmarks.figures import Figure, at_least, at_most, percentile, shown, table
from benchmarks.place import Place, Size, running
from chargehand_schemas.plans import splay_offset
from support.kafka import running_kafka
from support.netns import NoNamespaces
from support.sshd import NoSshd


@pytest.fixture(scope="module")
def place(hosts_directory: Path, host_user: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One installation for all of them, in their order."""
    with running(tmp_path_factory.mktemp("benchmarks")) as installation:
        yield Place(Size.SHORT, hosts_directory, host_user, shared=installation)


@pytest.fixture(scope="module")
def stage_place(hosts_directory: Path, host_user: str) -> Iterator[Place]:
    """For those that have a broker to themselves."""
    with running_kafka() as kafka:
        yield Place(Size.SHORT, hosts_directory, host_user, broker=kafka.address)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_gives_figures_of_a_job_that_succeeded(name: str, request: pytest.FixtureRequest) -> None:
    place: Place = request.getfixturevalue("stage_place" if name.startswith("dispatcher-") else "place")
    try:
        figures = BENCHMARKS[name](place)
    except (NoSshd, NoNamespaces) as error:
        pytest.skip(str(error))
    assert figures
    for figure in figures:
        assert len(figure.runs) == Size.SHORT.runs
        assert figure.median >= 0
    assert any(figure.median > 0 for figure in figures)


def test_the_median_of_the_runs_is_held_against_the_limit() -> None:
    figures = [
        Figure("rate", "1/s", (400.0, 520.0, 510.0), at_least(500)),
        Figure("wait", "ms", (70.0, 90.0, 1234.0), at_most(80)),
        Figure("share", "×", (0.0123,)),
    ]
    assert table(figures).splitlines()[2:] == [
        "| rate | 510 1/s | 400, 520, 510 | ≥ 500 | kept |",
        "| wait | 90.0 ms | 70.0, 90.0, 1,234 | ≤ 80.0 | missed |",
        "| share | 0.0123 × |  |  |  |",
    ]


def test_a_percentile_is_a_value_that_was_seen() -> None:
    values = [float(n) for n in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([7.0], 0.99)) == (50.0, 99.0, 7.0)
    assert shown(0.0) == "0"


def test_due_times_that_are_not_even_are_told_from_even_ones() -> None:
    begin, minute = datetime(2026, 11, 26, tzinfo=UTC), timedelta(minutes=1)
    due = [begin + splay_of(UUID(int=n), minute) for n in range(6_000)]
    assert chi_square(due, begin, minute) < CHI_SQUARE_MOST
    assert due == [begin + splay_offset(UUID(int=n), minute) for n in range(6_000)]
    later = [one + minute / 20 if one < begin + minute / 2 else one for one in due]
    assert chi_square(later, begin, minute) > CHI_SQUARE_MOST
