"""One run: processes, hosts and faults put together, the end awaited, the recorded topics judged.

Owns what a fault does to whom. What must hold is judged in promises.py while it runs and by the checker afterwards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from chargehand_dispatcher.core.rules import Timers
from chargehand_reporter.core.output import Chunk, Omission, Piece, StreamState, fold_output
from chargehand_reporter.core.read_model import ReadModel, Said
from chargehand_schemas.execution import AttemptEnded
from chargehand_schemas.progress import OutputOmitted, ProgressReport
from chargehand_schemas.proxy_commands import RunProxyCommand
from chargehand_schemas.reasons import Role, Stream
from chargehand_schemas.topics import (
    DISPATCH_EVENTS,
    EXECUTION_EVENTS,
    PLANNING_EVENTS,
    PROGRESS_REPORTS,
    PROXY_COMMANDS,
)

from ..checker import Entry, Recording, check
from .agent import LIMITS, OTHER_PROXY, PROXY, SimulatedAgent
from .bus import Bus, Group, Place, Record
from .dispatcher import SimulatedDispatcher
from .hosts import Host, Job
from .planner import SimulatedPlanner
from .promises import BrokenPromise, Promises
from .scenario import Fault, Scenario
from .store import Durable
from .world import Process, World

PARTITIONS = 2
_BY_REPORTED_TIMES = frozenset({"due times", "two at once", "nothing after the verdict"})
"""Judged by the hosts themselves in promises.py, which need no report."""
LONGEST_S = 4 * 3600.0
PATIENCE_S = 900.0
RESTORED_AFTER_S = 8.0
MOST_ITEMS = 100
_RECORDED = (PLANNING_EVENTS.name, DISPATCH_EVENTS.name, EXECUTION_EVENTS.name, PROGRESS_REPORTS.name)
_MOST_TELLING = (EXECUTION_EVENTS.name, PROXY_COMMANDS.of(PROXY))
_ROLES = {
    PLANNING_EVENTS.name: (Role.PLANNER, ""),
    DISPATCH_EVENTS.name: (Role.DISPATCHER, ""),
    EXECUTION_EVENTS.name: (Role.AGENT, PROXY),
    PROGRESS_REPORTS.name: (Role.AGENT, PROXY),
}


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
        self.promises = Promises(self.timers.margin)
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
        durable = Durable()
        singles = frozenset({PROXY} if scenario.agents == 1 else ())
        self.dispatchers = [
            SimulatedDispatcher(self.bus, dispatchers, f"dispatcher-{'ab'[n]}", durable, self.timers, singles)
            for n in range(scenario.dispatchers)
        ]
        for dispatcher in self.dispatchers:
            dispatcher.took = self.promises.dispatcher_took
        self.planner = SimulatedPlanner(self.bus, [(host.host_id, host.name) for host in self.hosts], world.new_id())
        self.processes: list[Process] = [*self.agents, *self.dispatchers, self.planner]
        self.backup: Durable | None = None
        self.ids: list[UUID] = []
        self.job_tasks = 0
        self.left = len(scenario.faults)
        self.ended_at = 0.0
        self.at_command: list[Callable[[], None]] = []

    # --- the run

    def run(self) -> Outcome:
        world = self.world
        broken: list[BrokenPromise] = []
        for process in self.processes:
            # An agent that has been there for a while, so that rule ONE applies from the beginning.
            world.after(0.0 if isinstance(process, SimulatedAgent) else 8.0, process.start)
        for number, planned in enumerate(self.scenario.invocations):
            world.after(10.0 + planned.at_s, lambda n=number: self._invoke(n))  # type: ignore[misc]
        for fault in self.scenario.faults:
            world.after(10.0 + fault.at_s, lambda f=fault: self._befall(f))  # type: ignore[misc]
        try:
            world.run(LONGEST_S, self._is_over)
        except BrokenPromise as promise:
            broken.append(promise)
        if not broken:
            broken += self._judge()
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
        if self.left or len(self.ids) < len(self.scenario.invocations):
            return False
        invocations = self.planner.store.invocations
        if not all(invocations[one].state.value == "ended" for one in self.ids):
            self.ended_at = self.world.now
            return False
        return self._is_quiet() or self.world.now > self.ended_at + PATIENCE_S

    def _is_quiet(self) -> bool:
        """Nobody has an attempt in hand: what was left to say is said."""
        is_idle = all(agent.is_alive and not agent.live for agent in self.agents)
        return is_idle and not any(self.promises.running.values())

    def _invoke(self, number: int) -> None:
        if not self.planner.is_alive or self.planner.is_stopped:
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
        self.planner.invoke(one, place, hosts, planned.properties)

    def _job(self, job_task_id: UUID, attempt: int) -> Job:
        """What the script does on this host at this try: a digest of both, so that a repeat would do the same."""
        drawn = hashlib.sha256(job_task_id.bytes + attempt.to_bytes(4, "big")).digest()
        lasts_s = self.scenario.longest_job_s * (drawn[0] / 255) ** 2
        exit_status = 0 if drawn[1] < 170 else drawn[1] % 4 + 1
        self.promises.exits[job_task_id][attempt] = exit_status
        return Job(lasts_s, exit_status, _prints(job_task_id, attempt))

    def _watch(self, place: Place, record: Record) -> None:
        if self.world.story is not None:
            self.world.tell(
                f"{place.topic.removeprefix('chargehand.')}/{place.partition}@{record.offset} {_words(record)}"
            )
        if isinstance(record.item, RunProxyCommand):
            befalling, self.at_command = self.at_command, []
            for befall in befalling:
                befall()
        self.promises.watch(place.topic, record.item, self.world.instant())

    # --- faults

    def _befall(self, fault: Fault) -> None:
        self.left -= 1
        self.world.tell(f"fault: {fault}")
        _EFFECTS[fault.kind](self, fault)

    def _process(self, fault: Fault) -> Process:
        return self.processes[fault.target % len(self.processes)]

    def _host(self, fault: Fault) -> Host:
        return self.hosts[fault.target % len(self.hosts)]

    def _agent(self, fault: Fault) -> SimulatedAgent:
        return self.agents[fault.target % len(self.agents)]

    def _restart(self, process: Process, after_s: float) -> None:
        """What is dead is started again, as a supervisor would."""
        self.left += 1

        def start() -> None:
            self.left -= 1
            if not process.is_alive:
                process.start()

        self.world.after(after_s, start)

    def _slow(self, fault: Fault) -> None:
        self.bus.slow_until = self.world.now + fault.size

    def _lag(self, fault: Fault) -> None:
        if fault.extra < 0.3:
            # The next command is read late.
            self.at_command.append(lambda: self._lag_commands(fault.size))
            return
        readers = self.bus.readers()
        if fault.extra < 0.6:
            readers = [reader for reader in readers if reader.place.topic in _MOST_TELLING] or readers
        if readers:
            readers[fault.target % len(readers)].lags_until = self.world.now + fault.size

    def _lag_commands(self, for_s: float) -> None:
        for reader in self.bus.readers():
            if reader.place.topic == PROXY_COMMANDS.of(PROXY):
                reader.lags_until = self.world.now + for_s

    def _repeat(self, fault: Fault) -> None:
        topics = (PROXY_COMMANDS.of(PROXY), EXECUTION_EVENTS.name, PLANNING_EVENTS.name, DISPATCH_EVENTS.name)
        places = [Place(topic, n) for topic in topics for n in range(PARTITIONS) if self.bus.end(Place(topic, n))]
        if places:
            place = places[fault.target % len(places)]
            log = self.bus.logs[place]
            record = log[int(fault.extra * len(log))]
            self.bus.append(place, [(record.item, record.raw)])

    def _crash(self, fault: Fault) -> None:
        process = self._process(fault)
        if not process.is_alive:
            return
        process.crash_soon(int(fault.size))
        self.left += 1

        def see_to_it() -> None:
            self.left -= 1
            process.crash()
            self._restart(process, 1.0 + fault.extra * 20)

        # It dies at its next steps; one that does nothing is killed all the same.
        self.world.after(0.5 + fault.extra, see_to_it)

    def _stop(self, fault: Fault) -> None:
        process = self._process(fault)
        if isinstance(process, SimulatedDispatcher) and fault.extra < 0.3:
            process.stands_still_for = fault.size
        elif isinstance(process, SimulatedAgent) and fault.extra < 0.5:
            host = self.hosts[fault.target // 7 % len(self.hosts)]
            host.arm(lambda: self._stand_still(process, fault.size))
        else:
            self._stand_still(process, fault.size)

    def _stand_still(self, process: Process, for_s: float) -> None:
        process.stop(for_s)
        if isinstance(process, SimulatedAgent | SimulatedDispatcher) and process.is_alive:
            process.group.lose(process.member)
            self.world.after(for_s + 0.5, lambda: self._rejoin(process))

    def _rejoin(self, process: SimulatedAgent | SimulatedDispatcher) -> None:
        if process.is_alive:
            process.after(0.0, lambda: process.group.join(process.member))

    def _outage(self, fault: Fault) -> None:
        if fault.extra < 0.5:
            # While a command is on its way to an agent, or its answer back.
            self.at_command.append(lambda: self.world.after(fault.extra * 0.06, lambda: self._go_down(fault.size)))
        else:
            self._go_down(fault.size)

    def _go_down(self, for_s: float) -> None:
        self.world.tell(f"the broker is away for {for_s:.0f} s")
        self.bus.down_until = max(self.bus.down_until, self.world.now + for_s)

    def _clock(self, fault: Fault) -> None:
        self._agent(fault).clock_offset_s = fault.size
        self.left += 1

        def mend() -> None:
            self.left -= 1
            self._agent(fault).clock_offset_s = 0.0

        self.world.after(20 + fault.extra * 60, mend)

    def _cut(self, fault: Fault) -> None:
        host = self._host(fault)
        variant = fault.extra * 10 % 1
        if variant < 0.3:
            host.arm(lambda: self._go_away(host, fault))
        elif variant < 0.6:
            host.at_arrival.append(lambda: self._go_away(host, fault))
        else:
            self._go_away(host, fault)

    def _go_away(self, host: Host, fault: Fault) -> None:
        if not fault.size:
            host.cut()
            return
        host.go_away(fault.size)
        # Of another proxy, whose word must wake nobody.
        agent = self.agents[0]
        agent.after(1 + fault.extra * 5, lambda: agent.check_in(host, OTHER_PROXY))
        if fault.extra < 0.7 and fault.size < LONGEST_S:
            self._check_in_later(host, fault.size)

    def _check_in_later(self, host: Host, after_s: float) -> None:
        self.left += 1

        def check_in() -> None:
            agents = [agent for agent in self.agents if agent.is_alive and not agent.is_stopped]
            is_gone = host.away_until > LONGEST_S
            if not is_gone and not (agents and host.is_reachable):
                self.world.after(5.0, check_in)
                return
            self.left -= 1
            if not is_gone:
                agents[0].check_in(host)

        self.world.after(after_s + self.world.between(0.1, 5.0), check_in)

    def _reboot(self, fault: Fault) -> None:
        host = self._host(fault)
        if fault.extra < 0.5:
            host.arm(lambda: self.world.after(fault.extra * 2, lambda: self._power_cycle(host, fault.size)))
        else:
            self._power_cycle(host, fault.size)

    def _power_cycle(self, host: Host, away_s: float) -> None:
        host.reboot(away_s)
        self._check_in_later(host, away_s)

    def _disk(self, fault: Fault) -> None:
        if fault.extra < 0.5:
            self._host(fault).full_until = self.world.now + fault.size
        else:
            self._agent(fault).journal_full_until = self.world.now + fault.size

    def _journal(self, fault: Fault) -> None:
        agent = self._agent(fault)
        agent.crash()
        agent.lose_journal()
        self._restart(agent, 1.0 + fault.extra * 10)

    def _restore(self, fault: Fault) -> None:
        """A backup now, and `size` seconds later all dispatchers are stopped, and begin again with it when nothing that they
        had sent can still be on its way."""
        backup = self.dispatchers[0].durable.copy()
        self.left += 1

        def restore() -> None:
            self.left -= 1
            self.world.tell("the dispatcher's store is restored from a backup")
            for dispatcher in self.dispatchers:
                dispatcher.crash()
            restored = backup.copy()
            for dispatcher in self.dispatchers:
                dispatcher.use(restored)
                self._restart(dispatcher, RESTORED_AFTER_S)

        self.world.after(fault.size, restore)

    def _cancel(self, fault: Fault) -> None:
        if not self.ids or not self.planner.is_alive or self.planner.is_stopped:
            return
        one = self.ids[fault.target % len(self.ids)]
        hosts = self.planner.store.hosts[one]
        some = [hosts[int(fault.extra * len(hosts))]] if fault.size else []
        self.planner.cancel(one, some)

    # --- the end

    def _judge(self) -> list[BrokenPromise]:
        ended_at = self.world.instant()
        entries = [
            Entry(place.topic, place.partition, *record)
            for place in sorted(self.bus.logs)
            if place.topic in _RECORDED
            for record in self.bus.logs[place]
        ]
        found = [
            BrokenPromise(v.promise, v.subject, v.detail)
            for v in check(Recording.of(entries, ended_at))
            if not (self._has_late_reports() and v.promise in _BY_REPORTED_TIMES)
        ]
        if len(self.promises.verdicts) != self.job_tasks and not self._was_never_planned():
            found.append(
                BrokenPromise("no lost job", "run", f"{len(self.promises.verdicts)} of {self.job_tasks} verdicts")
            )
        if self.world.now >= LONGEST_S:
            found.append(BrokenPromise("no lost job", "run", f"not at rest after {LONGEST_S:.0f} s"))
        return found + self._judge_read_model() + self._judge_output()

    def _has_late_reports(self) -> bool:
        """Whether an agent may report times that are wrong: by a clock that is off, or late because it stood still."""
        margin_s = self.promises.margin_s
        return any(
            fault.kind == "stop" or (fault.kind == "clock" and abs(fault.size) > margin_s)
            for fault in self.scenario.faults
        )

    def _was_never_planned(self) -> bool:
        return any(one not in self.planner.store.plans for one in self.ids)

    def _judge_read_model(self) -> list[BrokenPromise]:
        """The reporter's fold, topics in any order and with repeats, shows what the dispatcher said."""
        model = ReadModel()
        places = [place for place in sorted(self.bus.logs) if place.topic in _RECORDED]
        self.world.random.shuffle(places)
        for place in [*places, *places[:1]]:
            for records in self._messages(self.bus.logs[place]):
                model.apply(_said(place, records))
        for place in places:
            log = self.bus.logs[place]
            for number in self.world.random.sample(range(len(log)), (len(log) + 49) // 50):
                model.apply(_said(place, log[number : number + 1]))
        model.finish()
        found = []
        for one, verdict in self.promises.verdicts.items():
            shown = model.job_tasks.get(one)
            if shown is None or shown.status is not verdict.status or shown.reason is not verdict.reason:
                said_of = None if shown is None else (shown.status, shown.reason)
                found.append(
                    BrokenPromise("one verdict", one, f"the read model shows {said_of}, it ended {verdict.status}")
                )
        return found

    def _messages(self, log: Sequence[Record]) -> Iterator[Sequence[Record]]:
        """A log as messages: items of one type that follow each other, as many as chance has it."""
        begin = 0
        while begin < len(log):
            end, most = begin + 1, begin + self.world.random.randint(1, MOST_ITEMS)
            while end < len(log) and end < most and type(log[end].item) is type(log[begin].item):
                end += 1
            yield log[begin:end]
            begin = end

    def _judge_output(self) -> list[BrokenPromise]:
        """The reporter's fold of output, in parts of any size and with repeats, holds what the host said was published."""
        pieces: dict[UUID, dict[int, list[Piece]]] = {}
        for record in self.bus.logs[Place(PROGRESS_REPORTS.name, 0)]:
            item = record.item
            if isinstance(item, ProgressReport | OutputOmitted):
                of_task = pieces.setdefault(item.job_task_id, {}).setdefault(item.attempt, [])
                is_report = isinstance(item, ProgressReport)
                of_task.append(Chunk(item.offset, record.raw) if is_report else Omission(item.start, item.end))  # type: ignore[union-attr]
        found = []
        for place in sorted(self.bus.logs):
            for record in self.bus.logs[place] if place.topic == EXECUTION_EVENTS.name else ():
                if isinstance(record.item, AttemptEnded):
                    found += self._compare(
                        record.item, pieces.get(record.item.job_task_id, {}).get(record.item.attempt, [])
                    )
        return found

    def _compare(self, ended: AttemptEnded, pieces: Sequence[Piece]) -> list[BrokenPromise]:
        state, waiting, stored = StreamState(), dict[int, Piece](), b""
        arrivals = [*pieces, *self.world.random.sample(pieces, len(pieces) // 3)]
        self.world.random.shuffle(arrivals)
        while arrivals:
            size = self.world.random.randint(1, len(arrivals))
            folded = fold_output(state, list(waiting.values()), arrivals[:size])
            state, arrivals = folded.state, arrivals[size:]
            stored += b"".join(one.data for one in folded.appended)
            for start in folded.released:
                waiting.pop(start, None)
            waiting.update((one.start, one) for one in folded.held)
        said, subject = ended.digests.get(Stream.STDOUT, ""), f"{ended.job_task_id}/{ended.attempt}"
        if hashlib.sha256(stored).hexdigest() != said or len(stored) != state.stored:
            detail = f"{len(stored)} bytes are folded, {ended.kept} were published"
            return [BrokenPromise("no lost output", subject, detail)]
        printed = _prints(ended.job_task_id, ended.attempt)[: ended.lengths.get(Stream.STDOUT, 0)]
        head, tail = stored[: LIMITS.head_bytes], stored[LIMITS.head_bytes :]
        if head != printed[: LIMITS.head_bytes] or not printed.endswith(tail):
            return [BrokenPromise("no lost output", subject, "what is folded is not what the job printed")]
        return []


def _said(place: Place, records: Sequence[Record]) -> Said:
    role, subject = _ROLES[place.topic]
    first = records[0]
    raw = b"".join([record.raw for record in records])
    items = tuple([record.item for record in records])
    return Said(place.topic, place.partition, first.offset, role, subject, "", first.appended_at, items, raw)


def _prints(job_task_id: UUID, attempt: int) -> bytes:
    drawn = hashlib.sha256(b"prints" + job_task_id.bytes + attempt.to_bytes(4, "big")).digest()
    return (drawn * 11)[: drawn[0] + drawn[1] // 4 if drawn[2] < 128 else 0] + b"\n"


_EFFECTS: dict[str, Callable[[_Run, Fault], None]] = {
    "slow": _Run._slow,
    "lag": _Run._lag,
    "repeat": _Run._repeat,
    "crash": _Run._crash,
    "stop": _Run._stop,
    "outage": _Run._outage,
    "clock": _Run._clock,
    "cut": _Run._cut,
    "reboot": _Run._reboot,
    "disk": _Run._disk,
    "journal": _Run._journal,
    "restore": _Run._restore,
    "cancel": _Run._cancel,
}


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
