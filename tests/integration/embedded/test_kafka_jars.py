"""The jars as they are fetched: whole, checked, said beforehand."""

import os
from pathlib import Path

import pytest
from chargehand.embedded.errors import LauncherError
from chargehand.embedded.jars import TOTAL_BYTES, fetch_jars, kafka_jars, locked_jars, missing_jars


@pytest.fixture
def copy_of_home(kafka_home: Path, tmp_path: Path) -> Path:
    for jar in locked_jars():
        os.link(kafka_home / jar.file_name, tmp_path / jar.file_name)
    return tmp_path


def test_the_size_said_before_a_fetch_is_that_of_the_files(kafka_home: Path) -> None:
    assert sum((kafka_home / jar.file_name).stat().st_size for jar in locked_jars()) == TOTAL_BYTES


def test_a_prepared_folder_is_taken_as_it_is_or_by_its_libs(copy_of_home: Path, tmp_path: Path) -> None:
    assert [path.parent for path in kafka_jars(print, home=copy_of_home)] == [copy_of_home] * len(locked_jars())
    (tmp_path / "kafka").mkdir()
    (tmp_path / "kafka" / "libs").symlink_to(copy_of_home)
    assert kafka_jars(print, home=tmp_path / "kafka")[0].parent == tmp_path / "kafka" / "libs"


def test_a_damaged_file_is_fetched_again_and_nothing_else(copy_of_home: Path) -> None:
    smallest = min(locked_jars(), key=lambda jar: (copy_of_home / jar.file_name).stat().st_size)
    (copy_of_home / smallest.file_name).unlink()
    (copy_of_home / smallest.file_name).write_bytes(b"half of i")
    said: list[str] = []
    try:
        fetch_jars(copy_of_home, said.append)
    except LauncherError as error:
        pytest.skip(f"nothing can be fetched here: {error.why}")
    assert missing_jars(copy_of_home) == []
    assert said[0].startswith("fetching Apache Kafka 4.3.1 (1 files, a part of 45 MB) into")
    assert said[1:] == [f"fetched 1 of 1: {smallest.file_name}"]
    assert {path.name for path in copy_of_home.iterdir()} == {jar.file_name for jar in locked_jars()}


def test_when_everything_is_there_nothing_is_said(copy_of_home: Path) -> None:
    said: list[str] = []
    fetch_jars(copy_of_home, said.append)
    assert said == []
