"""Time, chance and processes that can die or stand still between any two of their steps.

Owns the order of what happens. Nothing here knows of jobs.
"""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID

EPOCH = datetime(2030, 1, 1, tzinfo=UTC)
Action = Callable[[], None]
LOOK_EVERY = 50


def instant_at(at_s: float) -> datetime:
    """The true time, so many seconds after the beginning of a run."""
    return EPOCH + timedelta(seconds=at_s)


class Crashed(Exception):
    """The process was killed between two of its steps."""

    def __init__(self, process: Process) -> None:
        self.process = process


class World:
    """One run's time and chance. `now` in seconds; `story` tells what happened, if it is to be told."""

    def __init__(self, seed: int, *, is_told: bool = False) -> None:
        self.random = Random(seed)  # noqa: S311 (chance that is to be repeated)
        self.now = 0.0
        self.story: list[str] | None = [] if is_told else None
        self.digest = 0
        self._queue: list[tuple[float, int, Action, Process | None, int]] = []
        self._count = 0
        self._told_at = -1.0
        self._instant = EPOCH

    def after(self, delay_s: float, action: Action, process: Process | None = None) -> None:
        """Something happens; at a process, if it is given: see `Process.after`."""
        self._count += 1
        generation = 0 if process is None else process.generation
        heapq.heappush(self._queue, (self.now + delay_s, self._count, action, process, generation))

    def run(self, until_s: float, is_over: Callable[[], bool]) -> None:
        """Until then, or until it is over, or nothing is left to happen."""
        queue, count = self._queue, 0
        while queue and queue[0][0] <= until_s:
            count += 1
            if count % LOOK_EVERY == 0 and is_over():
                return
            self.now, _, action, process, generation = heapq.heappop(queue)
            try:
                if process is None:
                    action()
                else:
                    process.act(generation, action)
            except Crashed as crashed:
                crashed.process.crash()

    def instant(self) -> datetime:
        """The true time."""
        if self._told_at != self.now:
            self._told_at, self._instant = self.now, instant_at(self.now)
        return self._instant

    def between(self, least: float, most: float) -> float:
        return least + (most - least) * self.random.random()

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def new_id(self) -> UUID:
        return UUID(int=self.random.getrandbits(128), version=4)

    def mark(self, what: bytes) -> None:
        """What two runs must have in common to be called the same."""
        self.digest = zlib.crc32(what, zlib.crc32(repr(self.now).encode(), self.digest))

    def tell(self, text: str) -> None:
        if self.story is not None:
            self.story.append(f"{self.now:10.3f}  {text}")


class Process:
    """Something that runs: it can be killed, stopped, continued and started again, and has a wall clock of its own."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.generation = 0
        self.is_alive = False
        self.clock_offset_s = 0.0
        self.stopped_until = 0.0
        self.crashed_at = -1.0
        self.dies_after: int | None = None
        self._held: list[tuple[int, Action]] = []

    # --- to be given by each kind

    def boot(self) -> None:
        """Begin to work, from what is durable."""

    def lose_memory(self) -> None:
        """What a killed process loses."""

    # --- life

    def start(self) -> None:
        self.is_alive = True
        self.dies_after = None
        self.world.tell(f"{self.name} starts")
        self.boot()

    def crash(self) -> None:
        """kill -9."""
        if not self.is_alive:
            return
        self.world.tell(f"{self.name} is killed")
        self.generation += 1
        self.is_alive = False
        self.stopped_until = 0.0
        self.crashed_at = self.world.now
        self.dies_after = None
        self._held.clear()
        self.lose_memory()

    def crash_soon(self, steps: int) -> None:
        """Die before the `steps`th step from now."""
        self.dies_after = steps

    def step(self) -> None:
        """A point between two effects."""
        if self.dies_after is not None:
            self.dies_after -= 1
            if self.dies_after < 0:
                raise Crashed(self)

    def stop(self, for_s: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        if self.is_alive and not self.is_stopped:
            self.world.tell(f"{self.name} stands still for {for_s:.1f} s")
            self.stopped_until = self.world.now + for_s
            generation = self.generation
            self.world.after(for_s, lambda: self._go_on(generation))

    @property
    def is_stopped(self) -> bool:
        return self.world.now < self.stopped_until

    def _go_on(self, generation: int) -> None:
        if generation != self.generation:
            return
        self.world.tell(f"{self.name} goes on")
        held, self._held = self._held, []
        for of_generation, action in held:
            self.world.after(0.0, lambda g=of_generation, a=action: self.act(g, a))  # type: ignore[misc]

    def hold_first(self, action: Action) -> None:
        """What it does first when it goes on: it was stopped in the middle of that."""
        self._held.insert(0, (self.generation, action))

    def after(self, delay_s: float, action: Action) -> None:
        """Let this process do something; not if it has died by then, and later if it stands still."""
        self.world.after(delay_s, action, self)

    def act(self, generation: int, action: Action) -> None:
        """Now, if it is still the process that was to do it; later, if it stands still."""
        if generation != self.generation or not self.is_alive:
            return
        if self.world.now < self.stopped_until:
            self._held.append((generation, action))
            return
        action()

    def clock(self) -> datetime:
        """The time by its own clock."""
        if not self.clock_offset_s:
            return self.world.instant()
        return instant_at(self.world.now + self.clock_offset_s)
