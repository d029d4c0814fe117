"""Very many job tasks that wait: what they cost an idle dispatcher, a claim of others, its start, and how fast they are cancelled.

Owns the course of it, on SQLite and on PostgreSQL, with the dispatcher alone (stage.py). Most wait for a start tomorrow, some for the
check-in of a host that was out of reach; those must have cost a slot only while they were tried. Times are between the broker's
times of messages; processor time is that of the dispatcher's process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from benchmarks.figures import Figure, Limit, at_most
from benchmarks.place import Place, Size, WrongResult
from benchmarks.stage import Plan, PlayedAgents, Running, Stage, staged, stores
from chargehand_chassis.clock import now
from chargehand_schemas.base import Item
from chargehand_schemas.dispatch import AttemptDue, JobInvocationEnded, JobTaskEnded, JobTaskStatusChanged
from chargehand_schemas.properties import ExecutionProperties
from chargehand_schemas.reasons import JobTaskStatus


@dataclass(frozen=True, slots=True)
class _Shape:
    """`invocations` of `each` job tasks start tomorrow, `check_ins` wait for their hosts with `slots`, `due` become due at once."""

    invocations: int
    each: int
    check_ins: int
    slots: int
    due: int
    idle_s: float


_SHAPES = {
    Size.SHORT: _Shape(2, 300, 60, 20, 50, 1),
    Size.SMALL: _Shape(5, 20_000, 2_000, 100, 1_000, 20),
    Size.FULL: _Shape(9, 110_000, 10_000, 200, 1_000, 60),
}
_TOMORROW = timedelta(days=1)
_SOON = timedelta(seconds=2)
_WITHIN = timedelta(minutes=30)
_MOST_IDLE_PERCENT = 1
_MOST_CLAIM_MS = 50
_MOST_START_S = 3
_MOST_CANCEL_S = 2
_MOST_PSS_MIB = 200
_MEASURED_AGAINST_LIMITS = 1_000_000


@dataclass
class _Ledger:
    """What dispatch-events tell of each invocation: who holds a slot or waits for a check-in, verdicts, and when they came."""

    held: set[UUID] = field(default_factory=set)
    checking_in: set[UUID] = field(default_factory=set)
    due: dict[UUID, list[datetime]] = field(default_factory=dict)
    verdicts: dict[UUID, int] = field(default_factory=dict)
    ended_at: dict[UUID, datetime] = field(default_factory=dict)

    def hear(self, item: Item, at: datetime) -> None:
        match item:
            case AttemptDue():
                self.held.add(item.job_task_id)
                self.due.setdefault(item.job_invocation_id, []).append(at)
            case JobTaskStatusChanged() if item.status is JobTaskStatus.WAITING_FOR_CHECK_IN:
                self.held.discard(item.job_task_id)
                self.checking_in.add(item.job_task_id)
            case JobTaskEnded():
                self.held.discard(item.job_task_id)
                self.verdicts[item.job_invocation_id] = self.verdicts.get(item.job_invocation_id, 0) + 1
            case JobInvocationEnded():
                self.ended_at[item.job_invocation_id] = at
            case _:
                pass


@dataclass(frozen=True, slots=True)
class _Claim:
    took_ms: float
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class _Start:
    took_s: float
    cpu_s: float


def measure(place: Place) -> list[Figure]:
    """Figures of each store, with everything waiting."""
    return [figure for store in stores(place.size) for figure in asyncio.run(_run(place, store))]


async def _run(place: Place, store: str) -> list[Figure]:
    shape = _SHAPES[place.size]
    async with staged(place, store, PROXY_CONCURRENCY=str(2 * shape.due)) as stage:
        course = _Course(stage, shape, stage.start_dispatcher())
        async with stage.listening(), course.agents.playing():
            few = course.running.pss_mib()
            plans = await course.let_wait()
            many = course.running.pss_mib()
            idle = [await course.idle() for _ in range(place.size.runs)]
            claims = [await course.claim() for _ in range(place.size.runs)]
            starts = [course.start_again(kill=run % 2 == 0) for run in range(place.size.runs)]
            cancels = [await course.cancel(plan) for plan in plans[: place.size.runs]]
            memory = max(few, many, course.running.pss_mib())
    return _figures(shape, store, few, memory, idle, claims, starts, cancels)


class _Course:
    """One dispatcher, and what is done to it."""

    def __init__(self, stage: Stage, shape: _Shape, running: Running) -> None:
        self._stage, self._shape, self.running = stage, shape, running
        self._ledger = _Ledger()
        self.agents = PlayedAgents(stage, runs_for=timedelta(0), are_reachable=False)
        stage.heard.append(self._ledger.hear)

    async def let_wait(self) -> list[Plan]:
        """All of them wait when this returns; those that wait for a check-in hold no slot. The ones for tomorrow."""
        shape, ledger = self._shape, self._ledger
        trying = Plan(shape.check_ins, now(), ExecutionProperties(wait_for_check_in=True, concurrency=shape.slots))
        await self._stage.plan(trying)
        await self._stage.until(lambda: len(ledger.checking_in) == shape.check_ins, within=_WITHIN)
        if ledger.held:
            raise WrongResult(f"{len(ledger.held)} slots are held by job tasks that wait for a check-in")
        self.agents.are_reachable = True
        plans = [Plan(shape.each, now() + _TOMORROW) for _ in range(shape.invocations)]
        await self._stage.plan(*plans)
        await self._stage.caught_up()
        return plans

    async def idle(self) -> float:
        """Share of one core, in percent."""
        await self._stage.caught_up()
        await asyncio.sleep(min(2.0, self._shape.idle_s))
        before, began = self.running.cpu_ms(), time.monotonic()
        await asyncio.sleep(self._shape.idle_s)
        return (self.running.cpu_ms() - before) / (time.monotonic() - began) / 10

    async def claim(self) -> _Claim:
        """Some become due at one instant: until the last of them is in the log, with agents that say nothing meanwhile."""
        plan = Plan(self._shape.due, now() + _SOON)
        await self._stage.plan(plan)
        await self._stage.caught_up()
        self.agents.are_silent = True
        await asyncio.sleep(max(0.0, (plan.start_at - now()).total_seconds() - 0.1))
        before = self.running.cpu_ms()
        due = self._ledger.due.setdefault(plan.job_invocation_id, [])
        await self._stage.until(lambda: len(due) == plan.count, within=_WITHIN)
        cpu_ms = self.running.cpu_ms() - before
        self.agents.speak()
        await self._stage.until(lambda: plan.job_invocation_id in self._ledger.ended_at, within=_WITHIN)
        return _Claim((max(due) - plan.start_at).total_seconds() * 1000, cpu_ms)

    def start_again(self, *, kill: bool) -> _Start:
        """Until it works on its partitions, from the start of its process."""
        self.running.stop(kill=kill)
        began = time.monotonic()
        self.running = self._stage.start_dispatcher()
        return _Start(time.monotonic() - began, self.running.cpu_ms() / 1000)

    async def cancel(self, plan: Plan) -> tuple[float, float]:
        """Seconds from the cancel to the end of its invocation in the log, by when all had their verdicts and none was
        dispatched; and processor time (seconds)."""
        await self._stage.caught_up()
        ledger, one = self._ledger, plan.job_invocation_id
        before = self.running.cpu_ms()
        asked_at = await self._stage.say(one, [plan.cancel()])
        await self._stage.until(lambda: one in ledger.ended_at, within=_WITHIN)
        cpu_s = (self.running.cpu_ms() - before) / 1000
        await self._stage.caught_up()
        if ledger.verdicts.get(one) != plan.count or ledger.due.get(one):
            raise WrongResult(
                f"{ledger.verdicts.get(one)} of {plan.count} have a verdict, {len(ledger.due.get(one, ()))} were dispatched"
            )
        assert asked_at is not None
        return (ledger.ended_at[one] - asked_at).total_seconds(), cpu_s


def _figures(
    shape: _Shape, store: str, few: float, memory: float, idle: list[float], claims: list[_Claim],
    starts: list[_Start], cancels: list[tuple[float, float]],
) -> list[Figure]:  # fmt: skip
    waiting = shape.invocations * shape.each + shape.check_ins
    name = f"{waiting:,} wait on {store}"
    is_whole = waiting >= _MEASURED_AGAINST_LIMITS

    def figure(what: str, unit: str, runs: Iterable[float], most: float | None = None) -> Figure:
        limit: Limit | None = at_most(most) if most is not None and is_whole else None
        return Figure(f"{name}: {what}", unit, tuple(runs), limit)

    runs = len(idle)
    return [
        figure("idle", "% of one core", idle, _MOST_IDLE_PERCENT),
        figure("memory", "MiB PSS", (memory,) * runs, _MOST_PSS_MIB),
        figure("memory before they came", "MiB PSS", (few,) * runs),
        figure(f"claim of {shape.due:,}, until in the log", "ms", (one.took_ms for one in claims), _MOST_CLAIM_MS),
        figure(f"claim of {shape.due:,}, CPU", "ms", (one.cpu_ms for one in claims), _MOST_CLAIM_MS),
        figure("start, until it works", "s", (one.took_s for one in starts), _MOST_START_S),
        figure("start, CPU", "s", (one.cpu_s for one in starts)),
        figure(f"cancel of {shape.each:,}, until in the log", "s", (one[0] for one in cancels), _MOST_CANCEL_S),
        figure(f"cancel of {shape.each:,}, CPU", "s", (one[1] for one in cancels)),
    ]
