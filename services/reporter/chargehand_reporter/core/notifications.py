"""What people and programs are told: an invocation started, ended, was refused; a proxy fell silent, came back.

Owns when something is news and its id, which follows from what it is about, so that a repeat is the same item. How old
news may be is decided here too: a read model built anew tells nobody what is long past.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from chargehand_schemas.ids import item_id
from chargehand_schemas.notifications import (
    FailedHost,
    JobInvocationEndedNotification,
    JobInvocationRefusedNotification,
    JobInvocationStartedNotification,
    ProxyBackNotification,
    ProxySilentNotification,
)

from .invocation import JobInvocation

STARTED, ENDED, REFUSED = "started", "ended", "refused"
MAX_FAILED_HOSTS = 50

InvocationNews = JobInvocationStartedNotification | JobInvocationEndedNotification | JobInvocationRefusedNotification


def news_of(invocation: JobInvocation) -> tuple[str, ...]:
    """What of this invocation is worth telling and was not told yet, in order."""
    found: list[str] = []
    if invocation.definition is None:
        if invocation.refusal:
            found.append(REFUSED)
    else:
        if invocation.total and (invocation.due_at is not None or invocation.counts):
            found.append(STARTED)
        if invocation.ended is not None:
            found.append(ENDED)
    return tuple(word for word in found if word not in invocation.told)


def mark_told(invocation: JobInvocation, words: Sequence[str]) -> JobInvocation:
    return replace(invocation, told=(*invocation.told, *words))


def is_news(invocation: JobInvocation, word: str, moment: datetime, within: timedelta) -> bool:
    """Whether it happened recently enough to be told."""
    happened = {STARTED: invocation.due_at, ENDED: invocation.ended_at, REFUSED: invocation.refused_at}[word]
    return moment - (happened or invocation.created_at) <= within


def write_news(
    invocation: JobInvocation, word: str, moment: datetime, failed_hosts: Sequence[FailedHost] = ()
) -> InvocationNews:
    """The notification. `failed_hosts`: the first 50 that did not succeed, only read for the end."""
    common = {"id": item_id("notification", word, invocation.job_invocation_id), "time": moment}
    about = {"job_invocation_id": invocation.job_invocation_id, "actor": invocation.actor}
    if word == REFUSED:
        return JobInvocationRefusedNotification.model_validate(
            common | about | {"reason": invocation.refusal, "detail": invocation.detail}
        )
    about["description"] = invocation.definition.description if invocation.definition is not None else ""
    if word == STARTED:
        return JobInvocationStartedNotification.model_validate(common | about | {"total": invocation.total})
    return JobInvocationEndedNotification.model_validate(
        common
        | about
        | {
            "status": invocation.status,
            "total": invocation.total,
            "counts": dict(invocation.said_counts),
            "reasons": dict(invocation.said_reasons),
            "started_at": invocation.due_at,
            "ended_at": invocation.ended_at or moment,
            "failed_hosts": tuple(failed_hosts)[:MAX_FAILED_HOSTS],
            "path": f"/job-invocations/{invocation.job_invocation_id}",
        }
    )


def write_silence(proxy: str, last_heard_at: datetime, moment: datetime) -> ProxySilentNotification:
    """A proxy fell silent; one item per silence, however often it is found."""
    return ProxySilentNotification(
        id=item_id("proxy-silent", proxy, last_heard_at.isoformat()),
        time=moment,
        proxy=proxy,
        last_heard_at=last_heard_at,
    )


def write_return(proxy: str, silent_since: datetime, moment: datetime) -> ProxyBackNotification:
    """A proxy is heard again after the silence that began at `silent_since`."""
    return ProxyBackNotification(id=item_id("proxy-back", proxy, silent_since.isoformat()), time=moment, proxy=proxy)
