"""A proxy agent: the real core over a journal, connections and a bus that exist only here.

Owns how effects are carried out: one after the other, each complete before the next, and a point between them at which the
process may die. It stands where chargehand_proxy_agent.shell stands.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import assert_never
from uuid import UUID

from chargehand_proxy_agent.core import attempt as rules
from chargehand_proxy_agent.core.attempt import Attempt
from chargehand_proxy_agent.core.clock import ClockOffset, measured
from chargehand_proxy_agent.core.effects import (
    CommitOffset,
    Connect,
    Effect,
    Follow,
    Forget,
    Journal,
    JournalLater,
    Leave,
    Look,
    Publish,
    PublishAndAwait,
    PublishOutput,
    SendWrapper,
    WakeAfter,
)
from chargehand_proxy_agent.core.entry import Entry
from chargehand_proxy_agent.core.facts import AgentFacts
from chargehand_proxy_agent.core.inputs import (
    CancelReceived,
    Connected,
    ConnectionCut,
    CouldNotConnect,
    EndSeen,
    FollowWanted,
    Input,
    InterruptionSeen,
    JournalFailed,
    NeverStartedSeen,
    Observation,
    OutputAcked,
    RefusalSeen,
    Restarted,
    ResumeReceived,
    RunReceived,
    Woken,
)
from chargehand_proxy_agent.core.output import OutputLimits
from chargehand_proxy_agent.core.reports import attempt_id
from chargehand_schemas.base import AttemptItem
from chargehand_schemas.hosts import HostCheckedIn
from chargehand_schemas.ids import AttemptId, item_id
from chargehand_schemas.proxies import AgentHeartbeat, AgentStarted, AttemptsFollowed, FollowedAttempt
from chargehand_schemas.proxy_commands import CancelProxyCommand, ProxyCommand, ResumeProxyCommand, RunProxyCommand
from chargehand_schemas.topics import EXECUTION_EVENTS, HOST_EVENTS, PROGRESS_REPORTS, PROXY_COMMANDS, PROXY_EVENTS

from .bus import Bus, Group, Member, Place, Reader, Record
from .hosts import CONNECT_TIMEOUT_S, Host, Name, Watch
from .world import Action, Process

PROXY, OTHER_PROXY = "local", "lab"
PROVIDER = "simulated"
HEARTBEAT_S = 10.0
COMMIT_S = 0.5
LIMITS = OutputLimits(report_bytes=64, head_bytes=256, tail_bytes=32)


class SimulatedJournal:
    """What is on the agent's disk."""

    def __init__(self, journal_id: UUID) -> None:
        self.journal_id = journal_id
        self.birth: datetime | None = None
        self.entries: dict[AttemptId, Entry] = {}

    def write(self, entry: Entry) -> None:
        self.entries[entry.id] = entry

    def find(self, attempt: AttemptId) -> Entry | None:
        """As read back: the script was not kept, and the order is only good for looking."""
        entry = self.entries.get(attempt)
        if entry is None or isinstance(entry.order, ResumeProxyCommand):
            return entry
        fields = {name: getattr(entry.order, name) for name in ProxyCommand.model_fields}
        return entry._replace(order=ResumeProxyCommand.model_construct(**fields, asked=1))


class SimulatedAgent(Process):
    """One agent process. `partition_of` places an invocation's facts."""

    def __init__(self, bus: Bus, group: Group, name: str, hosts: dict[UUID, Host], margin: timedelta) -> None:
        super().__init__(bus.world, name)
        self.bus, self.group, self.hosts, self.margin = bus, group, hosts, margin
        self.journal = SimulatedJournal(self.world.new_id())
        self.journal_full_until = 0.0
        self.has_host_lock = True
        self.partition_of: dict[UUID, int] = {}
        self.member = Member(group, self, self._assigned)
        self._said = 0
        self._forget_all()

    def _forget_all(self) -> None:
        self.live: dict[AttemptId, _Live] = {}
        self.readers: dict[int, Reader] = {}
        self.taken: dict[int, dict[int, bool]] = {}
        self.clock_known: ClockOffset | None = None
        self._is_committing = False
        self.boot_id = self.world.new_id()

    def lose_memory(self) -> None:
        for reader in self.readers.values():
            self.bus.close(reader)
        self.member.forget()
        self.group.lose(self.member)
        self._forget_all()

    def lose_journal(self) -> None:
        """Its disk is replaced while it is down."""
        self.world.tell(f"{self.name} lost its journal")
        self.journal = SimulatedJournal(self.world.new_id())

    # --- life

    def boot(self) -> None:
        self.facts = AgentFacts(
            agent_id=self.name,
            agent_boot_id=self.boot_id,
            journal_id=self.journal.journal_id,
            proxy=PROXY,
            journal_birth=self.journal.birth,
            clock_margin=self.margin,
            providers={PROVIDER: self.has_host_lock},
            limits=LIMITS,
        )
        started = AgentStarted(**self._about("started"), journal_id=self.journal.journal_id, providers=(PROVIDER,))
        sent = self.clock()
        self._send_about(started, lambda: self._begin(sent))

    def _begin(self, sent: datetime) -> None:
        self._measured(sent)
        if self.current_facts().is_clock_trusted and self.journal.birth is None:
            self.journal.birth = self.clock()
        self.facts = replace(self.facts, journal_birth=self.journal.birth)
        for entry in list(self.journal.entries.values()):
            if not (entry.phase.is_end and entry.is_said):
                self.give(entry.id, Restarted())
        self._join()
        self.after(HEARTBEAT_S, self._beat)

    def _join(self) -> None:
        if self.current_facts().is_clock_trusted:
            self.group.join(self.member)
        else:
            self.after(1.0, self._join)

    def _about(self, what: str) -> dict[str, object]:
        self._said += 1
        return {
            "id": item_id("agent", what, self.boot_id, self._said),
            "time": self.clock(),
            "agent_id": self.name,
            "agent_boot_id": self.boot_id,
            "proxy": PROXY,
        }

    def _send_about(self, event: AgentHeartbeat | AgentStarted | AttemptsFollowed, acked: Action | None = None) -> None:
        place = Place(PROXY_EVENTS.name, 0)
        self.bus.send(self, place, [(event, b"")], acked)

    def _beat(self) -> None:
        sent = self.clock()
        self._send_about(AgentHeartbeat(**self._about("heartbeat")), lambda: self._measured(sent))
        followed = tuple(
            FollowedAttempt(
                job_task_id=one.id.job_task_id,
                attempt=one.id.attempt,
                job_invocation_id=one.state.order.job_invocation_id,
            )
            for one in self.live.values()
            if one.state is not None and one.state.is_followed
        )
        if followed:
            self._send_about(AttemptsFollowed(**self._about("followed"), attempts=followed))
        self.after(HEARTBEAT_S, self._beat)

    def _drift(self) -> timedelta:
        """Wall clock minus monotonic clock."""
        return timedelta(seconds=self.clock_offset_s)

    def _measured(self, sent: datetime) -> None:
        """Appended by the broker's clock, which is the true one here."""
        acked = self.clock()
        appended = sent + (acked - sent) / 2 - self._drift()
        self.clock_known = measured(self.clock_known, sent, appended, acked, self._drift())

    def current_facts(self) -> AgentFacts:
        offset = None if self.clock_known is None else self.clock_known.now(self._drift())
        if offset != self.facts.clock_offset:
            self.facts = replace(self.facts, clock_offset=offset)
        return self.facts

    # --- commands

    def _assigned(self, owned: list[int]) -> None:
        for reader in self.readers.values():
            self.bus.close(reader)
        self.readers, self.taken = {}, {number: {} for number in owned}
        for number in owned:
            place = Place(PROXY_COMMANDS.of(PROXY), number)
            # What it has not read may have expired, or be lost: all of it is asked again (rule RET).
            position = min(max(self.group.committed[number], self.bus.begins[place]), self.bus.end(place))
            reader = Reader(self.bus, self, place, position, lambda records, n=number: self._take(n, records))  # type: ignore[misc]
            self.readers[number] = reader
            self.bus.open(reader)

    def _take(self, number: int, records: Sequence[Record]) -> None:
        if not self.current_facts().is_clock_trusted:
            # Outside the margin it leaves the group; what was read here is read again.
            self.group.leave(self.member)
            self._assigned([])
            self.after(1.0, self._join)
            return
        for record in records:
            self.taken[number][record.offset] = False
            item = record.item
            if isinstance(item, ProxyCommand):
                self.step()
                self.give(attempt_id(item), _input(item), (number, record.offset))

    def mark_taken(self, taken: tuple[int, int]) -> None:
        number, offset = taken
        if number in self.taken and offset in self.taken[number]:
            self.taken[number][offset] = True
            if not self._is_committing:
                self._is_committing = True
                self.after(COMMIT_S, self._commit)

    def _commit(self) -> None:
        """Up to the first that may have to be read again."""
        self._is_committing = False
        for number, offsets in self.taken.items():
            done = 0
            for offset in sorted(offsets):
                if not offsets[offset]:
                    break
                done = offset + 1
                del offsets[offset]
            if done and number in self.readers:
                self.group.committed[number] = max(done, self.group.committed[number])

    # --- attempts

    def give(self, attempt: AttemptId, event: Input, taken: tuple[int, int] | None = None) -> None:
        live = self.live.get(attempt)
        if live is None:
            live = self.live[attempt] = _Live(self, attempt)
        live.give(event, taken)

    def say(self, item: AttemptItem, acked: Action | None = None) -> None:
        place = Place(EXECUTION_EVENTS.name, self.partition_of[item.job_invocation_id])
        self.bus.send(self, place, [(item, b"")], acked)

    def check_in(self, host: Host, proxy: str = PROXY) -> None:
        """A host announces itself at this agent, which vouches for it; or an agent of another proxy says so."""
        at = self.clock()
        event = HostCheckedIn(
            id=item_id("check-in", host.host_id, proxy, at), time=at, host_id=host.host_id, proxy=proxy, agent_id=self.name,
            checked_in_at=at,
        )  # fmt: skip
        self.bus.send(self, Place(HOST_EVENTS.name, 0), [(event, b"")])


def _input(command: ProxyCommand) -> Input:
    match command:
        case RunProxyCommand():
            return RunReceived(command)
        case CancelProxyCommand():
            return CancelReceived(command)
        case ResumeProxyCommand():
            return ResumeReceived(command)
        case _:
            raise TypeError(f"no such command: {type(command).__name__}")


class _Live:
    """One attempt in hand."""

    __slots__ = ("_agent", "_effects", "_inbox", "_is_busy", "_taken", "_visits", "id", "state")

    def __init__(self, agent: SimulatedAgent, attempt: AttemptId) -> None:
        self.id, self._agent = attempt, agent
        self.state: Attempt | None = None
        self._inbox: deque[tuple[Input, tuple[int, int] | None]] = deque()
        self._effects: deque[Effect] = deque()
        self._taken: tuple[int, int] | None = None
        self._visits: dict[int, _Visit] = {}
        self._is_busy = False

    def give(self, event: Input, taken: tuple[int, int] | None = None) -> None:
        self._inbox.append((event, taken))
        if not self._is_busy:
            self._go_on()

    def _go_on(self) -> None:
        self._is_busy = True
        while True:
            if self._effects:
                self._agent.step()
                if not self._perform(self._effects[0]):
                    return
                self._effects.popleft()
            elif self._inbox:
                self._step(*self._inbox.popleft())
            else:
                break
        self._is_busy = False

    def _step(self, event: Input, taken: tuple[int, int] | None) -> None:
        agent = self._agent
        self._taken = self._taken or taken
        if self.state is None:
            known = agent.journal.find(self.id)
            self.state = None if known is None else rules.restored(known)
        self.state, effects = rules.step(self.state, event, agent.clock(), agent.current_facts())
        self._effects.extend(effects)
        if not effects and self.state is None:
            self._forget()

    def _perform(self, effect: Effect) -> bool:
        """False: it goes on, and the next waits."""
        agent = self._agent
        match effect:
            case PublishOutput(item, raw, up_to):
                place = Place(PROGRESS_REPORTS.name, 0)
                agent.bus.send(agent, place, [(item, raw or b"")], lambda: self.give(OutputAcked(up_to)))
            case Journal(entry):
                agent.after(agent.world.between(0.001, 0.02), lambda: self._journal(entry))
                return False
            case PublishAndAwait(item):
                agent.say(item, self._completed)
                return False
            case Publish(item):
                agent.say(item)
            case JournalLater(entry):
                agent.after(agent.world.between(0.001, 0.1), lambda: self._journal_later(entry))
            case CommitOffset():
                self._mark_taken()
            case WakeAfter(delay):
                agent.after(delay.total_seconds(), self._wake)
            case Follow(command):
                agent.give(attempt_id(command), FollowWanted(command))
            case Forget():
                self._forget()
            case Connect(number):
                self._visits[number] = _Visit(agent, self, number)
            case SendWrapper(number):
                self._visits[number].send(None)
            case Look(number):
                self._visits[number].send(effect)
            case Leave(number):
                if number in self._visits:
                    self._visits.pop(number).is_open = False
            case _:
                assert_never(effect)
        return True

    def _journal(self, entry: Entry) -> None:
        if self._agent.world.now >= self._agent.journal_full_until:
            self._agent.journal.write(entry)
            self._completed()
            return
        self._effects.clear()
        if self._taken is not None:
            self._agent.after(1.0, lambda taken=self._taken: self._read_again(taken))  # type: ignore[misc]
            self._taken = None
        self._inbox.appendleft((JournalFailed(), None))
        self._go_on()

    def _read_again(self, taken: tuple[int, int]) -> None:
        """The command that could not be journaled, once more, when there may be room."""
        number, offset = taken
        place = Place(PROXY_COMMANDS.of(PROXY), number)
        if number not in self._agent.readers or offset >= self._agent.bus.end(place):
            return
        if self._agent.world.now < self._agent.journal_full_until:
            self._agent.after(1.0, lambda: self._read_again(taken))
            return
        item = self._agent.bus.logs[place][offset].item
        if isinstance(item, ProxyCommand):
            self._agent.give(attempt_id(item), _input(item), taken)

    def _journal_later(self, entry: Entry) -> None:
        if self._agent.world.now >= self._agent.journal_full_until:
            self._agent.journal.write(entry)

    def _completed(self) -> None:
        self._effects.popleft()
        self._go_on()

    def _wake(self) -> None:
        if self.state is not None:
            self.give(Woken())

    def _mark_taken(self) -> None:
        if self._taken is not None:
            self._agent.mark_taken(self._taken)
            self._taken = None

    def _forget(self) -> None:
        self.state, self._taken = None, None
        if not self._inbox:
            self._agent.live.pop(self.id, None)

    def visit_over(self, number: int) -> None:
        self._visits.pop(number, None)


class _Visit:
    """One connection to a host."""

    def __init__(self, agent: SimulatedAgent, live: _Live, number: int) -> None:
        self.agent, self.live, self.number = agent, live, number
        self.is_open = True
        self.was_sent = False
        self._uptime_s, self._boot = 0.0, -1
        self._comes_at = 0.0
        self._generation = agent.generation
        assert live.state is not None  # noqa: S101 (it asked for the visit)
        self.order = live.state.order
        self.host = agent.hosts[self.order.host_id]
        agent.after(agent.world.between(0.002, 0.05), self._connect)

    def _connect(self) -> None:
        if not self.is_open:
            return
        if not self.host.is_reachable:
            self.agent.after(self.agent.world.between(0.01, CONNECT_TIMEOUT_S), self._time_out)
            return
        self._uptime_s, self._boot = self.host.uptime_s, self.host.boot
        self.host.connected(self._cut)
        self.live.give(Connected(self.number))

    def _time_out(self) -> None:
        if self.is_open:
            self._close()
            self.live.give(CouldNotConnect(self.number, "timed_out", "no answer"))

    def _cut(self) -> None:
        """The connection breaks; this side sees it some time later."""
        if self.is_open and self._generation == self.agent.generation:
            self.agent.after(self.agent.world.between(0.0, 5.0), self._see_cut)

    def _see_cut(self) -> None:
        if self.is_open:
            self._close()
            self.live.give(ConnectionCut(self.number, "the connection was cut", self.was_sent))

    def _close(self) -> None:
        self.is_open = False
        self.live.visit_over(self.number)

    def send(self, look: Look | None) -> None:
        """What was sent arrives, late perhaps, whatever becomes of this process or this connection meanwhile."""
        agent, state = self.agent, self.live.state
        assert state is not None  # noqa: S101 (it sends)
        now, world = agent.clock(), agent.world
        watch = Watch(self.number, self._see, look.offsets.stdout if look is not None else 0)
        if look is not None:
            assert agent.has_host_lock, "looked at a host that knows no locks"  # noqa: S101 (rule SOLO)
            name = Name(self.order.lock_path, self.order.attempt)
            since_issue = (agent.current_facts().true_time(now) - self.order.issued_at, self._uptime_s)
            task, is_cancel = self.order.job_task_id, look.is_cancel
            self._deliver(lambda: self.host.look(task, name, since_issue, watch, is_cancel=is_cancel))
            return
        terms = rules.start_terms(state, now)
        if terms is None or not rules.may_start(state, now, agent.current_facts()):
            world.after(0.0, lambda: self._see(RefusalSeen(self.number, rules.START_NOT_ALLOWED, "")))
            return
        task, uptime_s = self.order.job_task_id, self._uptime_s
        if agent.has_host_lock:
            self._deliver(lambda: self.host.start(task, terms, uptime_s, watch))
        else:
            self._deliver(lambda: self.host.start_unlocked(task, terms, watch))

    def _deliver(self, arrive: Action) -> None:
        self.was_sent = True
        world, host = self.agent.world, self.host
        boot = self._boot
        is_stuck = world.chance(0.03)
        delay_s = world.between(0.0, 60.0) if is_stuck else world.between(0.001, 0.02)
        # A packet in TCP outlives a short loss of the network, and its sender; not the host's boot.
        world.after(delay_s, lambda: arrive() if host.boot == boot else None)

    def _see(self, seen: Observation) -> None:
        if not self.is_open or self._generation != self.agent.generation or not self.host.is_reachable:
            return
        # In order: it is one connection.
        world = self.agent.world
        self._comes_at = max(self._comes_at, world.now + world.between(0.001, 0.01))
        self.agent.after(self._comes_at - world.now, lambda: self._give(seen))

    def _give(self, seen: Observation) -> None:
        if self.is_open:
            if isinstance(seen, _LAST):
                self._close()
            self.live.give(seen)


_LAST = (EndSeen, InterruptionSeen, NeverStartedSeen, RefusalSeen)
