"""A watched job as it is shown: counts, and hosts as they fail. Pure: changes in, lines out.

Owns what is said of a job in flight. How it is drawn is in `live`.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from chargehand_schemas.api import JobInvocationDocument, JobTaskDocument
from chargehand_schemas.reasons import JobTaskStatus, Reason

from .escapes import visible

SHOWN_FAILURES = 50
_ENDED = (JobTaskStatus.SUCCEEDED, JobTaskStatus.FAILED, JobTaskStatus.CANCELLED)
_ACTIVE = (JobTaskStatus.DUE, JobTaskStatus.ACCEPTED, JobTaskStatus.RUNNING, JobTaskStatus.CANCELLING)


class Progress:
    """Folds what `Client.watch` gives; the same change twice changes nothing."""

    def __init__(self) -> None:
        self.invocation: JobInvocationDocument | None = None
        self._told: set[UUID] = set()

    def take(self, change: JobInvocationDocument | tuple[JobTaskDocument, ...]) -> list[str]:
        """Lines to show now: the hosts that have newly failed."""
        if isinstance(change, JobInvocationDocument):
            self.invocation = change
            return []
        return list(self._new_failures(change))

    def _new_failures(self, job_tasks: Iterable[JobTaskDocument]) -> Iterable[str]:
        for job_task in job_tasks:
            if job_task.status is not JobTaskStatus.FAILED or job_task.job_task_id in self._told:
                continue
            self._told.add(job_task.job_task_id)
            if len(self._told) <= SHOWN_FAILURES:
                yield f"{visible(job_task.host)}: {why(job_task)}"
            elif len(self._told) == SHOWN_FAILURES + 1:
                yield "more hosts fail; they are all in the summary"

    @property
    def total(self) -> int:
        return self.invocation.total if self.invocation else 0

    @property
    def ended(self) -> int:
        return self._sum(_ENDED)

    def count(self, status: JobTaskStatus) -> int:
        return self.invocation.counts.get(status, 0) if self.invocation else 0

    @property
    def active(self) -> int:
        """Job tasks that hold a slot."""
        return self._sum(_ACTIVE)

    def line(self) -> str:
        """The counts in words."""
        words = [f"{self.ended} of {self.total} ended"]
        words += [f"{self.count(status)} {status.value}" for status in _ENDED if self.count(status)]
        if self.active:
            words.append(f"{self.active} under way")
        away = self.count(JobTaskStatus.WAITING_FOR_CHECK_IN)
        if away:
            words.append(f"{away} waiting for {'its' if away == 1 else 'their'} check-in")
        return ", ".join(words)

    def _sum(self, statuses: Iterable[JobTaskStatus]) -> int:
        return sum(self.count(status) for status in statuses)


def why(job_task: JobTaskDocument) -> str:
    """Why a job task did not succeed, in one line."""
    return reason_words(job_task.reason, job_task.exit_status, job_task.signal, job_task.detail)


def reason_words(reason: Reason | None, exit_status: int | None, signal: str | None, detail: str) -> str:
    """A reason with what belongs to it: `exit status 3`, `killed by TERM`, `could not connect: …`."""
    if signal:
        words = f"killed by {visible(signal)}"
    elif reason is Reason.EXIT_STATUS and exit_status is not None:
        words = f"exit status {exit_status}"
    else:
        words = (reason.value if reason else "failed").replace("_", " ")
    return f"{words}: {visible(detail)[:300]}" if detail else words
