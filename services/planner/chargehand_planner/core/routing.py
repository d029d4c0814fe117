"""Where an event goes: its topic and its key. Events of the planner alone go nowhere.

Owns the keys of the planner's topics (docs/reference/topics.md).
"""

from __future__ import annotations

from chargehand_schemas.base import InvocationItem, Item
from chargehand_schemas.batches import Outgoing
from chargehand_schemas.catalog import (
    CommandDecided,
    EnrolmentTokenIssued,
    EnrolmentTokenUsed,
    HostChanged,
    HostRegistered,
    HostRemoved,
    JobTemplateSaved,
    KeyEnrolled,
    KeyRevoked,
    ProxyChanged,
    TokenIssued,
    TokenRevoked,
    UserCreated,
    UserDisabled,
)
from chargehand_schemas.proxy_commands import ProxyCommand
from chargehand_schemas.topics import CATALOG_EVENTS, PLANNING_EVENTS, PROXY_COMMANDS

from .events import JobInvocationClosed, TargetingCopied

PRIVATE = (TargetingCopied, JobInvocationClosed)


def routed(event: Item) -> Outgoing | None:
    """The message of an event; None for the planner's own."""
    if isinstance(event, PRIVATE):
        return None
    if isinstance(event, ProxyCommand):
        return Outgoing(PROXY_COMMANDS.of(event.proxy), str(event.host_id), event)
    if isinstance(event, InvocationItem):
        return Outgoing(PLANNING_EVENTS.name, str(event.job_invocation_id), event)
    return Outgoing(CATALOG_EVENTS.name, _entity(event), event)


def _entity(event: Item) -> str:
    match event:
        case HostRegistered() | HostChanged() | HostRemoved():
            return str(event.host_id)
        case JobTemplateSaved():
            return str(event.template_id)
        case UserCreated() | UserDisabled():
            return event.login
        case TokenIssued() | TokenRevoked():
            return str(event.token_id)
        case KeyEnrolled() | KeyRevoked() | EnrolmentTokenIssued() | EnrolmentTokenUsed():
            return event.kid
        case ProxyChanged():
            return event.proxy
        case CommandDecided():
            return str(event.command_id)
        case _:
            raise TypeError(f"{type(event).__name__} is no event of the planner")
