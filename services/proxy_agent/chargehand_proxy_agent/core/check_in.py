"""A host announces itself: its words, and what is answered (docs/adr/0027-a-host-s-key-is-derived.md).

Owns the form of an announcement, its limits, and the rate of one host. Pure: no I/O, no clock. An
announcement is text, so that a shell can write it without quoting:

    chargehand check-in 1
    host=HOST_ID
    key=KEY
    (an empty line)
    NAME=VALUE          one fact a line
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from chargehand_schemas.hosts import MAX_FACT_CHARACTERS, MAX_FACTS, HostCheckedIn, HostFactsReported
from chargehand_schemas.ids import item_id

from .check_in_keys import is_key_of
from .facts import AgentFacts

MAX_BODY_BYTES = 32 * 1024
BURST = 5
REFILL = timedelta(seconds=10)
"""One host may check in so often at once, and then again once in so long."""

_FIRST_LINE = "chargehand check-in 1"
_KEY = re.compile(r"[0-9a-f]{64}")
_FACT = re.compile(r"([a-z][a-z0-9_.]{0,63})=(.*)", re.DOTALL)


# --- what is said and answered ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a host says. `left_out` counts lines after the empty one that are no facts, or are beyond the limits."""

    host_id: UUID
    key: str
    facts: dict[str, str] = field(default_factory=dict)
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP status and what is said with it. `retry_after_s`: when it makes sense to come again."""

    status: int
    words: str
    retry_after_s: int = 0


def read_announcement(body: bytes) -> Announcement | Answer:
    """An announcement, or why it is none."""
    if len(body) > MAX_BODY_BYTES:
        return too_large()
    head, _, tail = body.decode("utf-8", "replace").partition("\n\n")
    lines = head.rstrip("\n").split("\n")
    named = dict(line.partition("=")[::2] for line in lines[1:])
    if lines[0] != _FIRST_LINE or sorted(named) != ["host", "key"] or len(lines) != 3:
        return Answer(400, f"malformed: an announcement begins with {_FIRST_LINE!r}, host=ID and key=KEY, a line each")
    host_id = _host_id(named["host"])
    if host_id is None or not _KEY.fullmatch(named["key"]):
        return Answer(400, "malformed: host= takes the id of a host, key= 64 hex digits; install the check-in again")
    facts, left_out = _facts(tail)
    return Announcement(host_id, named["key"], facts, left_out)


def _host_id(text: str) -> UUID | None:
    """As it is written by us: no braces, no capitals."""
    try:
        host_id = UUID(text)
    except ValueError:
        return None
    return host_id if str(host_id) == text else None


def _facts(text: str) -> tuple[dict[str, str], int]:
    facts: dict[str, str] = {}
    left_out = 0
    for line in filter(None, text.split("\n")):
        match = _FACT.fullmatch(line)
        if match is None or (match[1] not in facts and len(facts) >= MAX_FACTS):
            left_out += 1
        else:
            facts[match[1]] = match[2][:MAX_FACT_CHARACTERS]
    return facts, left_out


def objection(said: Announcement, secrets: Sequence[bytes], is_ours: bool, proxy: str) -> Answer | None:
    """Why nothing comes of it. Whether there is such a host is told only to who has its key."""
    if not is_key_of(secrets, said.host_id, said.key):
        return Answer(
            403, f"refused: this is not the key of host {said.host_id} at proxy {proxy}; install the check-in again"
        )
    if not is_ours:
        return Answer(
            410, f"refused: host {said.host_id} is not, or not any more, one of proxy {proxy}; remove the check-in"
        )
    return None


def accepted(said: Announcement) -> Answer:
    """It is in the log."""
    left = f"; {said.left_out} lines that are no facts, or too many, were left out" if said.left_out else ""
    return Answer(200, f"checked in, {len(said.facts)} facts{left}")


def too_large() -> Answer:
    return Answer(413, f"refused: an announcement has at most {MAX_BODY_BYTES // 1024} KiB; give fewer facts")


def too_often(wait: timedelta) -> Answer:
    seconds = max(1, -(-wait // timedelta(seconds=1)))
    return Answer(429, f"refused: this host has checked in {BURST} times in a row; come again in {seconds} s", seconds)


def busy(seconds: int) -> Answer:
    return Answer(503, f"busy: too many hosts check in at once; come again in {seconds} s", seconds)


def unsaid(seconds: int) -> Answer:
    return Answer(503, f"not recorded: the broker has not acknowledged it; come again in {seconds} s", seconds)


# --- the rate of one host --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Allowance:
    """How often a host may still check in, as of an instant (seconds of a clock that only goes on)."""

    left: float
    at_s: float


def spend(known: Allowance | None, at_s: float) -> tuple[Allowance, timedelta]:
    """The allowance after one check-in, and zero; or unchanged, and how long to wait."""
    per_second = 1 / REFILL.total_seconds()
    left = float(BURST) if known is None else min(float(BURST), known.left + max(0.0, at_s - known.at_s) * per_second)
    if left < 1:
        return Allowance(left, at_s), timedelta(seconds=(1 - left) / per_second)
    return Allowance(left - 1, at_s), timedelta(0)


# --- what is published -----------------------------------------------------------------------------------------------


def checked_in(said: Announcement, at: datetime, facts: AgentFacts) -> HostCheckedIn:
    """The agent vouches for it."""
    return HostCheckedIn(
        id=item_id("check-in", said.host_id, facts.agent_id, at.isoformat()),
        time=at,
        host_id=said.host_id,
        proxy=facts.proxy,
        agent_id=facts.agent_id,
        checked_in_at=at,
    )


def reported(said: Announcement, at: datetime, facts: AgentFacts) -> HostFactsReported:
    """All that the host says of itself."""
    return HostFactsReported(
        id=item_id("host-facts", said.host_id, facts.agent_id, at.isoformat()),
        time=at,
        host_id=said.host_id,
        proxy=facts.proxy,
        agent_id=facts.agent_id,
        facts=said.facts,
        reported_at=at,
    )


def digest_of(facts: dict[str, str]) -> bytes:
    """The same for the same facts, in whatever order."""
    text = "\n".join(f"{name}={value}" for name, value in sorted(facts.items()))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
