"""`job list|show|watch`. Owns their options and columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from typing import TYPE_CHECKING

import click

from ..errors import CommandError
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
@click.option(
    "--host", "hosts", multiple=True, metavar="NAME", shell_complete=complete_hosts,
    help="Only there; repeat it. Of one host all attempts are shown.",
)  # fmt: skip
@click.option("--ladder", is_flag=True, help="Every step on the way to one host: when, by whom, where in the log.")
@click.option(
    "--plan", "is_plan", is_flag=True, help="When each host is due, by batch and splay: the same after any restart."
)
@common_options
def show(asked: Asked, ref: str, status: str | None, hosts: Sequence[str], ladder: bool, is_plan: bool) -> int:
    """One job with its job tasks. Exit status 1 if it has failed.

    \b
    chargehand job show @last                       its hosts and what became of them
    chargehand job show @last --host web1           every attempt there, and when the next try is due
    chargehand job show @last --host web1 --ladder  who said what of it, when, and where that stands in the log
    """
    from ..terminal.summary import job_document
    from .frame import client_errors
    from .watching import exit_status_of

    if is_plan:
        return _show_plan(asked, ref, status, hosts)
    with client_errors(asked):
        job = asked.client.job_invocation(ref)
        job_tasks = _found(asked, job, status, hosts)
        one = _only(asked, job, hosts, job_tasks) if ladder or _is_one(hosts) else None
        match asked.screen.output:
            case "json":
                asked.screen.json(job_document(job, [one] if one is not None else list(job_tasks)))
            case "jsonl":
                rows = [one] if one is not None else job_tasks
                asked.screen.json_lines(job_task.model_dump(mode="json") for job_task in rows)
            case _ if one is not None:
                _print_one(asked, job, one, ladder=ladder)
            case _:
                _print(asked, job, job_tasks)
    return exit_status_of(job)


def _found(
    asked: Asked, job: JobInvocationDocument, status: str | None, hosts: Sequence[str]
) -> Iterable[JobTaskDocument]:
    """Its job tasks, page by page; those of some hosts in the order in which these were named."""
    ref = str(job.job_invocation_id)
    return chain.from_iterable(asked.client.job_tasks(ref, status=status, host=host) for host in hosts or (None,))


def _is_one(hosts: Sequence[str]) -> bool:
    return len(hosts) == 1 and "*" not in hosts[0]


def _only(
    asked: Asked, job: JobInvocationDocument, hosts: Sequence[str], job_tasks: Iterable[JobTaskDocument]
) -> JobTaskDocument:
    """The one job task that is meant, with its attempts and its ladder. CommandError if it is none, or more than one."""
    found = list(islice(job_tasks, 2))
    if len(found) == 1:
        return asked.client.job_task(found[0].job_task_id)
    if not found and _is_one(hosts):
        raise CommandError(
            f"{hosts[0]!r} is none of the job's hosts.",
            why="there is no job task of it, or none in the state that was asked for.",
            do=f"see chargehand job show {job.job_invocation_id}.",
        )
    raise CommandError(
        "a ladder is that of one host.",
        why=f"{len(hosts) if len(hosts) > 1 else job.total} hosts are meant.",
        do="name one of them: --host NAME --ladder.",
    )


def _print(asked: Asked, job: JobInvocationDocument, job_tasks: Iterable[JobTaskDocument]) -> None:
    from ..terminal.summary import last_line

    _say_job(asked, job)
    asked.screen.say(f"so far   {last_line(job)}")
    asked.screen.say(f"page     {asked.client.page_of(job.job_invocation_id)}")
    columns = ("host", "status", "why", "attempts", "took")
    asked.screen.table(columns, map(_job_task_row, job_tasks), empty="no job tasks")


def _say_job(asked: Asked, job: JobInvocationDocument) -> None:
    from ..terminal.escapes import visible
    from ..terminal.summary import halt_in_words, in_words

    asked.screen.say(f"job      {job.job_invocation_id}  {job.status.value}")
    asked.screen.say(
        f"runs     {visible(job.description or job.template_name)} on {visible(job.targeting)} for {job.actor}"
    )
    if job.effective_user:
        asked.screen.say(
            f"as       {visible(job.effective_user)}{', with a password' if job.has_effective_user_password else ''}"
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


def _show_plan(asked: Asked, ref: str, status: str | None, hosts: Sequence[str]) -> int:
    from .frame import client_errors, print_documents

    with client_errors(asked):
        job = asked.client.job_invocation(ref)
        rows = (
            row
            for row in asked.client.plan(str(job.job_invocation_id))
            if (status is None or row.status.value == status) and (not hosts or row.host in hosts)
        )
        empty = "no such host" if job.total else f"not planned yet; it is {job.status.value}"
        print_documents(asked, rows, ("due", "batch", "host", "proxy", "status"), _plan_row, empty=empty)
    return 0


def _plan_row(row: PlannedJobTaskDocument) -> Sequence[str]:
    due = row.due_at.astimezone().isoformat(sep=" ", timespec="milliseconds")
    return (due, str(row.batch or ""), row.host, row.proxy, row.status.value)


def _job_task_row(job_task: JobTaskDocument) -> Sequence[str]:
    from ..terminal.summary import duration

    took = duration(job_task.ended_at - job_task.started_at) if job_task.ended_at and job_task.started_at else ""
    return (job_task.host, job_task.status.value, _why(job_task), str(job_task.attempts), took)


def _why(job_task: JobTaskDocument) -> str:
    """Why it did not succeed, or when it is tried again and after what, or why its host is waited for."""
    from ..terminal.escapes import visible
    from ..terminal.ladder import next_try_words
    from ..terminal.progress import why

    if job_task.next_try_at is not None:
        words = next_try_words(job_task.next_try_at, datetime.now(UTC))
        return f"{words}: {job_task.detail.replace('_', ' ')[:200]}" if job_task.detail else words
    if job_task.reason or job_task.signal:
        return why(job_task)
    return visible(job_task.detail)[:300] if job_task.status.value == "waiting_for_check_in" else ""


def _print_one(asked: Asked, job: JobInvocationDocument, job_task: JobTaskDocument, *, ladder: bool) -> None:
    from ..terminal.escapes import visible
    from ..terminal.ladder import ATTEMPT_COLUMNS, STEP_COLUMNS, attempt_row, ladder_rows, tries_words

    now = datetime.now(UTC)
    _say_job(asked, job)
    why = _why(job_task)
    asked.screen.say(f"host     {visible(job_task.host)}  {job_task.status.value}{f', {visible(why)}' if why else ''}")
    asked.screen.say(f"tries    {tries_words(job_task, job_task.tries)}")
    asked.screen.say(f"page     {asked.client.page_of_job_task(job_task.job_task_id)}")
    if ladder:
        asked.screen.table(STEP_COLUMNS, ladder_rows(job_task), empty="no steps are known of it")
    else:
        rows = (attempt_row(attempt, now) for attempt in job_task.attempts_detail)
        asked.screen.table(ATTEMPT_COLUMNS, rows, empty="no attempt yet")


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
