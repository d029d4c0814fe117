"""What is killed, when: drawn from a seed, so that the same seed gives the same campaign.

Owns the victims, the delays and the named points between two durable writes. Nothing is killed here.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

TREE = "tree"
VICTIMS = ("planner", "dispatcher", "proxy-agent", "reporter", "gateway", "kafka", TREE)
KILLS_A_RUN = 5
_SHORTEST_DELAY_S = 0.2
_LONGEST_DELAY_S = 2.5

# All points that a job comes by which is neither cancelled nor refused nor asked for, several services a round. A service that
# ends before it stores anything goes no further than that: such points have a round of their own. `:n`: at the nth passing, the
# first are on the way up.
ROUNDS: tuple[Mapping[str, str], ...] = (
    {
        "proxy-agent": "agent.after_journal_before_accepted",
        "dispatcher": "dispatcher.after_inbox:5",
        "reporter": "reporter.folded:8",
    },
    {
        "proxy-agent": "agent.after_accepted_before_connect",
        "dispatcher": "dispatcher.after_claim",
        "reporter": "reporter.published:3",
    },
    {"proxy-agent": "agent.after_connect_before_starting", "dispatcher": "dispatcher.after_publish:3"},
    {"proxy-agent": "agent.after_starting_before_wrapper", "planner": "planner.after_publish_before_position:3"},
    {"proxy-agent": "agent.after_wrapper_before_started", "planner": "planner.before_publish:3"},
    {"proxy-agent": "agent.after_output_before_journal", "planner": "planner.after_plan_stored"},
    {"proxy-agent": "agent.after_journal_before_ended", "planner": "planner.after_binding_stored"},
    {"proxy-agent": "agent.after_ended_before_cleanup"},
    {"planner": "planner.after_command_stored"},
    {"planner": "planner.before_command_stored"},
    {"planner": "planner.before_plan_stored"},
    {"planner": "planner.before_binding_stored"},
)


@dataclass(frozen=True, slots=True)
class Strike:
    """Wait so long after the last one, then kill this."""

    delay_s: float
    victim: str


def draw(seed: int, kills: int) -> list[list[Strike]]:
    """The strikes of each job run."""
    dice = random.Random(seed)
    strikes = [
        Strike(round(dice.uniform(_SHORTEST_DELAY_S, _LONGEST_DELAY_S), 3), dice.choice(VICTIMS)) for _ in range(kills)
    ]
    return [strikes[first : first + KILLS_A_RUN] for first in range(0, kills, KILLS_A_RUN)]
