"""What the agent does for an attempt, as data. The shell and the simulation carry out the same list, in order, each effect
complete before the next begins.

Owns the vocabulary. If a Journal effect fails, the rest of its list is dropped and JournalFailed comes back.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from chargehand_schemas.base import AttemptItem
from chargehand_schemas.proxy_commands import ResumeProxyCommand

from .entry import Entry, Offsets


@dataclass(frozen=True, slots=True)
class Journal:
    """Write the entry, new or not, and wait until it is on disk."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class JournalLater:
    """Write the entry some time; if that is lost, nothing but work is."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class CommitOffset:
    """The command that brought this about need not be read again."""


@dataclass(frozen=True, slots=True)
class PublishAndAwait:
    """Publish, and wait until the broker has acknowledged it."""

    item: AttemptItem


@dataclass(frozen=True, slots=True)
class Publish:
    """Publish in order, without waiting."""

    item: AttemptItem


@dataclass(frozen=True, slots=True)
class PublishOutput:
    """Publish a piece of output; OutputAcked comes back with the position `up_to` of its stream, in order."""

    item: AttemptItem
    raw: bytes | None
    up_to: Offsets


@dataclass(frozen=True, slots=True)
class Connect:
    """Begin a visit: get a connection to the host. Answered by Connected or CouldNotConnect."""

    visit: int


@dataclass(frozen=True, slots=True)
class SendWrapper:
    """On this visit's connection: start the attempt (see `attempt.start_terms`). Answered by observations."""

    visit: int


@dataclass(frozen=True, slots=True)
class Look:
    """On this visit's connection: look for the truth; `is_cancel`: end the attempt first. Output is wanted from `offsets` on."""

    visit: int
    is_cancel: bool
    offsets: Offsets


@dataclass(frozen=True, slots=True)
class Leave:
    """End this visit, if it still goes on. Nothing on the host is stopped by it."""

    visit: int


@dataclass(frozen=True, slots=True)
class WakeAfter:
    """Come back with Woken."""

    delay: timedelta


@dataclass(frozen=True, slots=True)
class Follow:
    """Begin to follow another attempt of the same job task: FollowWanted to that one."""

    command: ResumeProxyCommand


@dataclass(frozen=True, slots=True)
class Forget:
    """Nothing is left to do: drop the attempt from memory."""


Effect = (
    Journal
    | JournalLater
    | CommitOffset
    | PublishAndAwait
    | Publish
    | PublishOutput
    | Connect
    | SendWrapper
    | Look
    | Leave
    | WakeAfter
    | Follow
    | Forget
)
