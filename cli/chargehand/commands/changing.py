"""`job edit|rerun|cancel`: what changes a job, or does it again. Owns their options and words."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from ..errors import CommandError
from ..help import Command
from ..options import Asked, common_options
from .completions import complete_hosts
from .job import ref_argument
from .types import Duration, Limit, NameAndSecret

if TYPE_CHECKING:
    from chargehand_schemas.api import Decision, JobInvocationDocument


@click.command(cls=Command)
@ref_argument
@click.option(
    "--concurrency",
    type=Limit("none"),
    required=True,
    help="At most so many hosts at once from now on; none: no limit.",
)
@common_options
def edit(asked: Asked, ref: str, concurrency: int) -> int:
    """Change a job while it runs. With a lower concurrency what runs, runs out; nothing new starts above it."""
    from .frame import client_errors

    with client_errors(asked):
        job = asked.client.job_invocation(ref)
        decision = asked.client.edit(str(job.job_invocation_id), concurrency or None)
    if asked.screen.is_table:
        limit = f"at most {concurrency} hosts at once" if concurrency else "no limit of its own"
        asked.screen.print(f"{job.job_invocation_id}: {limit} from now on")
    else:
        asked.screen.json_lines([decision.model_dump(mode="json")])
    return 0


@click.command(cls=Command)
@ref_argument
@click.option(
    "--host", "hosts", multiple=True, metavar="NAME", shell_complete=complete_hosts, help="Only there; repeat it."
)
@common_options
def cancel(asked: Asked, ref: str, hosts: Sequence[str]) -> int:
    """Cancel a job: what has not started never starts, what runs is ended on its host.

    With --host only there; then it is said what else goes on, and how to cancel that. It is `cancelling` until nothing runs any more.
    """
    from .frame import client_errors

    with client_errors(asked):
        job = asked.client.job_invocation(ref)
        host_ids = [asked.client.host(name).host_id for name in hosts]
        decision = asked.client.cancel(str(job.job_invocation_id), host_ids)
    if asked.screen.is_table:
        _print_cancel(asked, job, hosts, decision)
    else:
        asked.screen.json_lines([decision.model_dump(mode="json")])
    return 0


def _print_cancel(asked: Asked, job: JobInvocationDocument, hosts: Sequence[str], decision: Decision) -> None:
    from ..terminal.escapes import visible

    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in decision.counts.items())
    where = f" on {', '.join(map(visible, hosts))}" if hosts else ""
    asked.screen.print(f"{job.job_invocation_id} is being cancelled{where}{f': {counts}' if counts else ''}")
    if decision.detail:
        asked.screen.say(visible(decision.detail))
    for choice in decision.choices:
        asked.screen.say(f"to cancel {visible(choice.text)}: chargehand job cancel {job.job_invocation_id}")


@click.command(cls=Command)
@ref_argument
@click.option("--failed", "is_failed", is_flag=True, help="Only where it did not succeed.")
@click.option(
    "--from-halt", "is_from_halt", is_flag=True, help="Of a halted rolling job: from the batch on where it was halted."
)
@click.option(
    "--secret", "secrets", multiple=True, type=NameAndSecret(), help="A hidden input, from a file; -: asks for it."
)
@click.option("--expect-hosts", type=click.IntRange(0), metavar="N", help="Refuse unless it is exactly so many hosts.")
@click.option("--yes", "-y", "is_confirmed", is_flag=True, help="Do not ask, however many hosts it is.")
@click.option("--async", "is_async", is_flag=True, help="Do not watch it: print its id.")
@click.option("--timeout", type=Duration(), help="Watch no longer than that; the job goes on.")
@click.option("--lines", type=click.IntRange(0), default=20, show_default=True, help="Lines of output shown; 0: all.")
@click.option("--raw", "is_raw", is_flag=True, help="Print what hosts wrote unchanged, control sequences too.")
@common_options
def rerun(
    asked: Asked,
    ref: str,
    is_failed: bool,
    is_from_halt: bool,
    secrets: Sequence[tuple[str, str]],
    expect_hosts: int | None,
    is_confirmed: bool,
    is_async: bool,
    timeout: timedelta | None,
    lines: int,
    is_raw: bool,
) -> int:
    """Do a job again: the same template (as it is now), inputs and properties, on the same hosts in the same order."""
    from chargehand_schemas.api import RerunRequest, RerunWhich

    from .frame import client_errors
    from .invoke import print_accepted, watch_accepted
    from .targets import confirm_count

    if is_failed and is_from_halt:
        raise CommandError("--failed and --from-halt exclude each other.", why="both were given.", do="leave one out.")
    which = RerunWhich.FAILED if is_failed else RerunWhich.FROM_HALT if is_from_halt else RerunWhich.ALL
    with client_errors(asked):
        job = asked.client.job_invocation(ref)
        expected = confirm_count(
            asked.screen, _at_most(job, which), is_confirmed=is_confirmed, expect_hosts=expect_hosts
        )
        request = RerunRequest(which=which, hidden_inputs=dict(secrets), expect_hosts=expected)
        invocation = asked.client.rerun(str(job.job_invocation_id), request)
    if is_async:
        return print_accepted(asked, invocation)
    return watch_accepted(asked, invocation, timeout, lines, is_raw)


def _at_most(job: JobInvocationDocument, which: str) -> int:
    """How many hosts it may be: all, or those that did not succeed."""
    if which == "all":
        return job.total
    return sum(count for status, count in job.counts.items() if status.value in ("failed", "cancelled"))
