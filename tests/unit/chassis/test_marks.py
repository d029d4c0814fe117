"""What is said of a log that does not hold what a store knows of it."""

import pytest
from chargehand_chassis.kafka import Cut, Mark, is_cut

TOPIC = "chargehand.planning-events.v1"


@pytest.mark.parametrize(
    ("cut", "missing", "words"),
    [
        (Cut(TOPIC, 2, 120, 0, 100, 100), 20, "the store stands at 120, the log has 0 to 100: 20 messages are missing"),
        (
            Cut(TOPIC, 2, 120, 0, 100, 130),
            20,
            "is the same up to 100 only, and went on to 130: 20 messages are missing",
        ),
        (Cut(TOPIC, 2, 5, 8, 5, 130), 3, "the log begins at 8: 3 messages are missing"),
    ],
)
def test_a_cut_says_where_it_is_and_how_much_is_missing(cut: Cut, missing: int, words: str) -> None:
    assert cut.missing == missing
    assert str(cut).startswith(f"{TOPIC}/2: ")
    assert words in str(cut)


def test_whoever_stops_for_a_cut_names_the_way_out_first() -> None:
    assert is_cut("here").startswith("the log was cut, see `chargehand repair`: here.")


def test_of_two_marks_the_later_place_is_the_greater() -> None:
    assert max(Mark(3, 900), Mark(4, 100)) == Mark(4, 100)
