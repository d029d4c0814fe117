"""The delivery ladder: what was said of a job task and of each of its attempts, by whom, and where it stands in the log.

Owns which message is which step, and how steps are kept: compactly, bounded, and so that repeats and reorderings change nothing.
A step is named by its kind, its writer's time and its item's id; of a repeat the first place in the log is kept. Of each kind
the earliest ones and the latest are kept, which is the same set in whatever order they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from chargehand_schemas import dispatch, execution, planning
from chargehand_schemas.base import Item
from chargehand_schemas.reasons import JobTaskStatus, Reason, Role, StepKind
from pydantic_core import from_json, to_json

Fact = str | int | bool

MAX_FACT_CHARS = 300
NO_ATTEMPT = 0
"""The number under which those steps of a job task are kept that may be said before the job task is known: cancels."""

_FIRST_KEPT = 4
_FIRST_KEPT_OF = {"asked_for": 1, "asked_to_end": 1}
_DIGEST_CHARS, _BOOT_CHARS = 12, 8


class Place(NamedTuple):
    """Where a message stands: the broker's time of it (ms), partition and offset; the topic follows from what it says. `actor`
    said it. `text`: all of that as steps carry it."""

    heard_ms: int
    partition: int
    offset: int
    actor: str
    text: str


class Step(NamedTuple):
    """One step. `time_us` by the clock of who said it; `item`: 24 bits of the item's id."""

    kind: str
    time_us: int
    item: int
    heard_ms: int
    partition: int
    offset: int
    actor: str
    facts: Mapping[str, Fact]


class Ladder(NamedTuple):
    """Steps as read back. `more`: kinds of which others were said, between the first ones and the latest."""

    steps: tuple[Step, ...] = ()
    more: frozenset[str] = frozenset()


def place_of(heard_at: datetime, partition: int, offset: int, actor: str) -> Place:
    heard_ms = round(heard_at.timestamp() * 1000)
    return Place(heard_ms, partition, offset, actor, f"{heard_ms},{partition},{offset},{to_json(actor).decode()}")


def actor_of(role: Role, subject: str, agent_id: str, source: str) -> str:
    """Who says it. An agent is named by its key, whatever it calls itself."""
    if role is Role.AGENT:
        return f"agent/{subject}/{agent_id}" if agent_id else f"agent/{subject}"
    return source[:MAX_FACT_CHARS] or role.value


def micros(moment: datetime) -> int:
    """Microseconds since 1970; exact, for a double has room for them until the year 2255."""
    return round(moment.timestamp() * 1e6)


# --- keeping steps ----------------------------------------------------------------------------------------------------


def add_step(text: str, item: Item, place: Place) -> str:
    """A ladder in its kept form with the step that an item is; the same text if that changes nothing, or it is none."""
    tell = _TELLERS.get(type(item))
    kind, facts = tell(item) if tell is not None else _NOTHING
    return _put(text, kind, item, facts, place.text) if kind else text


def add_request(
    text: str, item: planning.JobInvocationAccepted | planning.JobInvocationCancelRequested, place: Place
) -> str:
    """The same for what a person asked and the planner allowed: the person is its actor."""
    kind, facts = _TELLERS[type(item)](item)
    asked = place_of_actor(place, item.actor)
    return _put(text, kind, item, {**facts, "via": place.actor}, asked.text)


def add_planned(text: str, plan: planning.JobTasksPlanned, one: planning.PlannedJobTask, place: Place) -> str:
    """The same for a job task of a plan, which is no item of its own."""
    return _put(text, "planned", plan, {"proxy": one.proxy, "ordinal": one.ordinal}, place.text)


def place_of_actor(place: Place, actor: str) -> Place:
    actor = actor[:MAX_FACT_CHARS]
    text = f"{place.heard_ms},{place.partition},{place.offset},{to_json(actor).decode()}"
    return place._replace(actor=actor, text=text)


def _put(text: str, kind: str, item: Item, facts: Mapping[str, Fact], place: str) -> str:
    """One step a line, lines sorted, so that the same steps are the same text. Most steps are new, and few are of one kind:
    then nothing that is there is read."""
    begin = f'["{kind}",'
    name = f"{begin}{micros(item.time)},{item.id.int >> 104},"
    line = f"{name}{place},{to_json(facts).decode()}]"
    if not text:
        return line
    if name in text or text.count(begin) > _FIRST_KEPT_OF.get(kind, _FIRST_KEPT):
        return _put_among_others(text, Step(*from_json(line)))
    return "\n".join(sorted([*text.split("\n"), line]))


def _put_among_others(text: str, step: Step) -> str:
    ladder = read_ladder(text)
    known = {one[:3]: one for one in ladder.steps}
    other = known.get(step[:3])
    if other is not None and other[3:6] <= step[3:6]:
        return text
    known[step[:3]] = step
    alike = sorted((one for one in known.values() if one.kind == step.kind), key=_name)
    first, more = _FIRST_KEPT_OF.get(step.kind, _FIRST_KEPT), ladder.more
    if len(alike) > first + 1:
        more |= {step.kind}
        alike = [*alike[:first], alike[-1]]
    return _write([*(one for one in ladder.steps if one.kind != step.kind), *alike], more)


def _name(step: Step) -> tuple[str, int, int]:
    return step[:3]


def _write(steps: Iterable[Step], more: Iterable[str]) -> str:
    """A bare word is a kind of which there were more."""
    return "\n".join(sorted(to_json(row).decode() for row in (*steps, *more)))


def read_ladder(text: str) -> Ladder:
    """What is kept; nothing for the empty text."""
    rows = [from_json(line) for line in text.split("\n")] if text else []
    return Ladder(
        tuple(Step(*row) for row in rows if not isinstance(row, str)),
        frozenset(row for row in rows if isinstance(row, str)),
    )


# --- what each message says -------------------------------------------------------------------------------------------

Told = tuple[str, dict[str, Fact]]
_NOTHING: Told = ("", {})


def _given(kind: StepKind, **facts: Fact | None) -> Told:
    """The facts that are there; long texts are cut, for all of them stands in the log."""
    return kind.value, {
        name: fact[:MAX_FACT_CHARS] if isinstance(fact, str) else fact
        for name, fact in facts.items()
        if fact is not None and fact != ""
    }


def _accepted(it: planning.JobInvocationAccepted) -> Told:
    return _given(StepKind.ACCEPTED, template=it.template_name, template_version=it.template_version)


def _cancel_requested(it: planning.JobInvocationCancelRequested) -> Told:
    return _given(StepKind.CANCEL_REQUESTED, of="this host" if it.job_task_ids else "the whole invocation")


def _dispatched(it: dispatch.AttemptDue) -> Told:
    return "dispatched", {"proxy": it.proxy, "tried": it.tried}


def _bound(it: planning.AttemptBound) -> Told:
    facts: dict[str, Fact] = {
        "proxy": it.proxy,
        "template_version": it.template_version,
        "script": it.script_digest[:_DIGEST_CHARS],
    }
    if it.effective_user:
        facts["effective_user"] = it.effective_user
    return "bound", facts


def _refused(it: planning.AttemptRefused) -> Told:
    return _given(StepKind.REFUSED, why=it.reason.value, detail=it.detail)


def _rebound(it: planning.AttemptRebound) -> Told:
    return "rebound", {"proxy": it.proxy}


def _voided(it: planning.AttemptVoided) -> Told:
    return "voided", {}


def _delivered(it: execution.AttemptAccepted) -> Told:
    return "delivered", {}


def _released(it: execution.AttemptReleased) -> Told:
    return _given(StepKind.RELEASED, why=it.why.value, detail=it.detail, proof=it.proves_never_started or None)


def _started(it: execution.AttemptStarted) -> Told:
    facts: dict[str, Fact] = {"at": micros(it.started_at), "script": it.script_digest[:_DIGEST_CHARS]}
    if it.host_boot_id:
        facts["boot"] = it.host_boot_id[:_BOOT_CHARS]
    return "started", facts


def _ended(it: execution.AttemptEnded) -> Told:
    facts: dict[str, Fact] = {"at": micros(it.ended_at), "cause": it.cause.value}
    if it.exit_status is not None:
        facts["exit_status"] = it.exit_status
    if it.signal:
        facts["signal"] = it.signal[:MAX_FACT_CHARS]
    return "ended", facts


def _interrupted(it: execution.AttemptInterrupted) -> Told:
    return _given(StepKind.INTERRUPTED, detail=it.detail, boot=it.host_boot_id[:_BOOT_CHARS])


def _never_started(it: execution.AttemptNeverStarted) -> Told:
    return _given(StepKind.NEVER_STARTED, why=it.why.value, fenced_by=it.fenced_by)


def _asked_for(it: dispatch.ResumeDue) -> Told:
    return "asked_for", {"asked": it.asked, "proxy": it.proxy}


def _asked_to_end(it: dispatch.CancelDue) -> Told:
    return "asked_to_end", {"asked": it.asked, "proxy": it.proxy}


def _waits(it: dispatch.JobTaskStatusChanged) -> Told:
    """What the dispatcher made of an attempt that is over. The other states are facts of the attempt itself."""
    if not waits_after_attempt(it):
        return _NOTHING
    kind = StepKind.WAITING_FOR_CHECK_IN if it.status is JobTaskStatus.WAITING_FOR_CHECK_IN else StepKind.NEXT_TRY
    return _given(
        StepKind.NO_REPLY if it.after is Reason.UNKNOWN else kind,
        after=it.after.value if it.after else None,
        due_at=micros(it.due_at) if it.due_at else None,
        tried=it.tried,
        detail=it.detail,
    )


def waits_after_attempt(it: dispatch.JobTaskStatusChanged) -> bool:
    """Whether it says that another attempt is waited for."""
    return it.attempt > 0 and it.status in (JobTaskStatus.WAITING, JobTaskStatus.WAITING_FOR_CHECK_IN)


def _verdict(it: dispatch.JobTaskEnded) -> Told:
    facts: dict[str, Fact] = {"status": it.status.value, "attempts": it.attempts, "tried": it.tried}
    if it.exit_status is not None:
        facts["exit_status"] = it.exit_status
    if it.reason is not None:
        facts |= _given(StepKind.VERDICT, reason=it.reason.value, signal=it.signal, detail=it.detail)[1]
    return "verdict", facts


_TELLERS: dict[type[Item], Callable[[Any], Told]] = {
    planning.JobInvocationAccepted: _accepted,
    planning.JobInvocationCancelRequested: _cancel_requested,
    planning.AttemptBound: _bound,
    planning.AttemptRefused: _refused,
    planning.AttemptRebound: _rebound,
    planning.AttemptVoided: _voided,
    dispatch.AttemptDue: _dispatched,
    dispatch.ResumeDue: _asked_for,
    dispatch.CancelDue: _asked_to_end,
    dispatch.JobTaskStatusChanged: _waits,
    dispatch.JobTaskEnded: _verdict,
    execution.AttemptAccepted: _delivered,
    execution.AttemptReleased: _released,
    execution.AttemptStarted: _started,
    execution.AttemptEnded: _ended,
    execution.AttemptInterrupted: _interrupted,
    execution.AttemptNeverStarted: _never_started,
}
