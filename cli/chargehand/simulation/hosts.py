"""Hosts: attempt directories, the wrapper between its two locks, boots, cuts, full disks. The truth that agents look for.

Owns what docs/protocol.md section 1 says of an attempt on its host. The wrapper's steps are apart in time, and an order that
was sent arrives whatever became of its sender or its connection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from chargehand_proxy_agent.core.attempt import StartTerms
from chargehand_proxy_agent.core.inputs import (
    EndSeen,
    InterruptionSeen,
    NeverStartedSeen,
    Observation,
    OutputSeen,
    RefusalSeen,
    StartSeen,
)
from chargehand_schemas.reasons import EndCause, NeverStartedWhy, Stream

from .promises import Promises
from .world import World

RESERVED_FOR_S = 2.0
CONNECT_TIMEOUT_S = 10.0
TERM_TAKES_S = 1.0


class Name(NamedTuple):
    """Where an attempt is on its host."""

    path: str
    attempt: int


class Job(NamedTuple):
    """What a script does here: how long it takes, how it exits, what it prints."""

    lasts_s: float
    exit_status: int
    prints: bytes


@dataclass
class Directory:
    """An attempt's directory. Neither started nor buried: reserved. `is_superseded`: buried by a later attempt; `is_lost`: by a
    look after a boot that may have taken it away; `is_over`: nothing runs any more, and its end waits for room on the disk."""

    job_task_id: UUID
    reserved_at: float
    boot: int
    is_buried: bool = False
    is_superseded: bool = False
    is_lost: bool = False
    started_at: float | None = None
    ends_at: float = 0.0
    cause: EndCause = EndCause.EXITED
    job: Job | None = None
    has_exit_file: bool = False
    is_locked: bool = True
    is_over: bool = False
    watchers: list[Watch] = field(default_factory=list)


@dataclass
class Watch:
    """Somebody at the other end of a connection. `see` may be called when the connection is gone: then nothing arrives.
    Output goes on at `offset`."""

    visit: int
    see: Callable[[Observation], None]
    offset: int = 0


class Host:
    """One host."""

    def __init__(self, world: World, promises: Promises, host_id: UUID, name: str) -> None:
        self.world, self.promises, self.host_id, self.name = world, promises, host_id, name
        self.boot, self.booted_at = 0, -1000.0
        self.away_until = 0.0
        self.full_until = 0.0
        self.directories: dict[Name, Directory] = {}
        self.at_arrival: list[Callable[[], None]] = []
        self.job: Callable[[UUID, int], Job] = lambda job_task_id, attempt: Job(1.0, 0, b"")
        self.at_start: list[Callable[[], None]] = []
        self._cut: list[Callable[[], None]] = []

    # --- what befalls it

    @property
    def is_reachable(self) -> bool:
        return self.world.now >= self.away_until

    @property
    def uptime_s(self) -> float:
        return self.world.now - self.booted_at

    def reboot(self, away_s: float) -> None:
        """What runs is dead, without an exit file; directories stay, except those of the last moments (no sync)."""
        self.world.tell(f"host {self.name} reboots")
        for name, directory in list(self.directories.items()):
            if _is_running(directory, self):
                directory.ends_at = self.world.now
                self.promises.stopped(directory.job_task_id, name.attempt)
            if directory.reserved_at > self.world.now - 1.0 and self.world.chance(0.5):
                del self.directories[name]
                self.promises.forgotten(directory.job_task_id)
        self.boot += 1
        self.booted_at = self.world.now
        self.away_until = max(self.away_until, self.world.now + away_s)
        self.cut()

    def go_away(self, for_s: float) -> None:
        self.world.tell(f"host {self.name} cannot be reached for {for_s:.1f} s")
        self.away_until = max(self.away_until, self.world.now + for_s)
        self.cut()

    def cut(self) -> None:
        """Every connection breaks."""
        cut, self._cut = self._cut, []
        for one in cut:
            one()

    def arm(self, fault: Callable[[], None]) -> None:
        """A fault that comes when the next attempt is started here."""
        self.at_start.append(fault)

    def connected(self, when_cut: Callable[[], None]) -> None:
        self._cut.append(when_cut)

    def _step(self, action: Callable[[], None]) -> None:
        """The next step of a wrapper on this boot."""
        boot = self.boot
        slow = self.world.chance(0.02)
        delay_s = self.world.between(0.0, 3.0 if slow else 0.02)
        self.world.after(delay_s, lambda: action() if boot == self.boot else None)

    # --- the wrapper

    def start(self, job_task_id: UUID, terms: StartTerms, uptime_s: float, watch: Watch) -> None:
        """The order has arrived. `uptime_s` was read on this connection before it was sent (rule HDL)."""
        befalling, self.at_arrival = self.at_arrival, []
        for fault in befalling:
            fault()
        name = Name(terms.run.lock_path, terms.run.attempt)
        if self._has_booted_since(terms.issued_ago, uptime_s):
            watch.see(RefusalSeen(watch.visit, "rebooted", "booted since it was issued"))
        elif name in self.directories:
            self._follow(name, watch, is_cancel=False)
        elif self.world.now < self.full_until:
            watch.see(RefusalSeen(watch.visit, "disk_full", "no room for its directory"))
        else:
            self.directories[name] = Directory(job_task_id, self.world.now, self.boot)
            deadline_s = uptime_s + terms.not_after_in.total_seconds()
            self._step(lambda: self._fence(name, terms, deadline_s, watch))

    def start_unlocked(self, job_task_id: UUID, terms: StartTerms, watch: Watch) -> None:
        """The order has arrived at a host that knows no locks and no deadlines (rule SOLO): it runs, as often as it is told to. What
        becomes of it is told to whoever is connected, and to nobody else."""
        befalling, self.at_arrival = self.at_arrival, []
        for fault in befalling:
            fault()
        name = Name(f"{terms.run.lock_path}#{len(self.directories)}", terms.run.attempt)
        self.directories[name] = Directory(job_task_id, self.world.now, self.boot, is_locked=False)
        self._step_on(lambda: self._begin(name, terms, watch))

    def _has_booted_since(self, issued_ago: timedelta, uptime_s: float) -> bool:
        """Rule BOOT, by the uptime that was read on the connection."""
        return uptime_s < issued_ago.total_seconds() + self.promises.margin_s

    def _fence(self, name: Name, terms: StartTerms, deadline_s: float, watch: Watch) -> None:
        """Rule FENCE: earlier attempts that left no directory never will; one that runs, or ended unseen, is followed."""
        for number in terms.run.earlier:
            earlier = name._replace(attempt=number)
            directory = self.directories.get(earlier)
            if directory is None:
                self.directories[earlier] = Directory(
                    self.directories[name].job_task_id, self.world.now, self.boot, is_buried=True, is_superseded=True
                )
            elif directory.started_at is None:
                directory.is_buried = True
            elif _is_running(directory, self) or (directory.has_exit_file and number in terms.run.unknown):
                self._bury(name)
                watch.see(NeverStartedSeen(watch.visit, NeverStartedWhy.FENCED, number))
                return
        self._step(lambda: self._check_deadline(name, terms, deadline_s, watch))

    def _check_deadline(self, name: Name, terms: StartTerms, deadline_s: float, watch: Watch) -> None:
        if self.uptime_s > deadline_s:
            self._bury(name)
            watch.see(NeverStartedSeen(watch.visit, NeverStartedWhy.LATE))
            return
        self._step_on(lambda: self._begin(name, terms, watch))

    def _step_on(self, action: Callable[[], None]) -> None:
        """The step from the deadline's check to exec: short, or no deadline could be kept at all."""
        boot = self.boot
        self.world.after(self.world.between(0.0, 0.01), lambda: action() if boot == self.boot else None)

    def _bury(self, name: Name) -> None:
        directory = self.directories.get(name)
        if directory is not None and directory.started_at is None:
            directory.is_buried = True

    def _begin(self, name: Name, terms: StartTerms, watch: Watch) -> None:
        """The second mkdir: the point of no return."""
        directory = self.directories.get(name)
        if directory is None:
            watch.see(NeverStartedSeen(watch.visit, NeverStartedWhy.TOMBSTONE))
            return
        if directory.is_buried:
            watch.see(self._buried(directory, watch))
            return
        if directory.is_locked and self.world.now < self.full_until:
            watch.see(RefusalSeen(watch.visit, "disk_full", "no room for `started`"))
            return
        job = self.job(directory.job_task_id, name.attempt)
        most_s = min(terms.run.execution_timeout, terms.run_deadline_in).total_seconds()
        directory.started_at, directory.job = self.world.now, job
        directory.cause = EndCause.EXITED if job.lasts_s <= most_s else EndCause.TIMED_OUT
        directory.ends_at = self.world.now + min(job.lasts_s, most_s)
        self.world.mark(name.path.encode())
        self.world.tell(f"host {self.name} starts {_short(directory, name)}")
        self.promises.started(directory.job_task_id, name.attempt, self.world.instant())
        befalling, self.at_start = self.at_start, []
        for fault in befalling:
            fault()
        boot = self.boot
        lasts_s = directory.ends_at - self.world.now
        if len(job.prints) > 1:
            self.world.after(lasts_s * 0.4, lambda: self._tell_watchers(name, boot))
        self.world.after(lasts_s, lambda: self._end(name, boot))
        self._follow(name, watch, is_cancel=False, existed=False)

    def _end(self, name: Name, boot: int) -> None:
        directory = self.directories.get(name)
        if directory is None or boot != self.boot or directory.has_exit_file or self.world.now < directory.ends_at:
            return
        if directory.is_locked and self.world.now < self.full_until:
            # The wrapper tries until there is room, and is seen to run until then.
            self.promises.stopped(directory.job_task_id, name.attempt)
            directory.is_over, directory.ends_at = True, self.full_until
            self.world.after(self.full_until - self.world.now + 1e-6, lambda: self._end(name, boot))
            return
        directory.has_exit_file = True
        self.world.tell(f"host {self.name} ends {_short(directory, name)}: {directory.cause}")
        self.promises.stopped(directory.job_task_id, name.attempt, has_succeeded=_has_succeeded(directory))
        watchers, directory.watchers = directory.watchers, []
        for watch in watchers:
            self._tell_rest(directory, name, watch)

    # --- looking

    def look(
        self, job_task_id: UUID, name: Name, since_issue: tuple[timedelta, float], watch: Watch, *, is_cancel: bool
    ) -> None:
        """Say what is true of the attempt; a lock that nobody took is taken (rule TOMB). `since_issue`: how long ago it was
        issued when this was sent, and the uptime then."""
        has_booted = self._has_booted_since(*since_issue)
        directory = self.directories.get(name)
        is_trace = directory is not None and not directory.is_superseded
        if directory is not None and (is_trace or not has_booted):
            self._follow(name, watch, is_cancel=is_cancel)
        elif has_booted:
            # A later attempt's tombstone says nothing of what the boot may have taken away.
            if directory is None:
                self.directories[name] = Directory(job_task_id, self.world.now, self.boot, is_buried=True, is_lost=True)
            watch.see(self._lost(watch))
        else:
            self.directories[name] = Directory(job_task_id, self.world.now, self.boot, is_buried=True)
            watch.see(NeverStartedSeen(watch.visit, NeverStartedWhy.TOMBSTONE))

    def _buried(self, directory: Directory, watch: Watch) -> Observation:
        if directory.is_lost:
            return self._lost(watch)
        return NeverStartedSeen(watch.visit, NeverStartedWhy.TOMBSTONE)

    def _lost(self, watch: Watch) -> Observation:
        return InterruptionSeen(watch.visit, "booted since it was issued", self._boot_id)

    @property
    def _boot_id(self) -> str:
        return f"{self.name}/{self.boot}"

    def _follow(self, name: Name, watch: Watch, *, is_cancel: bool, existed: bool = True) -> None:
        directory = self.directories.get(name)
        if directory is None:
            return
        if directory.started_at is None and not directory.is_buried:
            self._wait_for_start(name, directory, watch, is_cancel)
        elif directory.started_at is None:
            watch.see(self._buried(directory, watch))
        else:
            if is_cancel:
                self._cancel(name, directory)
            self._end(name, directory.boot)
            is_running = _is_running(directory, self)
            if is_running or not existed:
                ago = timedelta(seconds=self.world.now - directory.started_at)
                watch.see(StartSeen(watch.visit, self._boot_id, ago, existed))
            if is_running:
                self._tell_some(directory, watch)
                directory.watchers.append(watch)
            else:
                self._tell_rest(directory, name, watch)

    def _wait_for_start(self, name: Name, directory: Directory, watch: Watch, is_cancel: bool) -> None:
        """Reserved: a wrapper is between its locks, or died there; after two seconds its start is taken away."""
        age_s = self.world.now - directory.reserved_at
        if directory.boot != self.boot:
            directory.is_buried = True
            watch.see(InterruptionSeen(watch.visit, "booted since it was reserved", self._boot_id))
        elif is_cancel or age_s > RESERVED_FOR_S:
            directory.is_buried = True
            watch.see(NeverStartedSeen(watch.visit, NeverStartedWhy.TOMBSTONE))
        else:
            self._step(lambda: self.world.after(0.2, lambda: self._follow(name, watch, is_cancel=is_cancel)))

    def _cancel(self, name: Name, directory: Directory) -> None:
        if _is_running(directory, self) and not directory.is_over and directory.cause is not EndCause.CANCELLED:
            ends_at = self.world.now + self.world.between(0.0, TERM_TAKES_S)
            if ends_at < directory.ends_at:
                directory.ends_at, directory.cause = ends_at, EndCause.CANCELLED
                boot = self.boot
                self.world.after(ends_at - self.world.now, lambda: self._end(name, boot))

    # --- output

    def _printed(self, directory: Directory) -> bytes:
        """Evenly over its time."""
        assert directory.job is not None and directory.started_at is not None  # noqa: S101 (it has started)
        prints = directory.job.prints
        ran_s = min(self.world.now, directory.ends_at) - directory.started_at
        share = 1.0 if directory.job.lasts_s <= 0 else min(1.0, ran_s / directory.job.lasts_s)
        return prints[: round(len(prints) * share)]

    def _tell_some(self, directory: Directory, watch: Watch) -> None:
        printed = self._printed(directory)
        while watch.offset < len(printed):
            left = len(printed) - watch.offset
            size = self.world.random.randint(1, left) if self.world.chance(0.5) else left
            watch.see(OutputSeen(watch.visit, Stream.STDOUT, watch.offset, printed[watch.offset :][:size]))
            watch.offset += size

    def _tell_watchers(self, name: Name, boot: int) -> None:
        directory = self.directories.get(name)
        if directory is not None and boot == self.boot:
            for watch in directory.watchers:
                self._tell_some(directory, watch)

    def _tell_rest(self, directory: Directory, name: Name, watch: Watch) -> None:
        self._tell_some(directory, watch)
        length = {Stream.STDOUT: len(self._printed(directory))}
        if not directory.has_exit_file:
            self.promises.stopped(directory.job_task_id, name.attempt)
            watch.see(InterruptionSeen(watch.visit, "gone without an exit file", self._boot_id, length))
            return
        assert directory.job is not None and directory.started_at is not None  # noqa: S101 (it has started)
        is_own = directory.cause is EndCause.EXITED
        watch.see(
            EndSeen(
                watch.visit,
                directory.job.exit_status if is_own else None,
                None if is_own else "SIGTERM",
                directory.cause,
                length,
                timedelta(seconds=directory.ends_at - directory.started_at),
                self._boot_id,
                timedelta(seconds=max(0.0, self.world.now - directory.ends_at)),
            )
        )


def _is_running(directory: Directory, host: Host) -> bool:
    is_of_boot = directory.boot == host.boot and directory.started_at is not None
    return is_of_boot and not directory.has_exit_file and host.world.now < directory.ends_at


def _has_succeeded(directory: Directory) -> bool:
    is_own = directory.has_exit_file and directory.cause is EndCause.EXITED
    return is_own and directory.job is not None and directory.job.exit_status == 0


def _short(directory: Directory, name: Name) -> str:
    return f"{str(directory.job_task_id)[:8]}/{name.attempt}"
