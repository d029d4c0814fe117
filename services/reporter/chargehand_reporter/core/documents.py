"""Rows as the documents of the HTTP interface. Owns which fact stands under which name; nothing is decided here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from uuid import UUID

from chargehand_schemas.api import (
    AttemptDocument,
    Decision,
    HostDocument,
    JobInvocationDocument,
    JobTaskDocument,
    OutputGroup,
    ProxyDocument,
    StreamDocument,
)
from chargehand_schemas.commands import HostRecord
from chargehand_schemas.reasons import Stream

from .catalog import Host, Observation
from .invocation import JobInvocation
from .job_task import AttemptReport, JobTask, StreamView, outcome_of, views
from .proxies import Agent, ProxySize, status_of
from .read_model import CommandOutcome
from .steps import Attempt, JobTaskHistory, is_end_late, steps_of_attempt, steps_of_job_task


def job_invocation_document(it: JobInvocation) -> JobInvocationDocument:
    """An invocation. What is refused has no definition, only who asked and why not."""
    known = it.definition
    definition = (
        {} if known is None else known.model_dump(exclude={"id", "time", "causation_id", "command_id", "actor"})
    )
    return JobInvocationDocument.model_validate(
        definition
        | {
            "job_invocation_id": it.job_invocation_id,
            "status": it.status,
            "actor": it.actor,
            "properties": it.properties,
            "halt": it.halt,
            "total": max(it.total, sum(it.counts.values())),
            "counts": dict(it.counts),
            "reasons": dict(it.reasons),
            "refusal": "" if known is not None else it.refusal,
            "detail": "" if known is not None else it.detail,
            "accepted_at": None if known is None else known.time,
            "start_at": it.start_at,
            "started_at": it.due_at,
            "ended_at": it.ended_at,
            "position": it.position,
        }
    )


def job_task_document(it: JobTask) -> JobTaskDocument:
    """A job task without its attempts."""
    return JobTaskDocument(
        job_task_id=it.job_task_id,
        job_invocation_id=it.job_invocation_id,
        host_id=it.host_id,
        host=it.host_name,
        proxy=it.proxy,
        status=it.status,
        reason=it.reason,
        exit_status=it.exit_status,
        signal=it.signal,
        attempts=it.attempts,
        tried=it.tried,
        detail=it.detail,
        due_at=it.due_at,
        next_try_at=it.next_try_at,
        started_at=it.started_at,
        ended_at=it.ended_at,
        position=it.position,
        streams=_streams(it.streams),
    )


def history_document(history: JobTaskHistory) -> JobTaskDocument:
    """A job task with everything: its attempts in detail, and its ladder."""
    properties = history.invocation.properties
    return job_task_document(history.task).model_copy(
        update={
            "tries": None if properties is None else properties.tries,
            "attempts_detail": tuple(_attempt(history, attempt) for attempt in history.attempts),
            "steps": steps_of_job_task(history),
        }
    )


def _attempt(history: JobTaskHistory, attempt: Attempt) -> AttemptDocument:
    decision, told = attempt.decision, attempt.report or AttemptReport()
    outcome, detail = outcome_of(decision, attempt.report)
    steps = steps_of_attempt(history, attempt)
    return AttemptDocument(
        attempt=attempt.number,
        proxy=decision.proxy,
        agent_id=told.agent_id,
        effective_user=decision.effective_user,
        outcome=outcome,
        detail=detail,
        due_at=decision.due_at,
        accepted_at=told.accepted_at,
        started_at=told.started_at,
        ended_at=told.ended_at,
        exit_status=told.exit_status,
        signal=told.signal,
        script_digest=told.script_digest or decision.script_digest,
        streams=_streams(views(told)),
        not_after=decision.not_after,
        late=is_end_late(steps),
        steps=steps,
    )


def _streams(found: Mapping[Stream, StreamView]) -> dict[Stream, StreamDocument]:
    return {stream: StreamDocument.model_validate(asdict(view)) for stream, view in found.items()}


def output_group(
    values: Mapping[str, object], hosts: Sequence[str], example_job_task_id: UUID, detail: str
) -> OutputGroup:
    """A group of job tasks that ended alike, with the first names in it."""
    return OutputGroup.model_validate(
        {**values, "hosts": tuple(hosts), "example_job_task_id": example_job_task_id, "detail": detail}
    )


def host_document(it: Host, observations: Sequence[Observation], default_proxy: str) -> HostDocument:
    """A host as assigned, and as observed by the proxy it is assigned to."""
    record = it.record or HostRecord(name=it.name)
    ours = [one for one in observations if one.proxy == (record.proxy or default_proxy)]
    seen = max((one for one in ours if one.observed_at), key=_observed_at, default=None)
    told = max((one for one in ours if one.facts_reported_at), key=_facts_reported_at, default=None)
    check_ins = [one.last_check_in for one in ours if one.last_check_in is not None]
    return HostDocument(
        host_id=it.host_id,
        version=it.version,
        host=record,
        reachable=None if seen is None else seen.reachable,
        reachability_detail="" if seen is None else ": ".join(filter(None, (seen.why, seen.detail))),
        observed_at=None if seen is None else seen.observed_at,
        last_check_in=max(check_ins, default=None),
        reported_facts={} if told is None else dict(sorted(told.facts.items())),
        facts_reported_at=None if told is None else told.facts_reported_at,
    )


def _observed_at(observation: Observation) -> datetime:
    return observation.observed_at or _LONG_AGO


def _facts_reported_at(observation: Observation) -> datetime:
    return observation.facts_reported_at or _LONG_AGO


_LONG_AGO = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def proxy_documents(
    proxies: Iterable[str],
    agents: Sequence[Agent],
    sizes: Mapping[str, ProxySize],
    moment: datetime,
    silent_after: timedelta,
) -> list[ProxyDocument]:
    """Every proxy that was enrolled, with its agents as last heard."""
    found = []
    for proxy in sorted(proxies):
        ours = [agent for agent in agents if agent.proxy == proxy]
        latest = max(ours, key=lambda agent: agent.heard_at, default=None)
        found.append(
            ProxyDocument(
                proxy=proxy,
                agents=tuple(sorted(agent.agent_id for agent in ours)),
                providers=tuple(sorted({provider for agent in ours for provider in agent.providers})),
                last_heard_at=None if latest is None else latest.heard_at,
                following=sum(agent.following for agent in ours if not agent.has_stopped),
                clock_offset_s=None if latest is None else latest.clock_offset_s,
                status=status_of(ours, moment, silent_after),
                concurrency=sizes[proxy].concurrency if proxy in sizes else None,
            )
        )
    return found


def decision_document(outcome: CommandOutcome, location: str = "") -> Decision:
    return Decision(
        command_id=outcome.command_id,
        decision=outcome.decision,
        reason=outcome.reason,
        detail=outcome.detail,
        counts=dict(outcome.counts),
        location=location,
    )
