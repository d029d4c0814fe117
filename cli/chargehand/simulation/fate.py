"""What goes wrong in a run, and how: each kind of fault, done to the processes, hosts and logs it is aimed at.

Owns the effects. Which faults there are in a run, is drawn in scenario.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from chargehand_schemas.proxy_commands import ProxyCommand
from chargehand_schemas.topics import DISPATCH_EVENTS, EXECUTION_EVENTS, PLANNING_EVENTS, PROXY_COMMANDS

from .agent import OTHER_PROXY, PROXY, SimulatedAgent
from .bus import Bus, Place, Record
from .cuts import CHECKED, mend
from .dispatcher import SimulatedDispatcher
from .hosts import Host
from .judgement import LONGEST_S
from .planner import SimulatedPlanner
from .promises import Promises
from .scenario import Fault
from .world import Process, World, instant_at

RESTORED_AFTER_S = 8.0
BROKER_BACK_AFTER_S, REPAIRED_AFTER_S = 3.0, 15.0
SAID_AGAIN_AFTER_S = 100.0
_MOST_TELLING = (EXECUTION_EVENTS.name, PROXY_COMMANDS.of(PROXY))


@dataclass
class Cast:
    """Whom a fault may befall. `ids`: the invocations so far."""

    world: World
    bus: Bus
    hosts: Sequence[Host]
    agents: Sequence[SimulatedAgent]
    dispatchers: Sequence[SimulatedDispatcher]
    planners: Sequence[SimulatedPlanner]
    ids: Sequence[UUID]
    promises: Promises

    @property
    def processes(self) -> list[Process]:
        return [*self.agents, *self.dispatchers, *self.planners]

    def stopped(self) -> frozenset[int]:
        """Partitions on which somebody stands still because a log was cut; all, if a planner has ended."""
        if any(planner.cuts for planner in self.planners):
            return frozenset(range(self.bus.partitions))
        return frozenset(number for dispatcher in self.dispatchers for number in dispatcher.stopped)

    def any_planner(self) -> SimulatedPlanner | None:
        """One that would take a command now."""
        return next((planner for planner in self.planners if planner.is_alive and not planner.is_stopped), None)


class Fate:
    """The faults of a run. `left`: how many are to come, or to be mended."""

    def __init__(self, cast: Cast, faults: Sequence[Fault]) -> None:
        self._cast = cast
        self.left = len(faults)
        self._is_under_repair = False
        self._is_restored = any(fault.kind == "restore" for fault in faults)
        self._command: tuple[Place, Record] | None = None
        self._at_command: list[Callable[[], None]] = []

    def a_command_is_sent(self, place: Place, record: Record) -> None:
        """For faults that wait for that."""
        self._command = (place, record)
        befalling, self._at_command = self._at_command, []
        for befall in befalling:
            befall()

    def befall(self, fault: Fault) -> None:
        self.left -= 1
        self._cast.world.tell(f"fault: {fault}")
        _EFFECTS[fault.kind](self, fault)

    def _process(self, fault: Fault) -> Process:
        return self._cast.processes[fault.target % len(self._cast.processes)]

    def _host(self, fault: Fault) -> Host:
        return self._cast.hosts[fault.target % len(self._cast.hosts)]

    def _agent(self, fault: Fault) -> SimulatedAgent:
        return self._cast.agents[fault.target % len(self._cast.agents)]

    def _restart(self, process: Process, after_s: float) -> None:
        """What is dead is started again, as a supervisor would."""
        self.left += 1

        def start() -> None:
            self.left -= 1
            if not process.is_alive and not self._is_under_repair:
                process.start()

        self._cast.world.after(after_s, start)

    def _slow(self, fault: Fault) -> None:
        self._cast.bus.slow_until = self._cast.world.now + fault.size

    def _lag(self, fault: Fault) -> None:
        if fault.extra < 0.3:
            # The next command is read late.
            self._at_command.append(lambda: self._lag_commands(fault.size))
            return
        readers = self._cast.bus.readers()
        if fault.extra < 0.6:
            readers = [reader for reader in readers if reader.place.topic in _MOST_TELLING] or readers
        if readers:
            readers[fault.target % len(readers)].lags_until = self._cast.world.now + fault.size

    def _lag_commands(self, for_s: float) -> None:
        for reader in self._cast.bus.readers():
            if reader.place.topic == PROXY_COMMANDS.of(PROXY):
                reader.lags_until = self._cast.world.now + for_s

    def _repeat(self, fault: Fault) -> None:
        if fault.extra < 0.4:
            # The next command, twice while it may still be obeyed.
            for after_s in (fault.extra * 25, fault.extra * 25 + 12):
                self._at_command.append(lambda after_s=after_s: self._repeat_command(after_s))  # type: ignore[misc]
            return
        topics = (PROXY_COMMANDS.of(PROXY), EXECUTION_EVENTS.name, PLANNING_EVENTS.name, DISPATCH_EVENTS.name)
        places = [
            Place(topic, n)
            for topic in topics
            for n in range(self._cast.bus.partitions)
            if self._cast.bus.end(Place(topic, n))
        ]
        if places:
            place = places[fault.target % len(places)]
            log = self._cast.bus.logs[place]
            record = log[int(fault.extra * len(log))]
            self._cast.bus.append(place, [(record.item, record.raw)])

    def _repeat_command(self, after_s: float) -> None:
        if self._command is not None:
            place, record = self._command
            self._cast.world.after(after_s, lambda: self._cast.bus.append(place, [(record.item, record.raw)]))

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
        self._cast.world.after(0.5 + fault.extra, see_to_it)

    def _stop(self, fault: Fault) -> None:
        process = self._process(fault)
        if isinstance(process, SimulatedDispatcher | SimulatedPlanner) and fault.extra < 0.3:
            process.stands_still_for = fault.size
        elif isinstance(process, SimulatedPlanner) and fault.extra < 0.6:
            process.stands_still_sending = fault.size
        elif isinstance(process, SimulatedAgent) and fault.extra < 0.5:
            host = self._cast.hosts[fault.target // 7 % len(self._cast.hosts)]
            host.arm(lambda: self._stand_still(process, fault.size))
        else:
            self._stand_still(process, fault.size)

    def _stand_still(self, process: Process, for_s: float) -> None:
        if isinstance(process, SimulatedPlanner):
            if process.is_alive and not process.is_stopped:
                process.stand_still(for_s)
            return
        process.stop(for_s)
        if isinstance(process, SimulatedAgent | SimulatedDispatcher) and process.is_alive:
            process.group.lose(process.member)
            self._cast.world.after(for_s + 0.5, lambda: self._rejoin(process))

    def _rejoin(self, process: SimulatedAgent | SimulatedDispatcher) -> None:
        if process.is_alive:
            process.after(0.0, lambda: process.group.join(process.member))

    def _outage(self, fault: Fault) -> None:
        if fault.extra < 0.5:
            # While a command is on its way to an agent, or its answer back.
            self._at_command.append(
                lambda: self._cast.world.after(fault.extra * 0.06, lambda: self._go_down(fault.size))
            )
        else:
            self._go_down(fault.size)

    def _go_down(self, for_s: float) -> None:
        self._cast.world.tell(f"the broker is away for {for_s:.0f} s")
        self._cast.bus.down_until = max(self._cast.bus.down_until, self._cast.world.now + for_s)

    def _clock(self, fault: Fault) -> None:
        self._agent(fault).clock_offset_s = fault.size
        self.left += 1

        def mend() -> None:
            self.left -= 1
            self._agent(fault).clock_offset_s = 0.0

        self._cast.world.after(20 + fault.extra * 60, mend)

    def _cut(self, fault: Fault) -> None:
        host = self._host(fault)
        variant = fault.extra * 10 % 1
        if variant < 0.3:
            host.arm(lambda: self._go_away(host, fault))
        elif variant < 0.6:
            host.at_arrival.append(lambda: self._go_away(host, fault))
        elif variant < 0.8:
            self._at_command.append(lambda: self._go_away(self._host_of_command() or host, fault))
        else:
            self._go_away(host, fault)

    def _host_of_command(self) -> Host | None:
        """Of the command that is on its way."""
        item = self._command[1].item if self._command is not None else None
        hosts = (host for host in self._cast.hosts if isinstance(item, ProxyCommand) and host.host_id == item.host_id)
        return next(hosts, None)

    def _go_away(self, host: Host, fault: Fault) -> None:
        if not fault.size:
            host.cut()
            return
        host.go_away(fault.size)
        # Of another proxy, whose word must wake nobody.
        agent = self._cast.agents[0]
        agent.after(1 + fault.extra * 5, lambda: agent.check_in(host, OTHER_PROXY))
        if fault.extra < 0.7 and fault.size < LONGEST_S:
            self._check_in_later(host, fault.size)

    def _check_in_later(self, host: Host, after_s: float) -> None:
        self.left += 1

        def check_in() -> None:
            agents = [agent for agent in self._cast.agents if agent.is_alive and not agent.is_stopped]
            is_gone = host.away_until > LONGEST_S
            if not is_gone and not (agents and host.is_reachable):
                self._cast.world.after(5.0, check_in)
                return
            self.left -= 1
            if not is_gone:
                agents[0].check_in(host)

        self._cast.world.after(after_s + self._cast.world.between(0.1, 5.0), check_in)

    def _reboot(self, fault: Fault) -> None:
        host = self._host(fault)
        if fault.extra < 0.5:
            host.arm(lambda: self._cast.world.after(fault.extra * 2, lambda: self._power_cycle(host, fault.size)))
        else:
            self._power_cycle(host, fault.size)

    def _power_cycle(self, host: Host, away_s: float) -> None:
        host.reboot(away_s)
        self._check_in_later(host, away_s)

    def _disk(self, fault: Fault) -> None:
        if fault.extra < 0.5:
            host = self._host(fault)
            host.full_until = max(host.full_until, self._cast.world.now + fault.size)
        else:
            self._agent(fault).journal_full_until = self._cast.world.now + fault.size

    def _journal(self, fault: Fault) -> None:
        agent = self._agent(fault)
        agent.crash()
        agent.lose_journal()
        self._cast.promises.journal_was_lost(self._cast.world.instant())
        self._restart(agent, 1.0 + fault.extra * 10)

    def _restore(self, fault: Fault) -> None:
        """A backup now, and `size` seconds later all dispatchers are stopped, and begin again with it when nothing that they
        had sent can still be on its way."""
        backup = self._cast.dispatchers[0].durable.copy()
        self.left += 1

        def restore() -> None:
            self.left -= 1
            self._cast.world.tell("the dispatcher's store is restored from a backup")
            for dispatcher in self._cast.dispatchers:
                dispatcher.crash()
            restored = backup.copy()
            for dispatcher in self._cast.dispatchers:
                dispatcher.use(restored)
                self._restart(dispatcher, RESTORED_AFTER_S)

        self._cast.world.after(fault.size, restore)

    def _cancel(self, fault: Fault) -> None:
        planner = self._cast.any_planner()
        if not self._cast.ids or planner is None:
            return
        one = self._cast.ids[fault.target % len(self._cast.ids)]
        hosts = planner.store.hosts[one]
        some = [hosts[int(fault.extra * len(hosts))]] if fault.size else []
        planner.cancel(one, some)

    def _retention(self, fault: Fault) -> None:
        """All instances of a service are away, and what they have not read of one log is deleted."""
        cast, number = self._cast, fault.target % self._cast.bus.partitions
        kinds: list[tuple[Sequence[Process], str]] = [
            (cast.dispatchers, PLANNING_EVENTS.name),
            (cast.dispatchers, EXECUTION_EVENTS.name),
            (cast.planners, DISPATCH_EVENTS.name),
            (cast.agents, PROXY_COMMANDS.of(PROXY)),
        ]
        away, topic = kinds[int(fault.extra * len(kinds))]
        for process in away:
            process.crash()
            self._restart(process, fault.size + 1.0)
        cast.world.after(fault.size, lambda: cast.bus.lose_beginning(Place(topic, number)))

    def _tail(self, fault: Fault) -> None:
        """The broker's machine crashes with dispatchers and planners, at times with the agents. What nobody had noted is not lost:
        such a cut cannot be seen (docs/adr/0023)."""
        cast, bus = self._cast, self._cast.bus
        if self._is_under_repair:
            return
        whole = {place: list(log) for place, log in bus.logs.items()}
        bus.lose_end(instant_at(cast.world.now - fault.size))
        if not self._is_cut_seen():
            bus.logs.update(whole)
            return
        cast.promises.forget(record.item for place, log in whole.items() for record in log[len(bus.logs[place]) :])
        cast.world.tell("the broker's machine crashes: logs have lost their end")
        self._is_under_repair, self.left = True, self.left + 1
        for process in cast.processes if fault.extra < 0.5 else [*cast.dispatchers, *cast.planners]:
            process.crash()
        self._go_down(BROKER_BACK_AFTER_S)
        cast.world.after(REPAIRED_AFTER_S, self._repair)

    def _is_cut_seen(self) -> bool:
        cast, said = self._cast, self._cast.planners[0].store
        marks = [*cast.dispatchers[0].durable.marks.items(), *(one for _, ends in said.said for one in ends.items())]
        marks += [(Place(DISPATCH_EVENTS.name, number), mark) for number, mark in said.heard.items()]
        return any(mark.next_offset > cast.bus.end(place) for place, mark in marks if place.topic in CHECKED)

    def _repair(self) -> None:
        """`chargehand repair --yes`, and everything is started again."""
        cast = self._cast
        self._is_under_repair = False
        cast.world.after(SAID_AGAIN_AFTER_S, self._is_repaired)
        cast.planners[0].mend()
        mend(cast.bus, cast.dispatchers[0].durable, cast.world.instant())
        for process in cast.processes:
            if not process.is_alive:
                process.start()

    def _is_repaired(self) -> None:
        self.left -= 1

    def _edit(self, fault: Fault) -> None:
        """Of the proxy, each dispatcher hears at its own time. No size: no limit any more.

        After a restore a proxy's slots of partitions that nobody has taken yet are not known: its limit is not promised then."""
        limit = int(fault.size) or None
        planner = self._cast.any_planner()
        if fault.extra < 0.4 and not self._is_restored:
            limits = {} if limit is None else {PROXY: limit}
            for dispatcher in self._cast.dispatchers:
                self._cast.world.after(self._cast.world.between(0.0, 3.0), lambda one=dispatcher: one.heed(limits))  # type: ignore[misc]
        elif self._cast.ids and planner is not None:
            planner.edit(self._cast.ids[fault.target % len(self._cast.ids)], limit)


_EFFECTS: dict[str, Callable[[Fate, Fault], None]] = {
    "slow": Fate._slow,
    "lag": Fate._lag,
    "repeat": Fate._repeat,
    "crash": Fate._crash,
    "stop": Fate._stop,
    "outage": Fate._outage,
    "clock": Fate._clock,
    "cut": Fate._cut,
    "reboot": Fate._reboot,
    "disk": Fate._disk,
    "journal": Fate._journal,
    "restore": Fate._restore,
    "cancel": Fate._cancel,
    "edit": Fate._edit,
    "retention": Fate._retention,
    "tail": Fate._tail,
}
