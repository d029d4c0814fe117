"""A job at its end: equal output once, under folded host names, failures first. Pure: groups and their output in, text out.

Owns the words and the order.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from chargehand_schemas.api import JobInvocationDocument, JobTaskDocument, OutputGroup
from chargehand_schemas.properties import ExecutionProperties
from chargehand_schemas.reasons import JobTaskStatus, Reason

from .escapes import visible
from .names import fold
from .progress import reason_words

_ORDER = {JobTaskStatus.FAILED: 0, JobTaskStatus.CANCELLED: 1, JobTaskStatus.SUCCEEDED: 3}


def in_order(groups: Sequence[OutputGroup]) -> list[OutputGroup]:
    """Failures first, then what was cancelled or still goes on, then successes; the largest first of each."""
    return sorted(groups, key=lambda group: (_ORDER.get(group.status, 2), -group.count, group.hosts[:1]))


def heading(group: OutputGroup) -> str:
    """`failed, exit status 3 · 5 hosts: web[001-005]`."""
    words = group.status.value.replace("_", " ")
    if group.status is JobTaskStatus.FAILED:
        detail = "" if group.reason is Reason.EXIT_STATUS else group.detail
        words += ", " + reason_words(group.reason, group.exit_status, None, detail)
    more = f" and {group.count - len(group.hosts)} more" if group.count > len(group.hosts) else ""
    hosts = f"{group.count} host{'s' if group.count != 1 else ''}"
    return f"{words} · {hosts}: {visible(fold(group.hosts))}{more}"


def cut(text: str, lines: int) -> tuple[str, int]:
    """The first lines of a text, and how many were left out. 0 lines: all."""
    rows = text.split("\n")
    if rows and not rows[-1]:
        rows.pop()
    if not lines or len(rows) <= lines:
        return "\n".join(rows), 0
    return "\n".join(rows[:lines]), len(rows) - lines


def last_line(invocation: JobInvocationDocument) -> str:
    """`203 hosts: 194 succeeded, 9 failed (6 exit status, 3 could not connect), in 3.2 s`."""
    counts = ", ".join(
        f"{count} {status.value.replace('_', ' ')}" for status, count in invocation.counts.items() if count
    )
    reasons = ", ".join(f"{n} {reason.value.replace('_', ' ')}" for reason, n in invocation.reasons.items() if n)
    took = _took(invocation)
    return f"{invocation.total} host{'s' if invocation.total != 1 else ''}: {counts}" + (
        f" ({reasons})" if reasons else ""
    ) + (f", in {took}" if took else "")  # fmt: skip


def in_words(properties: ExecutionProperties) -> str:
    """What was asked of the dispatcher, only where it is out of the ordinary: `3 tries, 30.0 s apart · splay 5 min 0 s`."""
    usual = ExecutionProperties()
    rolling = properties.rolling
    words = [
        f"{properties.tries} tries, {duration(properties.retry_interval)} apart" if properties.tries > 1 else "",
        f"splay {duration(properties.splay)}" if properties.splay else "",
        f"at most {properties.concurrency} at once" if properties.concurrency else "",
        f"rolling by {','.join(rolling.batches)}, {rolling.failure_limit} failures allowed" if rolling else "",
        _unusual("picked up within", properties.time_to_pickup, usual.time_to_pickup),
        _unusual("ended after", properties.execution_timeout_interval, usual.execution_timeout_interval),
        "waits for check-ins" if properties.wait_for_check_in else "",
    ]
    return " · ".join(filter(None, words)) or "once on each host, all at once"


def _unusual(word: str, value: timedelta, usual: timedelta) -> str:
    return "" if value == usual else f"{word} {duration(value)}"


def halt_in_words(invocation: JobInvocationDocument) -> str:
    """`at web7, host 8 of 20 (batch 3): 2 failures, 1 allowed`."""
    halt = invocation.halt
    if halt is None:
        return ""
    failures = f"{halt.failures} failure{'s' if halt.failures != 1 else ''}, {halt.failure_limit} allowed"
    return f"at {halt.host_name}, host {halt.ordinal + 1} of {invocation.total} (batch {halt.batch}): {failures}"


def _took(invocation: JobInvocationDocument) -> str:
    if invocation.started_at is None or invocation.ended_at is None:
        return ""
    return duration(invocation.ended_at - invocation.started_at)


def duration(interval: timedelta) -> str:
    """`3.2 s`, `2 min 5 s`, `3 h 4 min`."""
    seconds = interval.total_seconds()
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def job_document(invocation: JobInvocationDocument, job_tasks: Sequence[JobTaskDocument]) -> dict[str, object]:
    """The document of `exec`, `invoke` and `job show` (docs/reference/commands.md)."""
    document = invocation.model_dump(mode="json", exclude={"position", "hidden_inputs", "properties"})
    return {**document, "job_tasks": [job_task_row(job_task) for job_task in job_tasks]}


def job_task_row(job_task: JobTaskDocument) -> dict[str, object]:
    """One of its `job_tasks`; with attempts and ladder where they were asked for."""
    wanted = {
        "job_task_id", "host_id", "host", "status", "reason", "exit_status", "signal", "attempts", "tried", "detail",
        "next_try_at", "started_at", "ended_at",
    }  # fmt: skip
    if job_task.attempts_detail or job_task.steps:
        wanted |= {"tries", "attempts_detail", "steps"}
    return job_task.model_dump(mode="json", include=wanted)
