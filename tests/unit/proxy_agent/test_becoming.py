"""What sudo, su, dzdo, doas and PAM say when they refuse, and what is told of it."""

from __future__ import annotations

import pytest
from chargehand_proxy_agent.providers.becoming import explained, needs_terminal, refusal
from chargehand_proxy_agent.providers.port import NeverStarted, Refused
from support.visits import look_order, start_order

LECTURE = (
    "We trust you have received the usual lecture from the local System | Administrator. It usually boils down to these three things: | "
    "#1) Respect the privacy of others. | #2) Think before you type. | #3) With great power comes great responsibility. | "
)


@pytest.mark.parametrize(
    ("method", "password", "said", "words"),
    [
        ("sudo", "", "sudo: a password is required | ", "wants the password of the connecting user and none was given"),
        ("sudo", "x-y-z", LECTURE + "Sorry, try again. | sudo: 1 incorrect password attempt | ", "wrong password: sudo"),
        ("sudo", "x-y-z", "ops is not in the sudoers file. | ", "does not let the connecting user run /bin/sh"),
        ("sudo", "", "sudo: sorry, you must have a tty to run sudo | ", "requiretty"),
        ("sudo", "x-y-z", "sudo: Account expired or PAM config lacks an account section | ", "has expired or is locked"),
        ("sudo", "x-y-z", "sudo: Password expired, contact your system administrator | ", "password of the connecting user has expired"),
        ("sudo", "", "sudo: unknown user app | sudo: error initializing audit plugin | ", "no such user on the host"),
        ("dzdo", "", "chargehand: dzdo is not installed", "dzdo is not installed there"),
        ("su", "", "Password: | su: Authentication failure | ", "su wants the password of app and none was given"),
        ("su", "x-y-z", "Password: | su: Authentication failure | ", "wrong password: su did not take it as that of app"),
        ("su", "x-y-z", "You are required to change your password immediately | ", "the password of app has expired"),
        ("su", "x-y-z", "This account is currently not available. | ", "no login shell"),
        ("doas", "x-y-z", "doas: Authentication failed | ", "wrong password: doas"),
        ("doas", "", "doas: Operation not permitted | ", "does not let the connecting user"),
        ("sudo", "x-y-z", "chargehand: it waits for something", "still waiting for something after 20 s"),
        ("sudo", "", "sudo: something new | ", "sudo failed: its words say why (sudo said: sudo: something new)"),
    ],
)  # fmt: skip
def test_each_saying_is_told_in_words_without_lecture_and_prompt(
    method: str, password: str, said: str, words: str
) -> None:
    order = start_order("id", effective_user="app", effective_user_method=method, effective_user_password=password)
    told = refusal(order, said)
    assert told.startswith("cannot run as app: ") and words in told
    assert "trust you" not in told and "Password:" not in told and "chargehand:" not in told


def test_a_host_that_repeats_the_password_does_not_have_it_told() -> None:
    order = start_order("id", effective_user="app", effective_user_password="s3cret-value")
    seen = NeverStarted("tombstone", refusal="you typed s3cret-value | sudo: 1 incorrect password attempt")
    told = explained(seen, order)
    assert isinstance(told, NeverStarted) and "s3cret-value" not in told.refusal and "********" in told.refusal
    assert "s3cret-value" not in repr(order)


def test_who_looks_later_is_told_the_same_and_anything_else_is_left_as_it_is() -> None:
    order = start_order("id", effective_user="app", effective_user_password="x-y-z")
    said = "sudo: 1 incorrect password attempt | "
    assert refusal(look_order(order), said) == refusal(order, said)
    for other in (NeverStarted("late"), Refused("disk_full", "no room")):
        assert explained(other, order) is other


def test_only_doas_with_a_password_needs_a_terminal() -> None:
    ways = [(method, password) for method in ("sudo", "su", "dzdo", "doas") for password in ("", "x-y-z")]
    wanting = [
        way
        for way in ways
        if needs_terminal(start_order("id", effective_user_method=way[0], effective_user_password=way[1]))
    ]
    assert wanting == [("doas", "x-y-z")]
