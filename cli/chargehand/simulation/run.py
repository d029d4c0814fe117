"""One run: processes, hosts and faults put together, the end awaited and judged.

Owns the cast, and when a run is over. What a fault does to whom is in fate.py, what must hold in promises.py and judgement.py.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from uuid import UUID

from chargehand_dispatcher.core.rules import Timers
from chargehand_schemas.progress import ProgressReport
from chargehand_schemas.proxy_commands import RunProxyCommand

from .agent import PROXY, SimulatedAgent
from .bus import Bus, Group, Place, Record
from .dispatcher import SimulatedDispatcher
from .fate import Cast, Fate
from .hosts import Host, Job
from .judgement import LONGEST_S, Judgement, prints
from .planner import PlannerStore, SimulatedPlanner
from .promises import BrokenPromise, Promises
from .scenario import Scenario
from .store import Durable
from .world import World

PARTITIONS = 2
PATIENCE_S = 900.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run. `digest` is the same for the same run; `story` only if it was to be told."""

    scenario: Scenario
    broken: tuple[BrokenPromise, ...]
    job_tasks: int
    lasted_s: float
    digest: int
    records: int
    story: tuple[str, ...] = ()
    verdicts: tuple[tuple[str, int], ...] = ()


def run(scenario: Scenario, *, is_told: bool = False) -> Outcome:
    """Run a scenario to its end."""
    return _Run(scenario, is_told=is_told).run()


class _Run:
    def __init__(self, scenario: Scenario, *, is_told: bool) -> None:
        self.scenario = scenario
        self.world = world = World(scenario.seed, is_told=is_told)
        self.timers = Timers()
        self.promises = Promises(self.timers.margin, has_host_lock=scenario.has_host_lock)
        self.bus = Bus(world, PARTITIONS)
        self.bus.watch = self._watch
        self.hosts = [Host(world, self.promises, world.new_id(), f"h{n}") for n in range(scenario.hosts)]
        by_id = {host.host_id: host for host in self.hosts}
        for host in self.hosts:
            host.job = self._job
        agents, dispatchers = Group(world, PARTITIONS), Group(world, PARTITIONS)
        self.agents = [
            SimulatedAgent(self.bus, agents, f"agent-{'ab'[n]}", by_id, self.timers.margin)
            for n in range(scenario.agents)
        ]
        for agent in self.agents:
            agent.has_host_lock = scenario.has_host_lock
        durable = Durable()
        singles = frozenset({PROXY} if scenario.agents == 1 else ())
        self.dispatchers = [
            SimulatedDispatcher(self.bus, dispatchers, f"dispatcher-{'ab'[n]}", durable, self.timers, singles)
            for n in range(scenario.dispatchers)
        ]
        for dispatcher in self.dispatchers:
            dispatcher.took = self.promises.dispatcher_took
        self.planned = PlannerStore()
        planners, inventory, template_id = (
            Group(world, PARTITIONS),
            [(h.host_id, h.name) for h in self.hosts],
            world.new_id(),
        )
        self.planners = [
            SimulatedPlanner(self.bus, planners, f"planner-{'ab'[n]}", self.planned, inventory, template_id)
            for n in range(scenario.planners)
        ]
        for planner in self.planners:
            planner.peers = [other for other in self.planners if other is not planner]
        self.ids: list[UUID] = []
        self.job_tasks = 0
        self.ended_at = 0.0
        self.cast = Cast(
            world, self.bus, self.hosts, self.agents, self.dispatchers, self.planners, self.ids, self.promises
        )
        self.fate = Fate(self.cast, scenario.faults)

    # --- the run

    def run(self) -> Outcome:
        world = self.world
        broken: list[BrokenPromise] = []
        for process in self.cast.processes:
            # An agent that has been there for a while, so that rule ONE applies from the beginning.
            world.after(0.0 if isinstance(process, SimulatedAgent) else 8.0, process.start)
        for number, planned in enumerate(self.scenario.invocations):
            world.after(10.0 + planned.at_s, lambda n=number: self._invoke(n))  # type: ignore[misc]
        for fault in self.scenario.faults:
            world.after(10.0 + fault.at_s, lambda f=fault: self.fate.befall(f))  # type: ignore[misc]
        try:
            world.run(LONGEST_S, self._is_over)
        except BrokenPromise as promise:
            broken.append(promise)
        if not broken:
            judgement = Judgement(
                self.scenario, self.bus, self.promises, self.planned, self.ids, self.job_tasks, self.cast.stopped()
            )
            broken += judgement.judge()
        return Outcome(
            self.scenario,
            tuple(broken),
            self.job_tasks,
            world.now,
            world.digest,
            sum(len(log) for log in self.bus.logs.values()),
            tuple(world.story or ()),
            self._counted(),
        )

    def _counted(self) -> tuple[tuple[str, int], ...]:
        counts: dict[str, int] = {}
        for item in self.promises.verdicts.values():
            word = item.reason.value if item.reason is not None else item.status.value
            counts[word] = counts.get(word, 0) + 1
        return tuple(sorted(counts.items()))

    def _is_over(self) -> bool:
        if self.fate.left or len(self.ids) < len(self.scenario.invocations):
            return False
        invocations, stopped = self.planned.invocations, self.cast.stopped()
        waits = [one for one in self.ids if invocations[one].state.value != "ended"]
        if any(self.planned.places[one] not in stopped for one in waits):
            self.ended_at = self.world.now
            return False
        if waits:
            return self.world.now > self.ended_at + PATIENCE_S
        return self._is_quiet() or self.world.now > self.ended_at + PATIENCE_S

    def _is_quiet(self) -> bool:
        """Nobody has an attempt in hand: what was left to say is said."""
        is_idle = all(agent.is_alive and not agent.live for agent in self.agents)
        return is_idle and not any(self.promises.running.values())

    def _invoke(self, number: int) -> None:
        planner = self.cast.any_planner()
        if planner is None:
            self.world.after(1.0, lambda: self._invoke(number))
            return
        planned = self.scenario.invocations[number]
        one = self.world.new_id()
        place = number % PARTITIONS
        self.ids.append(one)
        self.job_tasks += planned.hosts
        for agent in self.agents:
            agent.partition_of[one] = place
        hosts = [host.host_id for host in self.hosts[planned.first : planned.first + planned.hosts]]
        planner.invoke(one, place, hosts, planned.properties)

    def _job(self, job_task_id: UUID, attempt: int) -> Job:
        """What the script does on this host at this try: a digest of both, so that a repeat would do the same."""
        drawn = hashlib.sha256(job_task_id.bytes + attempt.to_bytes(4, "big")).digest()
        lasts_s = self.scenario.longest_job_s * (drawn[0] / 255) ** 2
        exit_status = 0 if drawn[1] < 170 else drawn[1] % 4 + 1
        self.promises.exits[job_task_id][attempt] = exit_status
        return Job(lasts_s, exit_status, prints(job_task_id, attempt))

    def _watch(self, place: Place, record: Record) -> None:
        if self.world.story is not None:
            self.world.tell(
                f"{place.topic.removeprefix('chargehand.')}/{place.partition}@{record.offset} {_words(record)}"
            )
        if isinstance(record.item, RunProxyCommand):
            self.fate.a_command_is_sent(place, record)
        self.promises.watch(place.topic, record.item, self.world.instant())


def _words(record: Record) -> str:
    item = record.item
    parts = [type(item).__name__]
    subject = getattr(item, "job_task_id", None) or getattr(item, "job_invocation_id", None)
    if subject is not None:
        parts.append(str(subject)[:8])
    for name in (
        "attempt",
        "agent_id",
        "status",
        "reason",
        "why",
        "proves_never_started",
        "exit_status",
        "tried",
        "after",
    ):
        value = getattr(item, name, None)
        if value not in (None, "", False):
            parts.append(f"{name}={value}")
    if isinstance(item, ProgressReport):
        parts.append(f"[{item.offset}, {item.offset + item.length})")
    return " ".join(parts)
