"""Attempts in hand: their inputs in order, and their effects carried out in order, each complete before the next.

Owns the pump between the core and the world. What follows from an input is the core's; an `if` about jobs is out of place here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import assert_never

import structlog
from chargehand_chassis.clock import now
from chargehand_chassis.faults import FaultPoints
from chargehand_chassis.keys import OwnKeys
from chargehand_chassis.metrics import METRICS
from chargehand_schemas.ids import AttemptId

from ..core import attempt as rules
from ..core.attempt import Attempt
from ..core.clock import ClockOffset
from ..core.effects import (
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
from ..core.entry import Entry, Offsets
from ..core.facts import AgentFacts
from ..core.inputs import (
    FollowWanted,
    Input,
    JournalFailed,
    OutputAcked,
    OutputSeen,
    Restarted,
    StartSeen,
    Stopping,
    Woken,
)
from ..core.reports import attempt_id
from ..providers.gate import Gate
from ..providers.port import Provider
from . import faults
from .journal import Journal as JournalStore
from .offsets import Taken
from .outbox import Outbox
from .reachability import Reachability
from .settings import AgentSettings
from .visits import Visit

CONNECT_PATIENCE = timedelta(milliseconds=500)
"""Hosts that never answer (black holes) are waited for beside the others: they must not fill the places of those that do."""

_VAGUE = timedelta(milliseconds=100)
_CLOCK_CHECK_EVERY_S = 0.1


class Attempts:
    """Every attempt this agent has in hand, by its id."""

    def __init__(
        self,
        settings: AgentSettings,
        keys: OwnKeys,
        facts: AgentFacts,
        journal: JournalStore,
        outbox: Outbox,
        providers: Mapping[str, Provider],
        points: FaultPoints,
        reachability: Reachability,
        secrets: tuple[bytes, ...] = (),
    ) -> None:
        self.settings, self.keys, self.journal, self.outbox, self.secrets = settings, keys, journal, outbox, secrets
        self.providers, self.points, self.reachability = providers, points, reachability
        self.connects = Gate(asyncio.Semaphore(settings.max_connects), CONNECT_PATIENCE)
        self.tasks: set[asyncio.Task[None]] = set()
        self.log = structlog.get_logger()
        self._facts = facts
        self._clock: ClockOffset | None = None
        self._checked_at = 0.0
        self._live: dict[AttemptId, LiveAttempt] = {}
        self._room = asyncio.Event()

    def __len__(self) -> int:
        return len(self._live)

    # --- what the agent knows of itself

    def facts(self) -> AgentFacts:
        """As of now: a step of this clock since its last comparison is seen within a moment."""
        moment = asyncio.get_running_loop().time()
        if moment - self._checked_at > _CLOCK_CHECK_EVERY_S:
            self._checked_at = moment
            self._check_clock()
        return self._facts

    def facts_to_start(self) -> AgentFacts:
        """As of this very instant, for the last question before a start."""
        self._check_clock()
        return self._facts

    def _check_clock(self) -> None:
        if self._clock is not None:
            offset = self._clock.now(clock_drift())
            if self._facts.clock_offset is None or abs(offset - self._facts.clock_offset) > _VAGUE:
                self._facts = replace(self._facts, clock_offset=offset)

    def set_clock(self, clock: ClockOffset | None) -> None:
        self._clock = clock
        self._check_clock()

    @property
    def clock(self) -> ClockOffset | None:
        return self._clock

    def set_birth(self, birth: datetime | None) -> None:
        """The journal's, known only now."""
        self._facts = replace(self._facts, journal_birth=birth)

    # --- inputs

    def give(self, attempt: AttemptId, event: Input, taken: Taken | None = None) -> None:
        """An input for an attempt, which need not be in hand yet. `taken`: the record to mark when it need not be read again."""
        live = self._live.get(attempt)
        if live is None:
            live = self._live[attempt] = LiveAttempt(self, attempt)
        live.give(event, taken)

    def restore(self, entries: list[Entry]) -> None:
        """Go on with what an earlier process of this agent left in the journal."""
        for entry in entries:
            self.give(entry.id, Restarted())

    def stop(self) -> None:
        """Release what is not started, leave what runs."""
        self._facts = replace(self.facts(), is_stopping=True)
        for live in list(self._live.values()):
            live.give(Stopping())

    def forget(self, attempt: AttemptId) -> None:
        self._live.pop(attempt, None)
        self._room.set()

    async def room(self, most: int) -> None:
        """Wait until fewer than `most` are in hand."""
        while len(self._live) >= most:
            self._room.clear()
            await self._room.wait()

    def followed(self) -> Iterator[Attempt]:
        """Those nobody needs to ask for."""
        for live in self._live.values():
            if live.state is not None and live.state.is_followed:
                yield live.state

    async def left(self) -> None:
        """Wait until every visit is over."""
        while self.tasks:
            await asyncio.wait(set(self.tasks))


class LiveAttempt:
    """One attempt in hand. Inputs wait while effects are under way."""

    __slots__ = (
        "_all", "_effects", "_inbox", "_is_busy", "_pending_bytes", "_taken", "_visits", "id", "state",
    )  # fmt: skip

    def __init__(self, attempts: Attempts, attempt: AttemptId) -> None:
        self.id = attempt
        self.state: Attempt | None = None
        self._all = attempts
        self._inbox: deque[tuple[Input, Taken | None]] = deque()
        self._effects: deque[Effect] = deque()
        self._taken: Taken | None = None
        self._visits: dict[int, Visit] = {}
        self._is_busy = False
        self._pending_bytes = 0

    def give(self, event: Input, taken: Taken | None = None) -> None:
        """Take an input; it is looked at when all effects of those before it are complete."""
        if isinstance(event, OutputSeen):
            self._pending_bytes += len(event.data)
        self._inbox.append((event, taken))
        if not self._is_busy:
            self._go_on()

    @property
    def unacknowledged_bytes(self) -> int:
        return self._pending_bytes + (0 if self.state is None else self.state.unacknowledged_bytes)

    async def room(self) -> None:
        """Wait while too much output of this attempt, or of all, is on its way."""
        settings, lane = self._all.settings, self._all.outbox.output
        while (
            self.unacknowledged_bytes > settings.output_window_bytes or lane.size_bytes > settings.output_buffer_bytes
        ):
            await lane.room()

    # --- the pump

    def _go_on(self) -> None:
        self._is_busy = True
        while True:
            if self._effects:
                if not self._perform(self._effects[0]):
                    return
                self._effects.popleft()
            elif self._inbox:
                self._step(*self._inbox.popleft())
            else:
                break
        self._is_busy = False

    def _step(self, event: Input, taken: Taken | None) -> None:
        if self._taken is None:
            self._taken = taken
        if isinstance(event, OutputSeen):
            self._pending_bytes -= len(event.data)
        elif isinstance(event, StartSeen):
            self._all.points.reach(faults.STARTED)
        if self.state is None:
            known = self._all.journal.find(self.id)
            self.state = None if known is None else rules.restored(known)
        self.state, effects = rules.step(self.state, event, now(), self._all.facts())
        self._effects.extend(effects)
        if not effects and self.state is None:
            self._forget()

    def _perform(self, effect: Effect) -> bool:
        """Carry out one effect. False: it goes on, and `_completed` comes later."""
        match effect:
            case PublishOutput(item, raw, up_to):
                self._all.outbox.show(item, raw, partial(self._output_acked, up_to))
            case Journal(entry):
                self._all.journal.write(entry, self._journaled)
                return False
            case PublishAndAwait(item):
                self._all.outbox.say(item, self._completed)
                return False
            case Publish(item):
                self._all.outbox.say(item)
            case JournalLater(entry):
                self._all.journal.write(entry)
            case CommitOffset():
                self._mark_taken()
            case WakeAfter(delay):
                asyncio.get_running_loop().call_later(delay.total_seconds(), self._wake)
            case Follow(command):
                self._all.give(attempt_id(command), FollowWanted(command))
            case Forget():
                self._forget()
            case Connect() | SendWrapper() | Look() | Leave():
                self._visit(effect)
            case _:
                assert_never(effect)
        return True

    def _visit(self, effect: Connect | SendWrapper | Look | Leave) -> None:
        match effect:
            case Connect(number):
                self._visits[number] = Visit(self, self._all, number)
            case SendWrapper(number):
                self._visits[number].instruct(None)
            case Look(number):
                self._visits[number].instruct(effect)
            case Leave(number):
                visit = self._visits.get(number)
                if visit is not None:
                    visit.leave()

    def visit_over(self, number: int) -> None:
        self._visits.pop(number, None)

    def _completed(self) -> None:
        effect = self._effects.popleft()
        if self.state is not None:
            self._all.points.reach(faults.point_after(effect, self.state.phase))
        self._go_on()

    def _journaled(self, is_on_disk: bool) -> None:
        if is_on_disk:
            self._completed()
            return
        self._effects.clear()
        if self._taken is not None:
            self._taken.fail()
            self._taken = None
        self._inbox.appendleft((JournalFailed(), None))
        self._go_on()

    def _output_acked(self, up_to: Offsets) -> None:
        self._all.points.reach(faults.OUTPUT_ACKED)
        self.give(OutputAcked(up_to))

    def _wake(self) -> None:
        if self.state is not None:
            self.give(Woken())

    def _mark_taken(self) -> None:
        if self._taken is not None:
            self._taken.done()
            self._taken = None

    def _forget(self) -> None:
        """Out of memory; what still comes for it is judged by its journal entry."""
        if self.state is not None:
            METRICS.attempts_over.labels(self.state.phase.value).inc()
        self.state, self._taken = None, None
        if not self._inbox:
            self._all.forget(self.id)


def clock_drift() -> timedelta:
    """Wall clock minus monotonic clock: it changes when the wall clock is set."""
    return timedelta(seconds=now().timestamp() - asyncio.get_running_loop().time())
