"""The desk: the invocations and job tasks a group of messages is about, and what each message does to them.

Owns the way from a message to the rows of the table and to what is said, in order. Store and simulation lay the same desk:
what is simulated is what runs. No I/O; the time is given.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from chargehand_schemas.base import MAX_ITEMS_PER_MESSAGE, InvocationItem, Item, JobTaskItem
from chargehand_schemas.dispatch import (
    AttemptDue,
    ConcurrencyChanged,
    JobInvocationDue,
    JobInvocationEnded,
    JobTaskEnded,
    JobTaskStatusChanged,
)
from chargehand_schemas.execution import (
    AttemptAccepted,
    AttemptEnded,
    AttemptInterrupted,
    AttemptNeverStarted,
    AttemptReleased,
    AttemptStarted,
)
from chargehand_schemas.frozen import replace
from chargehand_schemas.planning import (
    AttemptRebound,
    AttemptRefused,
    AttemptVoided,
    JobInvocationCancelRequested,
    JobInvocationEdited,
    JobInvocationScheduled,
    JobTasksPlanned,
)
from chargehand_schemas.reasons import JobTaskStatus, Reason

from .alike import AnswerToAll, ClaimOfAll, Same
from .invocation import (
    Invocation,
    ask_for_chunks,
    count,
    count_alike,
    edit,
    end,
    give_up_plan,
    is_given_up,
    mark_cancelled,
    plan_deadline,
    say_due,
    schedule,
    take_chunk,
    uncount,
    with_concurrency,
)
from .job_task import SLOT_STATES, JobTask, State
from .rules import Circumstances, Timers
from .table import CancelRequested, Claimed, Event, Halted, PlanLost, TimePassed, is_foreign, next_look_at, step


@dataclass
class Surroundings:
    """What is known besides the store: the time; by partition, up to when execution-events was read, and since when it can be
    (rule WM); proxies with one agent; when attempts were last said to be followed, by the proxy that said so; how many attempts a
    proxy takes at once: `proxy_limit`, where `proxy_limits` names no other."""

    now: datetime
    timers: Timers = field(default_factory=Timers)
    log_read_to: Mapping[int, datetime] = field(default_factory=dict)
    readable_since: datetime | None = None
    single_agent_proxies: frozenset[str] = frozenset()
    heard: Mapping[tuple[UUID, int, str], datetime] = field(default_factory=dict)
    proxy_limit: int = 500
    proxy_limits: Mapping[str, int] = field(default_factory=dict)

    def limit_of(self, proxy: str) -> int:
        """Slots of a proxy, over all invocations."""
        return self.proxy_limits.get(proxy, self.proxy_limit)


@dataclass
class Desk:
    """A working set: rows as they were loaded, changed in place; what changed is told by `changed_*`. `places`: the partition of
    each invocation. `check_ins`: by host and the proxy that vouches for it. `foreign`: items of agents about attempts of another
    proxy, which had no effect. `told`: job tasks that its own log speaks of."""

    surroundings: Surroundings
    invocations: dict[UUID, Invocation] = field(default_factory=dict)
    job_tasks: dict[UUID, JobTask] = field(default_factory=dict)
    check_ins: Mapping[tuple[UUID, str], datetime] = field(default_factory=dict)
    changed_invocations: set[UUID] = field(default_factory=set)
    changed_job_tasks: set[UUID] = field(default_factory=set)
    said: list[Item] = field(default_factory=list)
    verdicts: dict[UUID, list[JobTaskEnded]] = field(default_factory=dict)
    foreign: list[Item] = field(default_factory=list)
    places: dict[UUID, int] = field(default_factory=dict)
    told: set[UUID] = field(default_factory=set)
    _common: dict[tuple[int, str], Circumstances] = field(default_factory=dict)

    # --- messages

    def take(self, item: Item) -> None:
        """One message of the inbox."""
        match item:
            case JobInvocationScheduled():
                self._put(schedule(self._invocation(item), item))
                self.look_at_invocation(item.job_invocation_id)
            case JobTasksPlanned():
                self._take_plan(item)
            case JobInvocationCancelRequested():
                self._take_cancel(item)
            case JobInvocationEdited():
                known, said = edit(self._invocation(item), item, self.surroundings.now)
                self._put(known)
                self.said.extend(said)
            case (
                AttemptAccepted() | AttemptReleased() | AttemptStarted() | AttemptEnded() | AttemptInterrupted()
                | AttemptNeverStarted() | AttemptRefused() | AttemptRebound() | AttemptVoided()
            ):  # fmt: skip
                if self._is_of(item.job_task_id, item):
                    self.apply(item.job_task_id, item)
            case _:
                return

    def _is_of(self, job_task_id: UUID, item: InvocationItem) -> bool:
        """Whether it is a job task of the item's own invocation: nobody speaks past the partition of another."""
        known = self.job_tasks.get(job_task_id)
        return known is not None and known.job_invocation_id == item.job_invocation_id

    def _take_plan(self, item: JobTasksPlanned) -> None:
        known, new = take_chunk(self._invocation(item), item, self.surroundings.now)
        self._put(known)
        for job_task in new:
            if job_task.job_task_id not in self.job_tasks:
                self._lay(job_task)
                if known.is_ended and not known.is_cancelled:
                    self.apply(job_task.job_task_id, PlanLost())
                elif known.is_cancelled or job_task.job_task_id in known.cancelled_job_tasks:
                    self.apply(job_task.job_task_id, CancelRequested())
        self.look_at_invocation(item.job_invocation_id)

    def _take_cancel(self, item: JobInvocationCancelRequested) -> None:
        if item.job_task_ids:
            self._put(mark_cancelled(self._invocation(item), item.job_task_ids))
            for job_task_id in item.job_task_ids:
                if self._is_of(job_task_id, item):
                    self.apply(job_task_id, CancelRequested())
            return
        invocation = self._invocation(item)
        if not invocation.is_ended:
            self._put(replace(invocation, is_cancelled=True))
        self.look_at_invocation(item.job_invocation_id)

    # --- its own log (rule REST)

    def restore(self, item: Item) -> None:
        """One of the dispatcher's own events, read back: what the store has forgotten is known again; nothing is said. What
        the store had decided otherwise, and nobody has heard, gives way to what was said (see `beyond` and `is_given_way`)."""
        if isinstance(item, JobTaskItem):
            self.told.add(item.job_task_id)
        match item:
            case AttemptDue():
                self._restore_due(item)
            case JobTaskEnded():
                self._restore_end(item)
            case JobTaskStatusChanged():
                self._restore_status(item)
            case JobInvocationDue():
                known = self._invocation(item)
                self._put(replace(known, due_said_at=known.due_said_at or item.time))
            case ConcurrencyChanged():
                known = self._invocation(item)
                # A repeat may be as old as the last one: said in the same instant, before it.
                if item.command_id not in known.edits:
                    self._put(with_concurrency(known, item.concurrency, item.command_id))
            case JobInvocationEnded():
                self._put(replace(self._invocation(item), is_ended=True))
            case _:
                return

    def _restore_due(self, item: AttemptDue) -> None:
        self._put(self._invocation(item))
        known = self.job_tasks.get(item.job_task_id) or _stub(
            item, item.host_id, item.host_name, item.proxy, item.ordinal
        )
        if known.state is State.ENDED:
            self._take_back_verdict(known)
        is_other = item.attempt <= known.last_attempt
        is_new_try = known.first_dispatched_at is None or item.tried > known.tried or is_other
        self._lay(
            replace(
                known,
                state=State.DUE,
                proxy=item.proxy,
                attempt=item.attempt,
                last_attempt=item.attempt,
                tried=item.tried,
                issued_at=item.issued_at,
                not_after=item.not_after,
                run_deadline=item.run_deadline,
                first_dispatched_at=item.issued_at if is_new_try else known.first_dispatched_at,
                unknown=item.unknown,
                unlooked=item.unlooked,
                acceptors=frozenset(),
                released=frozenset(),
                could_not_connect=False,
                release_refused=False,
                holder="",
                holder_boot=None,
                last_word_at=None,
                asked=0,
                asked_at=None,
            )
        )

    def _restore_end(self, item: JobTaskEnded) -> None:
        """Also of a job task that was never dispatched: its plan is read again, and must find it ended."""
        self._put(self._invocation(item))
        known = self.job_tasks.get(item.job_task_id) or _stub(item, item.host_id, item.host_name, "", item.ordinal)
        if known.state is State.ENDED:
            self._take_back_verdict(known)
        self._lay(
            replace(
                known,
                state=State.ENDED,
                is_cancelling=False,
                status=item.status,
                reason=item.reason,
                exit_status=item.exit_status,
                signal=item.signal,
                detail=item.detail,
                last_attempt=max(known.last_attempt, item.attempts),
                tried=item.tried,
            )
        )
        self._put(count(self._invocation(item), [item]))

    def _take_back_verdict(self, known: JobTask) -> None:
        """A verdict that stood in a backup and that nobody has heard."""
        invocation = self.invocations[known.job_invocation_id]
        self._put(replace(uncount(invocation, known), is_ended=False))

    def take_back(self, item: AttemptDue) -> None:
        """A dispatch that nobody has heard, and that is overtaken: its job task waits as before."""
        known = self.job_tasks.get(item.job_task_id)
        if known is None or known.state is not State.DUE or known.attempt != item.attempt or known.is_cancelling:
            return
        self.told.add(item.job_task_id)
        before, is_first = item.attempt - 1, known.first_dispatched_at == known.issued_at
        self._lay(
            replace(
                known,
                state=State.WAITING,
                attempt=before,
                last_attempt=before,
                issued_at=None,
                not_after=None,
                run_deadline=None,
                first_dispatched_at=None if is_first else known.first_dispatched_at,
            )
        )

    def end_restored(self, invocations: Iterable[UUID]) -> None:
        """Its own log is folded: an invocation whose last verdict is in it, and whose end is not, ends now."""
        now = self.surroundings.now
        for one in invocations:
            if one in self.invocations:
                self._apply_to_invocation(one, lambda known: end(known, now))

    def _restore_status(self, item: JobTaskStatusChanged) -> None:
        """Waits, cancels and fenced attempts; accepted and started are read again from the inbox."""
        known = self.job_tasks.get(item.job_task_id)
        if known is None or known.state not in SLOT_STATES:
            return
        match item.status:
            case JobTaskStatus.WAITING | JobTaskStatus.WAITING_FOR_CHECK_IN if known.attempt == item.attempt:
                self._lay(_waiting_again(known, item))
            case JobTaskStatus.CANCELLING:
                self._lay(replace(known, is_cancelling=True))
            case JobTaskStatus.RUNNING if item.attempt < known.attempt:
                unknown = tuple(n for n in known.unknown if n != item.attempt)
                deadline = (
                    item.time + (known.run_deadline - known.issued_at)
                    if known.run_deadline and known.issued_at
                    else None
                )
                self._lay(
                    replace(
                        known,
                        state=State.RUNNING,
                        attempt=item.attempt,
                        tried=item.tried,
                        unknown=unknown,
                        run_deadline=deadline,
                        last_word_at=item.time,
                    )
                )

    # --- rows

    def apply(self, job_task_id: UUID, event: Event) -> None:
        """One event for one job task, by the table."""
        before = self.job_tasks.get(job_task_id)
        if before is None:
            return
        if is_foreign(before, event) and isinstance(event, Item):
            self.foreign.append(event)
        decision = step(before, event, self.circumstances(before))
        if decision.job_task is not before:
            self._lay(decision.job_task)
        self.said.extend(decision.emits)
        for item in decision.emits:
            if isinstance(item, JobTaskEnded):
                self.verdicts.setdefault(item.job_invocation_id, []).append(item)

    def settle(self) -> None:
        """Count the verdicts, and end what has ended by them: once for all messages of the group."""
        counted, self.verdicts = self.verdicts, {}
        for job_invocation_id, verdicts in counted.items():
            self._put(count(self.invocations[job_invocation_id], verdicts))
            self.look_at_invocation(job_invocation_id)

    def end_alike(self, job_invocation_id: UUID, answer: AnswerToAll, job_tasks: Sequence[Same]) -> None:
        """Job tasks that wait and were never dispatched have their verdict, all the same one; their rows are the store's to change.
        Not of a rolling invocation, where each counts by its place."""
        for start in range(0, len(job_tasks), MAX_ITEMS_PER_MESSAGE):
            self.said.append(answer.said_of(job_tasks[start : start + MAX_ITEMS_PER_MESSAGE]))
        verdict = answer.verdict
        self._put(count_alike(self.invocations[job_invocation_id], verdict.status, verdict.reason, len(job_tasks)))
        self.look_at_invocation(job_invocation_id)

    def claim_alike(self, answer: ClaimOfAll, job_tasks: Sequence[JobTask]) -> list[JobTask]:
        """New job tasks of one invocation and proxy are given their slots; they, as they are then. Their rows are the store's to
        change."""
        for start in range(0, len(job_tasks), MAX_ITEMS_PER_MESSAGE):
            self.said.append(answer.said_of(job_tasks[start : start + MAX_ITEMS_PER_MESSAGE]))
        claimed = [answer.of(job_task) for job_task in job_tasks]
        self.job_tasks.update((job_task.job_task_id, job_task) for job_task in claimed)
        return claimed

    def circumstances(self, job_task: JobTask) -> Circumstances:
        """What holds for one job task now: for most the same as for all others of their invocation and proxy."""
        place = (job_task.job_invocation_id.int, job_task.proxy)
        known = self._common.get(place)
        if known is None:
            invocation = self.invocations[job_task.job_invocation_id]
            known = self._common[place] = self._common_to(invocation, job_task.proxy)
        heard = self.surroundings.heard
        heard_at = heard.get((job_task.job_task_id, job_task.attempt, job_task.proxy)) if heard else None
        last_check_in = self.check_ins.get((job_task.host_id, job_task.proxy)) if self.check_ins else None
        if heard_at is None and last_check_in is None:
            return known
        return known._replace(heard_at=heard_at, last_check_in=last_check_in)

    def circumstances_of_all(self, job_invocation_id: UUID) -> Circumstances:
        """What holds for job tasks of an invocation that were never dispatched: no proxy, agent or check-in matters to them."""
        return self._common_to(self.invocations[job_invocation_id], "")

    def _common_to(self, invocation: Invocation, proxy: str) -> Circumstances:
        around = self.surroundings
        return Circumstances(
            now=around.now,
            properties=invocation.properties,
            timers=around.timers,
            log_read_to=around.log_read_to.get(self.places.get(invocation.job_invocation_id, -1)),
            readable_since=around.readable_since,
            has_single_agent=proxy in around.single_agent_proxies,
            start_before=invocation.start_before,
            is_halted=invocation.is_halted,
            proxy_limit=around.limit_of(proxy),
        )

    def look_at_invocation(self, job_invocation_id: UUID) -> None:
        """Whether it is due, or has ended, or its plan is missing."""
        now, timers = self.surroundings.now, self.surroundings.timers
        self._apply_to_invocation(job_invocation_id, lambda known: say_due(known, now))
        self._apply_to_invocation(job_invocation_id, lambda known: end(known, now))
        known = self.invocations[job_invocation_id]
        deadline = plan_deadline(known, timers)
        if deadline is not None and now >= deadline:
            ask = give_up_plan if is_given_up(known, timers) else ask_for_chunks
            self._apply_to_invocation(job_invocation_id, lambda late: ask(late, now))

    def _apply_to_invocation(
        self, job_invocation_id: UUID, decide: Callable[[Invocation], tuple[Invocation, Iterable[Item]]]
    ) -> None:
        known, items = decide(self.invocations[job_invocation_id])
        self._put(known)
        self.said.extend(items)

    def _invocation(self, item: InvocationItem) -> Invocation:
        return self.invocations.get(item.job_invocation_id) or Invocation(item.job_invocation_id)

    def _put(self, invocation: Invocation) -> None:
        if self.invocations.get(invocation.job_invocation_id) != invocation:
            self.invocations[invocation.job_invocation_id] = invocation
            self._common.clear()
            self.changed_invocations.add(invocation.job_invocation_id)

    def _lay(self, job_task: JobTask) -> None:
        self.job_tasks[job_task.job_task_id] = job_task
        self.changed_job_tasks.add(job_task.job_task_id)

    # --- what is said and when to look again

    def outgoing(self) -> list[Item]:
        """What is to be published, in order, without states that were passed through within this desk."""
        self.settle()
        return coalesce(self.said)

    def look_at_next(self, invocation: Invocation) -> datetime | None:
        """When time alone may change this invocation: its start, or a plan that does not come."""
        if invocation.is_ended or invocation.start_at is None:
            return None
        if invocation.due_said_at is None:
            return None if invocation.is_cancelled else invocation.start_at
        return plan_deadline(invocation, self.surroundings.timers)

    def place_of(self, item: Item) -> int:
        """The partition of the invocation an item is about."""
        return self.places[item.job_invocation_id] if isinstance(item, InvocationItem) else -1

    def is_overdue(self, job_task: JobTask) -> bool:
        """Whether its instant has come and time alone could not change it: it waits for the log to be read."""
        look_at = self.look_at(job_task)
        return look_at is not None and look_at <= self.surroundings.now

    def look_at(self, job_task: JobTask) -> datetime | None:
        """When time alone may change this job task."""
        if job_task.state in (State.WAITING, State.ENDED):
            return None
        return next_look_at(job_task, self.circumstances(job_task))


def beyond(items: Iterable[Item], known_until: datetime, folded_until: datetime) -> list[Item]:
    """Of its own log in order, what was said later than a store knows of: `known_until` is the store's clock, `folded_until` the
    time of the latest event folded so far. What is older than one before it is a repeat."""
    newest, later = folded_until, []
    for item in items:
        if item.time > known_until and item.time >= newest:
            later.append(item)
            newest = item.time
    return later


def overtaken(unheard: Iterable[Item], said: Iterable[Item], later: Iterable[Item]) -> list[AttemptDue]:
    """Of what waits in the outbox of a restored store and is not in its own log, `said`, dispatches of invocations whose limit has
    changed there since (`later`): said after that, they might exceed it."""
    edited = {item.job_invocation_id for item in later if isinstance(item, ConcurrencyChanged)}
    ids = {item.id for item in (said if edited else ())}
    return [
        item
        for item in (unheard if edited else ())
        if isinstance(item, AttemptDue) and item.job_invocation_id in edited and item.id not in ids
    ]


def is_given_way(item: Item, told: Collection[UUID], invocations: Collection[UUID]) -> bool:
    """Whether something that waits in the outbox of a restored store is not to be said: the log speaks otherwise of its job task,
    or it is the end of an invocation that `told` job tasks belong to."""
    if isinstance(item, JobTaskItem):
        return item.job_task_id in told
    return isinstance(item, JobInvocationEnded) and item.job_invocation_id in invocations


def word_to_all(invocation: Invocation) -> CancelRequested | Halted:
    """What is said to every job task that waits, of an invocation that is cancelled or halted."""
    return CancelRequested() if invocation.is_cancelled else Halted(_why_halted(invocation))


def _why_halted(invocation: Invocation) -> str:
    halt = invocation.halt
    if halt is None and not invocation.lost_chunks:
        return "more failures than its limit allows"
    if halt is None:
        return "a part of its plan is lost, and with it the order of its hosts"
    where = f"{halt.host_name}, host {halt.ordinal + 1} of {invocation.total}"
    return f"{where}, was failure {halt.failures}; at most {halt.failure_limit} are allowed"


def _stub(item: JobTaskItem, host_id: UUID, host_name: str, proxy: str, ordinal: int) -> JobTask:
    """A job task of which only what was said of it is known; the plan that is read again leaves it as it is."""
    return JobTask(
        job_task_id=item.job_task_id,
        job_invocation_id=item.job_invocation_id,
        host_id=host_id,
        host_name=host_name,
        proxy=proxy,
        ordinal=ordinal,
        due_at=item.time,
    )


def _waiting_again(known: JobTask, item: JobTaskStatusChanged) -> JobTask:
    is_try = item.tried > known.tried
    is_unknown = item.after is Reason.UNKNOWN and known.attempt not in known.unknown
    return replace(
        known,
        state=State.WAITING if item.status is JobTaskStatus.WAITING else State.CHECK_IN,
        due_at=item.due_at or known.due_at,
        tried=item.tried,
        unstarted=0 if is_try else known.unstarted + 1,
        first_dispatched_at=None if is_try else known.first_dispatched_at,
        unknown=(*known.unknown, known.attempt) if is_unknown else known.unknown,
    )


def coalesce(items: Iterable[Item]) -> list[Item]:
    """Only the last state of each job task, and none before its verdict or its next dispatch."""
    kept: list[Item] = []
    superseded: set[UUID] = set()
    for item in reversed(list(items)):
        if isinstance(item, JobTaskStatusChanged):
            if item.job_task_id in superseded:
                continue
            superseded.add(item.job_task_id)
        elif isinstance(item, JobTaskEnded):
            superseded.add(item.job_task_id)
        kept.append(item)
    kept.reverse()
    return kept


__all__ = ["CancelRequested", "Claimed", "Desk", "Halted", "State", "Surroundings", "TimePassed", "coalesce"]
