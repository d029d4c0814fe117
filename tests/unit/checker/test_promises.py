"""The checker finds each broken promise, and nothing in a log that breaks none."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from chargehand.checker import Entry, Recording, check
from chargehand_schemas.base import Item
from chargehand_schemas.dispatch import (
    AttemptDue,
    ConcurrencyChanged,
    JobInvocationEnded,
    JobTaskEnded,
    JobTaskStatusChanged,
)
from chargehand_schemas.execution import AttemptEnded, AttemptNeverStarted, AttemptStarted
from chargehand_schemas.ids import job_task_id
from chargehand_schemas.planning import AttemptBound, JobInvocationScheduled, JobTasksPlanned, PlannedJobTask
from chargehand_schemas.progress import OutputOmitted, ProgressReport
from chargehand_schemas.properties import ExecutionProperties, Rolling
from chargehand_schemas.reasons import JobInvocationStatus, JobTaskStatus, NeverStartedWhy, Reason, Stream
from chargehand_schemas.registry import type_of

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
INVOCATION = UUID(int=1)
AGENT: dict[str, Any] = {"proxy": "dmz", "agent_id": "a1", "agent_boot_id": UUID(int=5), "journal_id": UUID(int=6)}


@dataclass
class Log:
    """Tells a story, one item after the other."""

    entries: list[Entry] = field(default_factory=list)

    def add(self, model: type[Item], at: float = 0, raw: bytes = b"", **fields: Any) -> "Log":
        moment = NOON + timedelta(seconds=at)
        item = model(id=uuid4(), time=moment, job_invocation_id=INVOCATION, **fields)
        self.entries.append(Entry(type_of(model).topic.name, 0, len(self.entries), moment, item, raw))
        return self

    def violations(self, **options: Any) -> list[str]:
        found = check(Recording.of(self.entries, NOON + timedelta(hours=48)), **options)
        return sorted({violation.promise for violation in found})


def host(n: int) -> dict[str, Any]:
    return {"job_task_id": job_task_id(INVOCATION, UUID(int=100 + n)), "host_id": UUID(int=100 + n)}


def planned(hosts: int = 2, **properties: Any) -> Log:
    tasks = tuple(PlannedJobTask(**host(n), host_name=f"web{n}", proxy="dmz", ordinal=n) for n in range(hosts))
    return (
        Log()
        .add(JobInvocationScheduled, start_at=NOON, properties=ExecutionProperties(**properties))
        .add(JobTasksPlanned, chunk=0, chunks=1, total=hosts, job_tasks=tasks)
    )


def due(log: Log, n: int, attempt: int = 1, at: float = 1, tried: int = 0, **fields: Any) -> Log:
    issued = NOON + timedelta(seconds=at)
    log.add(
        AttemptDue, at, **host(n), attempt=attempt, host_name=f"web{n}", proxy="dmz", issued_at=issued,
        not_after=issued + timedelta(seconds=30), run_deadline=issued + timedelta(hours=1), tried=tried, **fields,
    )  # fmt: skip
    return bound(log, n, attempt, at)


def bound(log: Log, n: int, attempt: int = 1, at: float = 1) -> Log:
    return log.add(
        AttemptBound, at, **host(n), attempt=attempt, proxy="dmz", lock_path="x", template_id=UUID(int=9),
        template_version=1, effective_user="", script_digest="d",
    )  # fmt: skip


def started(log: Log, n: int, attempt: int = 1, at: float = 2, boot: str = "b1") -> Log:
    moment = NOON + timedelta(seconds=at)
    return log.add(AttemptStarted, at, **host(n), **AGENT, attempt=attempt, started_at=moment, host_boot_id=boot)


def exited(log: Log, n: int, attempt: int = 1, at: float = 3, text: bytes = b"hello\n", code: int = 0) -> Log:
    if text:
        log.add(
            ProgressReport, at, text, **host(n), attempt=attempt, stream=Stream.STDOUT, offset=0, length=len(text),
            observed_at=NOON,
        )  # fmt: skip
    return log.add(
        AttemptEnded, at, **host(n), **AGENT, attempt=attempt, exit_status=code,
        ended_at=NOON + timedelta(seconds=at), kept={Stream.STDOUT: len(text)},
        digests={Stream.STDOUT: hashlib.sha256(text).hexdigest()},
    )  # fmt: skip


def verdict(log: Log, n: int, at: float = 4, status: JobTaskStatus = JobTaskStatus.SUCCEEDED) -> Log:
    return log.add(JobTaskEnded, at, **host(n), host_name=f"web{n}", status=status)


def retried(log: Log, after: float, why: Reason = Reason.EXIT_STATUS) -> Log:
    """The first try of host 0 ends at 5 s, and is to be tried again so many seconds later."""
    later = NOON + timedelta(seconds=5 + after)
    return due(log, 0).add(
        JobTaskStatusChanged, 5, **host(0), status=JobTaskStatus.WAITING, attempt=1, tried=1, due_at=later, after=why
    )


def whole(n: int, log: Log, at: float = 1) -> Log:
    return verdict(exited(started(due(log, n, at=at), n, at=at + 1), n, at=at + 2), n, at=at + 3)


def good() -> Log:
    return whole(1, whole(0, planned(concurrency=1)), at=6).add(
        JobInvocationEnded, 10, status=JobInvocationStatus.SUCCEEDED, total=2, counts={"succeeded": 2}
    )


def limited(log: Log, concurrency: int | None, at: float = 1) -> Log:
    return log.add(ConcurrencyChanged, at, command_id=uuid4(), concurrency=concurrency)


def test_a_limit_that_was_raised_and_a_slot_given_back_in_the_same_instant_break_nothing() -> None:
    assert due(limited(due(planned(concurrency=1), 0), 2), 1).violations(is_finished=False) == []
    log = verdict(due(planned(), 0, proxy_limit=1), 0, at=2)
    assert due(log, 1, at=2, proxy_limit=1).violations(is_finished=False) == []


def test_rolling_batches_in_their_order_break_nothing() -> None:
    """S107: a host of a later batch may be cancelled at any time, and as many may fail as are allowed."""
    log = planned(4, rolling=Rolling(batches=("1", "2"), failure_limit="1"))
    log = verdict(verdict(due(log, 0), 2, at=2, status=JobTaskStatus.CANCELLED), 0, at=3, status=JobTaskStatus.FAILED)
    assert due(log, 1, at=4).violations(is_finished=False) == []
    assert due(log, 3, at=5).violations(is_finished=False) == ["rolling"]


def test_a_retry_after_its_interval_breaks_nothing() -> None:
    assert retried(planned(tries=2), 30).violations(is_finished=False) == []


def test_a_good_log_breaks_nothing_and_repeats_are_no_matter() -> None:
    log = good()
    assert log.violations() == []
    twice = Log([entry for entry in log.entries for _ in range(2)])
    assert twice.violations() == []


def holed() -> Log:
    """An end that says five bytes were published, of which none is there."""
    log = started(due(planned(1), 0), 0).add(
        AttemptEnded, 3, **host(0), **AGENT, attempt=1, ended_at=NOON, kept={Stream.STDERR: 5},
        digests={Stream.STDERR: "x"},
    )  # fmt: skip
    return verdict(log, 0)


BROKEN: dict[str, tuple[str, Callable[[], Log]]] = {
    "a second verdict": ("one verdict", lambda: verdict(good(), 0, at=11, status=JobTaskStatus.FAILED)),
    "a verdict of nobody": ("one verdict", lambda: verdict(good(), 7)),
    "wrong counts": (
        "one verdict",
        lambda: whole(0, planned(1)).add(
            JobInvocationEnded, 9, status=JobInvocationStatus.FAILED, total=1, counts={"failed": 1}
        ),
    ),
    "two slots of one": ("limits", lambda: due(due(planned(concurrency=1), 0), 1)),
    "two slots of one since an edit": ("limits", lambda: due(limited(due(planned(concurrency=2), 0), 1), 1)),
    "two slots of a proxy of one": ("limits", lambda: due(due(planned(), 0, proxy_limit=1), 1, at=2, proxy_limit=1)),
    "the next batch while one runs": ("rolling", lambda: due(due(planned(rolling=Rolling()), 0), 1)),
    "the next batch after a failure": (
        "rolling",
        lambda: due(verdict(due(planned(rolling=Rolling()), 0), 0, status=JobTaskStatus.FAILED), 1, at=5),
    ),
    "dispatched before its start": ("due times", lambda: due(planned(), 0, at=-1)),
    "started before it was due": ("due times", lambda: started(due(planned(), 0, at=60), 0, at=2)),
    "dispatched before its delay": ("due times", lambda: due(planned(splay=timedelta(hours=5)), 0)),
    "tried again before its interval": ("tries", lambda: retried(planned(tries=2), 29)),
    "tried again though it is not to be": ("tries", lambda: retried(planned(tries=2), 30, Reason.INTERRUPTED)),
    "one try too many": ("tries", lambda: due(planned(tries=1), 0, tried=1)),
    "an attempt left out": ("no doubled run", lambda: due(planned(), 0, attempt=2)),
    "an attempt dispatched twice": ("no doubled run", lambda: due(due(planned(), 0), 0)),
    "bound twice": ("one decision", lambda: bound(due(planned(), 0), 0)),
    "started on two boots": ("no doubled run", lambda: started(started(due(planned(), 0), 0), 0, boot="b2")),
    "never started and yet started": (
        "no doubled run",
        lambda: started(due(planned(), 0), 0).add(
            AttemptNeverStarted, 3, **host(0), **AGENT, attempt=1, why=NeverStartedWhy.TOMBSTONE
        ),
    ),
    "two attempts at once": (
        "two at once",
        lambda: started(exited(started(due(planned(), 0), 0), 0, at=60), 0, attempt=2, at=20),
    ),
    "dispatched after its verdict": ("nothing after the verdict", lambda: due(good(), 0, attempt=2, at=20)),
    "started after its verdict": ("nothing after the verdict", lambda: started(good(), 0, at=60)),
    "no verdict": ("no lost job", lambda: whole(0, planned(2))),
    "output with a hole": ("no lost output", lambda: holed()),
}  # fmt: skip


@pytest.mark.parametrize("story", BROKEN, ids=lambda s: s.replace(" ", "-"))
def test_a_broken_promise_is_found(story: str) -> None:
    promise, build = BROKEN[story]
    log = build()
    assert promise in log.violations()


def test_a_retry_before_its_interval_is_found() -> None:
    log = due(planned(tries=2), 0)
    log.add(
        JobTaskStatusChanged, 3, **host(0), status=JobTaskStatus.WAITING, due_at=NOON + timedelta(seconds=33),
        after=Reason.EXIT_STATUS,
    )  # fmt: skip
    assert "tries" in due(log, 0, attempt=2, at=20, tried=1).violations(is_finished=False)


def test_output_that_was_cut_differently_and_repeated_is_whole() -> None:
    log = started(due(planned(1), 0), 0)
    whole_text = b"0123456789"
    for offset, end in ((0, 4), (2, 6), (0, 4), (6, 10)):
        log.add(
            ProgressReport, 3, whole_text[offset:end], **host(0), attempt=1, stream=Stream.STDOUT, offset=offset,
            length=end - offset, observed_at=NOON,
        )  # fmt: skip
    log = exited(log, 0, text=b"")
    ended = log.entries.pop().item
    assert isinstance(ended, AttemptEnded)
    fields = ended.model_dump(exclude={"id", "time", "job_invocation_id", "kept", "digests"})
    digest = hashlib.sha256(whole_text).hexdigest()
    log.add(AttemptEnded, 3, **fields, kept={Stream.STDOUT: 10}, digests={Stream.STDOUT: digest})
    assert verdict(log, 0).violations() == []


def test_omitted_ranges_are_no_holes() -> None:
    log = started(due(planned(1), 0), 0)
    for offset, raw in ((0, b"head"), (1000, b"tail")):
        log.add(
            ProgressReport, 3, raw, **host(0), attempt=1, stream=Stream.STDOUT, offset=offset, length=4,
            observed_at=NOON,
        )  # fmt: skip
    log.add(OutputOmitted, 3, **host(0), attempt=1, stream=Stream.STDOUT, start=4, end=1000)
    digest = hashlib.sha256(b"headtail").hexdigest()
    log.add(
        AttemptEnded, 3, **host(0), **AGENT, attempt=1, ended_at=NOON, kept={Stream.STDOUT: 8},
        lengths={Stream.STDOUT: 1004}, digests={Stream.STDOUT: digest},
    )  # fmt: skip
    assert verdict(log, 0).violations() == []
