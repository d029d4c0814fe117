"""Every message type: its name, its topic, its model and who may write it. JSON Schemas and AsyncAPI come from this table.

Owns the table and looking things up in it. `chargehand.<noun>.<verb>.v<n>` is the type of a message (CloudEvents `type`).
"""

from __future__ import annotations

from dataclasses import dataclass

from . import (
    accumulated,
    catalog,
    commands,
    dead_letters,
    dispatch,
    execution,
    hosts,
    notifications,
    planning,
    progress,
    proxies,
    proxy_commands,
)
from .base import Item
from .reasons import Role
from .topics import (
    ACCUMULATED_PROGRESS_REPORTS,
    CATALOG_EVENTS,
    COMMANDS,
    DEAD_LETTERS,
    DISPATCH_EVENTS,
    EXECUTION_EVENTS,
    HOST_EVENTS,
    NOTIFICATIONS,
    PLANNING_EVENTS,
    PROGRESS_REPORTS,
    PROXY_COMMANDS,
    PROXY_EVENTS,
    Topic,
)


@dataclass(frozen=True, slots=True)
class MessageType:
    """One type of message. `name` without its version, e.g. `chargehand.job-invocation.invoke`."""

    topic: Topic
    noun: str
    verb: str
    model: type[Item]
    version: int = 1
    writers: frozenset[Role] | None = None

    @property
    def family(self) -> str:
        return f"chargehand.{self.noun}.{self.verb}"

    @property
    def name(self) -> str:
        return f"{self.family}.v{self.version}"

    def may_be_written_by(self, role: Role) -> bool:
        return role in (self.topic.writers if self.writers is None else self.writers)


_CLIENTS = frozenset({Role.GATEWAY, Role.SERVICE_ACCOUNT})


def _command(noun: str, verb: str, model: type[Item]) -> MessageType:
    return MessageType(COMMANDS, noun, verb, model, writers=_CLIENTS)


MESSAGE_TYPES: tuple[MessageType, ...] = (
    _command("job-invocation", "invoke", commands.InvokeJob),
    _command("job-invocation", "cancel", commands.CancelJobInvocation),
    _command("job-invocation", "edit", commands.EditJobInvocation),
    _command("proxy", "change", commands.ChangeProxy),
    _command("hosts", "import", commands.ImportHosts),
    _command("hosts", "remove", commands.RemoveHosts),
    _command("job-template", "save", commands.SaveJobTemplate),
    _command("enrolment-token", "issue", commands.IssueEnrolmentToken),
    MessageType(COMMANDS, "key", "enrol", commands.EnrolKey, writers=frozenset({Role.ENROLEE})),
    _command("key", "revoke", commands.RevokeKey),
    _command("user", "create", commands.CreateUser),
    _command("user", "disable", commands.DisableUser),
    _command("token", "issue", commands.IssueToken),
    _command("token", "revoke", commands.RevokeToken),
    MessageType(CATALOG_EVENTS, "key", "enrolled", catalog.KeyEnrolled),
    MessageType(CATALOG_EVENTS, "key", "revoked", catalog.KeyRevoked),
    MessageType(CATALOG_EVENTS, "enrolment-token", "issued", catalog.EnrolmentTokenIssued),
    MessageType(CATALOG_EVENTS, "enrolment-token", "used", catalog.EnrolmentTokenUsed),
    MessageType(CATALOG_EVENTS, "host", "registered", catalog.HostRegistered),
    MessageType(CATALOG_EVENTS, "host", "changed", catalog.HostChanged),
    MessageType(CATALOG_EVENTS, "host", "removed", catalog.HostRemoved),
    MessageType(CATALOG_EVENTS, "job-template", "saved", catalog.JobTemplateSaved),
    MessageType(CATALOG_EVENTS, "proxy", "changed", catalog.ProxyChanged),
    MessageType(CATALOG_EVENTS, "user", "created", catalog.UserCreated),
    MessageType(CATALOG_EVENTS, "user", "disabled", catalog.UserDisabled),
    MessageType(CATALOG_EVENTS, "token", "issued", catalog.TokenIssued),
    MessageType(CATALOG_EVENTS, "token", "revoked", catalog.TokenRevoked),
    MessageType(CATALOG_EVENTS, "command", "decided", catalog.CommandDecided),
    MessageType(PLANNING_EVENTS, "job-invocation", "accepted", planning.JobInvocationAccepted),
    MessageType(PLANNING_EVENTS, "job-invocation", "refused", planning.JobInvocationRefused),
    MessageType(PLANNING_EVENTS, "job-invocation", "scheduled", planning.JobInvocationScheduled),
    MessageType(PLANNING_EVENTS, "job-invocation", "targeted", planning.JobInvocationTargeted),
    MessageType(PLANNING_EVENTS, "job-tasks", "planned", planning.JobTasksPlanned),
    MessageType(PLANNING_EVENTS, "job-invocation", "cancel-requested", planning.JobInvocationCancelRequested),
    MessageType(PLANNING_EVENTS, "cancel", "refused", planning.CancelRefused),
    MessageType(PLANNING_EVENTS, "job-invocation", "edited", planning.JobInvocationEdited),
    MessageType(PLANNING_EVENTS, "edit", "refused", planning.EditRefused),
    MessageType(PLANNING_EVENTS, "attempt", "bound", planning.AttemptBound),
    MessageType(PLANNING_EVENTS, "attempt", "refused", planning.AttemptRefused),
    MessageType(PLANNING_EVENTS, "attempt", "rebound", planning.AttemptRebound),
    MessageType(PLANNING_EVENTS, "attempt", "voided", planning.AttemptVoided),
    MessageType(PLANNING_EVENTS, "script", "rendered", planning.ScriptRendered),
    MessageType(DISPATCH_EVENTS, "job-invocation", "due", dispatch.JobInvocationDue),
    MessageType(DISPATCH_EVENTS, "plan-chunk", "missing", dispatch.PlanChunkMissing),
    MessageType(DISPATCH_EVENTS, "concurrency", "changed", dispatch.ConcurrencyChanged),
    MessageType(DISPATCH_EVENTS, "attempt", "due", dispatch.AttemptDue),
    MessageType(DISPATCH_EVENTS, "resume", "due", dispatch.ResumeDue),
    MessageType(DISPATCH_EVENTS, "cancel", "due", dispatch.CancelDue),
    MessageType(DISPATCH_EVENTS, "job-task", "status-changed", dispatch.JobTaskStatusChanged),
    MessageType(DISPATCH_EVENTS, "job-task", "ended", dispatch.JobTaskEnded),
    MessageType(DISPATCH_EVENTS, "job-invocation", "ended", dispatch.JobInvocationEnded),
    MessageType(PROXY_COMMANDS, "proxy-command", "run", proxy_commands.RunProxyCommand),
    MessageType(PROXY_COMMANDS, "proxy-command", "resume", proxy_commands.ResumeProxyCommand),
    MessageType(PROXY_COMMANDS, "proxy-command", "cancel", proxy_commands.CancelProxyCommand),
    MessageType(EXECUTION_EVENTS, "attempt", "accepted", execution.AttemptAccepted),
    MessageType(EXECUTION_EVENTS, "attempt", "released", execution.AttemptReleased),
    MessageType(EXECUTION_EVENTS, "attempt", "started", execution.AttemptStarted),
    MessageType(EXECUTION_EVENTS, "attempt", "ended", execution.AttemptEnded),
    MessageType(EXECUTION_EVENTS, "attempt", "interrupted", execution.AttemptInterrupted),
    MessageType(EXECUTION_EVENTS, "attempt", "never-started", execution.AttemptNeverStarted),
    MessageType(PROGRESS_REPORTS, "progress", "reported", progress.ProgressReport),
    MessageType(PROGRESS_REPORTS, "output", "omitted", progress.OutputOmitted),
    MessageType(ACCUMULATED_PROGRESS_REPORTS, "progress", "accumulated", accumulated.AccumulatedProgressReport),
    MessageType(HOST_EVENTS, "host-reachability", "observed", hosts.HostReachabilityObserved),
    MessageType(HOST_EVENTS, "host", "checked-in", hosts.HostCheckedIn),
    MessageType(HOST_EVENTS, "host-facts", "reported", hosts.HostFactsReported),
    MessageType(PROXY_EVENTS, "agent", "started", proxies.AgentStarted),
    MessageType(PROXY_EVENTS, "agent", "heartbeat", proxies.AgentHeartbeat),
    MessageType(PROXY_EVENTS, "attempts", "followed", proxies.AttemptsFollowed),
    MessageType(PROXY_EVENTS, "agent", "stopped", proxies.AgentStopped),
    MessageType(NOTIFICATIONS, "job-invocation", "started", notifications.JobInvocationStartedNotification),
    MessageType(NOTIFICATIONS, "job-invocation", "ended", notifications.JobInvocationEndedNotification),
    MessageType(NOTIFICATIONS, "job-invocation", "refused", notifications.JobInvocationRefusedNotification),
    MessageType(NOTIFICATIONS, "proxy", "silent", notifications.ProxySilentNotification),
    MessageType(NOTIFICATIONS, "proxy", "back", notifications.ProxyBackNotification),
    MessageType(DEAD_LETTERS, "message", "dead-lettered", dead_letters.DeadLetter),
)

_BY_MODEL: dict[type[Item], MessageType] = {message.model: message for message in MESSAGE_TYPES}
_BY_FAMILY: dict[tuple[str, str], MessageType] = {(m.topic.base, m.family): m for m in MESSAGE_TYPES}


def type_of(model: type[Item]) -> MessageType:
    """The message type of a model class. KeyError if it is no message."""
    return _BY_MODEL[model]


def find_type(topic: Topic, family: str) -> MessageType | None:
    """The present version of a type on a topic; None if the topic has no such type."""
    return _BY_FAMILY.get((topic.base, family))


def split_type(name: str) -> tuple[str, int] | None:
    """`chargehand.noun.verb.v3` as (`chargehand.noun.verb`, 3); None if it is not of that form."""
    family, dot, tail = name.rpartition(".v")
    if not dot or not tail.isascii() or not tail.isdigit() or len(tail) > 4:
        return None
    return family, int(tail)
