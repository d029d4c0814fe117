"""Why a host did not let an attempt's script run as its effective user, in words that say what to do.

Owns what sudo, su, dzdo, doas and PAM say, and what it means. Pure: the texts come from the host, already on one line and made
harmless (wrapper.sh, `bar`). They are in English, since the wrapper asks for it; what is not known is told as it was said.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import NamedTuple

from .details import harmless
from .port import LookOrder, NeverStarted, Observation, Refused, StartOrder

MASK = "********"
_MOST_SAID = 300
_BETWEEN_LINES = " | "


class _Saying(NamedTuple):
    """What is said, and what it means. {account}: whose password the method asks for."""

    pattern: re.Pattern[str]
    meaning: str


def _saying(pattern: str, meaning: str) -> _Saying:
    return _Saying(re.compile(pattern, re.IGNORECASE), meaning)


# The first that is found counts.
_SAYINGS = (
    _saying(
        r"chargehand: \w+ is not installed",
        "{method} is not installed there: install it, or name another way with the host's parameter effective_user_method",
    ),
    _saying(r"unknown user|user \S+ does not exist|no passwd entry|unknown id", "there is no such user on the host"),
    _saying(
        r"must have a tty|must be run from a terminal|a tty is required",
        "{method} wants a terminal (requiretty): exempt the connecting user, as in `Defaults:LOGIN !requiretty`",
    ),
    _saying(
        r"password has expired|password expired|change your password|password change required|current password|new password"
        r"|token is no longer valid|token manipulation",
        "the password of {account} has expired: it must be changed on the host first",
    ),
    _saying(
        r"account (has )?expired|account validation failure|account (is )?locked",
        "the account of {account} has expired or is locked: have it renewed on the host",
    ),
    _saying(
        r"account is currently not available|nologin",
        "this user has no login shell, which su wants: use sudo, or give them a shell",
    ),
    _saying(
        r"not in the sudoers|not allowed to|may not run|not permitted|permission denied",
        "{method} does not let the connecting user run /bin/sh as this user: allow it in its configuration on the host",
    ),
    _saying(
        r"syntax error|parse error|no valid sudoers|owned by uid|world writable|must be setuid|effective uid is not 0|doas is not enabled",
        "{method} is not set up rightly on the host: mend its configuration",
    ),
    _saying(
        r"chargehand: it waits",
        "{method} was still waiting for something after 20 s: let it ask for a password at most",
    ),
)
_ASKS = re.compile(r"password is required|authenti?cation required|authorization required", re.IGNORECASE)
_WRONG = re.compile(
    r"incorrect password|sorry, try again|authentication (failure|failed|error)|incorrect authentication|no password was provided",
    re.IGNORECASE,
)
_NO_WORDS = re.compile(
    r"trust you have received|boils down to|^\s*#\d\)|security reasons, the password you type|^\s*password:\s*$|^chargehand: |^\s*$",
    re.IGNORECASE,
)


def needs_terminal(order: StartOrder) -> bool:
    """doas reads a password from a terminal only."""
    return order.effective_user_method == "doas" and bool(order.effective_user_password)


def explained(observation: Observation, order: StartOrder | LookOrder) -> Observation:
    """A refusal to become the user, in words; anything else as it is."""
    match observation:
        case NeverStarted(refusal=said) if said:
            return replace(observation, refusal=refusal(order, said))
        case Refused("effective_user", said):
            return replace(observation, detail=refusal(order, said))
        case _:
            return observation


def refusal(order: StartOrder | LookOrder, said: str) -> str:
    """What is wrong and what to do, then what was said without lectures and prompts. The password is in neither."""
    password = order.effective_user_password if isinstance(order, StartOrder) else ""
    if password:
        said = said.replace(password, MASK)
    lines = [line for line in said.split(_BETWEEN_LINES) if not _NO_WORDS.search(line)]
    told = f" ({order.effective_user_method} said: {harmless('; '.join(lines), _MOST_SAID)})" if lines else ""
    return f"cannot run as {order.effective_user}: {_meaning(order, said, password)}{told}"


def _meaning(order: StartOrder | LookOrder, said: str, password: str) -> str:
    method = order.effective_user_method
    account = order.effective_user if method == "su" else "the connecting user"
    for pattern, meaning in _SAYINGS:
        if pattern.search(said):
            return meaning.format(method=method, account=account)
    # Who only looks has no password, and does not know whether there was one: sudo and doas say it, su does not.
    was_given = password or (isinstance(order, LookOrder) and not _ASKS.search(said))
    if was_given and _WRONG.search(said):
        return f"wrong password: {method} did not take it as that of {account}"
    if not password and (_ASKS.search(said) or method == "su"):
        return f"{method} wants the password of {account} and none was given: give it, or let {method} do without"
    return f"{method} failed: its words say why"
