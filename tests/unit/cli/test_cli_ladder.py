"""A ladder for people: local times with what lies between them, who, where, and what, and nothing of a host's escapes."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from chargehand.terminal.ladder import (
    attempt_row,
    clock,
    ladder_rows,
    next_try_words,
    outcome_words,
    step_words,
    tries_words,
    what,
)
from chargehand_schemas.api import AttemptDocument, JobTaskDocument, StepDocument, StreamDocument
from chargehand_schemas.reasons import JobTaskStatus, StepKind, Stream

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
TOPIC = "chargehand.execution-events.v1"


def step(kind: StepKind, ms: int, *, late: bool = False, more: bool = False, **facts: str | int | bool) -> StepDocument:
    moment = NOW + timedelta(milliseconds=ms)
    return StepDocument(
        kind=kind, time=moment, heard_at=moment, topic=TOPIC, partition=3, offset=117, actor="agent/local/a", late=late,
        more=more, facts=facts,
    )  # fmt: skip


def span(end: int) -> dict[str, Any]:
    return {"from": 0, "to": end}


def job_task(*attempts: AttemptDocument, steps: tuple[StepDocument, ...] = ()) -> JobTaskDocument:
    return JobTaskDocument(
        job_task_id=uuid4(), job_invocation_id=uuid4(), host_id=uuid4(), host="web1", status=JobTaskStatus.FAILED,
        attempts=len(attempts), tried=len(attempts), attempts_detail=attempts, steps=steps,
    )  # fmt: skip


def test_steps_of_all_attempts_stand_in_one_order_with_the_time_between_them() -> None:
    first = AttemptDocument(attempt=1, steps=(step(StepKind.DISPATCHED, 2), step(StepKind.ENDED, 1300, exit_status=1)))
    second = AttemptDocument(
        attempt=2, steps=(step(StepKind.DISPATCHED, 1300), step(StepKind.ENDED, 130_000, late=True))
    )
    whole = (step(StepKind.ACCEPTED, 2), step(StepKind.VERDICT, 1400, status="failed"))
    shown = job_task(first, second, steps=whole)
    assert [(number, one.kind.value) for number, one in shown.ladder()] == [
        (0, "accepted"), (1, "dispatched"), (1, "ended"), (2, "dispatched"), (0, "verdict"), (2, "ended"),
    ]  # fmt: skip
    rows = list(ladder_rows(shown))
    assert [row[0] for row in rows] == ["", "1", "1", "2", "", "2"]
    assert [row[3] for row in rows] == ["", "+0 ms", "+1.3 s", "+0 ms", "+100 ms", "+2 min 9 s"]
    assert rows[2][1:3] == ("ended", (NOW + timedelta(seconds=1.3)).astimezone().strftime("%H:%M:%S.") + "300")
    assert rows[2][4:] == ("agent/local/a", "execution-events 3:117", "exit status 1")
    assert rows[5][1] == "ended, late"
    assert list(ladder_rows(job_task())) == []


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (step(StepKind.DELIVERED, 0), ""),
        (step(StepKind.RELEASED, 0, why="stopping", proof=True), "stopping, proof"),
        (step(StepKind.NEXT_TRY, 0, after="exit_status", tried=1), "after exit status, tried 1"),
        (step(StepKind.OUTPUT, 0, stream="stdout", **span(64)), "stdout, bytes 0 to 64"),
        (
            step(StepKind.OUTPUT, 0, stream="stderr", bytes=7, left_out=3, **span(10)),
            "stderr, bytes 0 to 10, 7 kept, 3 left out",
        ),
        (step(StepKind.ASKED_FOR, 0, asked=1, proxy="local"), "asked once; proxy local"),
        (step(StepKind.NO_REPLY, 0, asked=3, detail="no agent could say"), "asked 3 times; no agent could say"),
        (step(StepKind.NO_REPLY, 0, after="unknown", tried=1), "after unknown, tried 1"),
        (step(StepKind.RELEASED, 0, why="could_not_connect", detail="refused"), "could not connect, refused"),
        (step(StepKind.ACCEPTED, 0, template="Run Command", template_version=2, via="planner/1"), "Run Command, template version 2"),
    ],
)  # fmt: skip
def test_what_a_step_says(one: StepDocument, words: str) -> None:
    assert what(one) == words


def test_instants_in_a_step_are_local() -> None:
    one = step(StepKind.STARTED, 0, started_at="2026-11-20T12:00:00.250000Z")
    assert what(one) == f"started at {NOW.astimezone():%H:%M:%S}.250"


def test_a_step_that_stands_for_more_than_itself_says_so() -> None:
    assert step_words(step(StepKind.ASKED_FOR, 0, more=True)) == "asked for, others between"


def test_the_next_try_is_said_with_its_time_and_how_long_that_is() -> None:
    due = NOW + timedelta(seconds=3.2)
    assert next_try_words(due, NOW) == f"next try at {clock(due, NOW)}, in 4 s"
    assert next_try_words(NOW + timedelta(minutes=2), NOW).endswith("in 2 min 0 s")
    assert next_try_words(NOW, due).endswith("as soon as there is a free slot")
    assert clock(NOW + timedelta(days=2), NOW).startswith("2026-11-2")


def test_an_attempt_is_a_row_of_its_own() -> None:
    attempt = AttemptDocument(
        attempt=2, outcome="exited", exit_status=3, started_at=NOW, ended_at=NOW + timedelta(seconds=1.2), late=True,
        streams={Stream.STDOUT: StreamDocument(length=40)},
    )  # fmt: skip
    assert attempt_row(attempt, NOW)[1:] == ("exited, told late", clock(NOW, NOW), "1.2 s", "3", "40 B", "", "")
    assert attempt_row(AttemptDocument(attempt=1, outcome="due"), NOW)[1:] == ("due", "", "", "", "", "", "")
    assert outcome_words(AttemptDocument(attempt=1, outcome="\x1b[31m")) != "\x1b[31m"


def test_tries_are_counted_apart_from_attempts() -> None:
    one = job_task(AttemptDocument(attempt=1))
    assert tries_words(one, 3) == "1 of 3 failed, 1 attempt"
    assert tries_words(one.model_copy(update={"attempts": 2}), None) == "1 failed, 2 attempts"
