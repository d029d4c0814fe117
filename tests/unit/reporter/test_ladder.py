"""The delivery ladder of an attempt: who said what, when, and where it stands in the log, whatever the order of reading (S62)."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from chargehand_reporter.core.documents import history_document
from chargehand_reporter.core.ladder import NO_ATTEMPT, add_step, place_of, read_ladder
from chargehand_reporter.core.output import Piece
from chargehand_reporter.core.read_model import ReadModel, Said, StreamKey, wanted_by
from chargehand_reporter.core.rows import Rows
from chargehand_reporter.core.steps import Attempt, JobTaskHistory
from chargehand_schemas.api import AttemptDocument, JobTaskDocument, StepDocument
from chargehand_schemas.dispatch import CancelDue, JobTaskEnded, JobTaskStatusChanged, ResumeDue
from chargehand_schemas.execution import (
    AttemptAccepted,
    AttemptEnded,
    AttemptInterrupted,
    AttemptNeverStarted,
    AttemptReleased,
)
from chargehand_schemas.planning import AttemptRebound, AttemptRefused, AttemptVoided, JobInvocationCancelRequested
from chargehand_schemas.reasons import JobTaskStatus, NeverStartedWhy, Reason, ReleaseReason, Role, StepKind, Stream
from chargehand_schemas.registry import type_of
from hypothesis import given, settings
from hypothesis import strategies as st
from support.story import Line, Part, Story, kept

HEARD = datetime(2026, 11, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)


def in_the_log(lines: Iterable[Line], proxy: str = "local") -> list[Said]:
    """Messages at their places: the broker takes one each millisecond."""
    offsets: Counter[str] = Counter()
    found = []
    for n, line in enumerate(lines):
        topic = type_of(type(line.item)).topic.name
        is_agent, role = line.role is Role.AGENT, line.role.value
        found.append(
            Said(
                topic=topic,
                partition=3,
                offset=offsets[topic],
                role=line.role,
                subject=proxy if is_agent else role,
                agent_id="agent-1" if is_agent else "",
                heard_at=HEARD + n * MILLISECOND,
                items=(line.item,),
                raw=line.raw or b"",
                source="" if is_agent else f"{role}/1",
            )
        )
        offsets[topic] += 1
    return found


class Memory:
    """Rows in memory; a group of messages is folded into them."""

    def __init__(self) -> None:
        self.kinds: dict[str, dict[Any, Any]] = {
            kind: {} for kind in ("job_invocations", "job_tasks", "decisions", "reports", "streams")
        }
        self.held: dict[StreamKey, dict[int, Piece]] = defaultdict(dict)

    def take(self, messages: Sequence[Said]) -> None:
        loaded: dict[str, Any] = {kind: Rows(rows) for kind, rows in self.kinds.items()}
        model = ReadModel(**loaded)
        wanted_by(messages)
        for said in messages:
            model.apply(said)
        model.fold_all_output({key: tuple(self.held[key].values()) for key in model.closing_streams()})
        model.finish()
        for key, folded in model.folded.items():
            for start in folded.released:
                self.held[key].pop(start)
            self.held[key] |= {piece.start: piece for piece in folded.held}
        for kind, rows in self.kinds.items():
            touched: Rows[Any, Any] = getattr(model, kind)
            for dropped in touched.dropped():
                del rows[dropped]
            rows |= touched.changed()

    def document(self, story: Story, part: Part) -> JobTaskDocument:
        key, kinds = story.task_id(part), self.kinds
        numbers = sorted(n for job_task_id, n in kinds["decisions"] if job_task_id == key and n != NO_ATTEMPT)
        attempts = [
            Attempt(
                n,
                decided := kinds["decisions"][key, n],
                kinds["reports"].get((key, n, decided.proxy)),
                {k[3]: state for k, state in kinds["streams"].items() if k[:3] == (key, n, decided.proxy)},
            )
            for n in numbers
        ]
        cancels = kinds["decisions"].get((key, NO_ATTEMPT))
        return history_document(
            JobTaskHistory(
                replace(kinds["job_tasks"][key], position=0), kinds["job_invocations"][story.job_invocation_id], attempts,
                cancels.steps if cancels else "",
            )
        )  # fmt: skip


def document(story: Story, lines: Iterable[Line]) -> JobTaskDocument:
    memory = Memory()
    memory.take(in_the_log(lines))
    return memory.document(story, story.parts[0])


def words(steps: Iterable[StepDocument]) -> list[str]:
    return [step.kind.value for step in steps]


def step(attempt: AttemptDocument, kind: StepKind) -> StepDocument:
    return next(one for one in attempt.steps if one.kind is kind)


@pytest.fixture
def story() -> Story:
    return Story([Part("db1", {Stream.STDOUT: b"a line\n" * 20, Stream.STDERR: b"no such file\n"}, exits=(1, 0))])


def test_every_attempt_has_its_ladder_and_the_job_task_its_own(story: Story) -> None:
    shown = document(story, story.lines())
    assert words(shown.steps) == ["accepted", "planned", "verdict"]
    first, second = shown.attempts_detail
    assert words(first.steps) == ["dispatched", "bound", "delivered", "started", "ended", "next_try"]
    assert words(second.steps) == [
        "dispatched", "bound", "delivered", "started", "output", "output", "output", "ended",
    ]  # fmt: skip
    assert (first.exit_status, second.exit_status) == (1, 0)


def test_a_step_says_when_where_and_by_whom(story: Story) -> None:
    lines = story.lines()
    shown = document(story, lines)
    accepted = shown.steps[0]
    assert (accepted.actor, accepted.facts["via"]) == ("user:admin", "planner/1")
    delivered = step(shown.attempts_detail[0], StepKind.DELIVERED)
    (place,) = [n for n, line in enumerate(lines) if isinstance(line.item, AttemptAccepted)][:1]
    assert delivered.actor == "agent/local/agent-1"
    assert delivered.time == lines[place].item.time
    assert delivered.heard_at == HEARD + place * MILLISECOND
    assert (delivered.topic, delivered.partition, delivered.offset) == ("chargehand.execution-events.v1", 3, 0)
    assert step(shown.attempts_detail[0], StepKind.DISPATCHED).actor == "dispatcher/1"
    assert step(shown.attempts_detail[1], StepKind.BOUND).facts["template_version"] == 1


def test_output_is_the_first_report_and_the_latest_and_not_one_step_each(story: Story) -> None:
    second = document(story, story.lines()).attempts_detail[1]
    output = [one.facts for one in second.steps if one.kind is StepKind.OUTPUT]
    assert output == [
        {"stream": "stdout", "from": 0, "to": 64},
        {"stream": "stdout", "from": 128, "to": 140, "bytes": 140},
        {"stream": "stderr", "from": 0, "to": 13, "bytes": 13},
    ]


def test_the_next_try_is_said_with_its_time_while_it_is_waited_for(story: Story) -> None:
    lines = story.lines()
    (place,) = [n for n, line in enumerate(lines) if isinstance(line.item, JobTaskStatusChanged)][1:2]
    waiting = lines[place - 1 : place + 1]
    until = next(n for n, x in enumerate(lines) if getattr(x.item, "status", None) is JobTaskStatus.WAITING)
    shown = document(story, lines[: until + 1])
    assert waiting
    assert shown.next_try_at == shown.due_at == lines[until].item.due_at  # type: ignore[attr-defined]
    assert shown.attempts_detail[0].steps[-1].facts["after"] == "exit_status"
    assert document(story, lines).next_try_at is None


def asked(story: Story, part: Part, n: int, model: type[ResumeDue] | type[CancelDue] = ResumeDue) -> Line:
    due = story.due(part, 1)
    more = due.item.model_dump(include={"job_invocation_id", "job_task_id", "host_id", "attempt", "proxy", "issued_at"})
    time = due.item.time + timedelta(seconds=30 * n)
    return replace(due, item=model(id=uuid4(), time=time, run_deadline=time, asked=n, **more))


def test_askings_are_counted_and_not_listed_without_end(story: Story) -> None:
    part = story.parts[0]
    lines = [*story.opening(), story.due(part, 1), *(asked(story, part, n) for n in range(1, 101))]
    steps = document(story, lines).attempts_detail[0].steps
    assert [(one.kind.value, one.facts["asked"], one.more) for one in steps[1:]] == [
        ("asked_for", 1, False),
        ("asked_for", 100, True),
    ]


def test_no_reply_is_a_step_with_its_reason(story: Story) -> None:
    part = story.parts[0]
    ended = story.verdict(part)
    unknown = {"status": JobTaskStatus.FAILED, "reason": Reason.UNKNOWN, "exit_status": None, "attempts": 1}
    gone = replace(ended, item=ended.item.model_copy(update={**unknown, "detail": "no agent could say"}))
    lines = [*story.opening(), *list(story.attempt(part, 1, 1, {}))[:4], asked(story, part, 2), gone]
    (attempt,) = document(story, lines).attempts_detail
    assert words(attempt.steps)[-2:] == ["asked_for", "no_reply"]
    assert attempt.steps[-1].facts == {"asked": 2, "detail": "no agent could say"}
    assert (attempt.steps[-1].topic, attempt.steps[-1].actor) == ("chargehand.dispatch-events.v1", "dispatcher/1")


def test_an_attempt_given_up_while_another_is_waited_for_had_no_reply_either(story: Story) -> None:
    part = story.parts[0]
    waiting = next(x for x in story.lines() if getattr(x.item, "status", None) is JobTaskStatus.WAITING)
    waiting = replace(waiting, item=waiting.item.model_copy(update={"after": Reason.UNKNOWN}))
    (attempt,) = document(story, [*story.opening(), story.due(part, 1), waiting]).attempts_detail
    assert words(attempt.steps) == ["dispatched", "no_reply"]


def test_a_late_report_lands_on_its_attempt_and_changes_no_verdict(story: Story) -> None:
    part = story.parts[0]
    ended = story.verdict(part)
    unknown = {"status": JobTaskStatus.FAILED, "reason": Reason.UNKNOWN, "exit_status": None, "attempts": 1}
    gone = replace(ended, item=ended.item.model_copy(update=unknown))
    attempt = list(story.attempt(part, 1, 0, {Stream.STDOUT: b"done\n"}))
    late = [line for line in attempt if isinstance(line.item, AttemptEnded) or line.raw is not None]
    before = [line for line in attempt if line not in late]
    shown = document(story, [*story.opening(), *before, gone, *late])
    (one,) = shown.attempts_detail
    assert (shown.status, shown.reason, shown.exit_status) == (JobTaskStatus.FAILED, Reason.UNKNOWN, None)
    assert (one.outcome, one.exit_status, one.late) == ("exited", 0, True)
    assert [(s.kind.value, s.late) for s in one.steps][-3:] == [("no_reply", False), ("output", True), ("ended", True)]
    assert not any(s.late for s in one.steps[:-2])
    in_time = document(story, [*story.opening(), *attempt, gone]).attempts_detail[0]
    assert not in_time.late
    assert "no_reply" not in words(in_time.steps)


@pytest.mark.parametrize(
    ("model", "more", "kind"),
    [
        (AttemptRefused, {"detail": "no right"}, "refused"),
        (AttemptRebound, {"proxy": "other"}, "rebound"),
        (AttemptVoided, {}, "voided"),
    ],
)
def test_what_the_binder_decided_is_a_step(story: Story, model: type, more: dict[str, str], kind: str) -> None:
    part = story.parts[0]
    due = story.due(part, 1)
    about = due.item.model_dump(include={"job_invocation_id", "job_task_id", "host_id", "attempt", "time"})
    said = Line(Role.PLANNER, model(id=uuid4(), **about, **more), due.key)
    (attempt,) = document(story, [*story.opening(), due, said]).attempts_detail
    assert words(attempt.steps) == ["dispatched", kind]
    assert attempt.steps[1].facts.items() >= more.items()


def test_who_asked_to_cancel_is_shown_at_the_host_and_at_the_whole(story: Story) -> None:
    part = story.parts[0]
    about = {"job_invocation_id": story.job_invocation_id, "command_id": uuid4(), "time": HEARD}
    whole = JobInvocationCancelRequested(id=uuid4(), actor="user:ann", **about)
    one = JobInvocationCancelRequested(id=uuid4(), actor="user:bob", job_task_ids=(story.task_id(part),), **about)
    other = JobInvocationCancelRequested(id=uuid4(), actor="user:eve", job_task_ids=(uuid4(),), **about)
    lines = [Line(Role.PLANNER, item, "") for item in (one, other, whole)]
    found = document(story, [*lines, *story.lines()]).steps
    cancels = [(step.actor, step.facts["of"]) for step in found if step.kind is StepKind.CANCEL_REQUESTED]
    assert sorted(cancels) == [("user:ann", "the whole invocation"), ("user:bob", "this host")]


def test_an_agent_of_another_proxy_leaves_no_step(story: Story) -> None:
    part = story.parts[0]
    memory = Memory()
    forged = [story.fact(AttemptNeverStarted, part, 1, why=NeverStartedWhy.TOMBSTONE)]
    forged = [replace(line, item=line.item.model_copy(update={"proxy": "other"})) for line in forged]
    memory.take(in_the_log(forged, proxy="other"))
    memory.take(in_the_log([*story.opening(), story.due(part, 1)]))
    memory.take(in_the_log(forged, proxy="other"))
    assert words(memory.document(story, part).attempts_detail[0].steps) == ["dispatched"]


def test_a_host_that_talks_without_end_fills_no_store(story: Story) -> None:
    """Of a kind of step the first four are kept and the latest, and texts are cut."""
    part = story.parts[0]
    said = [
        story.fact(AttemptReleased, part, 1, why=ReleaseReason.HOST_REFUSED, detail=f"{n} \x1b[31m\0" + "x" * 2000)
        for n in range(50)
    ]
    (attempt,) = document(story, [*story.opening(), story.due(part, 1), *said]).attempts_detail
    released = [one for one in attempt.steps if one.kind is StepKind.RELEASED]
    assert [str(one.facts["detail"]).split()[0] for one in released] == ["0", "1", "2", "3", "49"]
    assert [one.more for one in released] == [False, False, False, False, True]
    assert all(len(str(one.facts["detail"])) <= 300 for one in released)


def eventful(story: Story) -> list[Line]:
    """Two attempts with all kinds of steps, some of them many times."""
    part = story.parts[0]
    answered = story.fact(AttemptAccepted, part, 1)
    lines = [
        *story.lines(),
        *(asked(story, part, n) for n in range(1, 7)),
        *(asked(story, part, n, CancelDue) for n in range(1, 4)),
        *(story.fact(AttemptReleased, part, 1, why=ReleaseReason.STOPPING, detail=f"{n}\n") for n in range(8)),
        replace(answered, item=answered.item.model_copy(update={"causation_id": uuid4()})),
        story.fact(
            AttemptInterrupted, part, 2, detail="gone", **{k: v for k, v in kept({}).items() if k != "newlines"}
        ),
        story.fact(AttemptNeverStarted, part, 2, why=NeverStartedWhy.FENCED, fenced_by=1),
    ]
    lines.append(lines[-1])
    return lines


@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 40))
def test_no_order_no_repeat_and_no_grouping_changes_a_ladder(order: random.Random, size: int) -> None:
    story = Story(
        [Part("db1", {Stream.STDOUT: b"a line\n" * 20}, exits=(1, 0), host_id=UUID(int=7))],
        job_invocation_id=UUID(int=8),
        began=HEARD,
    )
    said = in_the_log(eventful(story))
    memory = Memory()
    memory.take(said)
    expected = memory.document(story, story.parts[0])
    mixed = said + order.sample(said, len(said) // 3)
    order.shuffle(mixed)
    other = Memory()
    for start in range(0, len(mixed), size):
        other.take(mixed[start : start + size])
    found = other.document(story, story.parts[0])
    assert found.steps == expected.steps
    assert [one.steps for one in found.attempts_detail] == [one.steps for one in expected.attempts_detail]


def test_a_step_stands_at_the_first_place_of_its_repeats(story: Story) -> None:
    item = story.fact(AttemptAccepted, story.parts[0], 1).item
    early, late = (place_of(HEARD + n * MILLISECOND, 0, n, "agent/local/a") for n in (1, 2))
    text = add_step("", item, late)
    assert add_step(text, item, early) == add_step("", item, early) != text
    assert add_step(add_step("", item, early), item, late) == add_step("", item, early)
    assert read_ladder("").steps == ()


def test_a_second_verdict_of_a_broken_log_is_shown_too(story: Story) -> None:
    lines = story.lines()
    verdict = next(line for line in lines if isinstance(line.item, JobTaskEnded))
    time = verdict.item.time + timedelta(seconds=1)
    other = replace(verdict, item=verdict.item.model_copy(update={"id": uuid4(), "time": time}))
    assert words(document(story, [*lines, other]).steps) == ["accepted", "planned", "verdict", "verdict"]
