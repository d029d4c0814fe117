"""Posting commands: signed under the gateway's key for the person it authenticated, and answered with what was decided.

Owns the way of a command from HTTP to the topic and of its decision back. What it means is the planner's.
"""

from __future__ import annotations

import asyncio
import base64
from datetime import timedelta
from uuid import UUID

from chargehand_chassis.errors import PublishFailed
from chargehand_chassis.kafka import Publisher
from chargehand_chassis.keys import seal
from chargehand_schemas.base import MAX_MESSAGE_BYTES
from chargehand_schemas.batches import Outgoing
from chargehand_schemas.commands import Command
from chargehand_schemas.topics import COMMANDS

from ...core.read_model import CommandOutcome
from .call import Call
from .changes import Changes
from .problems import HttpProblem

MAX_COMMAND_BYTES = 3 * MAX_MESSAGE_BYTES
_PUBLISH_WITHIN = timedelta(seconds=10)


class Commands:
    """The gateway's voice on the topic of commands."""

    def __init__(self, publisher: Publisher, changes: Changes, vault_key: bytes) -> None:
        self._publisher = publisher
        self._changes = changes
        self._vault_key = vault_key

    def sealed(self, value: str) -> str:
        """A hidden value, readable by the planner only (base64)."""
        return base64.b64encode(seal(self._vault_key, value.encode())).decode()

    async def post(self, call: Call, key: str, command: Command) -> CommandOutcome | None:
        """Publish, and wait for the decision as long as the settings say; None if it is not there by then.

        HttpProblem 413 if the command fits no message, 503 if the broker does not take it.
        """
        if len(command.model_dump_json()) > MAX_COMMAND_BYTES:
            raise HttpProblem(
                413, "too_large", f"the command is larger than {MAX_COMMAND_BYTES} bytes; send less at once"
            )
        self._changes.hurry()
        try:
            await self._publisher.publish([Outgoing(COMMANDS.name, key, command)], timeout=_PUBLISH_WITHIN)
        except PublishFailed as error:
            raise HttpProblem(503, "unreachable", f"Kafka did not take the command: {error}; try again") from error
        return await self._outcome(call, command.id)

    async def _outcome(self, call: Call, command_id: UUID) -> CommandOutcome | None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + call.gateway.settings.decide_within.total_seconds()
        while True:
            number = self._changes.number
            outcome = await call.read(lambda store: store.outcome(command_id))
            left = deadline - loop.time()
            if outcome is not None or left <= 0 or call.gateway.is_stopping:
                return outcome
            await self._changes.beyond(number, left)
