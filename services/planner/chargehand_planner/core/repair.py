"""What a planner can say again of what it decided about attempts, when its log was cut (docs/adr/0023). Owns that as values."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from chargehand_schemas.base import AttemptItem
from chargehand_schemas.ids import item_id

from .bindings import Binding, announced


def decisions_again(bindings: Iterable[Binding], now: datetime) -> list[AttemptItem]:
    """The event of each decision, under the id it had: whoever has it drops it."""
    return [announced(binding, _about(binding, now), now) for binding in bindings]


def _about(binding: Binding, now: datetime) -> AttemptItem:
    """The dispatcher's message that brought the decision about, as far as it is referred to."""
    return AttemptItem(
        id=item_id("attempt-due", binding.job_task_id, binding.attempt),
        time=now,
        job_invocation_id=binding.job_invocation_id,
        job_task_id=binding.job_task_id,
        attempt=binding.attempt,
    )
