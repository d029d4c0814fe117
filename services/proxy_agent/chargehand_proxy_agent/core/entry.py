"""What the agent's journal keeps of one attempt. A cache: the truth is on the host (docs/protocol.md, rule TRUTH).

Owns the phases and the entry. How it is stored is the shell's.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from chargehand_schemas.execution import AttemptFact
from chargehand_schemas.ids import AttemptId
from chargehand_schemas.proxy_commands import ProxyCommand


class Phase(StrEnum):
    """How far an attempt is in this agent. The last four are ends; LOOKING is never journaled."""

    LOOKING = "looking"
    ACCEPTED = "accepted"
    STARTING = "starting"
    FOLLOWING = "following"
    RELEASED = "released"
    NEVER_STARTED = "never_started"
    INTERRUPTED = "interrupted"
    ENDED = "ended"

    @property
    def is_end(self) -> bool:
        return self in _ENDS


_ENDS = frozenset({Phase.RELEASED, Phase.NEVER_STARTED, Phase.INTERRUPTED, Phase.ENDED})


class Offsets(NamedTuple):
    """Positions in bytes, one of each stream."""

    stdout: int = 0
    stderr: int = 0


NO_OFFSETS = Offsets()


class Entry(NamedTuple):
    """One attempt in the journal.

    `order` says where to look for it. `report` is what was last said of it, or is to be said; `is_said`: the broker has
    acknowledged an end's report. Output below `acked` is acknowledged and never published again. `keep_until`: a repeated
    command may come until then.
    """

    id: AttemptId
    order: ProxyCommand
    phase: Phase
    keep_until: datetime
    report: AttemptFact | None = None
    is_said: bool = False
    acked: Offsets = NO_OFFSETS
