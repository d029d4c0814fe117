"""What a rule answers: the next state of a job task, and what is to be said, in order. Data only."""

from __future__ import annotations

from dataclasses import dataclass

from chargehand_schemas.base import Item

from .job_task import JobTask


@dataclass(frozen=True, slots=True)
class Decision:
    """The job task as it is now and the items to publish. The same job task and nothing to say: nothing happened."""

    job_task: JobTask
    emits: tuple[Item, ...] = ()

    def then(self, *more: Item) -> Decision:
        return Decision(self.job_task, (*self.emits, *more))
