"""The state of one JobTask, as the dispatcher keeps it. A frozen value; what may become of it is in table.py.

Owns the fields and what can be read off them. No rule that changes a job task enters here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from chargehand_schemas.reasons import JobTaskStatus, Reason


class State(StrEnum):
    """The states of docs/protocol.md section 1."""

    WAITING = "waiting"
    CHECK_IN = "check_in"
    DUE = "due"
    ACCEPTED = "accepted"
    RUNNING = "running"
    ENDED = "ended"

    @property
    def holds_slot(self) -> bool:
        return self in SLOT_STATES


SLOT_STATES = frozenset({State.DUE, State.ACCEPTED, State.RUNNING})

_SHOWN = {
    State.WAITING: JobTaskStatus.WAITING,
    State.CHECK_IN: JobTaskStatus.WAITING_FOR_CHECK_IN,
    State.DUE: JobTaskStatus.DUE,
    State.ACCEPTED: JobTaskStatus.ACCEPTED,
    State.RUNNING: JobTaskStatus.RUNNING,
}


@dataclass(frozen=True, slots=True)
class JobTask:
    """One JobTask.

    `attempt` is the current attempt (0: none yet), `last_attempt` the highest number given out: they differ only after
    "fenced by". `tried` counts tries used up. Journals that accepted and released the current attempt are kept by id
    (rule JID). `first_dispatched_at` is that of the present try (rule PICK). `unknown` are attempts whose end is not known,
    `unlooked` those that are over by one journal's word alone, before they could not start any more (rule ONE).
    """

    job_task_id: UUID
    job_invocation_id: UUID
    host_id: UUID
    host_name: str
    proxy: str
    ordinal: int
    due_at: datetime
    state: State = State.WAITING
    is_cancelling: bool = False
    attempt: int = 0
    last_attempt: int = 0
    tried: int = 0
    unstarted: int = 0
    first_dispatched_at: datetime | None = None
    issued_at: datetime | None = None
    not_after: datetime | None = None
    run_deadline: datetime | None = None
    acceptors: frozenset[UUID] = frozenset()
    released: frozenset[UUID] = frozenset()
    could_not_connect: bool = False
    release_refused: bool = False
    detail: str = ""
    holder: str = ""
    holder_boot: UUID | None = None
    last_word_at: datetime | None = None
    asked: int = 0
    asked_at: datetime | None = None
    unknown: tuple[int, ...] = ()
    unlooked: tuple[int, ...] = ()
    status: JobTaskStatus | None = None
    reason: Reason | None = None
    exit_status: int | None = None
    signal: str | None = None

    @property
    def shown_status(self) -> JobTaskStatus:
        """The status as people and topics know it."""
        if self.state is State.ENDED:
            assert self.status is not None  # noqa: S101 (an ended job task has its verdict)
            return self.status
        return JobTaskStatus.CANCELLING if self.is_cancelling else _SHOWN[self.state]

    @property
    def earlier(self) -> tuple[int, ...]:
        """Attempts before the current one."""
        return tuple(range(1, self.attempt))

    @property
    def is_released_by_all(self) -> bool:
        """Every journal that accepted the attempt has released it (rule ACCEPTORS)."""
        return self.acceptors <= self.released
