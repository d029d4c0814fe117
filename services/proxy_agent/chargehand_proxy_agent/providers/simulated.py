"""Hosts that exist only in this process, with a lock, a boot and faults of their own; nothing else of a job is skipped.

Owns their state: like real hosts' it survives the agent, in one file to which every change is appended before it is acted on.
It stands in for the wrapper, so it keeps the same rules (docs/protocol.md, section 1, "Attempt on the host").

Host parameters besides those of simulated_scripts.py: `sim.unreachable` (yes), `sim.unreachable_share`, `sim.connect_s` (delay),
`sim.refuse` (a word of the port), `sim.users` (names of those that scripts may run as there; without it everybody), `sim.password`
(what becoming one of them takes), `sim.cut_after_bytes` (the connection of a start is lost once, after so much output).
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, get_args

from .port import (
    ConnectionLost,
    CouldNotConnect,
    EndCause,
    Ended,
    Interrupted,
    LookOrder,
    NeverStarted,
    Observation,
    Omitted,
    Output,
    Refused,
    RefusedWhy,
    StartAllowed,
    Started,
    StartOrder,
    Stream,
    Support,
    Target,
)
from .simulated_scripts import Behaviour, Piece, behaviour_of, is_in_share, length_of, number, rendered

KEPT_FOR_S = 14 * 24 * 3600.0
CHUNK_BYTES = 256 * 1024
_UP_BEFORE_BIRTH_S = 12 * 24 * 3600.0
_YES = frozenset({"1", "yes", "true", "on"})


class Place(NamedTuple):
    """One attempt's directory."""

    host_id: str
    lock_path: str
    attempt: int


@dataclass(slots=True)
class Record:
    """What a directory holds: a tombstone (no behaviour), or an attempt that was started, and who ended it when.
    `is_closed`: a tombstone that a later attempt has made; `is_lost`: one of a look after a boot that may have taken it away."""

    behaviour: Behaviour | None
    name: str = ""
    started_at: float = 0.0
    limit_at: float = 0.0
    boot: int = 0
    cancelled_at: float | None = None
    was_cut: bool = False
    is_closed: bool = False
    is_lost: bool = False

    @property
    def ends_at(self) -> float:
        own = self.started_at + (self.behaviour.lasts_s if self.behaviour else 0.0)
        return min(own, self.limit_at, own if self.cancelled_at is None else self.cancelled_at)

    @property
    def cause(self) -> EndCause:
        own = self.started_at + (self.behaviour.lasts_s if self.behaviour else 0.0)
        if self.cancelled_at is not None and self.cancelled_at < min(own, self.limit_at):
            return "cancelled"
        return "timed_out" if self.limit_at < own else "exited"

    def uptime_line(self) -> str:
        at = datetime.fromtimestamp(self.started_at, UTC)
        return f" {at:%H:%M:%S} up 12 days,  0:00,  0 users,  load average: 0.00, 0.01, 0.05"


class SimulatedProvider:
    """All simulated hosts of one agent. `clock` gives seconds since the epoch."""

    name = "simulated"
    supports = Support(host_lock=True, cancel=True, effective_user=True, resume=True)

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self._records: dict[Place, Record] = {}
        self._boots: dict[str, list[float]] = {}
        self._behaviours: dict[Behaviour, int] = {}
        self._watchers: dict[str, set[Watcher]] = {}
        self._unreachable: set[str] = set()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._load(path)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    async def open(self, target: Target) -> SimulatedHost:
        """A way to the host. Raises CouldNotConnect where parameters or a test say so."""
        delay = number(target.parameters, "sim.connect_s")
        if delay:
            await asyncio.sleep(delay)
        if (
            target.host_id in self._unreachable
            or target.parameters.get("sim.unreachable", "").lower() in _YES
            or is_in_share(target.name, target.parameters, "sim.unreachable_share")
        ):
            raise CouldNotConnect("unreachable", "this simulated host is switched off")
        return SimulatedHost(self, target)

    async def close(self) -> None:
        """Lose every connection; the hosts go on."""
        for host_id in list(self._watchers):
            self.cut(host_id)

    # --- faults that tests cause

    def set_reachable(self, host_id: str, is_reachable: bool) -> None:
        """From now on; open connections are lost when it becomes unreachable."""
        if is_reachable:
            self._unreachable.discard(host_id)
        else:
            self._unreachable.add(host_id)
            self.cut(host_id)

    def cut(self, host_id: str) -> None:
        """Lose the host's open connections."""
        for watcher in self._watchers.get(host_id, ()):
            watcher.is_cut = True
            watcher.wake()

    def reboot(self, host_id: str) -> None:
        """What runs there is dead; directories stay."""
        at = self.clock()
        self._append("r", host_id, at)
        self._boots.setdefault(host_id, []).append(at)
        self.cut(host_id)

    # --- what hosts know

    def find(self, place: Place) -> Record | None:
        return self._records.get(place)

    def boot(self, host_id: str) -> int:
        return len(self._boots.get(host_id, ()))

    def uptime(self, host_id: str) -> timedelta:
        boots = self._boots.get(host_id)
        return timedelta(seconds=self.clock() - boots[-1] if boots else _UP_BEFORE_BIRTH_S)

    def died_at(self, place: Place, record: Record) -> float | None:
        """When a reboot ended what ran there, None if none did."""
        boots = self._boots.get(place.host_id, ())
        later = boots[record.boot] if len(boots) > record.boot else None
        return later if later is not None and later < record.ends_at else None

    def bury(self, place: Place, *, for_later: bool = False, is_lost: bool = False) -> None:
        """Take the lock with a tombstone; `for_later`: so that a later attempt may start; `is_lost`: because it may have run."""
        kind = "l" if for_later else "u" if is_lost else "t"
        self._append(kind, *place)
        self._records[place] = _tombstone(kind)

    def begin(self, place: Place, behaviour: Behaviour, name: str, lasts_at_most: timedelta) -> Record:
        """The point of no return: written before the attempt exists."""
        at = self.clock()
        record = Record(behaviour, name, at, at + lasts_at_most.total_seconds(), self.boot(place.host_id))
        self._append("s", *place, self._number(behaviour), name, record.started_at, record.limit_at, record.boot)
        self._records[place] = record
        return record

    def cancel(self, place: Place, record: Record) -> None:
        at = self.clock()
        if record.cancelled_at is None and at < record.ends_at:
            self._append("c", *place, at)
            record.cancelled_at = at
            for watcher in self._watchers.get(place.host_id, ()):
                watcher.wake()

    # --- watching

    def watch(self, host_id: str) -> Watcher:
        watcher = Watcher()
        self._watchers.setdefault(host_id, set()).add(watcher)
        return watcher

    def unwatch(self, host_id: str, watcher: Watcher) -> None:
        watchers = self._watchers.get(host_id)
        if watchers is not None:
            watchers.discard(watcher)
            if not watchers:
                del self._watchers[host_id]

    # --- the file

    def _append(self, kind: str, *values: object) -> None:
        os.write(self._file, json.dumps([kind, *values], separators=(",", ":")).encode() + b"\n")

    def _number(self, behaviour: Behaviour) -> int:
        known = self._behaviours.get(behaviour)
        if known is None:
            known = self._behaviours[behaviour] = len(self._behaviours)
            pieces = [[p.at_s, p.stream, p.text, p.filler_bytes] for p in behaviour.pieces]
            self._append("b", known, pieces, behaviour.lasts_s, behaviour.exit_status)
        return known

    def _load(self, path: Path) -> None:
        behaviours: dict[int, Behaviour] = {}
        if path.exists():
            for row in _rows(path):
                self._replay(row, behaviours)
        self._behaviours = {behaviour: number for number, behaviour in behaviours.items()}

    def _replay(self, row: list[Any], behaviours: dict[int, Behaviour]) -> None:
        match row:
            case ["b", number, pieces, lasts_s, status]:
                behaviours[number] = Behaviour(tuple(Piece(*piece) for piece in pieces), lasts_s, status)
            case ["s", host_id, path, attempt, number, name, started_at, limit_at, boot]:
                if self.clock() - started_at < KEPT_FOR_S and number in behaviours:
                    place = Place(host_id, path, attempt)
                    self._records[place] = Record(behaviours[number], name, started_at, limit_at, boot)
            case ["t" | "l" | "u" as kind, host_id, path, attempt]:
                self._records[Place(host_id, path, attempt)] = _tombstone(kind)
            case ["c", host_id, path, attempt, at]:
                record = self._records.get(Place(host_id, path, attempt))
                if record is not None:
                    record.cancelled_at = at
            case ["r", host_id, at]:
                self._boots.setdefault(host_id, []).append(at)


def _tombstone(kind: str) -> Record:
    return Record(None, is_closed=kind == "l", is_lost=kind == "u")


def _rows(path: Path) -> Iterator[list[Any]]:
    """The rows of the file; a last line that was not written whole was not acted on either."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


class Watcher:
    """Somebody who waits for a host: woken by its timer, or by a change."""

    __slots__ = ("_waiting", "is_cut")

    def __init__(self) -> None:
        self.is_cut = False
        self._waiting: asyncio.Future[None] | None = None

    def wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def wait(self, delay_s: float) -> None:
        """Until woken, at most so long."""
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        timer = loop.call_later(delay_s, self.wake)
        try:
            await self._waiting
        finally:
            timer.cancel()
            self._waiting = None


class SimulatedHost:
    """An open way to one simulated host."""

    def __init__(self, provider: SimulatedProvider, target: Target) -> None:
        self._provider, self._target = provider, target

    async def release(self) -> None:
        return

    async def start(self, order: StartOrder, start_allowed: StartAllowed) -> AsyncIterator[Observation]:
        """Take the lock and start, or say why not."""
        place = Place(self._target.host_id, order.lock_path, order.attempt)
        refused = self._refused(order, start_allowed)
        if refused is not None:
            yield refused
            return
        existed = self._provider.find(place) is not None
        never = None if existed else self._barred(order) or self._checked(place, order)
        if never is not None:
            self._provider.bury(place)
            yield never
            return
        record = self._provider.find(place) or self._begin(place, order)
        cut_after = number(self._target.parameters, "sim.cut_after_bytes", -1) if not record.was_cut else -1
        async for observation in self._follow(place, record, {}, order.output_cap_bytes, existed, cut_after):
            yield observation

    async def look(self, order: LookOrder) -> AsyncIterator[Observation]:
        """The truth about an attempt; a lock that nobody took is taken."""
        place = Place(self._target.host_id, order.lock_path, order.attempt)
        record = self._provider.find(place)
        if (record is None or record.is_closed) and self._has_rebooted(order):
            if record is None:
                self._provider.bury(place, is_lost=True)
            yield self._lost()
            return
        if record is None:
            self._provider.bury(place)
            yield NeverStarted("tombstone")
            return
        if order.cancel and record.behaviour is not None:
            self._provider.cancel(place, record)
        async for observation in self._follow(place, record, order.offsets, order.output_cap_bytes, True, -1):
            yield observation

    def _lost(self) -> Interrupted:
        return Interrupted("booted since it was issued, and nothing of it is left", self._boot_id)

    @property
    def _boot_id(self) -> str:
        return f"{self._target.host_id}/{self._provider.boot(self._target.host_id)}"

    def _has_rebooted(self, order: StartOrder | LookOrder) -> bool:
        return self._provider.uptime(self._target.host_id) < order.issued_ago + order.clock_margin

    def _refused(self, order: StartOrder, start_allowed: StartAllowed) -> Refused | None:
        if not start_allowed():
            return Refused("start_not_allowed", "not to be started any more")
        if "\0" in order.script:
            return Refused("not_valid", "the script holds a NUL character, which no shell can take")
        if self._has_rebooted(order):
            return Refused("rebooted", "booted since it was issued")
        word = self._target.parameters.get("sim.refuse", "")
        return Refused(word, "as its parameter says") if word in get_args(RefusedWhy) else None  # type: ignore[arg-type]

    def _barred(self, order: StartOrder) -> NeverStarted | None:
        """As a host whose effective user cannot be had (docs/adr/0025)."""
        user, parameters = order.effective_user, self._target.parameters
        if not user or user == self._target.user:
            return None
        known, password = parameters.get("sim.users"), parameters.get("sim.password", "")
        if known is not None and user not in known.split():
            return NeverStarted("tombstone", refusal=f"cannot run as {user}: there is no such user on the host")
        if password and order.effective_user_password != password:
            fault = "wrong password" if order.effective_user_password else "a password is wanted and none was given"
            return NeverStarted("tombstone", refusal=f"cannot run as {user}: {fault}")
        return None

    def _checked(self, place: Place, order: StartOrder) -> NeverStarted | None:
        """Between the two locks: earlier attempts, then the deadline (docs/protocol.md, rules FENCE and HDL)."""
        for number_ in order.earlier:
            earlier = place._replace(attempt=number_)
            record = self._provider.find(earlier)
            if record is None:
                self._provider.bury(earlier, for_later=True)
            elif record.behaviour is not None and (self._is_running(earlier, record) or number_ in order.unknown):
                return NeverStarted("fenced", number_)
        return NeverStarted("late") if order.not_after_in <= timedelta(0) else None

    def _is_running(self, place: Place, record: Record) -> bool:
        return self._provider.clock() < record.ends_at and self._provider.died_at(place, record) is None

    def _begin(self, place: Place, order: StartOrder) -> Record:
        behaviour = behaviour_of(order.script, self._target.name, self._target.parameters)
        at_most = min(order.execution_timeout, order.run_deadline_in)
        return self._provider.begin(place, behaviour, self._target.name, at_most)

    async def _follow(
        self,
        place: Place,
        record: Record,
        offsets: Mapping[Stream, int],
        cap: int,
        existed: bool,
        cut_after: float,
    ) -> AsyncIterator[Observation]:
        """Started, output as it appears, the end."""
        if record.behaviour is None:
            yield self._lost() if record.is_lost else NeverStarted("tombstone")
            return
        provider = self._provider
        given = {"stdout": offsets.get("stdout", 0), "stderr": offsets.get("stderr", 0)}
        watcher = provider.watch(place.host_id)
        try:
            # What is over is not said to have started, least of all on the present boot.
            if not existed or self._is_running(place, record):
                ago = timedelta(seconds=max(0.0, provider.clock() - record.started_at))
                yield Started(self._boot_id, ago, existed)
            while not watcher.is_cut:
                died_at = provider.died_at(place, record)
                moment = min(provider.clock(), record.ends_at if died_at is None else died_at)
                is_over = died_at is not None or moment >= record.ends_at
                for observation in _new_output(record, given, moment, is_over, cap):
                    if 0 <= cut_after <= sum(given.values()):
                        record.was_cut = watcher.is_cut = True
                        break
                    yield observation
                else:
                    if is_over:
                        yield self._end(record, died_at)
                        return
                    if not watcher.is_cut:
                        await watcher.wait(_until_next(record, moment))
            yield ConnectionLost("the connection of this simulated host was cut")
        finally:
            provider.unwatch(place.host_id, watcher)

    def _end(self, record: Record, died_at: float | None) -> Ended | Interrupted:
        lengths = _lengths(record, record.ends_at if died_at is None else died_at)
        if died_at is not None:
            return Interrupted("booted while it ran, and no exit was recorded", self._boot_id, lengths)
        by_itself = record.cause == "exited"
        return Ended(
            exit_status=record.behaviour.exit_status if by_itself and record.behaviour else None,
            signal=None if by_itself else "SIGTERM",
            cause=record.cause,
            lengths=lengths,
            ran_for=timedelta(seconds=max(0.0, record.ends_at - record.started_at)),
            boot_id=self._boot_id,
            ended_ago=timedelta(seconds=max(0.0, self._provider.clock() - record.ends_at)),
        )


def _pieces(record: Record, stream: Stream, moment: float) -> list[Piece]:
    """What the stream had at that moment. Instants are compared as instants: their differences are rounded."""
    pieces = record.behaviour.pieces if record.behaviour else ()
    return [piece for piece in pieces if piece.stream == stream and record.started_at + piece.at_s <= moment]


def _lengths(record: Record, moment: float) -> dict[Stream, int]:
    streams: tuple[Stream, ...] = ("stdout", "stderr")
    uptime = record.uptime_line()
    return {s: sum(length_of(p, record.name, uptime) for p in _pieces(record, s, moment)) for s in streams}


def _until_next(record: Record, moment: float) -> float:
    """Seconds until something appears or it ends."""
    coming = [record.started_at + piece.at_s for piece in (record.behaviour.pieces if record.behaviour else ())]
    return max(0.0, min([record.ends_at, *(at for at in coming if at > moment)]) - moment) + 0.0005


def _new_output(record: Record, given: dict[str, int], moment: float, is_over: bool, cap: int) -> Iterator[Observation]:
    """What appeared beyond what was given, which goes on. Beyond the cap the first and the last half are kept."""
    uptime = record.uptime_line()
    streams: tuple[Stream, ...] = ("stdout", "stderr")
    for stream in streams:
        pieces = _pieces(record, stream, moment)
        if not pieces:
            continue
        length = sum(length_of(piece, record.name, uptime) for piece in pieces)
        head = length if length <= cap else cap // 2
        for chunk in _chunks(
            record, pieces, stream, given[stream], min(length, head) if is_over else min(length, cap // 2)
        ):
            given[stream] = chunk.offset + len(chunk.data)
            yield chunk
        if not is_over:
            continue
        if length > cap and given[stream] < length - cap // 2:
            yield Omitted(stream, given[stream], length - cap // 2)
            given[stream] = length - cap // 2
        for chunk in _chunks(record, pieces, stream, given[stream], length):
            given[stream] = chunk.offset + len(chunk.data)
            yield chunk


def _chunks(record: Record, pieces: list[Piece], stream: Stream, begin: int, end: int) -> Iterator[Output]:
    """Bytes [begin, end) of a stream, in chunks."""
    uptime, offset = record.uptime_line(), 0
    for piece in pieces:
        length = length_of(piece, record.name, uptime)
        if offset + length > begin and offset < end:
            data = rendered(piece, record.name, uptime)
            first, last = max(begin, offset), min(end, offset + length)
            for start in range(first, last, CHUNK_BYTES):
                yield Output(stream, start, data[start - offset : min(start + CHUNK_BYTES, last) - offset])
        offset += length
