"""The life of one attempt in the agent: (attempt, input, now, facts) to the attempt after it and effects in order.

Owns every rule of docs/protocol.md, section 1, "What an agent does". No I/O, no clock, no exception for what others cause.

Effects are carried out one after the other, and the next input is given only when all are done. So an effect that stands
behind a Journal or a PublishAndAwait happens only when that is on disk or acknowledged, and a process that dies between two
of them is found by its successor in a state these rules know.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple, assert_never

from chargehand_schemas.frozen import replace
from chargehand_schemas.ids import AttemptId
from chargehand_schemas.proxy_commands import ProxyCommand, ResumeProxyCommand, RunProxyCommand
from chargehand_schemas.reasons import NeverStartedWhy, ReleaseReason, Stream

from . import output, reports
from .effects import (
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
from .entry import Entry, Offsets, Phase
from .facts import AgentFacts
from .inputs import (
    CancelReceived,
    Command,
    Connected,
    ConnectionCut,
    CouldNotConnect,
    EndSeen,
    FollowWanted,
    Input,
    InterruptionSeen,
    JournalFailed,
    NeverStartedSeen,
    OmissionSeen,
    OutputAcked,
    OutputSeen,
    RefusalSeen,
    Restarted,
    ResumeReceived,
    RunReceived,
    StartSeen,
    Stopping,
    Woken,
)
from .output import Piece, StreamOutput
from .policy import objection

START_NOT_ALLOWED = "start_not_allowed"
FIRST_RETRY = timedelta(seconds=1)
LONGEST_RETRY = timedelta(seconds=30)
LATE_RETRY = timedelta(minutes=5)
JOURNAL_RETRY = timedelta(seconds=1)
GIVE_UP_UNKNOWN_AFTER = timedelta(minutes=10)
JOURNAL_OFFSET_EVERY_BYTES = 1024 * 1024
MOST_SHORTFALLS = 3

_UNSENT_PROOFS = frozenset({ReleaseReason.COULD_NOT_CONNECT, ReleaseReason.EXPIRED, ReleaseReason.STOPPING})
"""Releases that may prove. After the others (clock, journal) a proof would only have the attempt dispatched here again."""

_FINAL_REFUSALS = frozenset({ReleaseReason.POLICY, ReleaseReason.NOT_SUPPORTED})
"""On receipt, with nothing sent: a proof (docs/protocol.md, rule ONE) ends the job task as refused at once, and not in 35 s."""

_REFUSALS = {"rebooted": ReleaseReason.HOST_REBOOTED, "not_valid": ReleaseReason.NOT_VALID}


class Visit(NamedTuple):
    """One connection to the host on behalf of the attempt: to start it, to look, or to look and end it."""

    number: int
    is_start: bool = False
    is_cancel: bool = False


class Attempt(NamedTuple):
    """An attempt in memory: its journal entry, and what dies with the process.

    `run`: the command to start it, as long as it may be started. `is_fresh`: accepted by this process. `question`: the resume
    or cancel to be answered. `outcome`: seen on the host, to be said when all output before it is acknowledged.
    `is_withheld`: a release that could not be journaled and so is not said.
    """

    entry: Entry
    run: RunProxyCommand | None = None
    is_journaled: bool = False
    is_fresh: bool = False
    is_cancelled: bool = False
    is_withheld: bool = False
    question: ProxyCommand | None = None
    visits: tuple[Visit, ...] = ()
    visit_count: int = 0
    failures: int = 0
    shortfalls: int = 0
    started_at: datetime | None = None
    stdout: StreamOutput = output.NOTHING
    stderr: StreamOutput = output.NOTHING
    outcome: EndSeen | InterruptionSeen | None = None

    @property
    def id(self) -> AttemptId:
        return self.entry.id

    @property
    def order(self) -> ProxyCommand:
        return self.entry.order

    @property
    def phase(self) -> Phase:
        return self.entry.phase

    @property
    def is_followed(self) -> bool:
        """This agent has it in hand, so nobody needs to ask (AttemptsFollowed)."""
        return self.phase in _IN_HAND and bool(self.visits or self.outcome)

    @property
    def unacknowledged_bytes(self) -> int:
        """Output given out and not acknowledged yet."""
        return self.stdout.unacknowledged + self.stderr.unacknowledged

    @property
    def streams(self) -> dict[Stream, StreamOutput]:
        return {Stream.STDOUT: self.stdout, Stream.STDERR: self.stderr}


_IN_HAND = frozenset({Phase.ACCEPTED, Phase.STARTING, Phase.FOLLOWING})


class Step(NamedTuple):
    """The attempt after an input (None: it is none of ours) and what is to be done, in order."""

    attempt: Attempt | None
    effects: tuple[Effect, ...] = ()


class StartTerms(NamedTuple):
    """What the wrapper is told, counted from the instant it is sent (docs/protocol.md, rules HDL, BOOT and FENCE)."""

    run: RunProxyCommand
    not_after_in: timedelta
    run_deadline_in: timedelta
    issued_ago: timedelta


def restored(entry: Entry) -> Attempt:
    """An attempt as the journal knows it."""
    return Attempt(
        entry,
        is_journaled=True,
        stdout=output.resumed(entry.acked.stdout),
        stderr=output.resumed(entry.acked.stderr),
    )


def start_terms(attempt: Attempt, now: datetime) -> StartTerms | None:
    """None if it is not to be started (any more)."""
    run = attempt.run
    if run is None:
        return None
    return StartTerms(run, run.not_after - now, run.run_deadline - now, now - run.issued_at)


def may_start(attempt: Attempt, now: datetime, facts: AgentFacts) -> bool:
    """Asked with the connection up, immediately before the wrapper is sent."""
    return not attempt.is_cancelled and _hindrance(attempt, now, facts) is None


def _hindrance(attempt: Attempt, now: datetime, facts: AgentFacts) -> ReleaseReason | None:
    if attempt.run is None:
        return ReleaseReason.JOURNAL
    if not facts.is_clock_trusted:
        return ReleaseReason.CLOCK_OFFSET
    if facts.is_stopping:
        return ReleaseReason.STOPPING
    return ReleaseReason.EXPIRED if now >= attempt.run.not_after else None


def step(attempt: Attempt | None, event: Input, now: datetime, facts: AgentFacts) -> Step:
    """What one input brings about."""
    match event:
        case RunReceived() | ResumeReceived() | CancelReceived() | FollowWanted():
            return _command(attempt, event, now, facts)
        case _:
            return Step(None) if attempt is None else _go_on(attempt, event, now, facts)


def _command(attempt: Attempt | None, event: Command, now: datetime, facts: AgentFacts) -> Step:
    match event:
        case RunReceived(command):
            if attempt is None:
                return _first_run(command, now, facts)
            reached = _repeated_run(attempt)
        case ResumeReceived(command) | FollowWanted(command):
            reached = _resume(attempt, command, now, facts)
        case CancelReceived(command):
            reached = _cancel(attempt, command, now, facts)
        case _:
            assert_never(event)
    return Step(reached.attempt, (CommitOffset(), *reached.effects))


def _go_on(attempt: Attempt, event: Input, now: datetime, facts: AgentFacts) -> Step:
    match event:
        case OutputSeen():
            return _output_seen(attempt, event, now, facts)
        case OutputAcked(offsets):
            return _output_acked(attempt, offsets, now, facts)
        case Connected(visit):
            return _connected(attempt, visit, now, facts)
        case CouldNotConnect():
            return _could_not_connect(attempt, event, now, facts)
        case StartSeen():
            return _start_seen(attempt, event, now, facts)
        case OmissionSeen():
            return _omission_seen(attempt, event, now)
        case EndSeen() | InterruptionSeen():
            return _outcome_seen(attempt, event, now, facts)
        case NeverStartedSeen():
            return _never_started_seen(attempt, event, now, facts)
        case RefusalSeen():
            return _refusal_seen(attempt, event, now, facts)
        case ConnectionCut():
            return _connection_cut(attempt, event, now, facts)
        case JournalFailed():
            return _journal_failed(attempt, now, facts)
        case Woken():
            return _woken(attempt, now, facts)
        case Restarted():
            return _restarted(attempt, now, facts)
        case Stopping():
            return _stopping(attempt, now, facts)
        case RunReceived() | ResumeReceived() | CancelReceived() | FollowWanted():
            return Step(attempt)
        case _:
            assert_never(event)


# --- commands -----------------------------------------------------------------------------------------------------------


def _first_run(command: RunProxyCommand, now: datetime, facts: AgentFacts) -> Step:
    keep_until = max(command.not_after, now) + facts.clock_margin + facts.journal_keep
    # What the journal keeps and a look needs; the script goes when it was started.
    order = command.model_copy(update={"script": "", "sealed": {}, "sealed_effective_user_password": ""})
    refused = objection(command, now, facts)
    if refused is not None:
        attempt = Attempt(Entry(reports.attempt_id(command), order, Phase.RELEASED, keep_until), is_fresh=True)
        is_proof = refused.why in _FINAL_REFUSALS and _may_prove(attempt, facts)
        report = reports.released(order, refused.why, refused.detail, is_proof, now, facts)
        entry = attempt.entry._replace(report=report)
        return Step(Attempt(entry), (Journal(entry), CommitOffset(), *_say(entry)))
    accepted = reports.accepted(order, now, facts)
    entry = Entry(reports.attempt_id(command), order, Phase.ACCEPTED, keep_until, accepted)
    start = Visit(1, is_start=True)
    attempt = Attempt(entry, command, is_journaled=True, is_fresh=True, visits=(start,), visit_count=1)
    return Step(attempt, (Journal(entry), CommitOffset(), PublishAndAwait(accepted), Connect(1)))


def _repeated_run(attempt: Attempt) -> Step:
    """In the journal: repeat the last report. While it is only looked for, the look decides, and nothing is started."""
    if attempt.entry.report is None or attempt.is_withheld:
        return Step(attempt)
    return Step(attempt, (Publish(attempt.entry.report), *_forget_if_over(attempt)))


def _resume(attempt: Attempt | None, command: ProxyCommand, now: datetime, facts: AgentFacts) -> Step:
    if attempt is None:
        return _look_for(command, now, facts)
    entry, report = attempt.entry, attempt.entry.report
    if attempt.is_withheld or attempt.outcome is not None:
        return Step(attempt)
    if report is not None and (attempt.is_followed or entry.phase.is_end) and _is_answer(attempt):
        return Step(attempt, (Publish(reports.in_answer(report, command, now)), *_forget_if_over(attempt)))
    if entry.phase is Phase.RELEASED:
        return _look_for(command, now, facts)
    asked = attempt._replace(question=command)
    return Step(asked) if any(not v.is_start for v in attempt.visits) else _visit(asked, now, facts)


def _is_answer(attempt: Attempt) -> bool:
    """Whether the last report is still the whole truth: not of a start in flight, nor of a release another may not share."""
    return attempt.phase not in (Phase.STARTING, Phase.RELEASED)


def _cancel(attempt: Attempt | None, command: ProxyCommand, now: datetime, facts: AgentFacts) -> Step:
    if attempt is None:
        return _look_for(command, now, facts, is_cancel=True)
    if attempt.is_withheld or attempt.outcome is not None:
        return Step(attempt)
    report = attempt.entry.report
    if attempt.phase is Phase.RELEASED:
        return _look_for(command, now, facts, is_cancel=True)
    if attempt.phase.is_end and report is not None:
        return Step(attempt, (Publish(reports.in_answer(report, command, now)), Forget()))
    cancelled = attempt._replace(is_cancelled=True, question=command)
    if attempt.phase is Phase.ACCEPTED or any(visit.is_cancel for visit in attempt.visits):
        # Not sent yet: the connection on its way becomes a look that takes the lock (rules CANC and TOMB).
        return Step(cancelled)
    return _visit(cancelled, now, facts)


def _look_for(command: ProxyCommand, now: datetime, facts: AgentFacts, *, is_cancel: bool = False) -> Step:
    if not _may_look(command, facts):
        return Step(None, (Forget(),))
    keep_until = max(command.run_deadline, now) + facts.clock_margin + facts.journal_keep
    entry = Entry(reports.attempt_id(command), command, Phase.LOOKING, keep_until)
    attempt = Attempt(entry, is_cancelled=is_cancel, question=command)
    return _visit(attempt, now, facts)


def _may_look(order: ProxyCommand, facts: AgentFacts) -> bool:
    """Without a lock on the host there is nothing to look at, and no answer (docs/protocol.md, rule SOLO)."""
    return facts.has_host_lock(order.provider_type)


# --- visits -------------------------------------------------------------------------------------------------------------


def _visit(attempt: Attempt, now: datetime, facts: AgentFacts) -> Step:
    """One more connection, to look."""
    if not _may_look(attempt.order, facts):
        return Step(attempt) if attempt.visits else _leave_unknown(attempt)
    visit = Visit(attempt.visit_count + 1, is_cancel=attempt.is_cancelled)
    visited = attempt._replace(visits=(*attempt.visits, visit), visit_count=visit.number)
    return Step(visited, (Connect(visit.number),))


def _find_visit(attempt: Attempt, number: int) -> Visit | None:
    for visit in attempt.visits:
        if visit.number == number:
            return visit
    return None


def _without(attempt: Attempt, number: int) -> tuple[Visit, ...]:
    return tuple(visit for visit in attempt.visits if visit.number != number)


def _leave_all(attempt: Attempt, but: int = 0) -> tuple[Effect, ...]:
    return tuple(Leave(visit.number) for visit in attempt.visits if visit.number != but)


def _connected(attempt: Attempt, number: int, now: datetime, facts: AgentFacts) -> Step:
    visit = _find_visit(attempt, number)
    if visit is None or attempt.phase.is_end or attempt.outcome is not None:
        return Step(attempt, (Leave(number),))
    if not visit.is_start:
        return Step(attempt, (_look(attempt, visit),))
    if attempt.is_cancelled and not _may_look(attempt.order, facts):
        return _release_cancelled(attempt, now, facts)
    if attempt.is_cancelled:
        looking = Visit(number, is_cancel=True)
        visits = tuple(looking if v.number == number else v for v in attempt.visits)
        return Step(attempt._replace(visits=visits), (_look(attempt, looking),))
    hindrance = _hindrance(attempt, now, facts)
    if hindrance is not None:
        return _release(attempt, hindrance, "connected, and not to be started any more", now, facts, is_unsent=True)
    entry = attempt.entry._replace(phase=Phase.STARTING)
    return Step(attempt._replace(entry=entry), (Journal(entry), SendWrapper(number)))


def _look(attempt: Attempt, visit: Visit) -> Look:
    return Look(visit.number, visit.is_cancel, Offsets(attempt.stdout.seen, attempt.stderr.seen))


def _could_not_connect(attempt: Attempt, event: CouldNotConnect, now: datetime, facts: AgentFacts) -> Step:
    if _find_visit(attempt, event.visit) is not None and attempt.phase is Phase.ACCEPTED:
        left = attempt._replace(visits=_without(attempt, event.visit))
        return _release(
            left, ReleaseReason.COULD_NOT_CONNECT, f"{event.why}: {event.detail}", now, facts, is_unsent=True
        )
    return _cut(attempt, event.visit, now, facts)


def _connection_cut(attempt: Attempt, event: ConnectionCut, now: datetime, facts: AgentFacts) -> Step:
    visit = _find_visit(attempt, event.visit)
    is_unsent = not event.was_sent and visit is not None and visit.is_start and attempt.phase is Phase.STARTING
    if is_unsent and len(attempt.visits) == 1:
        return _release(attempt, ReleaseReason.COULD_NOT_CONNECT, event.detail, now, facts, is_unsent=True)
    return _cut(attempt, event.visit, now, facts)


def _cut(attempt: Attempt, number: int, now: datetime, facts: AgentFacts) -> Step:
    """The truth is on the host: look again, later and later while it cannot be reached."""
    if _find_visit(attempt, number) is None:
        return Step(attempt)
    left = attempt._replace(visits=_without(attempt, number), failures=attempt.failures + 1)
    if left.visits or left.phase.is_end or left.outcome is not None:
        return Step(left)
    if not _may_look(left.order, facts):
        return _leave_unknown(left)
    return Step(left, (WakeAfter(_retry_in(left, now)),))


def _leave_unknown(attempt: Attempt) -> Step:
    """Rule SOLO: whether it runs, nobody can find out. Nothing is said, it is never started again, and it is unknown at its deadline."""
    return Step(attempt, (Forget(),))


def _retry_in(attempt: Attempt, now: datetime) -> timedelta:
    """1 s, then doubled up to 30 s; 5 minutes when it must be over on the host."""
    if now > attempt.order.run_deadline:
        return LATE_RETRY
    doubled: timedelta = FIRST_RETRY * 2 ** min(attempt.failures - 1, 5)
    return min(doubled, LONGEST_RETRY)


def _woken(attempt: Attempt, now: datetime, facts: AgentFacts) -> Step:
    if attempt.is_withheld:
        return Step(attempt._replace(is_withheld=False), (Journal(attempt.entry), *_say(attempt.entry)))
    if attempt.visits or attempt.phase.is_end or attempt.outcome is not None or facts.is_stopping:
        return Step(attempt)
    if _is_given_up(attempt, now, facts):
        said = (JournalLater(attempt.entry._replace(is_said=True)),) if attempt.is_journaled else ()
        return Step(attempt, (*said, Forget()))
    return _visit(attempt, now, facts)


def _is_given_up(attempt: Attempt, now: datetime, facts: AgentFacts) -> bool:
    """Hosts keep what they know for so long (rule KEEP); what was only asked for will be asked for again."""
    if now > attempt.order.issued_at + facts.hosts_keep:
        return True
    return attempt.phase is Phase.LOOKING and now > attempt.order.run_deadline + GIVE_UP_UNKNOWN_AFTER


# --- what was seen on the host -------------------------------------------------------------------------------------------


def _start_seen(attempt: Attempt, seen: StartSeen, now: datetime, facts: AgentFacts) -> Step:
    if _find_visit(attempt, seen.visit) is None or attempt.phase.is_end or attempt.outcome is not None:
        return Step(attempt)
    began = attempt.started_at or facts.true_time(now) - seen.started_ago
    known = attempt._replace(failures=0, started_at=began, run=None)
    if attempt.phase is Phase.FOLLOWING and attempt.question is None:
        return Step(known)
    digest = attempt.run.script_digest if attempt.run is not None and not seen.existed else ""
    report = reports.started(attempt.order, seen.host_boot_id, began, digest, now, facts)
    said = report if attempt.question is None else reports.in_answer(report, attempt.question, now)
    entry = attempt.entry._replace(phase=Phase.FOLLOWING, report=said)
    # A journal that has it as `starting` leads to the same look after a restart: no need to wait for the disk.
    journal = () if attempt.is_journaled else (Journal(entry),)
    return Step(known._replace(entry=entry, question=None, is_journaled=True), (*journal, Publish(said)))


def _output_seen(attempt: Attempt, seen: OutputSeen, now: datetime, facts: AgentFacts) -> Step:
    if attempt.outcome is not None or attempt.phase.is_end:
        return Step(attempt)
    stream = attempt.stdout if seen.stream is Stream.STDOUT else attempt.stderr
    taken, pieces = output.observe(stream, seen.offset, seen.data, facts.limits)
    return Step(_with_stream(attempt, seen.stream, taken), _given_out(attempt.order, seen.stream, pieces, now))


def _omission_seen(attempt: Attempt, seen: OmissionSeen, now: datetime) -> Step:
    if attempt.outcome is not None or attempt.phase.is_end:
        return Step(attempt)
    taken, pieces = output.leave_out(attempt.streams[seen.stream], seen.start, seen.end)
    return Step(_with_stream(attempt, seen.stream, taken), _given_out(attempt.order, seen.stream, pieces, now))


def _with_stream(attempt: Attempt, name: Stream, stream: StreamOutput) -> Attempt:
    return attempt._replace(stdout=stream) if name is Stream.STDOUT else attempt._replace(stderr=stream)


def _given_out(order: ProxyCommand, stream: Stream, pieces: tuple[Piece, ...], now: datetime) -> tuple[Effect, ...]:
    return tuple(
        PublishOutput(
            reports.output_item(order, stream, piece, now),
            piece.data if isinstance(piece, output.Chunk) else None,
            Offsets(piece.end, 0) if stream is Stream.STDOUT else Offsets(0, piece.end),
        )
        for piece in pieces
    )


def _output_acked(attempt: Attempt, offsets: Offsets, now: datetime, facts: AgentFacts) -> Step:
    if attempt.phase.is_end:
        return Step(attempt)
    acked = attempt._replace(
        stdout=output.acknowledge(attempt.stdout, offsets.stdout),
        stderr=output.acknowledge(attempt.stderr, offsets.stderr),
    )
    if acked.outcome is not None and not acked.unacknowledged_bytes:
        return _conclude(acked, acked.outcome, now, facts)
    entry = acked.entry._replace(acked=Offsets(acked.stdout.acked, acked.stderr.acked))
    if sum(entry.acked) - sum(acked.entry.acked) < JOURNAL_OFFSET_EVERY_BYTES or not _is_resumable(acked):
        return Step(acked)
    return Step(acked._replace(entry=entry), (JournalLater(entry),))


def _is_resumable(attempt: Attempt) -> bool:
    """A restart would go on following it: then its acknowledged offsets are worth writing down."""
    return attempt.is_journaled and attempt.phase in (Phase.STARTING, Phase.FOLLOWING)


def _outcome_seen(attempt: Attempt, seen: EndSeen | InterruptionSeen, now: datetime, facts: AgentFacts) -> Step:
    if _find_visit(attempt, seen.visit) is None or attempt.phase.is_end or attempt.outcome is not None:
        return Step(attempt)
    lengths = _lengths(attempt, seen)
    is_short = any(lengths[name] > stream.seen for name, stream in attempt.streams.items())
    if is_short and attempt.shortfalls < MOST_SHORTFALLS and _may_look(attempt.order, facts):
        # Told of an end before all output was seen: read the rest. A host that never gives it is believed in the end.
        left = attempt._replace(visits=_without(attempt, seen.visit), shortfalls=attempt.shortfalls + 1)
        return Step(left) if left.visits else _visit(left, now, facts)
    effects: list[Effect] = [*_leave_all(attempt, but=seen.visit)]
    for name, stream in attempt.streams.items():
        closed, pieces = output.close(stream, lengths[name], facts.limits)
        attempt = _with_stream(attempt, name, closed)
        effects += _given_out(attempt.order, name, pieces, now)
    over = attempt._replace(visits=(), run=None, outcome=replace(seen, lengths=lengths))
    if over.unacknowledged_bytes:
        return Step(over, tuple(effects))
    concluded = _conclude(over, over.outcome or seen, now, facts)
    return Step(concluded.attempt, (*effects, *concluded.effects))


def _lengths(attempt: Attempt, seen: EndSeen | InterruptionSeen) -> dict[Stream, int]:
    """As the host said, but never less than what it gave."""
    said = seen.lengths or {}
    return {name: max(said.get(name, 0), stream.seen) for name, stream in attempt.streams.items()}


def _conclude(attempt: Attempt, seen: EndSeen | InterruptionSeen, now: datetime, facts: AgentFacts) -> Step:
    """All output is acknowledged: journal its offsets and the end, say the end (docs/protocol.md, rule OUTORD)."""
    acked = Offsets(attempt.stdout.acked, attempt.stderr.acked)
    match seen:
        case EndSeen():
            ended_at = _ended_at(attempt, seen, facts.true_time(now))
            report = reports.ended(attempt.order, seen, attempt.streams, ended_at, now, facts)
            entry = attempt.entry._replace(phase=Phase.ENDED, report=report, acked=acked)
        case InterruptionSeen():
            broken = reports.interrupted(attempt.order, seen, attempt.streams, now, facts)
            entry = attempt.entry._replace(phase=Phase.INTERRUPTED, report=broken, acked=acked)
    return _over(attempt, entry)


def _ended_at(attempt: Attempt, seen: EndSeen, now: datetime) -> datetime:
    if seen.ended_ago is None and attempt.started_at is not None:
        return attempt.started_at + seen.ran_for
    return now - (seen.ended_ago or timedelta(0))


def _never_started_seen(attempt: Attempt, seen: NeverStartedSeen, now: datetime, facts: AgentFacts) -> Step:
    if _find_visit(attempt, seen.visit) is None or attempt.phase.is_end or attempt.outcome is not None:
        return Step(attempt)
    doubt = _doubt(attempt, now, facts)
    if doubt:
        return _outcome_seen(attempt, InterruptionSeen(seen.visit, doubt), now, facts)
    report = reports.never_started(attempt.order, seen, now, facts)
    entry = attempt.entry._replace(phase=Phase.NEVER_STARTED, report=report)
    return _over(attempt, entry, but=seen.visit, follow=_fence(attempt, seen, now))


def _doubt(attempt: Attempt, now: datetime, facts: AgentFacts) -> str:
    """Why a tombstone is no proof here (docs/protocol.md, rules TRUTH, KEEP and CLK)."""
    if attempt.phase is Phase.FOLLOWING:
        return "the host said that it had started, and now that it never has"
    if facts.clock_offset is None:
        return "this agent's clock was not compared with the broker's: whether the host has booted since is not known"
    if now > attempt.order.issued_at + facts.hosts_keep:
        return f"issued more than {facts.hosts_keep.days} days ago: the host need not know it any more"
    return ""


def _fence(attempt: Attempt, seen: NeverStartedSeen, now: datetime) -> tuple[Effect, ...]:
    if seen.why is not NeverStartedWhy.FENCED or seen.fenced_by is None:
        return ()
    order = attempt.order
    common = order.model_dump(include=set(ProxyCommand.model_fields) - {"host"})
    return (Follow(ResumeProxyCommand(**(common | {"host": order.host, "attempt": seen.fenced_by, "time": now}))),)


def _refusal_seen(attempt: Attempt, seen: RefusalSeen, now: datetime, facts: AgentFacts) -> Step:
    visit = _find_visit(attempt, seen.visit)
    if visit is None or not visit.is_start or attempt.phase is not Phase.STARTING:
        return _cut(attempt, seen.visit, now, facts)
    if seen.why != START_NOT_ALLOWED:
        why = _REFUSALS.get(seen.why, ReleaseReason.HOST_REFUSED)
        return _release(attempt, why, f"{seen.why}: {seen.detail}", now, facts, is_unsent=False)
    if attempt.is_cancelled and not _may_look(attempt.order, facts):
        return _release_cancelled(attempt, now, facts)
    if attempt.is_cancelled:
        left = attempt._replace(visits=_without(attempt, seen.visit))
        return Step(left) if left.visits else _visit(left, now, facts)
    why = _hindrance(attempt, now, facts) or ReleaseReason.EXPIRED
    return _release(attempt, why, seen.detail or "not to be started any more", now, facts, is_unsent=True)


# --- ends -----------------------------------------------------------------------------------------------------------------


def _release(
    attempt: Attempt, why: ReleaseReason, detail: str, now: datetime, facts: AgentFacts, *, is_unsent: bool
) -> Step:
    """I have not started it and never will. `is_unsent`: not even the wrapper was sent."""
    is_proof = is_unsent and why in _UNSENT_PROOFS and _may_prove(attempt, facts)
    report = reports.released(attempt.order, why, detail, is_proof, now, facts)
    return _over(attempt, attempt.entry._replace(phase=Phase.RELEASED, report=report))


def _release_cancelled(attempt: Attempt, now: datetime, facts: AgentFacts) -> Step:
    """Rule SOLO: there is no lock to take. Nothing was sent, and this is the only journal that could."""
    return _release(attempt, ReleaseReason.EXPIRED, "cancelled before it was started", now, facts, is_unsent=True)


def _may_prove(attempt: Attempt, facts: AgentFacts) -> bool:
    """docs/protocol.md, rule ONE (a). That every acceptor is this journal, (b), is the dispatcher's to know."""
    return (
        attempt.is_fresh
        and facts.is_clock_trusted
        and facts.is_within_journal(attempt.order.issued_at)
        and facts.has_host_lock(attempt.order.provider_type)
    )


def _over(attempt: Attempt, entry: Entry, *, but: int = 0, follow: tuple[Effect, ...] = ()) -> Step:
    """An end of whatever kind: journaled, said, and then out of memory."""
    over = attempt._replace(entry=entry, visits=(), run=None, is_journaled=True)
    return Step(over, (*_leave_all(attempt, but), Journal(entry), *_say(entry, follow)))


def _say(entry: Entry, follow: tuple[Effect, ...] = ()) -> tuple[Effect, ...]:
    said = () if entry.report is None else (PublishAndAwait(entry.report),)
    return (*said, *follow, JournalLater(entry._replace(is_said=True)), Forget())


def _forget_if_over(attempt: Attempt) -> tuple[Effect, ...]:
    return (Forget(),) if attempt.phase.is_end else ()


def _journal_failed(attempt: Attempt, now: datetime, facts: AgentFacts) -> Step:
    """docs/protocol.md, section 3, 13: nothing taken, nothing started, no release said; the truth from a host is still said."""
    match attempt.phase:
        case Phase.ACCEPTED:
            return Step(None, (Forget(),))
        case Phase.STARTING:
            report = reports.released(
                attempt.order, ReleaseReason.JOURNAL, "this agent could not write its journal", False, now, facts
            )
            entry = attempt.entry._replace(phase=Phase.RELEASED, report=report)
            withheld = attempt._replace(entry=entry, visits=(), run=None, is_withheld=True)
            return Step(withheld, (*_leave_all(attempt), WakeAfter(JOURNAL_RETRY)))
        case Phase.RELEASED:
            return _released_unwritten(attempt)
        case Phase.FOLLOWING:
            said = () if attempt.entry.report is None else (Publish(attempt.entry.report),)
            return Step(attempt._replace(is_journaled=False), said)
        case _:
            said_end = () if attempt.entry.report is None else (PublishAndAwait(attempt.entry.report),)
            return Step(attempt, (*said_end, Forget()))


def _released_unwritten(attempt: Attempt) -> Step:
    if not attempt.is_fresh and attempt.visit_count == 0:
        return Step(None, (Forget(),))
    return Step(attempt._replace(is_withheld=True), (WakeAfter(JOURNAL_RETRY),))


# --- the process ----------------------------------------------------------------------------------------------------------


def _restarted(attempt: Attempt, now: datetime, facts: AgentFacts) -> Step:
    """Nothing is started from a journal; what may have been started is looked at."""
    match attempt.phase:
        case Phase.ACCEPTED:
            return _release(
                attempt,
                ReleaseReason.JOURNAL,
                "this agent was restarted before it started it",
                now,
                facts,
                is_unsent=True,
            )
        case Phase.STARTING | Phase.FOLLOWING | Phase.LOOKING:
            return _visit(attempt, now, facts)
        case Phase.RELEASED | Phase.NEVER_STARTED | Phase.INTERRUPTED | Phase.ENDED:
            return Step(attempt, (Forget(),) if attempt.entry.is_said else _say(attempt.entry))
        case _:
            assert_never(attempt.phase)


def _stopping(attempt: Attempt, now: datetime, facts: AgentFacts) -> Step:
    if attempt.phase is Phase.ACCEPTED and not attempt.is_cancelled:
        return _release(attempt, ReleaseReason.STOPPING, "this agent is stopping", now, facts, is_unsent=True)
    entry = attempt.entry._replace(acked=Offsets(attempt.stdout.acked, attempt.stderr.acked))
    later = (JournalLater(entry),) if _is_resumable(attempt) and entry.acked != attempt.entry.acked else ()
    return Step(attempt._replace(entry=entry, visits=()), (*_leave_all(attempt), *later))
