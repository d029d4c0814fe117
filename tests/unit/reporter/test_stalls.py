"""A reporter that runs and reads nothing begins anew, whatever its Kafka client thinks it waits for."""

from chargehand_reporter.core.stalls import Seen, Stalls, behind

PLACE, OTHER = ("chargehand.dispatch-events.v1", 0), ("chargehand.dispatch-events.v1", 1)


def at(moment_s: float, *, assigned: int = 4, position: int = 7, unacknowledged: int = 0) -> Seen:
    return Seen(moment_s, assigned, {PLACE: position}, unacknowledged)


def test_without_partitions_for_long_it_begins_anew() -> None:
    stalls = Stalls(60)
    answers = [stalls.judge(one) for one in (at(0, assigned=0), at(60, assigned=0), at(61, assigned=0))]
    assert answers == ["", "", "no partition was assigned for 60 s, and so nothing is read"]


def test_partitions_that_come_in_time_are_enough() -> None:
    stalls = Stalls(60)
    assert not any(stalls.judge(one) for one in (at(0, assigned=0), at(50), at(55, assigned=0), at(110, assigned=0)))


def test_the_logs_are_asked_when_nothing_has_moved_for_long_and_then_not_at_once_again() -> None:
    """Seen after kill -9 of Kafka while a reporter was being started: partitions or not, nothing was ever fetched."""
    stalls = Stalls(60)
    assert [stalls.is_to_be_asked(at(moment)) for moment in (0, 60, 61, 66, 121, 122)] == [
        False, False, True, False, False, True,
    ]  # fmt: skip


def test_who_moves_or_waits_for_acknowledgements_is_not_asked_about() -> None:
    stalls = Stalls(60)
    seen = (at(0), at(50, position=8), at(100, position=9), at(155, position=9, unacknowledged=2), at(210, position=9))
    assert not any(stalls.is_to_be_asked(one) for one in seen)


def test_who_has_not_read_to_the_ends_is_behind() -> None:
    assert behind({PLACE: 7, OTHER: 0}, {PLACE: 7}) == ""
    assert behind({PLACE: 7}, {PLACE: 9}) == ""
    why = "5 records wait and none arrives (chargehand.dispatch-events.v1/0: 3, chargehand.dispatch-events.v1/1: 2)"
    assert behind({PLACE: 10, OTHER: 2}, {PLACE: 7}) == why
