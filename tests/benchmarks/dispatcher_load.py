"""One invocation on very many hosts, with splay and a limit: what a job task costs the dispatcher, and that it keeps both.

Owns the course of it, on SQLite and on PostgreSQL. The dispatcher is alone (stage.py): each attempt is accepted and started at once
and ends 1.5 s later, which needs more slots than there are. What is promised is judged from dispatch-events: slots held at every
offset, due times as a digest gives them (computed here anew), nothing before its due time and nothing out of its order.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from benchmarks.figures import Figure, at_most, percentile
from benchmarks.place import Place, Size, WrongResult
from benchmarks.stage import Plan, PlayedAgents, Running, Stage, staged, stores
from chargehand_chassis.clock import now
from chargehand_schemas.base import Item
from chargehand_schemas.dispatch import AttemptDue, JobInvocationEnded, JobTaskEnded
from chargehand_schemas.properties import ExecutionProperties


@dataclass(frozen=True, slots=True)
class _Shape:
    job_tasks: int
    splay: timedelta
    concurrency: int
    runs_for: timedelta


_SHAPES = {
    Size.SHORT: _Shape(200, timedelta(seconds=1), 50, timedelta(seconds=0.3)),
    Size.SMALL: _Shape(20_000, timedelta(seconds=12), 2_000, timedelta(seconds=1.5)),
    Size.FULL: _Shape(100_000, timedelta(seconds=60), 2_000, timedelta(seconds=1.5)),
}
_BINS = 60
CHI_SQUARE_MOST = 98.3
"""The chi-square of 60 even bins (59 degrees of freedom) exceeds this once in a thousand times."""
_MOST_CPU_MS = 0.25
_MOST_PSS_MIB = 200
_PLANNED_WITHIN = timedelta(microseconds=500)
"""For each job task: all are planned before the first is due, so that they can be issued in the order of due times."""
_WITHIN = timedelta(minutes=15)


@dataclass
class _Ledger:
    """What dispatch-events tell, in their order."""

    plan: Plan
    held: set[UUID] = field(default_factory=set)
    most_held: int = 0
    due: list[datetime] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    has_ended: bool = False

    def hear(self, item: Item, _: datetime) -> None:
        match item:
            case AttemptDue():
                self._note_due(item)
            case JobTaskEnded():
                self.held.discard(item.job_task_id)
                self.statuses[item.status.value] += 1
            case JobInvocationEnded():
                self.has_ended = True
            case _:
                pass

    def _note_due(self, item: AttemptDue) -> None:
        self.held.add(item.job_task_id)
        self.most_held = max(self.most_held, len(self.held))
        due_at = self.plan.start_at + splay_of(item.job_task_id, self.plan.properties.splay)
        self.due.append(due_at)
        self.late.append((item.issued_at - due_at).total_seconds())

    def judge(self) -> None:
        """WrongResult if a promise was broken."""
        if self.statuses != {"succeeded": self.plan.count}:
            raise WrongResult(f"verdicts {dict(self.statuses)}, not {self.plan.count} succeeded")
        limit = self.plan.properties.concurrency
        if limit is not None and self.most_held > limit:
            raise WrongResult(f"{self.most_held} slots held, limit {limit}")
        if min(self.late) < -0.000_002:
            raise WrongResult(f"issued {-min(self.late)} s before it was due")
        if any(
            later < earlier - timedelta(microseconds=2) for earlier, later in zip(self.due, self.due[1:], strict=False)
        ):
            raise WrongResult("issued in another order than that of due times: it knows other due times than ours")


def splay_of(job_task_id: UUID, interval: timedelta) -> timedelta:
    """As docs/explanation tell it: the first eight bytes of SHA-256 of "splay" and the id, as a share of the interval."""
    drawn = int.from_bytes(hashlib.sha256(b"splay" + job_task_id.bytes).digest()[:8], "big")
    return interval * (drawn / 2**64)


def chi_square(due: Iterable[datetime], begin: datetime, interval: timedelta, bins: int = _BINS) -> float:
    """Of the numbers of due times in so many equal parts of the interval, against even ones."""
    counts = Counter(min(bins - 1, int((one - begin) / interval * bins)) for one in due)
    expected = sum(counts.values()) / bins
    return sum((counts[one] - expected) ** 2 / expected for one in range(bins))


@dataclass(frozen=True, slots=True)
class _Run:
    cpu_ms: float
    pss_mib: float
    most_held: int
    chi_square: float
    late_s: float


def measure(place: Place) -> list[Figure]:
    """Figures of each store."""
    figures: list[Figure] = []
    for store in stores(place.size):
        runs = tuple(asyncio.run(_run(place, store)) for _ in range(place.size.runs))
        figures += _figures(f"{_SHAPES[place.size].job_tasks:,} on {store}", runs, _SHAPES[place.size])
    return figures


async def _run(place: Place, store: str) -> _Run:
    shape = _SHAPES[place.size]
    async with staged(place, store, PROXY_CONCURRENCY=str(2 * shape.concurrency)) as stage:
        running = stage.start_dispatcher()
        async with stage.listening(), PlayedAgents(stage, runs_for=shape.runs_for).playing():
            return await _measure(stage, running, shape)


async def _measure(stage: Stage, running: Running, shape: _Shape) -> _Run:
    properties = ExecutionProperties(splay=shape.splay, concurrency=shape.concurrency)
    plan = Plan(shape.job_tasks, now() + timedelta(seconds=2) + shape.job_tasks * _PLANNED_WITHIN, properties)
    ledger = _Ledger(plan)
    stage.heard.append(ledger.hear)
    memory = [running.pss_mib()]
    is_over = threading.Event()
    sampler = threading.Thread(target=_sample, args=(running, memory, is_over), daemon=True)
    before = running.cpu_ms()
    sampler.start()
    try:
        await stage.plan(plan)
        await stage.until(lambda: ledger.has_ended, within=_WITHIN)
        cpu_ms = running.cpu_ms() - before
    finally:
        is_over.set()
        sampler.join()
    ledger.judge()
    chi = chi_square(ledger.due, plan.start_at, shape.splay)
    return _Run(cpu_ms / plan.count, max(memory), ledger.most_held, chi, percentile(ledger.late, 0.5))


def _sample(running: Running, memory: list[float], is_over: threading.Event) -> None:
    while not is_over.wait(1.0):
        memory.append(running.pss_mib())


def _figures(name: str, runs: tuple[_Run, ...], shape: _Shape) -> list[Figure]:
    return [
        Figure(f"{name}: CPU of the dispatcher", "ms/job task", tuple(r.cpu_ms for r in runs), at_most(_MOST_CPU_MS)),
        Figure(f"{name}: memory", "MiB PSS", tuple(r.pss_mib for r in runs), at_most(_MOST_PSS_MIB)),
        Figure(
            f"{name}: most slots held", "slots", tuple(float(r.most_held) for r in runs), at_most(shape.concurrency)
        ),
        Figure(
            f"{name}: due times in {_BINS} parts, chi-square",
            "",
            tuple(r.chi_square for r in runs),
            at_most(CHI_SQUARE_MOST),
        ),
        Figure(f"{name}: issued after the due time, p50", "s", tuple(r.late_s for r in runs)),
    ]
