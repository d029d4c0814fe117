"""What the agent knows of itself when it judges an attempt. Owns these facts; measuring them is the shell's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from .output import OutputLimits
from .policy import Policy


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """The agent now.

    `same_user_only`: the providers that cannot run a script as another user than the one who connects.
    `agent_boot_id` is of this process, `journal_id` and `journal_birth` of the journal (None: no trusted clock yet since it
    was made). `clock_offset`: this clock minus the broker's, None while not known. `providers`: those offered, and whether
    each has a lock on the host. `takes_check_ins`: it has an endpoint for them, and can give hosts their keys.
    """

    agent_id: str
    agent_boot_id: UUID
    journal_id: UUID
    proxy: str
    journal_birth: datetime | None = None
    clock_offset: timedelta | None = None
    clock_margin: timedelta = timedelta(seconds=5)
    providers: Mapping[str, bool] = field(default_factory=dict)
    same_user_only: frozenset[str] = frozenset()
    policy: Policy = field(default_factory=Policy)
    limits: OutputLimits = field(default_factory=OutputLimits)
    is_stopping: bool = False
    takes_check_ins: bool = False
    journal_keep: timedelta = timedelta(minutes=10)
    hosts_keep: timedelta = timedelta(days=14)

    @property
    def is_clock_trusted(self) -> bool:
        """docs/protocol.md, rule CLK: outside the margin, or unmeasured, nothing is started."""
        return self.clock_offset is not None and abs(self.clock_offset) <= self.clock_margin

    def true_time(self, now: datetime) -> datetime:
        """An instant by this clock as the broker's clock would have it: what is told of hosts is told by one clock."""
        return now if self.clock_offset is None else now - self.clock_offset

    def is_within_journal(self, issued_at: datetime) -> bool:
        """Issued so late that this journal would know it (docs/protocol.md, rules JID, ONE, SOLO)."""
        return self.journal_birth is not None and issued_at >= self.journal_birth + self.clock_margin

    def has_host_lock(self, provider: str) -> bool:
        return self.providers.get(provider, False)
