"""Events of the planner's own streams that are published nowhere.

Owns their shape. Everything another service needs to know is an event of the schemas instead.
"""

from __future__ import annotations

from chargehand_schemas.base import InvocationItem
from chargehand_schemas.reasons import JobInvocationStatus


class TargetingCopied(InvocationItem):
    """The hosts an invocation is for, as they were when it was accepted: ids of 16 bytes each, in their order."""

    host_ids: bytes


class JobInvocationClosed(InvocationItem):
    """Every job task has its verdict, said by the dispatcher: nothing is left to cancel or to bind."""

    status: JobInvocationStatus
