"""The messages of a job invocation as its writers say them, made up for tests: who says what, in which order.

Owns plausible contents. What a reader makes of them is what the tests judge.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from chargehand_schemas.base import Item
from chargehand_schemas.batches import Outgoing
from chargehand_schemas.dispatch import (
    AttemptDue,
    JobInvocationDue,
    JobInvocationEnded,
    JobTaskEnded,
    JobTaskStatusChanged,
)
from chargehand_schemas.execution import AttemptAccepted, AttemptEnded, AttemptStarted
from chargehand_schemas.ids import item_id, job_task_id
from chargehand_schemas.planning import (
    AttemptBound,
    JobInvocationAccepted,
    JobInvocationScheduled,
    JobTasksPlanned,
    PlannedJobTask,
)
from chargehand_schemas.progress import ProgressReport
from chargehand_schemas.properties import ExecutionProperties
from chargehand_schemas.reasons import JobInvocationStatus, JobTaskStatus, Reason, Role, Stream
from chargehand_schemas.registry import type_of


@dataclass(frozen=True)
class Line:
    """One item, who says it, and for output its bytes."""

    role: Role
    item: Item
    key: str
    raw: bytes | None = None

    @property
    def outgoing(self) -> Outgoing:
        return Outgoing(type_of(type(self.item)).topic.name, self.key, self.item, self.raw)


@dataclass
class Part:
    """What happens on one host: output by stream, exit status of each attempt (the last one is the verdict's)."""

    host_name: str
    output: dict[Stream, bytes] = field(default_factory=dict)
    exits: tuple[int, ...] = (0,)
    host_id: UUID = field(default_factory=uuid4)


@dataclass
class Story:
    """An invocation from its acceptance to its end. Times go up by a millisecond from line to line."""

    parts: Sequence[Part]
    proxy: str = "local"
    agent_id: str = "agent-1"
    chunk_bytes: int = 64
    description: str = "Run uptime"
    job_invocation_id: UUID = field(default_factory=uuid4)
    began: datetime = field(default_factory=lambda: datetime.now(UTC) - timedelta(minutes=1))
    _said: int = 0

    def lines(self) -> list[Line]:
        """All that is said, in the order of its happening."""
        return [*self.opening(), *(line for part in self.parts for line in self.of_part(part)), self.ending()]

    def task_id(self, part: Part) -> UUID:
        return job_task_id(self.job_invocation_id, part.host_id)

    def opening(self) -> Iterator[Line]:
        """Accepted, scheduled, due, planned."""
        yield self._planner(
            JobInvocationAccepted,
            command_id=item_id("command", self.job_invocation_id),
            actor="user:admin",
            template_id=item_id("template", "Run Command"),
            template_name="Run Command",
            template_version=1,
            job_category="Commands",
            provider_type="ssh",
            description=self.description,
            inputs={"command": "uptime"},
            targeting=f"{len(self.parts)} hosts",
            properties=ExecutionProperties(),
        )
        yield self._planner(JobInvocationScheduled, start_at=self.began, properties=ExecutionProperties())
        yield self._dispatcher(JobInvocationDue, start_at=self.began)
        chunks = [self.parts[n : n + 500] for n in range(0, len(self.parts), 500)]
        for number, chunk in enumerate(chunks):
            yield self._plan(number, len(chunks), chunk)

    def of_part(self, part: Part) -> Iterator[Line]:
        """The attempts of one host and its verdict."""
        for attempt, exit_status in enumerate(part.exits, start=1):
            is_last = attempt == len(part.exits)
            yield from self.attempt(part, attempt, exit_status, part.output if is_last else {})
            if not is_last:
                yield self._task(
                    JobTaskStatusChanged, part, status=JobTaskStatus.WAITING, attempt=attempt, tried=attempt,
                    due_at=self._now(), after=Reason.EXIT_STATUS,
                )  # fmt: skip
        yield self.verdict(part)

    def attempt(self, part: Part, attempt: int, exit_status: int, output: dict[Stream, bytes]) -> Iterator[Line]:
        """One attempt, from due to ended."""
        yield self.due(part, attempt)
        yield self._line(
            Role.PLANNER, AttemptBound, part, attempt=attempt, proxy=self.proxy, lock_path="~/.chargehand/run",
            template_id=item_id("template", "Run Command"), template_version=1, effective_user="", script_digest="ab" * 32,
        )  # fmt: skip
        yield self.fact(AttemptAccepted, part, attempt)
        yield self.fact(AttemptStarted, part, attempt, started_at=self._now(), script_digest="ab" * 32)
        yield self._task(JobTaskStatusChanged, part, status=JobTaskStatus.RUNNING, attempt=attempt, tried=attempt - 1)
        yield from self.reports(part, attempt, output)
        yield self.fact(
            AttemptEnded, part, attempt, exit_status=exit_status, started_at=self._now(), ended_at=self._now(),
            **kept(output),
        )  # fmt: skip

    def due(self, part: Part, attempt: int, proxy: str = "") -> Line:
        return self._task(
            AttemptDue, part, attempt=attempt, host_name=part.host_name, proxy=proxy or self.proxy,
            issued_at=self._now(), not_after=self._now(), run_deadline=self._now(), tried=attempt - 1,
        )  # fmt: skip

    def reports(self, part: Part, attempt: int, output: dict[Stream, bytes]) -> Iterator[Line]:
        for stream, data in output.items():
            for start in range(0, len(data), self.chunk_bytes):
                yield self.report(part, attempt, stream, start, data[start : start + self.chunk_bytes])

    def report(self, part: Part, attempt: int, stream: Stream, offset: int, data: bytes) -> Line:
        item = ProgressReport(
            id=item_id("report", self.task_id(part), attempt, stream, offset, len(data)),
            time=self._now(),
            job_invocation_id=self.job_invocation_id,
            job_task_id=self.task_id(part),
            attempt=attempt,
            host_id=part.host_id,
            stream=stream,
            offset=offset,
            length=len(data),
            newlines=data.count(b"\n"),
            observed_at=self.began,
        )
        return Line(Role.AGENT, item, str(self.task_id(part)), data)

    def verdict(self, part: Part) -> Line:
        exit_status = part.exits[-1]
        is_good = exit_status == 0
        return self._task(
            JobTaskEnded, part, host_name=part.host_name, exit_status=exit_status,
            status=JobTaskStatus.SUCCEEDED if is_good else JobTaskStatus.FAILED,
            reason=None if is_good else Reason.EXIT_STATUS, attempts=len(part.exits), tried=len(part.exits),
        )  # fmt: skip

    def ending(self) -> Line:
        failed = sum(part.exits[-1] != 0 for part in self.parts)
        counts = {"succeeded": len(self.parts) - failed, "failed": failed}
        return self._dispatcher(
            JobInvocationEnded,
            status=JobInvocationStatus.FAILED if failed else JobInvocationStatus.SUCCEEDED,
            total=len(self.parts),
            counts={word: count for word, count in counts.items() if count},
            reasons={"exit_status": failed} if failed else {},
        )

    def fact(self, model: type[Item], part: Part, attempt: int, **more: Any) -> Line:
        return self._line(
            Role.AGENT, model, part, attempt=attempt, proxy=self.proxy, agent_id=self.agent_id,
            agent_boot_id=item_id("boot", self.agent_id), journal_id=item_id("journal", self.agent_id), **more,
        )  # fmt: skip

    def _plan(self, number: int, chunks: int, parts: Sequence[Part]) -> Line:
        first = number * 500
        rows = [
            PlannedJobTask(
                job_task_id=self.task_id(part), host_id=part.host_id, host_name=part.host_name, proxy=self.proxy,
                ordinal=first + n,
            )
            for n, part in enumerate(parts)
        ]  # fmt: skip
        return self._planner(JobTasksPlanned, chunk=number, chunks=chunks, total=len(self.parts), job_tasks=tuple(rows))

    def _planner(self, model: type[Item], **more: Any) -> Line:
        return self._make(Role.PLANNER, model, more)

    def _dispatcher(self, model: type[Item], **more: Any) -> Line:
        return self._make(Role.DISPATCHER, model, more)

    def _task(self, model: type[Item], part: Part, **more: Any) -> Line:
        return self._line(Role.DISPATCHER, model, part, **more)

    def _line(self, role: Role, model: type[Item], part: Part, **more: Any) -> Line:
        return self._make(role, model, {"job_task_id": self.task_id(part), "host_id": part.host_id, **more})

    def _make(self, role: Role, model: type[Item], fields: dict[str, Any]) -> Line:
        moment = self._now()
        about = {
            "id": item_id(model.__name__, self.job_invocation_id, moment),
            "time": moment,
            "job_invocation_id": self.job_invocation_id,
        }
        return Line(role, model.model_validate(about | fields), str(self.job_invocation_id))

    def _now(self) -> datetime:
        self._said += 1
        return self.began + timedelta(milliseconds=self._said)


def kept(output: dict[Stream, bytes]) -> dict[str, Any]:
    """Lengths, digests and newlines as AttemptEnded carries them."""
    whole = {stream: output.get(stream, b"") for stream in Stream}
    return {
        "lengths": {stream: len(data) for stream, data in whole.items()},
        "kept": {stream: len(data) for stream, data in whole.items()},
        "digests": {stream: hashlib.sha256(data).hexdigest() for stream, data in whole.items()},
        "newlines": {stream: data.count(b"\n") for stream, data in whole.items()},
    }
