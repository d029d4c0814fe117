"""What can happen to an attempt in the agent: commands, what was seen on its host, and what became of our own effects.

Owns the vocabulary. The shell makes these from messages and from the provider port; a simulation makes them from its model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from chargehand_schemas.proxy_commands import CancelProxyCommand, ResumeProxyCommand, RunProxyCommand
from chargehand_schemas.reasons import EndCause, NeverStartedWhy, Stream

from .entry import Offsets

# --- commands ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunReceived:
    """A verified command to start the attempt."""

    command: RunProxyCommand


@dataclass(frozen=True, slots=True)
class ResumeReceived:
    """The dispatcher wants to know what is true of the attempt."""

    command: ResumeProxyCommand


@dataclass(frozen=True, slots=True)
class CancelReceived:
    """The attempt is to be ended, or never to start."""

    command: CancelProxyCommand


@dataclass(frozen=True, slots=True)
class FollowWanted:
    """This attempt fences a later one: it is to be followed and reported (docs/protocol.md, rule FENCE)."""

    command: ResumeProxyCommand


# --- on the way to the host and back ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connected:
    """The visit has its connection, and nothing was sent on it."""

    visit: int


@dataclass(frozen=True, slots=True)
class CouldNotConnect:
    """The visit got no connection, so nothing was sent."""

    visit: int
    why: str
    detail: str


@dataclass(frozen=True, slots=True)
class StartSeen:
    """The host has taken `started`: now, or before (`existed`). `host_boot_id` is its present boot."""

    visit: int
    host_boot_id: str
    started_ago: timedelta
    existed: bool = False


@dataclass(frozen=True, slots=True)
class OutputSeen:
    """Bytes of a stream at their offset."""

    visit: int
    stream: Stream
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class OmissionSeen:
    """The provider left out bytes [start, end) of a stream."""

    visit: int
    stream: Stream
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class EndSeen:
    """The exit file was read, after the output. Ends the visit."""

    visit: int
    exit_status: int | None
    signal: str | None
    cause: EndCause
    lengths: Mapping[Stream, int]
    ran_for: timedelta
    host_boot_id: str = ""
    ended_ago: timedelta | None = None


@dataclass(frozen=True, slots=True)
class InterruptionSeen:
    """Started and dead without an exit file, or booted since it was issued. Ends the visit."""

    visit: int
    detail: str
    host_boot_id: str = ""
    lengths: Mapping[Stream, int] | None = None


@dataclass(frozen=True, slots=True)
class NeverStartedSeen:
    """A tombstone holds the attempt's lock. Ends the visit."""

    visit: int
    why: NeverStartedWhy
    fenced_by: int | None = None
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class RefusalSeen:
    """The wrapper did not start it and left the lock free; `start_not_allowed`: it was not even sent. Ends the visit."""

    visit: int
    why: str
    detail: str


@dataclass(frozen=True, slots=True)
class ConnectionCut:
    """The visit ended without the truth. `was_sent` is False when certainly nothing of the order reached the host."""

    visit: int
    detail: str
    was_sent: bool = True


# --- what became of effects, time, and the process ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OutputAcked:
    """The broker has acknowledged all output given out below these positions."""

    offsets: Offsets


@dataclass(frozen=True, slots=True)
class JournalFailed:
    """The Journal effect now in hand could not be written; the effects after it were dropped."""


@dataclass(frozen=True, slots=True)
class Woken:
    """The time asked for with WakeAfter has come."""


@dataclass(frozen=True, slots=True)
class Restarted:
    """This process found the attempt in its journal."""


@dataclass(frozen=True, slots=True)
class Stopping:
    """The agent stops: what is not started yet is released; what runs goes on on its host."""


Observation = (
    StartSeen | OutputSeen | OmissionSeen | EndSeen | InterruptionSeen | NeverStartedSeen | RefusalSeen | ConnectionCut
)
Command = RunReceived | ResumeReceived | CancelReceived | FollowWanted
Input = Command | Connected | CouldNotConnect | Observation | OutputAcked | JournalFailed | Woken | Restarted | Stopping
