"""Doing a job again: which of its hosts, and the command that does it.

Owns what `all`, `failed` and `from_halt` mean. Whether it is allowed, and what comes of it, the planner decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from uuid import UUID

from chargehand_schemas.api import RerunWhich
from chargehand_schemas.commands import InvokeJob, Targeting
from chargehand_schemas.properties import ExecutionOverrides
from chargehand_schemas.reasons import JobTaskStatus

from .invocation import JobInvocation
from .job_task import JobTask


class CannotRerun(Exception):
    """There is nothing to do again, or something is missing for it. `code` is a word for programs."""

    def __init__(self, code: str, detail: str) -> None:
        self.code, self.detail = code, detail
        super().__init__(detail)


def hosts_again(invocation: JobInvocation, job_tasks: Iterable[JobTask], which: RerunWhich) -> tuple[UUID, ...]:
    """The hosts, in the order in which they were planned. CannotRerun if there is none of that kind."""
    chosen = [task.host_id for task in job_tasks if _is_meant(task, invocation, which)]
    if which is RerunWhich.FROM_HALT and invocation.halt is None:
        raise CannotRerun("not_halted", "this job was not halted; `failed` does it again where it did not succeed")
    if not chosen:
        raise CannotRerun(
            "no_hosts", "there is no host to do it again on: it succeeded everywhere, or was never planned"
        )
    return tuple(chosen)


def _is_meant(task: JobTask, invocation: JobInvocation, which: RerunWhich) -> bool:
    if which is RerunWhich.ALL:
        return True
    is_wanting = task.status in (JobTaskStatus.FAILED, JobTaskStatus.CANCELLED)
    if which is RerunWhich.FAILED:
        return is_wanting
    return is_wanting and invocation.halt is not None and task.ordinal >= invocation.halt.batch_begins


def command_again(
    invocation: JobInvocation,
    hosts: tuple[UUID, ...],
    sealed_inputs: Mapping[str, str],
    *,
    command_id: UUID,
    job_invocation_id: UUID,
    actor: str,
    now: datetime,
    expect_hosts: int | None,
) -> InvokeJob:
    """The same template, inputs and properties on these hosts. CannotRerun if a hidden input was not given again."""
    known = invocation.definition
    if known is None:
        raise CannotRerun("refused", "this job was refused: there is nothing to do again")
    missing = sorted(set(known.hidden_inputs) - sealed_inputs.keys())
    if missing:
        detail = f"hidden input {', '.join(missing)} is not kept beyond the end of a job: give it again"
        raise CannotRerun("input_missing", detail)
    properties = invocation.properties or known.properties
    return InvokeJob(
        id=command_id,
        time=now,
        actor=actor,
        job_invocation_id=job_invocation_id,
        template=str(known.template_id),
        targeting=Targeting(host_ids=hosts),
        inputs=known.inputs,
        sealed_inputs=dict(sealed_inputs),
        overrides=ExecutionOverrides(**{name: getattr(properties, name) for name in ExecutionOverrides.model_fields}),
        effective_user=known.effective_user,
        description=known.description,
        expect_hosts=expect_hosts,
        rerun_of=invocation.job_invocation_id,
    )
