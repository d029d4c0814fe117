"""What must never happen, judged the moment it does: by the hosts themselves and by each record as it is appended.

Owns the judgement with the truth at hand; chargehand.checker judges the recorded topics alone, afterwards.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from chargehand_schemas.base import Item
from chargehand_schemas.dispatch import AttemptDue, ConcurrencyChanged, JobTaskEnded, JobTaskStatusChanged
from chargehand_schemas.execution import AttemptEnded, AttemptInterrupted, AttemptNeverStarted, AttemptReleased
from chargehand_schemas.hosts import HostCheckedIn
from chargehand_schemas.planning import JobInvocationCancelRequested, JobInvocationEdited, JobInvocationScheduled
from chargehand_schemas.properties import ExecutionProperties
from chargehand_schemas.reasons import JobTaskStatus, Reason
from chargehand_schemas.topics import DISPATCH_EVENTS

HEARD_AFTER = timedelta(seconds=200)
"""Longer than any reader lags or the broker is away: by then a record has been read."""

_FREES_SLOT = frozenset({JobTaskStatus.WAITING, JobTaskStatus.WAITING_FOR_CHECK_IN})
Attempt = tuple[UUID, int]


class BrokenPromise(Exception):
    """A promise did not hold."""

    def __init__(self, promise: str, subject: object, detail: str) -> None:
        self.promise, self.subject, self.detail = promise, str(subject), detail
        super().__init__(f"{promise}: {subject}: {detail}")


class Promises:
    """The hosts' truth and the dispatcher's word, side by side.

    Hosts without a lock know no deadline and no earlier attempt: what arrives late starts late, perhaps beside another, perhaps after
    the verdict (docs/protocol.md section 4). That each attempt starts once, and none after one that ran unseen, is promised there too.
    """

    def __init__(self, margin: timedelta, *, has_host_lock: bool = True) -> None:
        self.margin_s, self._has_host_lock = margin.total_seconds(), has_host_lock
        self.running: dict[UUID, set[int]] = defaultdict(set)
        self.started_once: set[Attempt] = set()
        self.exits: dict[UUID, dict[int, int]] = defaultdict(dict)
        self.verdicts: dict[UUID, JobTaskEnded] = {}
        self.held: dict[UUID, dict[UUID, int]] = defaultdict(dict)
        self._properties: dict[UUID, ExecutionProperties] = {}
        self._limits: dict[UUID, int | None] = {}
        self._edits: set[UUID] = set()
        self._edited: dict[UUID, tuple[datetime, int | None]] = {}
        self._tries: dict[UUID, tuple[int, datetime]] = {}
        self._succeeded: dict[UUID, datetime] = {}
        self._check_ins: dict[tuple[UUID, str], datetime] = {}
        self._waits_for: dict[UUID, AttemptDue] = {}
        self._last_due: dict[UUID, AttemptDue] = {}
        self._cancelled: dict[UUID, datetime] = {}
        self._dues: dict[Attempt, AttemptDue] = {}
        self._never: set[Attempt] = set()
        self._done: set[UUID] = set()
        self._interrupted: set[Attempt] = set()
        self._released: dict[Attempt, datetime] = {}
        self._journal_lost_at: datetime | None = None
        self._heard: set[UUID] = set()

    # --- on the hosts

    def started(self, job_task_id: UUID, attempt: int, now: datetime) -> None:
        """`started` was taken."""
        key = (job_task_id, attempt)
        if key in self.started_once:
            raise BrokenPromise("no doubled run", f"{job_task_id}/{attempt}", "started twice")
        if key in self._never:
            raise BrokenPromise(
                "no doubled run", f"{job_task_id}/{attempt}", "started after it was said that it never would"
            )
        due = self._dues.get(key)
        if self._has_host_lock:
            self._is_in_its_time(key, due, now)
        if self._has_host_lock and job_task_id in self._done:
            raise BrokenPromise("no doubled run", f"{job_task_id}/{attempt}", "started after one that had succeeded")
        earlier = sum((job_task_id, number) in self.started_once for number in range(1, attempt))
        if due is not None and due.tried < earlier:
            detail = f"started after {earlier} attempts that had started, of which {due.tried} were counted as tries"
            raise BrokenPromise("no doubled run", f"{job_task_id}/{attempt}", detail)
        self.started_once.add(key)
        self.running[job_task_id].add(attempt)

    def _is_in_its_time(self, key: Attempt, due: AttemptDue | None, now: datetime) -> None:
        job_task_id, attempt = key
        if self.running[job_task_id]:
            raise BrokenPromise(
                "two at once", f"{job_task_id}/{attempt}", f"beside {sorted(self.running[job_task_id])}"
            )
        if job_task_id in self.verdicts and not self._may_be_repeated(key):
            raise BrokenPromise("nothing after the verdict", f"{job_task_id}/{attempt}", "started after the verdict")
        if due is not None and now > due.not_after + timedelta(seconds=self.margin_s):
            raise BrokenPromise("limits", f"{job_task_id}/{attempt}", f"started at {now}, not after {due.not_after}")

    def _may_be_repeated(self, key: Attempt) -> bool:
        """The one journal that could have started it released it, and was lost after that: nobody knows of it any more, and a verdict
        that rests on its word is past (docs/protocol.md section 4)."""
        released_at = self._released.get(key)
        return released_at is not None and self._journal_lost_at is not None and self._journal_lost_at > released_at

    def journal_was_lost(self, now: datetime) -> None:
        """An agent begins with an empty one."""
        self._journal_lost_at = now

    def stopped(self, job_task_id: UUID, attempt: int, *, has_succeeded: bool = False) -> None:
        """It runs no more; `has_succeeded`: its host has noted that it exited with 0."""
        self.running[job_task_id].discard(attempt)
        if has_succeeded:
            self._done.add(job_task_id)

    def forgotten(self, job_task_id: UUID) -> None:
        """Its host has lost what it noted: a retry after `interrupted` may do the work again (docs/protocol.md section 4)."""
        self._done.discard(job_task_id)

    # --- in the topics

    def watch(self, topic: str, item: Item, now: datetime) -> None:
        """A record was appended. A repeat is no news, unless it says something else."""
        if topic == DISPATCH_EVENTS.name:
            self._hear_dispatcher(item)
        elif isinstance(item, AttemptNeverStarted):
            self._hear_never(item)
        elif isinstance(item, JobInvocationScheduled):
            self._properties[item.job_invocation_id] = item.properties
            self._limits.setdefault(item.job_invocation_id, item.properties.concurrency)
        elif isinstance(item, AttemptReleased):
            if item.proves_never_started:
                self._released.setdefault((item.job_task_id, item.attempt), now)
        elif isinstance(item, AttemptInterrupted):
            self._interrupted.add((item.job_task_id, item.attempt))
        elif isinstance(item, AttemptEnded) and item.exit_status == 0:
            # Of one that was answered with `interrupted`, as a boot took its record, an agent may say later how it ended: a retry of
            # what was interrupted may do the work again (docs/protocol.md section 4).
            if (item.job_task_id, item.attempt) not in self._interrupted:
                self._succeeded.setdefault(item.job_task_id, now)
        elif isinstance(item, HostCheckedIn):
            # Not from the future, whatever the clock of the agent that vouches for it says; and the newest counts (rule CHK).
            key, at = (item.host_id, item.proxy), min(item.checked_in_at, now)
            self._check_ins[key] = max(at, self._check_ins.get(key, at))

    def forget(self, items: Iterable[Item]) -> None:
        """These were lost with the end of a log. Where a host knows no locks nobody can say again what was in them, if the agent had
        no room to note it either (docs/protocol.md section 4)."""
        for item in items:
            if isinstance(item, AttemptEnded) and not self._has_host_lock:
                self._succeeded.pop(item.job_task_id, None)

    def _hear_dispatcher(self, item: Item) -> None:
        if isinstance(item, JobTaskEnded):
            self._hear_verdict(item)
        known = len(self._heard)
        self._heard.add(item.id)
        if len(self._heard) == known:
            return
        if isinstance(item, AttemptDue):
            self._hear_due(item)
        elif isinstance(item, ConcurrencyChanged):
            self._limits[item.job_invocation_id] = item.concurrency
        elif isinstance(item, JobTaskStatusChanged) and item.status in _FREES_SLOT:
            self._hear_wake(item)
            if item.status is JobTaskStatus.WAITING_FOR_CHECK_IN and item.job_task_id in self._last_due:
                self._waits_for[item.job_task_id] = self._last_due[item.job_task_id]
            self._hear_free(item.job_invocation_id, item.job_task_id, item.status.value)

    def dispatcher_took(self, items: Sequence[Item], now: datetime) -> None:
        """It has read them, for good: a cancel or an edit of an invocation is obeyed from here on."""
        for item in items:
            if isinstance(item, JobInvocationCancelRequested) and not item.job_task_ids:
                self._cancelled.setdefault(item.job_invocation_id, now)
            elif isinstance(item, JobInvocationEdited) and item.id not in self._edits:
                self._edits.add(item.id)
                self._edited[item.job_invocation_id] = (now, item.concurrency)

    def _hear_never(self, item: AttemptNeverStarted) -> None:
        key = (item.job_task_id, item.attempt)
        if key in self.started_once:
            raise BrokenPromise("truth", f"{key[0]}/{key[1]}", "it ran, and is said never to have started")
        self._never.add(key)

    def _hear_verdict(self, item: JobTaskEnded) -> None:
        known = self.verdicts.get(item.job_task_id)
        if known is None:
            self.verdicts[item.job_task_id] = item
            self._hear_free(item.job_invocation_id, item.job_task_id, item.status.value)
            self._is_true(item)
        elif (known.status, known.reason, known.exit_status) != (item.status, item.reason, item.exit_status):
            raise BrokenPromise("one verdict", item.job_task_id, f"{_word(known)}, and then {_word(item)}")

    def _is_true(self, item: JobTaskEnded) -> None:
        exits = self.exits[item.job_task_id].values()
        if item.status is JobTaskStatus.SUCCEEDED and 0 not in exits:
            raise BrokenPromise("truth", item.job_task_id, "said to have succeeded, and no attempt exited with 0")
        if item.reason is Reason.NOT_PICKED_UP:
            self._was_not_picked_up(item)
        if item.reason is Reason.EXIT_STATUS and item.exit_status not in exits:
            raise BrokenPromise("truth", item.job_task_id, f"no attempt exited with {item.exit_status}")

    def _was_not_picked_up(self, item: JobTaskEnded) -> None:
        """Rules TRY, PICK and CHK: not before time_to_pickup, and not for want of a check-in that was there."""
        _, first = self._tries.get(item.job_task_id, (0, item.time))
        interval = self._properties[item.job_invocation_id].time_to_pickup
        if item.time < first + interval:
            raise BrokenPromise(
                "tries", item.job_task_id, f"not picked up {item.time - first} after its first dispatch"
            )
        due = self._waits_for.get(item.job_task_id)
        at = None if due is None else self._check_ins.get((item.host_id, due.proxy))
        if due is not None and at is not None and at >= due.issued_at and item.time > at + HEARD_AFTER:
            raise BrokenPromise("no lost job", item.job_task_id, f"not tried though its host checked in at {at}")

    def _was_woken(self, item: AttemptDue, waited: AttemptDue) -> None:
        """Rule CHK: by its host, at the proxy whose slot it had. (The late end of an attempt of unknown end may decide otherwise.)"""
        at = self._check_ins.get((item.host_id, waited.proxy))
        if at is None or at < waited.issued_at:
            raise BrokenPromise(
                "limits", item.job_task_id, f"tried at {item.issued_at} though its host has not checked in"
            )

    def _ran_after_all(self, item: AttemptDue) -> bool:
        return any((item.job_task_id, number) in self.started_once for number in item.unlooked)

    def _hear_wake(self, item: JobTaskStatusChanged) -> None:
        """Rule CHK: what waits for a check-in is woken by one that is younger than its attempt, or by the late end of an earlier one
        (rule LATE), which is said."""
        due = self._last_due.get(item.job_task_id)
        at = None if due is None else self._check_ins.get((item.host_id, due.proxy))
        is_unreachable = (
            item.after is Reason.COULD_NOT_CONNECT and self._properties[item.job_invocation_id].wait_for_check_in
        )
        is_woken = is_unreachable or (item.after is None and item.job_task_id in self._waits_for)
        if item.status is not JobTaskStatus.WAITING or not is_woken or due is None:
            return
        if at is None or at < due.issued_at:
            raise BrokenPromise("check-in", item.job_task_id, f"woken, dispatched {due.issued_at}, checked in at {at}")

    def _hear_due(self, item: AttemptDue) -> None:
        self._last_due[item.job_task_id] = item
        self._dues[item.job_task_id, item.attempt] = item
        waited = self._waits_for.pop(item.job_task_id, None)
        if waited is not None and not waited.unknown and not item.unknown and not self._ran_after_all(item):
            self._was_woken(item, waited)
        if self._tries.get(item.job_task_id, (-1, item.time))[0] != item.tried:
            self._tries[item.job_task_id] = (item.tried, item.issued_at)
        cancelled = self._cancelled.get(item.job_invocation_id)
        if cancelled is not None and item.issued_at > cancelled:
            detail = f"attempt {item.attempt} dispatched at {item.issued_at}, cancelled at {cancelled}"
            raise BrokenPromise("nothing after the cancel", item.job_task_id, detail)
        done = self._succeeded.get(item.job_task_id)
        if done is not None and item.issued_at > done + HEARD_AFTER:
            raise BrokenPromise(
                "truth", item.job_task_id, f"attempt {item.attempt} dispatched, one had succeeded at {done}"
            )
        held = self.held[item.job_invocation_id]
        held[item.job_task_id] = item.attempt
        limit = self._limits.get(item.job_invocation_id)
        edited_at, edited = self._edited.get(item.job_invocation_id, (item.issued_at, limit))
        if item.issued_at > edited_at and edited != limit:
            raise BrokenPromise(
                "limits", item.job_task_id, f"dispatched under limit {limit}, edited to {edited} before"
            )
        if limit is not None and len(held) > limit:
            raise BrokenPromise("limits", item.job_task_id, f"{len(held)} slots held, limit {limit}")
        if item.job_task_id in self.verdicts:
            raise BrokenPromise("nothing after the verdict", item.job_task_id, f"attempt {item.attempt} dispatched")

    def _hear_free(self, job_invocation_id: UUID, job_task_id: UUID, word: str) -> None:
        self.held[job_invocation_id].pop(job_task_id, None)
        if self.running[job_task_id] and self._has_host_lock:
            raise BrokenPromise("limits", job_task_id, f"{word}, while {sorted(self.running[job_task_id])} runs")


def _word(item: JobTaskEnded) -> str:
    return " ".join(str(one) for one in (item.status.value, item.reason, item.exit_status) if one is not None)
