"""The fold of everything that was said into everything that is read.

Owns which event changes which rows, whose word counts, and what follows from a changed row: counts, groups, news. The rows
come from a store and go back to it in one transaction; the rules of each kind stand in its own module.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from chargehand_schemas import catalog, dispatch, execution, planning, progress, proxies
from chargehand_schemas import hosts as observed
from chargehand_schemas.base import AttemptItem, Item
from chargehand_schemas.frozen import replace
from chargehand_schemas.reasons import Role, Stream

from . import catalog as assigned
from . import invocation as invocations
from . import job_task as tasks
from .groups import Group, group_id, group_of
from .invocation import JobInvocation
from .job_task import AttemptDecision, AttemptReport, JobTask
from .ladder import (
    NO_ATTEMPT,
    Place,
    actor_of,
    add_planned,
    add_request,
    add_step,
    micros,
    place_of,
    waits_after_attempt,
)
from .output import Chunk, FoldedOutput, Landing, Omission, Piece, StreamState, fold_output, may_close_hole
from .proxies import Agent, ProxySize, hear, resize
from .rows import Rows

AttemptKey = tuple[UUID, int]
ReportKey = tuple[UUID, int, str]
StreamKey = tuple[UUID, int, str, Stream]

ACCEPTED, REFUSED = "accepted", "refused"


@dataclass(frozen=True, slots=True)
class Said:
    """One verified message: who said what, and when the broker took it. `raw` are the bytes of its progress reports, `source`
    the instance of a service that sent it. `place`: where its steps stand in the log."""

    topic: str
    partition: int
    offset: int
    role: Role
    subject: str
    agent_id: str
    heard_at: datetime
    items: tuple[Item, ...]
    raw: bytes = b""
    source: str = ""
    place: Place = field(init=False, compare=False)

    def __post_init__(self) -> None:
        actor = actor_of(self.role, self.subject, self.agent_id, self.source)
        place = place_of(self.heard_at, self.partition, self.offset, actor)
        object.__setattr__(self, "place", place)


@dataclass(frozen=True, slots=True)
class Disbelieved:
    """A message of which an item had no effect, and why."""

    said: Said
    detail: str


@dataclass(frozen=True, slots=True)
class CommandOutcome:
    """What became of a command; the client that posted it waits for this."""

    command_id: UUID
    decision: str
    reason: str | None = None
    detail: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    job_invocation_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class User:
    login: str
    role: str = ""
    is_disabled: bool = False


@dataclass(frozen=True, slots=True)
class AgentKey:
    """A key of an agent: a proxy exists from the enrolment of its first key on."""

    kid: str
    proxy: str = ""
    agent_id: str = ""
    is_revoked: bool = False


@dataclass(slots=True)
class Wanted:
    """Keys of the rows that some messages touch."""

    job_invocations: set[UUID] = field(default_factory=set)
    job_tasks: set[UUID] = field(default_factory=set)
    attempts: set[AttemptKey] = field(default_factory=set)
    streams: set[StreamKey] = field(default_factory=set)
    hosts: set[UUID] = field(default_factory=set)
    observations: set[tuple[UUID, str]] = field(default_factory=set)
    agents: set[str] = field(default_factory=set)
    tokens: set[UUID] = field(default_factory=set)
    users: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    proxy_sizes: set[str] = field(default_factory=set)


def wanted_by(messages: Iterable[Said]) -> Wanted:
    """The rows that must be loaded before these messages are applied."""
    wanted = Wanted()
    for said in messages:
        for item in said.items:
            _want(wanted, said, item)
    return wanted


def _want(wanted: Wanted, said: Said, item: Item) -> None:
    match item:
        case AttemptItem():
            wanted.job_invocations.add(item.job_invocation_id)
            wanted.job_tasks.add(item.job_task_id)
            wanted.attempts.add((item.job_task_id, item.attempt))
            if isinstance(item, progress.ProgressReport | progress.OutputOmitted):
                wanted.streams.add((item.job_task_id, item.attempt, said.subject, item.stream))
        case dispatch.JobTaskStatusChanged() | dispatch.JobTaskEnded():
            wanted.job_invocations.add(item.job_invocation_id)
            wanted.job_tasks.add(item.job_task_id)
            if isinstance(item, dispatch.JobTaskStatusChanged) and waits_after_attempt(item):
                wanted.attempts.add((item.job_task_id, item.attempt))
        case planning.JobInvocationCancelRequested():
            wanted.job_invocations.add(item.job_invocation_id)
            wanted.attempts.update((job_task_id, NO_ATTEMPT) for job_task_id in item.job_task_ids)
        case planning.JobTasksPlanned():
            wanted.job_invocations.add(item.job_invocation_id)
            wanted.job_tasks.update(planned.job_task_id for planned in item.job_tasks)
        case _:
            _want_entity(wanted, said, item)


def _want_entity(wanted: Wanted, said: Said, item: Item) -> None:
    match item:
        case observed.HostEvent():
            wanted.observations.add((item.host_id, said.subject))
        case proxies.AgentEvent():
            wanted.agents.add(item.agent_id)
        case catalog.HostRegistered() | catalog.HostChanged() | catalog.HostRemoved():
            wanted.hosts.add(item.host_id)
        case catalog.TokenIssued() | catalog.TokenRevoked():
            wanted.tokens.add(item.token_id)
        case catalog.UserCreated() | catalog.UserDisabled():
            wanted.users.add(item.login)
        case catalog.KeyEnrolled() | catalog.KeyRevoked():
            wanted.keys.add(item.kid)
        case catalog.ProxyChanged():
            wanted.proxy_sizes.add(item.proxy)
        case _:
            job_invocation_id = getattr(item, "job_invocation_id", None)
            if job_invocation_id is not None:
                wanted.job_invocations.add(job_invocation_id)


@dataclass(slots=True)
class ReadModel:
    """The touched rows. Apply messages, fold their output, finish; then everything that changed can be stored."""

    job_invocations: Rows[UUID, JobInvocation] = field(default_factory=Rows)
    job_tasks: Rows[UUID, JobTask] = field(default_factory=Rows)
    decisions: Rows[AttemptKey, AttemptDecision] = field(default_factory=Rows)
    reports: Rows[ReportKey, AttemptReport] = field(default_factory=Rows)
    streams: Rows[StreamKey, StreamState] = field(default_factory=Rows)
    hosts: Rows[UUID, assigned.Host] = field(default_factory=Rows)
    observations: Rows[tuple[UUID, str], assigned.Observation] = field(default_factory=Rows)
    agents: Rows[str, Agent] = field(default_factory=Rows)
    tokens: Rows[UUID, assigned.Token] = field(default_factory=Rows)
    users: Rows[str, User] = field(default_factory=Rows)
    keys: Rows[str, AgentKey] = field(default_factory=Rows)
    proxy_sizes: Rows[str, ProxySize] = field(default_factory=Rows)
    targets: dict[tuple[UUID, int], tuple[UUID, ...]] = field(default_factory=dict)
    outcomes: dict[UUID, CommandOutcome] = field(default_factory=dict)
    arrivals: dict[StreamKey, list[Piece]] = field(default_factory=lambda: defaultdict(list))
    landings: dict[StreamKey, list[Landing]] = field(default_factory=lambda: defaultdict(list))
    folded: dict[StreamKey, FoldedOutput] = field(default_factory=dict)
    touched_tasks: dict[UUID, None] = field(default_factory=dict)
    touched_attempts: dict[AttemptKey, None] = field(default_factory=dict)
    disowned: list[ReportKey] = field(default_factory=list)
    group_changes: dict[tuple[UUID, bytes], int] = field(default_factory=lambda: defaultdict(int))
    groups: dict[bytes, Group] = field(default_factory=dict)
    task_groups: dict[UUID, bytes] = field(default_factory=dict)
    disbelieved: list[Disbelieved] = field(default_factory=list)
    contradictions: list[UUID] = field(default_factory=list)

    # --- applying messages ------------------------------------------------------------------------------------------

    def apply(self, said: Said) -> None:
        """Take in one message, item by item."""
        position = 0
        for item in said.items:
            take = _TAKERS.get(type(item))
            if take is not None:
                take(self, said, item)
            elif isinstance(item, progress.ProgressReport):
                data = said.raw[position : position + item.length]
                position += item.length
                self._take_piece(said, item, Chunk(item.offset, data), item.observed_at)
            elif isinstance(item, progress.OutputOmitted):
                self._take_piece(said, item, Omission(item.start, item.end), item.time)

    def _take_piece(
        self, said: Said, item: progress.ProgressReport | progress.OutputOmitted, piece: Piece, seen_at: datetime
    ) -> None:
        if self._may_speak(said, item):
            key = (item.job_task_id, item.attempt, said.subject, item.stream)
            self.touched_attempts[key[:2]] = None
            self.arrivals[key].append(piece)
            self.landings[key].append(Landing(piece.start, piece.end, micros(seen_at), *said.place[:4]))

    def _take_fact(self, said: Said, fact: execution.AttemptFact) -> None:
        if fact.proxy != said.subject:
            self.disbelieved.append(Disbelieved(said, f"an agent of {said.subject} signed for proxy {fact.proxy}"))
        elif self._may_speak(said, fact):
            key = (fact.job_task_id, fact.attempt, said.subject)
            self.touched_attempts[key[:2]] = None
            self.reports.put(key, tasks.report(self.reports.get(key) or AttemptReport(), fact, said.place))

    def _may_speak(self, said: Said, item: AttemptItem) -> bool:
        """What is said before anybody named the attempt's proxy is kept under the speaker's own, and shown to nobody."""
        decision = self.decisions.get((item.job_task_id, item.attempt)) or AttemptDecision()
        if tasks.may_speak(decision, said.subject) is False:
            detail = f"attempt {item.job_task_id}/{item.attempt} is for proxy {decision.proxy}, not {said.subject}"
            self.disbelieved.append(Disbelieved(said, detail))
            return False
        return True

    def _take_due(self, said: Said, due: dispatch.AttemptDue) -> None:
        self._put_task(tasks.make_due(self._task(due), due))
        self._decide(due, tasks.decide_due(self._decision(due), due, said.place))

    def _take_binding(self, said: Said, event: tasks.BinderEvent) -> None:
        self._put_task(self._task(event))
        self._decide(event, tasks.decide_binding(self._decision(event), event, said.place))

    def _take_status(self, said: Said, changed: dispatch.JobTaskStatusChanged) -> None:
        self._put_task(tasks.change_status(self._task(changed), changed))
        if waits_after_attempt(changed):
            self._note((changed.job_task_id, changed.attempt), changed, said)

    def _take_asking(self, said: Said, asked: dispatch.ResumeDue | dispatch.CancelDue) -> None:
        self._note((asked.job_task_id, asked.attempt), asked, said)

    def _note(self, key: AttemptKey, item: Item, said: Said) -> None:
        """A step of an attempt that decides nothing."""
        decision = self.decisions.get(key) or AttemptDecision()
        self.decisions.put(key, replace(decision, steps=add_step(decision.steps, item, said.place)))

    def _take_verdict(self, said: Said, ended: dispatch.JobTaskEnded) -> None:
        task = self._task(ended)
        if tasks.contradicts(task, ended):
            self.contradictions.append(task.job_task_id)
        self._put_task(tasks.end(task, ended, add_step(task.steps, ended, said.place)))

    def _take_plan(self, said: Said, event: planning.JobTasksPlanned) -> None:
        self._put_invocation(invocations.plan(self._invocation(event.job_invocation_id, event.time), event))
        for planned in event.job_tasks:
            task = self.job_tasks.get(planned.job_task_id) or JobTask(
                planned.job_task_id, event.job_invocation_id, planned.host_id
            )
            self._put_task(tasks.plan(task, planned, add_planned(task.steps, event, planned, said.place)))

    def _take_accepted(self, said: Said, event: planning.JobInvocationAccepted) -> None:
        known = self._invocation(event.job_invocation_id, event.time)
        self._put_invocation(invocations.accept(known, event, add_request(known.steps, event, said.place)))
        self._decided(event.command_id, ACCEPTED, job_invocation_id=event.job_invocation_id)

    def _take_refused(self, said: Said, event: planning.JobInvocationRefused) -> None:
        self._put_invocation(invocations.refuse(self._invocation(event.job_invocation_id, event.time), event))
        self._decided(
            event.command_id, REFUSED, event.reason.value, event.detail, job_invocation_id=event.job_invocation_id
        )

    def _take_cancel(self, said: Said, event: planning.JobInvocationCancelRequested) -> None:
        known = self._invocation(event.job_invocation_id, event.time)
        for job_task_id in event.job_task_ids:
            key = (job_task_id, NO_ATTEMPT)
            decision = self.decisions.get(key) or AttemptDecision()
            self.decisions.put(key, replace(decision, steps=add_request(decision.steps, event, said.place)))
        if not event.job_task_ids:
            self._put_invocation(invocations.request_cancel(known, add_request(known.steps, event, said.place)))
        self._decided(event.command_id, ACCEPTED, job_invocation_id=event.job_invocation_id)

    def _take_edit(self, said: Said, event: planning.JobInvocationEdited) -> None:
        self._decided(event.command_id, ACCEPTED, job_invocation_id=event.job_invocation_id)

    def _take_concurrency(self, said: Said, event: dispatch.ConcurrencyChanged) -> None:
        known = self._invocation(event.job_invocation_id, event.time)
        self._put_invocation(invocations.change_concurrency(known, event))

    def _take_refusal(self, said: Said, event: planning.CancelRefused | planning.EditRefused) -> None:
        self._decided(
            event.command_id, REFUSED, event.reason.value, event.detail, job_invocation_id=event.job_invocation_id
        )

    def _take_scheduled(self, said: Said, event: planning.JobInvocationScheduled) -> None:
        self._put_invocation(invocations.schedule(self._invocation(event.job_invocation_id, event.time), event))

    def _take_targets(self, said: Said, event: planning.JobInvocationTargeted) -> None:
        self.targets[event.job_invocation_id, event.chunk] = event.host_ids

    def _take_begun(self, said: Said, event: dispatch.JobInvocationDue) -> None:
        self._put_invocation(invocations.begin(self._invocation(event.job_invocation_id, event.time), event))

    def _take_ended(self, said: Said, event: dispatch.JobInvocationEnded) -> None:
        self._put_invocation(invocations.end(self._invocation(event.job_invocation_id, event.time), event))

    def _take_host(self, said: Said, event: catalog.HostRegistered | catalog.HostChanged | catalog.HostRemoved) -> None:
        self.hosts.put(event.host_id, assigned.assign(self.hosts.get(event.host_id), event))

    def _take_observation(self, said: Said, event: assigned.Observed) -> None:
        if event.proxy != said.subject:
            self.disbelieved.append(Disbelieved(said, f"an agent of {said.subject} signed for proxy {event.proxy}"))
            return
        key = (event.host_id, said.subject)
        self.observations.put(key, assigned.observe(self.observations.get(key) or assigned.Observation(*key), event))

    def _take_agent(self, said: Said, event: proxies.AgentEvent) -> None:
        if event.proxy != said.subject or (said.agent_id and event.agent_id != said.agent_id):
            self.disbelieved.append(Disbelieved(said, f"{said.agent_id} of {said.subject} signed for {event.agent_id}"))
        else:
            self.agents.put(event.agent_id, hear(self.agents.get(event.agent_id), event, said.subject, said.heard_at))

    def _take_user(self, said: Said, event: catalog.UserCreated | catalog.UserDisabled) -> None:
        user = self.users.get(event.login) or User(event.login)
        if isinstance(event, catalog.UserCreated):
            self.users.put(event.login, replace(user, role=event.role))
        else:
            self.users.put(event.login, replace(user, is_disabled=True))

    def _take_token(self, said: Said, event: catalog.TokenIssued | catalog.TokenRevoked) -> None:
        known = self.tokens.get(event.token_id)
        if isinstance(event, catalog.TokenIssued):
            self.tokens.put(event.token_id, assigned.issue(known, event))
        else:
            self.tokens.put(event.token_id, assigned.revoke(known, event.token_id))

    def _take_key(self, said: Said, event: catalog.KeyEnrolled | catalog.KeyRevoked) -> None:
        key = self.keys.get(event.kid) or AgentKey(event.kid)
        if isinstance(event, catalog.KeyRevoked):
            self.keys.put(event.kid, replace(key, is_revoked=True))
        elif event.role is Role.AGENT:
            self.keys.put(event.kid, replace(key, proxy=event.subject, agent_id=event.agent_id))

    def _take_size(self, said: Said, event: catalog.ProxyChanged) -> None:
        self.proxy_sizes.put(event.proxy, resize(self.proxy_sizes.get(event.proxy), event))

    def _take_outcome(self, said: Said, event: catalog.CommandDecided) -> None:
        word = REFUSED if event.decision == "refused" else ACCEPTED
        reason = event.reason.value if event.reason is not None else None
        self._decided(event.command_id, word, reason, event.detail, event.counts)

    # --- rows -------------------------------------------------------------------------------------------------------

    def _invocation(self, job_invocation_id: UUID, moment: datetime) -> JobInvocation:
        return self.job_invocations.get(job_invocation_id) or JobInvocation(job_invocation_id, moment)

    def _put_invocation(self, invocation: JobInvocation) -> None:
        self.job_invocations.put(invocation.job_invocation_id, invocation)

    def _task(self, item: Any) -> JobTask:
        """The job task of an event of planner or dispatcher; only they bring one into being."""
        known = self.job_tasks.get(item.job_task_id)
        if known is None:
            self._put_invocation(self._invocation(item.job_invocation_id, item.time))
            return JobTask(item.job_task_id, item.job_invocation_id, item.host_id)
        return known

    def _put_task(self, task: JobTask) -> None:
        self.job_tasks.put(task.job_task_id, task)
        self.touched_tasks[task.job_task_id] = None

    def _decision(self, item: AttemptItem) -> AttemptDecision:
        return self.decisions.get((item.job_task_id, item.attempt)) or AttemptDecision()

    def _decide(self, item: AttemptItem, decision: AttemptDecision) -> None:
        key = (item.job_task_id, item.attempt)
        self.decisions.put(key, decision)
        self.touched_attempts[key] = None

    def _decided(
        self,
        command_id: UUID,
        decision: str,
        reason: str | None = None,
        detail: str = "",
        counts: Mapping[str, int] | None = None,
        job_invocation_id: UUID | None = None,
    ) -> None:
        self.outcomes[command_id] = CommandOutcome(
            command_id, decision, reason, detail, counts or {}, job_invocation_id
        )

    # --- output -----------------------------------------------------------------------------------------------------

    def closing_streams(self) -> list[StreamKey]:
        """Streams whose waiting pieces must be loaded before `fold_all_output`."""
        return [key for key, pieces in self.arrivals.items() if may_close_hole(self._state(key), pieces)]

    def fold_all_output(self, waiting: Mapping[StreamKey, Sequence[Piece]]) -> None:
        """Fold what arrived. `waiting`: what waits in the store beyond the holes of `closing_streams`."""
        for key, pieces in self.arrivals.items():
            folded = fold_output(self._state(key), waiting.get(key, ()), pieces, self.landings[key])
            self.folded[key] = folded
            self.streams.put(key, folded.state)

    def _state(self, key: StreamKey) -> StreamState:
        return self.streams.get(key) or StreamState()

    # --- what follows -----------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Let job tasks show their attempts, and counts and groups follow the job tasks."""
        self._show_streams()
        self._disown()
        for key in self.touched_attempts:
            self._show(key)
        self._regroup()
        self._recount()

    def _show_streams(self) -> None:
        """The store of output is the truth about streams: what it has is shown, also after a read model was built anew."""
        for key in self.streams:
            state = self.streams.get(key)
            report_key = key[:3]
            if state is not None and key[:2] in self.touched_attempts and state.end:
                known = self.reports.get(report_key) or AttemptReport()
                self.reports.put(report_key, tasks.show_stream(known, key[3], state))

    def _disown(self) -> None:
        """Once an attempt's proxy is named, what others said of it before is nothing."""
        for key in list(self.reports):
            decision = self.decisions.get(key[:2])
            if decision is not None and tasks.may_speak(decision, key[2]) is False:
                self.reports.drop(key)
                self.disowned.append(key)

    def _show(self, key: AttemptKey) -> None:
        decision, task = self.decisions.get(key), self.job_tasks.get(key[0])
        if decision is None or task is None or not decision.proxy:
            return
        known = self.reports.get((*key, decision.proxy))
        if known is not None:
            self._put_task(tasks.show_attempt(task, key[1], known))

    def _regroup(self) -> None:
        """Move job tasks whose end became another from group to group; `task_groups` says where each touched one is now."""
        for job_task_id in self.touched_tasks:
            task = self.job_tasks.get(job_task_id)
            if task is None:
                continue
            group = group_of(task)
            name = self.task_groups[job_task_id] = group_id(group)
            if name != task.group:
                if task.group:
                    self.group_changes[(task.job_invocation_id, task.group)] -= 1
                self.group_changes[(task.job_invocation_id, name)] += 1
                self.groups[name] = group

    def _recount(self) -> None:
        changes: dict[UUID, list[tuple[JobTask | None, JobTask]]] = defaultdict(list)
        for job_task_id in self.touched_tasks:
            task, before = self.job_tasks.get(job_task_id), self.job_tasks.before(job_task_id)
            if task is not None and (before is None or (before.status, before.reason) != (task.status, task.reason)):
                changes[task.job_invocation_id].append((before, task))
        for job_invocation_id, pairs in changes.items():
            self._put_invocation(invocations.recount(self._invocation(job_invocation_id, _EPOCH), pairs))


_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")

_TAKERS: dict[type[Item], Callable[[ReadModel, Said, Any], None]] = {
    planning.JobInvocationAccepted: ReadModel._take_accepted,
    planning.JobInvocationRefused: ReadModel._take_refused,
    planning.JobInvocationScheduled: ReadModel._take_scheduled,
    planning.JobInvocationTargeted: ReadModel._take_targets,
    planning.JobTasksPlanned: ReadModel._take_plan,
    planning.JobInvocationCancelRequested: ReadModel._take_cancel,
    planning.CancelRefused: ReadModel._take_refusal,
    planning.JobInvocationEdited: ReadModel._take_edit,
    planning.EditRefused: ReadModel._take_refusal,
    planning.AttemptBound: ReadModel._take_binding,
    planning.AttemptRefused: ReadModel._take_binding,
    planning.AttemptRebound: ReadModel._take_binding,
    planning.AttemptVoided: ReadModel._take_binding,
    dispatch.JobInvocationDue: ReadModel._take_begun,
    dispatch.ConcurrencyChanged: ReadModel._take_concurrency,
    dispatch.AttemptDue: ReadModel._take_due,
    dispatch.ResumeDue: ReadModel._take_asking,
    dispatch.CancelDue: ReadModel._take_asking,
    dispatch.JobTaskStatusChanged: ReadModel._take_status,
    dispatch.JobTaskEnded: ReadModel._take_verdict,
    dispatch.JobInvocationEnded: ReadModel._take_ended,
    execution.AttemptAccepted: ReadModel._take_fact,
    execution.AttemptReleased: ReadModel._take_fact,
    execution.AttemptStarted: ReadModel._take_fact,
    execution.AttemptEnded: ReadModel._take_fact,
    execution.AttemptInterrupted: ReadModel._take_fact,
    execution.AttemptNeverStarted: ReadModel._take_fact,
    observed.HostReachabilityObserved: ReadModel._take_observation,
    observed.HostCheckedIn: ReadModel._take_observation,
    observed.HostFactsReported: ReadModel._take_observation,
    proxies.AgentStarted: ReadModel._take_agent,
    proxies.AgentHeartbeat: ReadModel._take_agent,
    proxies.AgentStopped: ReadModel._take_agent,
    proxies.AttemptsFollowed: ReadModel._take_agent,
    catalog.HostRegistered: ReadModel._take_host,
    catalog.HostChanged: ReadModel._take_host,
    catalog.HostRemoved: ReadModel._take_host,
    catalog.UserCreated: ReadModel._take_user,
    catalog.UserDisabled: ReadModel._take_user,
    catalog.TokenIssued: ReadModel._take_token,
    catalog.TokenRevoked: ReadModel._take_token,
    catalog.KeyEnrolled: ReadModel._take_key,
    catalog.KeyRevoked: ReadModel._take_key,
    catalog.ProxyChanged: ReadModel._take_size,
    catalog.CommandDecided: ReadModel._take_outcome,
}
