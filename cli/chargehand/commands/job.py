"""`job list|show|watch`. Owns their options and columns."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from ..help import Command
from ..options import Asked, common_options
from .completions import complete_hosts, complete_jobs
from .types import Duration

if TYPE_CHECKING:
    from chargehand_schemas.api import JobInvocationDocument, JobTaskDocument, PlannedJobTaskDocument

_STATUSES = ("scheduled", "running", "cancelling", "succeeded", "failed", "cancelled", "refused")
_JOB_TASK_STATUSES = (
    "waiting", "waiting_for_check_in", "due", "accepted", "running", "cancelling", "succeeded", "failed", "cancelled",
)  # fmt: skip

ref_argument = click.argument("ref", metavar="ID", shell_complete=complete_jobs)


@click.command(cls=Command)
@click.option("--status", type=click.Choice(_STATUSES), help="Only those.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most so many.")
@common_options
def list_(asked: Asked, status: str | None, limit: int) -> int:
    """The latest jobs, newest first."""
    from .frame import client_errors, print_documents

    with client_errors(asked):
        print_documents(
            asked,
            asked.client.job_invocations(status=status, limit=limit),
            ("id", "status", "hosts", "failed", "began", "by", "description"),
            _job_row,
            empty="no jobs yet; the first: chargehand exec --host NAME -- uptime",
        )
    return 0


def _job_row(job: JobInvocationDocument) -> Sequence[str]:
    failed = sum(count for status, count in job.counts.items() if status.value == "failed")
    began = job.started_at or job.start_at or job.accepted_at
    return (
        str(job.job_invocation_id)[:8],
        job.status.value,
        str(job.total),
        str(failed or ""),
        began.astimezone().strftime("%Y-%m-%d %H:%M:%S") if began else "",
        job.actor.partition(":")[2] or job.actor,
        job.description or job.template_name,
    )


@click.command(cls=Command)
@ref_argument
@click.option("--status", type=click.Choice(_JOB_TASK_STATUSES), help="Only job tasks in this state.")
@click.option("--host", metavar="NAME", shell_complete=complete_hosts, help="Only this host.")
@click.option(
    "--plan", "is_plan", is_flag=True, help="When each host is due, by batch and splay: the same after any restart."
)
@common_options
def show(asked: Asked, ref: str, status: str | None, host: str | None, is_plan: bool) -> int:
    """One job with its job tasks. Exit status 1 if it has failed."""
    from ..terminal.summary import job_document
    from .frame import client_errors
    from .watching import exit_status_of

    if is_plan:
        return _show_plan(asked, ref, status, host)
    with client_errors(asked):
        job = asked.client.job_invocation(ref)
        job_tasks = asked.client.job_tasks(str(job.job_invocation_id), status=status, host=host)
        match asked.screen.output:
            case "json":
                asked.screen.json(job_document(job, list(job_tasks)))
            case "jsonl":
                asked.screen.json_lines(job_task.model_dump(mode="json") for job_task in job_tasks)
            case _:
                _print(asked, job, job_tasks)
    return exit_status_of(job)


def _print(asked: Asked, job: JobInvocationDocument, job_tasks: object) -> None:
    from ..terminal.escapes import visible
    from ..terminal.summary import halt_in_words, in_words, last_line

    asked.screen.say(f"job      {job.job_invocation_id}  {job.status.value}")
    asked.screen.say(
        f"runs     {visible(job.description or job.template_name)} on {visible(job.targeting)} for {job.actor}"
    )
    if job.refusal:
        asked.screen.say(f"refused  {job.refusal.replace('_', ' ')}: {visible(job.detail)}")
    if job.properties is not None:
        asked.screen.say(f"how      {in_words(job.properties)}")
    if job.halt is not None:
        asked.screen.say(f"halted   {visible(halt_in_words(job))}")
        asked.screen.say(
            f"         go on from there: chargehand job rerun {str(job.job_invocation_id)[:8]} --from-halt"
        )
    if job.rerun_of is not None:
        asked.screen.say(f"again    {job.rerun_of}")
    asked.screen.say(f"so far   {last_line(job)}")
    asked.screen.say(f"page     {asked.client.page_of(job.job_invocation_id)}")
    columns = ("host", "status", "why", "attempts", "took")
    asked.screen.table(columns, map(_job_task_row, job_tasks), empty="no job tasks")  # type: ignore[call-overload]


def _show_plan(asked: Asked, ref: str, status: str | None, host: str | None) -> int:
    from .frame import client_errors, print_documents

    with client_errors(asked):
        job = asked.client.job_invocation(ref)
        rows = (
            row
            for row in asked.client.plan(str(job.job_invocation_id))
            if (status is None or row.status.value == status) and (host is None or row.host == host)
        )
        empty = "no such host" if job.total else f"not planned yet; it is {job.status.value}"
        print_documents(asked, rows, ("due", "batch", "host", "proxy", "status"), _plan_row, empty=empty)
    return 0


def _plan_row(row: PlannedJobTaskDocument) -> Sequence[str]:
    due = row.due_at.astimezone().isoformat(sep=" ", timespec="milliseconds")
    return (due, str(row.batch or ""), row.host, row.proxy, row.status.value)


def _waits(job_task: JobTaskDocument) -> bool:
    """Whether it is told why its host is waited for."""
    return job_task.status.value == "waiting_for_check_in"


def _job_task_row(job_task: JobTaskDocument) -> Sequence[str]:
    from ..terminal.escapes import visible
    from ..terminal.progress import why
    from ..terminal.summary import duration

    took = duration(job_task.ended_at - job_task.started_at) if job_task.ended_at and job_task.started_at else ""
    is_told = job_task.reason or job_task.signal
    reason = why(job_task) if is_told else visible(job_task.detail)[:300] if _waits(job_task) else ""
    return (job_task.host, job_task.status.value, reason, str(job_task.attempts), took)


@click.command(cls=Command)
@ref_argument
@click.option("--timeout", type=Duration(), help="Watch no longer than that; the job goes on.")
@click.option("--lines", type=click.IntRange(0), default=20, show_default=True, help="Lines of output shown; 0: all.")
@click.option("--raw", "is_raw", is_flag=True, help="Print what hosts wrote unchanged, control sequences too.")
@common_options
def watch(asked: Asked, ref: str, timeout: timedelta | None, lines: int, is_raw: bool) -> int:
    """Watch a job to its end. With --output jsonl every change is a line."""
    from .frame import client_errors
    from .watching import start_watching, stream_changes

    with client_errors(asked):
        found = str(asked.client.job_invocation(ref).job_invocation_id)
    if asked.screen.output == "jsonl":
        return stream_changes(asked, found, timeout)
    return start_watching(asked, found, timeout, lines=lines, is_raw=is_raw)
