"""Folding host names: short for people, and nothing lost."""

import itertools
import re

from chargehand.terminal.names import fold, natural_key
from hypothesis import given
from hypothesis import strategies as st


def unfold(text: str) -> set[str]:
    """All names of a folded list: the way back, for the tests."""
    found: set[str] = set()
    for piece in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        parts = re.split(r"\[([^\]]*)\]", piece)
        choices = [[part] if place % 2 == 0 else list(_numbers(part)) for place, part in enumerate(parts)]
        found |= {"".join(choice) for choice in itertools.product(*choices)}
    return found


def _numbers(text: str) -> list[str]:
    numbers = []
    for run in text.split(","):
        low, _, high = run.partition("-")
        width = len(low) if low.startswith("0") or len(low) == len(high) else 0
        numbers += [f"{value:0{width}d}" for value in range(int(low), int(high or low) + 1)]
    return numbers


def test_names_that_differ_in_a_number_stand_under_one_bracket() -> None:
    assert fold(f"web{n:03d}" for n in range(1, 41)) == "web[001-040]"


def test_gaps_and_other_names_stay_apart() -> None:
    assert fold(["web3", "web1", "web2", "web7", "db"]) == "db,web[1-3,7]"


def test_padded_numbers_fold_only_with_their_width() -> None:
    assert fold(["n8", "n9", "n10", "n08", "n09"]) == "n[8-9],n[08-10]"


def test_the_number_that_varies_is_the_one_that_is_folded() -> None:
    assert fold([f"web{n:02d}.dc1.example.com" for n in range(1, 4)]) == "web[01-03].dc1.example.com"


def test_a_name_alone_and_a_name_without_a_number_stay_as_they_are() -> None:
    assert fold(["web1"]) == "web1"
    assert fold(["mail", "mail"]) == "mail"
    assert fold([]) == ""


def test_numbers_are_sorted_as_numbers() -> None:
    assert sorted(["web10", "web9", "web1"], key=natural_key) == ["web1", "web9", "web10"]


@given(st.sets(st.from_regex(r"\A[a-c]{1,2}[0-9]{0,3}(-[ab][0-9]{1,2})?\Z"), max_size=40))
def test_every_name_comes_out_exactly_once(names: set[str]) -> None:
    assert unfold(fold(names)) == (names or {""} - {""})
