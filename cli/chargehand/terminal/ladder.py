"""A job task with its attempts, and its delivery ladder, for people. Pure: the document and the time now in, words out.

Owns the words of steps and the columns. What the steps are is decided by the reporter (docs/explanation/delivery-ladder.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from chargehand_schemas.api import AttemptDocument, JobTaskDocument, StepDocument
from chargehand_schemas.reasons import StepKind, Stream

from .escapes import visible
from .summary import duration

ATTEMPT_COLUMNS = ("attempt", "outcome", "started", "took", "exit", "stdout", "stderr", "detail")
STEP_COLUMNS = ("attempt", "step", "at", "after", "by", "in the log", "what")

_QUIET_FACTS = frozenset({"via", "ordinal", "attempts"})


def next_try_words(due_at: datetime, now: datetime) -> str:
    """`next try at 12:00:05, in 4 s`."""
    left = due_at - now
    when = f"next try at {clock(due_at, now)}"
    return f"{when}, in {_seconds(left)}" if left > timedelta(0) else f"{when}, as soon as there is a free slot"


def tries_words(job_task: JobTaskDocument, tries: int | None) -> str:
    """`2 of 3 failed, 3 attempts`: an attempt that never started is no try."""
    of = f" of {tries}" if tries is not None else ""
    return f"{job_task.tried}{of} failed, {job_task.attempts} attempt{'s' if job_task.attempts != 1 else ''}"


def clock(moment: datetime, near: datetime) -> str:
    """A local time of day; with its date where that is another than the one of `near`."""
    here = moment.astimezone()
    is_other_day = here.date() != near.astimezone().date()
    return here.strftime("%Y-%m-%d %H:%M:%S" if is_other_day else "%H:%M:%S")


def attempt_row(attempt: AttemptDocument, now: datetime) -> Sequence[str]:
    """A row of the attempts of a job task."""
    is_over = attempt.started_at is not None and attempt.ended_at is not None
    took = duration(attempt.ended_at - attempt.started_at) if is_over else ""  # type: ignore[operator]
    ended = "" if attempt.exit_status is None else str(attempt.exit_status)
    return (
        str(attempt.attempt),
        outcome_words(attempt),
        clock(attempt.started_at, now) if attempt.started_at else "",
        took,
        attempt.signal or ended,
        *(_length(attempt, stream) for stream in Stream),
        attempt.detail[:200],
    )


def outcome_words(attempt: AttemptDocument) -> str:
    """The outcome, and whether it became known too late to count."""
    return f"{_words(attempt.outcome)}{', told late' if attempt.late else ''}"


def _length(attempt: AttemptDocument, stream: Stream) -> str:
    found = attempt.streams.get(stream)
    return f"{found.length} B" if found is not None else ""


def ladder_rows(job_task: JobTaskDocument) -> Iterator[Sequence[str]]:
    """Every step of a job task by the broker's clock, with how long after the one before it came."""
    steps = job_task.ladder()
    first = steps[0][1].heard_at if steps else None
    earlier: datetime | None = None
    for number, step in steps:
        gap = "" if earlier is None else f"+{_gap(step.heard_at - earlier)}"
        earlier = step.heard_at
        at = clock(step.heard_at, first or step.heard_at) + f".{step.heard_at.microsecond // 1000:03d}"
        yield str(number or ""), step_words(step), at, gap, step.actor, _place(step), what(step)


def step_words(step: StepDocument) -> str:
    """Its kind in words, marked where it came too late or stands for more than itself."""
    marks = (", late" if step.late else "") + (", others between" if step.more else "")
    return f"{_words(step.kind.value)}{marks}"


def _place(step: StepDocument) -> str:
    """`execution-events 3:117`: topic, partition and offset."""
    return f"{step.topic.removeprefix('chargehand.').rsplit('.', 1)[0]} {step.partition}:{step.offset}"


def what(step: StepDocument) -> str:
    """Its facts in words."""
    facts = dict(step.facts)
    match step.kind:
        case StepKind.OUTPUT:
            return _output_words(facts)
        case StepKind.ASKED_FOR | StepKind.ASKED_TO_END | StepKind.NO_REPLY if "asked" in facts:
            asked = int(facts.pop("asked"))
            return "; ".join(filter(None, (f"asked {_times(asked)}", _fact_words(facts))))
        case _:
            return _fact_words(facts)


def _output_words(facts: dict[str, str | int | bool]) -> str:
    words = f"{facts['stream']}, bytes {facts['from']} to {facts['to']}"
    words += f", {facts['bytes']} kept" if "bytes" in facts else ""
    return words + (f", {facts['left_out']} left out" if "left_out" in facts else "")


def _fact_words(facts: dict[str, str | int | bool]) -> str:
    return ", ".join(_fact(name, value) for name, value in facts.items() if name not in _QUIET_FACTS)


def _fact(name: str, value: str | int | bool) -> str:
    words = _words(name)
    if value is True:
        return words
    if name.endswith("_at"):
        return f"{words} {datetime.fromisoformat(str(value)).astimezone():%H:%M:%S.%f}"[:-3]
    if name in ("detail", "template"):
        return str(value)
    if name in ("why", "cause", "status", "reason"):
        return _words(str(value))
    return f"{words} {_words(str(value)) if name == 'after' else value}"


def _times(count: int) -> str:
    return "once" if count == 1 else "never" if not count else f"{count} times"


def _words(text: str) -> str:
    return visible(text.replace("_", " "))


def _gap(interval: timedelta) -> str:
    """`4 ms`, `1.2 s`, `2 min 5 s`."""
    if interval < timedelta(seconds=1):
        return f"{round(interval / timedelta(milliseconds=1))} ms"
    return duration(interval)


def _seconds(interval: timedelta) -> str:
    """Whole seconds below a minute."""
    return f"{-(-interval // timedelta(seconds=1))} s" if interval < timedelta(minutes=1) else duration(interval)
