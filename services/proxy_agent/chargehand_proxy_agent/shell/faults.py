"""Named points between two durable writes of the agent, at which a test may end the process. Owns the names."""

from __future__ import annotations

from ..core.effects import Effect, Journal, PublishAndAwait
from ..core.entry import Phase

AFTER_JOURNAL = {
    Phase.ACCEPTED: "agent.after_journal_before_accepted",
    Phase.STARTING: "agent.after_starting_before_wrapper",
    Phase.FOLLOWING: "agent.after_journal_before_started",
    Phase.RELEASED: "agent.after_journal_before_released",
    Phase.NEVER_STARTED: "agent.after_journal_before_never_started",
    Phase.INTERRUPTED: "agent.after_journal_before_interrupted",
    Phase.ENDED: "agent.after_journal_before_ended",
}
AFTER_SAYING = {
    Phase.ACCEPTED: "agent.after_accepted_before_connect",
    Phase.RELEASED: "agent.after_released_before_cleanup",
    Phase.NEVER_STARTED: "agent.after_never_started_before_cleanup",
    Phase.INTERRUPTED: "agent.after_interrupted_before_cleanup",
    Phase.ENDED: "agent.after_ended_before_cleanup",
}
CONNECTED = "agent.after_connect_before_starting"
STARTED = "agent.after_wrapper_before_started"
OUTPUT_ACKED = "agent.after_output_before_journal"

FAULT_POINTS = (*AFTER_JOURNAL.values(), *AFTER_SAYING.values(), CONNECTED, STARTED, OUTPUT_ACKED)


def point_after(effect: Effect, phase: Phase) -> str:
    """The point behind an effect that was just completed, empty if there is none."""
    match effect:
        case Journal(entry):
            return AFTER_JOURNAL.get(entry.phase, "")
        case PublishAndAwait():
            return AFTER_SAYING.get(phase, "")
        case _:
            return ""
