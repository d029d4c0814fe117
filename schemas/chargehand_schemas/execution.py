"""Messages of the topic `execution-events`: facts of attempts, said by agents. Key: job_invocation_id.

Owns shape only. An agent never says `never started`, `interrupted` or `ended` without having looked at the host (rule TRUTH).
"""

from __future__ import annotations

from uuid import UUID

from pydantic import Field

from .base import AttemptItem, Instant
from .reasons import EndCause, NeverStartedWhy, ReleaseReason, Stream


class AttemptFact(AttemptItem):
    """A fact of an attempt and who says it: agent, its process (`agent_boot_id`) and its journal (rule JID)."""

    host_id: UUID
    proxy: str
    agent_id: str
    agent_boot_id: UUID
    journal_id: UUID


class AttemptAccepted(AttemptFact):
    """The agent may start it; acknowledged by the broker before anything starts (rule ACK)."""


class AttemptReleased(AttemptFact):
    """This agent has not started it and never will. `proves_never_started`: the conditions of rule ONE (a) hold here."""

    why: ReleaseReason
    detail: str = Field("", max_length=2048)
    proves_never_started: bool = False


class AttemptStarted(AttemptFact):
    """The host has taken `started`. `script_digest` is the record of which script ran."""

    host_boot_id: str = ""
    started_at: Instant
    script_digest: str = ""


class AttemptEnded(AttemptFact):
    """The exit file was read and all output before it acknowledged (rule OUTORD).

    `lengths` and `kept` in bytes by stream: what the host wrote, and what was published of it; `digests` are SHA-256 (hex)
    of what was published; `newlines` counts lines. A cap makes `kept` less than `lengths`.
    """

    exit_status: int | None = None
    signal: str | None = None
    cause: EndCause = EndCause.EXITED
    started_at: Instant | None = None
    ended_at: Instant
    lengths: dict[Stream, int] = Field(default_factory=dict)
    kept: dict[Stream, int] = Field(default_factory=dict)
    digests: dict[Stream, str] = Field(default_factory=dict)
    newlines: dict[Stream, int] = Field(default_factory=dict)
    host_boot_id: str = ""


class AttemptInterrupted(AttemptFact):
    """Started and dead without an exit file, or booted since it was issued: seen on the host. Lengths as in AttemptEnded."""

    detail: str = Field("", max_length=2048)
    host_boot_id: str = ""
    lengths: dict[Stream, int] = Field(default_factory=dict)
    kept: dict[Stream, int] = Field(default_factory=dict)
    digests: dict[Stream, str] = Field(default_factory=dict)


class AttemptNeverStarted(AttemptFact):
    """A tombstone holds its lock. `fenced_by`: the earlier attempt that runs or ended unseen (rule FENCE). `refusal`: the host
    will not have it, in words; another attempt would fare no better."""

    why: NeverStartedWhy
    fenced_by: int | None = None
    refusal: str = Field("", max_length=2048)
