"""The answer to a command that is not about an invocation, as an event of a stream of its own.

Owns its shape.
"""

from __future__ import annotations

from datetime import datetime

from chargehand_schemas.base import Item
from chargehand_schemas.catalog import CommandDecided
from chargehand_schemas.commands import Command
from chargehand_schemas.ids import item_id

from .outcomes import Append, Outcome, Refused


def answer(command: Item, outcome: Outcome, now: datetime) -> Append:
    """`handled` with counts, or `refused` with why. The stream is the command's id, so a command is answered once."""
    refused = outcome if isinstance(outcome, Refused) else None
    event = CommandDecided(
        id=item_id("command-decided", command.id),
        time=now,
        causation_id=command.id,
        traceparent=command.traceparent,
        actor=command.actor if isinstance(command, Command) else "",
        command_id=command.id,
        decision="handled" if refused is None else "refused",
        reason=None if refused is None else refused.reason,
        detail="" if refused is None else refused.detail,
        counts={} if isinstance(outcome, Refused) else dict(outcome.counts),
    )
    return Append(command.id, 1, event)
