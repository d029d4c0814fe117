"""The facts an agent says of an attempt, and its output as items. Owns how they are built and which id each has.

Ids follow from what is said, so that a repeat is dropped by readers. An answer to a question has an id of its own: it must be
heard (docs/protocol.md, section 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from chargehand_schemas.base import AttemptItem
from chargehand_schemas.execution import (
    AttemptAccepted,
    AttemptEnded,
    AttemptFact,
    AttemptInterrupted,
    AttemptNeverStarted,
    AttemptReleased,
    AttemptStarted,
)
from chargehand_schemas.ids import AttemptId, item_id
from chargehand_schemas.progress import OutputOmitted, ProgressReport
from chargehand_schemas.proxy_commands import ProxyCommand
from chargehand_schemas.reasons import ReleaseReason, Stream

from .facts import AgentFacts
from .inputs import EndSeen, InterruptionSeen, NeverStartedSeen
from .output import Chunk, Gap, Piece, StreamOutput

MAX_DETAIL = 2000


def accepted(order: ProxyCommand, now: datetime, facts: AgentFacts) -> AttemptAccepted:
    return AttemptAccepted(**_about("accepted", order, now, facts))


def released(
    order: ProxyCommand, why: ReleaseReason, detail: str, is_proof: bool, now: datetime, facts: AgentFacts
) -> AttemptReleased:
    """`is_proof`: the conditions (a) of docs/protocol.md, rule ONE, hold."""
    about = _about("released", order, now, facts)
    return AttemptReleased(**about, why=why, detail=detail[:MAX_DETAIL], proves_never_started=is_proof)


def started(
    order: ProxyCommand, boot_id: str, started_at: datetime, digest: str, now: datetime, facts: AgentFacts
) -> AttemptStarted:
    about = _about("started", order, now, facts)
    return AttemptStarted(**about, host_boot_id=boot_id, started_at=started_at, script_digest=digest)


def never_started(order: ProxyCommand, seen: NeverStartedSeen, now: datetime, facts: AgentFacts) -> AttemptNeverStarted:
    about = _about("never-started", order, now, facts)
    return AttemptNeverStarted(**about, why=seen.why, fenced_by=seen.fenced_by, refusal=seen.refusal[:MAX_DETAIL])


def ended(
    order: ProxyCommand,
    seen: EndSeen,
    streams: Mapping[Stream, StreamOutput],
    ended_at: datetime,
    now: datetime,
    facts: AgentFacts,
) -> AttemptEnded:
    """Lengths are what the host said; kept, digests and newlines what was published."""
    return AttemptEnded(
        **_about("ended", order, now, facts),
        exit_status=seen.exit_status,
        signal=seen.signal,
        cause=seen.cause,
        started_at=ended_at - seen.ran_for,
        ended_at=ended_at,
        lengths=dict(seen.lengths),
        kept={stream: output.kept for stream, output in streams.items()},
        digests={stream: output.sha256() for stream, output in streams.items()},
        newlines={stream: output.newlines for stream, output in streams.items()},
        host_boot_id=seen.host_boot_id,
    )


def interrupted(
    order: ProxyCommand,
    seen: InterruptionSeen,
    streams: Mapping[Stream, StreamOutput],
    now: datetime,
    facts: AgentFacts,
) -> AttemptInterrupted:
    return AttemptInterrupted(
        **_about("interrupted", order, now, facts),
        detail=seen.detail[:MAX_DETAIL],
        host_boot_id=seen.host_boot_id,
        lengths=dict(seen.lengths or {stream: output.seen for stream, output in streams.items()}),
        kept={stream: output.kept for stream, output in streams.items()},
        digests={stream: output.sha256() for stream, output in streams.items()},
    )


def in_answer(report: AttemptFact, question: ProxyCommand, now: datetime) -> AttemptFact:
    """The same fact said again because it was asked for."""
    answer = item_id("answer", question.id, report.id)
    return report.model_copy(update={"id": answer, "time": now, "causation_id": question.id})


def output_item(order: ProxyCommand, stream: Stream, piece: Piece, now: datetime) -> AttemptItem:
    """A ProgressReport or OutputOmitted; its bytes, if any, travel beside it."""
    match piece:
        case Chunk():
            return _progress(order, stream, piece, now)
        case Gap(start, end):
            about = _item("omitted", order, now, stream, start, end)
            return OutputOmitted(**about, host_id=order.host_id, stream=stream, start=start, end=end)


def _progress(order: ProxyCommand, stream: Stream, chunk: Chunk, now: datetime) -> ProgressReport:
    length = len(chunk.data)
    return ProgressReport(
        **_item("report", order, now, stream, chunk.offset, length),
        host_id=order.host_id,
        stream=stream,
        offset=chunk.offset,
        length=length,
        newlines=chunk.data.count(b"\n"),
        observed_at=now,
    )


def _about(kind: str, order: ProxyCommand, now: datetime, facts: AgentFacts) -> dict[str, Any]:
    about = _item(kind, order, now, facts.journal_id, facts.agent_boot_id)
    about["host_id"] = order.host_id
    about["proxy"] = facts.proxy
    about["agent_id"] = facts.agent_id
    about["agent_boot_id"] = facts.agent_boot_id
    about["journal_id"] = facts.journal_id
    return about


def _item(kind: str, order: ProxyCommand, now: datetime, *which: object) -> dict[str, Any]:
    return {
        "id": item_id(kind, order.job_task_id, order.attempt, *which),
        "time": now,
        "causation_id": order.id,
        "traceparent": order.traceparent,
        "job_invocation_id": order.job_invocation_id,
        "job_task_id": order.job_task_id,
        "attempt": order.attempt,
    }


def attempt_id(command: ProxyCommand) -> AttemptId:
    return AttemptId(command.job_task_id, command.attempt)
