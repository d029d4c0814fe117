"""The fold of all messages: order, repetition and grouping change nothing (S5, S62, S63, S64)."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from chargehand_reporter.core.groups import group_id, group_of
from chargehand_reporter.core.invocation import differs_at_end
from chargehand_reporter.core.job_task import outcome_of
from chargehand_reporter.core.output import Piece
from chargehand_reporter.core.read_model import ReadModel, Said, StreamKey, wanted_by
from chargehand_reporter.core.rows import Rows
from chargehand_schemas.dispatch import JobTaskStatusChanged
from chargehand_schemas.execution import AttemptAccepted, AttemptEnded, AttemptNeverStarted, AttemptReleased
from chargehand_schemas.planning import JobInvocationAccepted, JobInvocationRefused, JobTasksPlanned
from chargehand_schemas.reasons import (
    JobInvocationStatus,
    JobTaskStatus,
    NeverStartedWhy,
    Reason,
    Refusal,
    ReleaseReason,
    Role,
    Stream,
)
from chargehand_schemas.registry import type_of
from hypothesis import given, settings
from hypothesis import strategies as st
from support.story import Line, Part, Story, kept

HEARD = datetime(2026, 11, 1, tzinfo=UTC)
KINDS = ("job_invocations", "job_tasks", "decisions", "reports", "streams")


class Memory:
    """A store in memory: rows go into a fold and come back, group by group."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[Any, Any]] = {kind: {} for kind in KINDS}
        self.held: dict[StreamKey, dict[int, Piece]] = {}
        self.data: dict[StreamKey, bytes] = {}
        self.groups: dict[tuple[UUID, bytes], int] = {}
        self.disbelieved: list[str] = []
        self.contradictions: list[UUID] = []

    def take(self, lines: Iterable[Line], proxy: str = "local") -> None:
        rows: dict[str, Any] = {kind: Rows(self.rows[kind]) for kind in KINDS}
        model = ReadModel(**rows)
        messages = [said(line, proxy) for line in lines]
        wanted_by(messages)
        for message in messages:
            model.apply(message)
        closing = model.closing_streams()
        model.fold_all_output({key: tuple(self.held.get(key, {}).values()) for key in closing})
        model.finish()
        self._keep(model)

    def _keep(self, model: ReadModel) -> None:
        for kind in KINDS:
            rows: Rows[Any, Any] = getattr(model, kind)
            changed, dropped = rows.changed(), rows.dropped()
            if kind == "job_tasks":
                changed = {key: replace(row, group=model.task_groups[key]) for key, row in changed.items()}
            self.rows[kind] = {k: v for k, v in self.rows[kind].items() if k not in set(dropped)} | changed
        for key, folded in model.folded.items():
            held = self.held.setdefault(key, {})
            for start in folded.released:
                held.pop(start)
            for waiting in folded.held:
                if waiting.start not in held or held[waiting.start].end < waiting.end:
                    held[waiting.start] = waiting
            for piece in folded.appended:
                assert piece.offset == len(self.data.get(key, b""))
                self.data[key] = self.data.get(key, b"") + piece.data
        for place, change in model.group_changes.items():
            self.groups[place] = self.groups.get(place, 0) + change
            if not self.groups[place]:
                del self.groups[place]
        self.disbelieved += [one.detail for one in model.disbelieved]
        self.contradictions += model.contradictions

    def task(self, story: Story, part: Part) -> Any:
        return self.rows["job_tasks"][story.task_id(part)]

    def invocation(self, story: Story) -> Any:
        return self.rows["job_invocations"][story.job_invocation_id]


def said(line: Line, proxy: str = "local") -> Said:
    return Said(
        topic=type_of(type(line.item)).topic.base,
        partition=0,
        offset=0,
        role=line.role,
        subject=proxy if line.role is Role.AGENT else line.role.value,
        agent_id="agent-1" if line.role is Role.AGENT else "",
        heard_at=HEARD,
        items=(line.item,),
        raw=line.raw or b"",
    )


def folded(lines: Iterable[Line]) -> Memory:
    memory = Memory()
    memory.take(lines)
    return memory


@pytest.fixture
def story() -> Story:
    return Story(
        [
            Part("web1", {Stream.STDOUT: b"up 3 days\n" * 20, Stream.STDERR: b"warning\n"}),
            Part("web2", {Stream.STDOUT: b"up 3 days\n" * 20, Stream.STDERR: b"warning\n"}),
            Part("db1", {Stream.STDERR: b"no such file\n"}, exits=(1, 1)),
        ]
    )


def test_an_invocation_ends_with_its_counts_its_verdicts_and_all_output(story: Story) -> None:
    memory = folded(story.lines())
    invocation = memory.invocation(story)
    assert invocation.status is JobInvocationStatus.FAILED
    assert invocation.counts == {JobTaskStatus.SUCCEEDED: 2, JobTaskStatus.FAILED: 1}
    assert invocation.reasons == {Reason.EXIT_STATUS: 1}
    assert not differs_at_end(invocation)
    task = memory.task(story, story.parts[0])
    assert (task.status, task.exit_status, task.attempts, task.shown) == (JobTaskStatus.SUCCEEDED, 0, 1, 1)
    assert task.streams[Stream.STDOUT].complete
    assert memory.data[(task.job_task_id, 1, "local", Stream.STDOUT)] == b"up 3 days\n" * 20


def test_equal_ends_are_one_group(story: Story) -> None:
    memory = folded(story.lines())
    one, two, three = (group_of(memory.task(story, part)) for part in story.parts)
    assert one == two != three
    assert memory.groups == {(story.job_invocation_id, group_id(one)): 2, (story.job_invocation_id, group_id(three)): 1}


def test_a_retry_shows_the_last_attempt_and_counts_both(story: Story) -> None:
    memory = folded(story.lines())
    task = memory.task(story, story.parts[2])
    assert (task.attempts, task.tried, task.shown) == (2, 2, 2)
    assert memory.data[(task.job_task_id, 2, "local", Stream.STDERR)] == b"no such file\n"


def test_an_ended_attempt_does_not_end_its_job_task(story: Story) -> None:
    """docs/protocol.md section 3, item 3: the status comes from the dispatcher's events only."""
    part = story.parts[0]
    memory = folded([*story.opening(), *story.attempt(part, 1, 1, {})])
    assert memory.task(story, part).status is JobTaskStatus.RUNNING
    assert memory.invocation(story).counts[JobTaskStatus.RUNNING] == 1


def test_a_status_said_late_does_not_undo_a_later_one(story: Story) -> None:
    part = story.parts[0]
    lines = list(story.of_part(part))
    (running,) = [line for line in lines if isinstance(line.item, JobTaskStatusChanged)]
    memory = folded([*story.opening(), *lines])
    memory.take([running])
    assert memory.task(story, part).status is JobTaskStatus.SUCCEEDED


def test_a_report_of_an_earlier_attempt_lands_on_that_attempt(story: Story) -> None:
    """docs/protocol.md, rule LATE: after a verdict it changes the attempt's facts, never the verdict."""
    part = story.parts[0]
    late = story.fact(AttemptEnded, part, 1, exit_status=7, ended_at=story.began, **kept({Stream.STDOUT: b"late"}))
    memory = folded([*story.opening(), story.due(part, 1), story.due(part, 2), *story.of_part(part)])
    before = memory.task(story, part)
    memory.take([late])
    assert memory.task(story, part).status is before.status
    assert memory.rows["reports"][(story.task_id(part), 1, "local")].exit_status is not None


def test_the_word_of_a_proxy_that_was_not_asked_has_no_effect(story: Story) -> None:
    part = story.parts[0]
    memory = folded([*story.opening(), story.due(part, 1)])
    before = memory.task(story, part)
    forged = story.report(part, 1, Stream.STDOUT, 0, b"forged")
    memory.take([forged], proxy="other")
    assert memory.disbelieved == [f"attempt {story.task_id(part)}/1 is for proxy local, not other"]
    assert memory.data == {}
    assert memory.task(story, part) == before


def test_a_report_read_before_its_attempt_is_known_counts_once_it_is(story: Story) -> None:
    part = story.parts[0]
    memory = folded([story.report(part, 1, Stream.STDOUT, 0, b"early")])
    assert memory.rows["job_tasks"] == {}, "agents bring no job task into being"
    memory.take([*story.opening(), story.due(part, 1)])
    assert memory.task(story, part).streams[Stream.STDOUT].length == 5


def test_what_another_proxy_said_before_the_attempt_was_known_is_thrown_away(story: Story) -> None:
    part = story.parts[0]
    memory = Memory()
    memory.take([story.report(part, 1, Stream.STDOUT, 0, b"forged")], proxy="other")
    memory.take([*story.opening(), story.due(part, 1)])
    assert memory.rows["reports"] == {}
    assert memory.task(story, part).streams == {}


def test_an_agent_that_signs_for_another_proxy_is_not_believed(story: Story) -> None:
    part = story.parts[0]
    story.proxy = "other"
    accepted = story.fact(AttemptAccepted, part, 1)
    memory = Memory()
    memory.take([accepted], proxy="local")
    assert memory.disbelieved == ["an agent of local signed for proxy other"]
    assert memory.rows["reports"] == {}


def test_a_second_and_different_verdict_changes_nothing_and_is_noticed(story: Story) -> None:
    part = story.parts[0]
    memory = folded(story.lines())
    part.exits = (9,)
    memory.take([story.verdict(part)])
    assert memory.task(story, part).exit_status == 0
    assert memory.contradictions == [story.task_id(part)]


def test_a_refused_repeat_does_not_touch_the_accepted_invocation(story: Story) -> None:
    memory = folded(story.lines())
    refused = JobInvocationRefused(
        id=uuid4(), time=story.began + timedelta(hours=1), job_invocation_id=story.job_invocation_id,
        command_id=uuid4(), actor="user:eve", reason=Refusal.ALREADY_EXISTS, detail="there is one",
    )  # fmt: skip
    memory.take([Line(Role.PLANNER, refused, str(story.job_invocation_id))])
    assert memory.invocation(story).status is JobInvocationStatus.FAILED
    assert memory.invocation(story).actor == "user:admin"


def test_a_missing_verdict_shows_as_a_difference_at_the_end(story: Story) -> None:
    lines = [line for line in story.lines() if line.item != story.verdict(story.parts[0]).item]
    memory = folded([line for line in lines if getattr(line.item, "host_name", "") != "web1"])
    assert differs_at_end(memory.invocation(story))


def test_an_attempt_that_was_released_or_never_started_says_why(story: Story) -> None:
    part = story.parts[0]
    released = story.fact(AttemptReleased, part, 1, why=ReleaseReason.COULD_NOT_CONNECT, detail="refused by 10.0.0.1")
    memory = folded([*story.opening(), story.due(part, 1), released])
    key = (story.task_id(part), 1)
    decision, report = memory.rows["decisions"][key], memory.rows["reports"][(*key, "local")]
    assert outcome_of(decision, report) == ("released: could_not_connect", "refused by 10.0.0.1")
    memory.take([story.fact(AttemptAccepted, part, 1)])
    assert outcome_of(decision, memory.rows["reports"][(*key, "local")])[0] == "accepted"
    memory.take([story.fact(AttemptNeverStarted, part, 1, why=NeverStartedWhy.FENCED, fenced_by=1)])
    assert outcome_of(decision, memory.rows["reports"][(*key, "local")]) == ("never_started", "fenced by attempt 1")


def test_counts_wait_for_no_plan(story: Story) -> None:
    lines = [line for line in story.lines() if not isinstance(line.item, JobTasksPlanned | JobInvocationAccepted)]
    memory = folded(lines)
    assert sum(memory.invocation(story).counts.values()) == 3


@st.composite
def shuffled_lines(draw: st.DrawFn) -> tuple[Story, list[list[Line]]]:
    """A story told in any order, with repeats, in groups of any size."""
    parts = [
        Part(
            f"host{n}",
            draw(st.dictionaries(st.sampled_from(Stream), st.binary(max_size=200), max_size=2)),
            draw(st.sampled_from([(0,), (1,), (1, 0), (3, 3)])),
        )
        for n in range(draw(st.integers(1, 3)))
    ]
    story = Story(parts, began=HEARD, chunk_bytes=draw(st.sampled_from([17, 64, 512])))
    lines = story.lines()
    lines += draw(st.lists(st.sampled_from(lines), max_size=10))
    lines = draw(st.permutations(lines))
    groups: list[list[Line]] = [[]]
    for line in lines:
        groups[-1].append(line)
        if draw(st.booleans()):
            groups.append([])
    return story, groups


@settings(max_examples=150, deadline=None)
@given(shuffled_lines())
def test_any_order_repetition_and_grouping_gives_the_same_read_model(case: tuple[Story, list[list[Line]]]) -> None:
    story, groups = case
    straight = folded(sorted({line.item.id: line for group in groups for line in group}.values(), key=_time))
    mixed = Memory()
    for group in groups:
        mixed.take(group)
    assert mixed.rows == straight.rows
    assert mixed.data == straight.data
    assert mixed.groups == straight.groups
    assert not any(mixed.held.values())
    assert not mixed.contradictions
    assert not differs_at_end(mixed.invocation(story))


def _time(line: Line) -> datetime:
    return line.item.time


@settings(max_examples=50, deadline=None)
@given(shuffled_lines())
def test_counts_and_groups_always_add_up_to_the_job_tasks_known(case: tuple[Story, list[list[Line]]]) -> None:
    story, groups = case
    memory = Memory()
    for group in groups:
        memory.take(group)
        tasks = memory.rows["job_tasks"].values()
        if tasks:
            assert sum(memory.invocation(story).counts.values()) == len(tasks)
        assert sum(memory.groups.values()) == len(tasks)


def test_a_stream_without_a_byte_is_no_stream_to_show(story: Story) -> None:
    memory = folded([story.report(story.parts[0], 1, Stream.STDOUT, 5, b"beyond a hole")])
    assert all((state.end, state.stored, state.tail) == (0, 0, b"") for state in memory.rows["streams"].values())
