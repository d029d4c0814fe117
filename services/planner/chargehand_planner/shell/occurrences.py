"""What the dispatcher says of whole invocations: their time has come, a chunk of their plan is missing, they have ended.

Owns the way from there to a change of the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import structlog
from chargehand_chassis.clock import now
from chargehand_chassis.errors import TransientFailure
from chargehand_chassis.metrics import METRICS
from chargehand_schemas.dispatch import JobInvocationDue, JobInvocationEnded, PlanChunkMissing

from ..core import job_invocations
from ..core.outcomes import Decided
from .binder import Place
from .commands import of_invocation
from .gate import StoreGate
from .store import Change, Conflict, PlannerStore

Occurrence: TypeAlias = "JobInvocationDue | PlanChunkMissing | JobInvocationEnded"

TRIES = 5


class Occurrences:
    """Plans and closes invocations."""

    def __init__(self, gate: StoreGate, default_proxy: str) -> None:
        self._gate = gate
        self._default_proxy = default_proxy
        self._log = structlog.get_logger()

    async def take(self, items: Sequence[Occurrence], place: Place) -> None:
        """Each in a transaction of its own; the last one's moves the position."""
        for number, item in enumerate(items, 1):
            await self._take(item, place if number == len(items) else None)

    async def _take(self, item: Occurrence, place: Place | None) -> None:
        for _ in range(TRIES):
            change = await self._gate.ask(self._change, self._gate.store, item)
            if place is not None:
                change = replace(change, positions=place.positions, times=place.times, tokens=place.tokens)
            try:
                await self._gate.record(change, "plan")
            except Conflict as conflict:
                self._log.info("planned_again", job_invocation_id=str(item.job_invocation_id), why=str(conflict))
                continue
            return
        raise TransientFailure(f"job invocation {item.job_invocation_id} met another planner {TRIES} times")

    def _change(self, store: PlannerStore, item: Occurrence) -> Change:
        invocation = store.invocation(item.job_invocation_id)
        if invocation is None:
            self._log.error("unknown_job_invocation", job_invocation_id=str(item.job_invocation_id))
        moment = now()
        match item:
            case JobInvocationEnded():
                decided = job_invocations.decide_close(item, invocation, moment)
            case PlanChunkMissing() if invocation is not None and invocation.chunks:
                # As stored: the same chunk under the same id, so that whoever has it drops it.
                return Change(items=store.plan_chunks(item.job_invocation_id, item.chunks), moment=moment)
            case _:
                rows = store.planned_hosts(item.job_invocation_id, self._default_proxy)
                decided = job_invocations.decide_plan(item, invocation, rows, moment)
        return self._told(item, replace(of_invocation(invocation, decided.appends), moment=moment), decided)

    def _told(self, item: Occurrence, change: Change, decided: Decided) -> Change:
        if not decided.appends:
            METRICS.repeats.labels(type(item).__name__).inc()
        else:
            self._log.info(
                "planned" if "job_tasks" in decided.counts else "closed",
                job_invocation_id=str(item.job_invocation_id),
                job_tasks=decided.counts.get("job_tasks", 0),
            )
        return change
