"""After a cancel on some hosts: what was over before, and what else could be cancelled.

Owns those words (row S60: "this host" or "the whole invocation").
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from chargehand_schemas.api import Choice

from .invocation import JobInvocation
from .job_task import JobTask

_NAMED = 3


def over_in_words(job_tasks: Sequence[JobTask]) -> str:
    """`web1 has ended before: succeeded`; empty if none of them has."""
    ended = [task for task in job_tasks if task.verdict_rank]
    if not ended:
        return ""
    named = ", ".join(f"{task.host_name} ({task.status.value})" for task in ended[:_NAMED])
    more = f" and {len(ended) - _NAMED} more" if len(ended) > _NAMED else ""
    return f"{named}{more} {'has' if len(ended) == 1 else 'have'} ended before; that stays"


def choices_beside(invocation: JobInvocation, host_ids: Sequence[UUID]) -> tuple[Choice, ...]:
    """What else could be cancelled, beside these hosts' job tasks; nothing if they are all that goes on."""
    open_tasks = sum(count for status, count in invocation.counts.items() if not status.is_verdict)
    others = open_tasks - len(set(host_ids))
    if others <= 0:
        return ()
    path = f"/job-invocations/{invocation.job_invocation_id}/cancel"
    hosts = "1 other host goes on" if others == 1 else f"{others} other hosts go on"
    return (Choice(what="whole_invocation", text=f"the whole job: {hosts}", path=path),)
