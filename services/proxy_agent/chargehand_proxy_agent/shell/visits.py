"""One visit to a host: connect, send what the core says, hand on what is seen, give the connection back.

Owns the life of a connection's use. Bounded: connections being begun (all attempts), output not acknowledged (each and all).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING

from chargehand_chassis.clock import now

from ..core import attempt as rules
from ..core.effects import Look
from ..core.inputs import Connected, ConnectionCut, CouldNotConnect
from ..providers import port
from . import faults, offers

if TYPE_CHECKING:
    from .attempts import Attempts, LiveAttempt

_FINAL = (port.Ended, port.Interrupted, port.NeverStarted, port.Refused, port.ConnectionLost)


class Visit:
    """One connection on behalf of an attempt. It goes on until it has seen an end, or is left."""

    __slots__ = ("_all", "_instruction", "_is_over", "_live", "_number", "_task")

    def __init__(self, live: LiveAttempt, attempts: Attempts, number: int) -> None:
        self._live, self._all, self._number = live, attempts, number
        self._is_over = False
        self._instruction: asyncio.Future[Look | None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.get_running_loop().create_task(self._run())
        attempts.tasks.add(self._task)
        self._task.add_done_callback(self._forget)

    def instruct(self, look: Look | None) -> None:
        """What to send on the connection: a look, or (None) the wrapper."""
        self._instruction.set_result(look)

    def leave(self) -> None:
        """End the visit. Nothing on the host is stopped by it."""
        if not self._is_over:
            self._task.cancel()

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._all.tasks.discard(task)
        self._live.visit_over(self._number)

    async def _run(self) -> None:
        state = self._live.state
        if state is None:
            return
        order = state.order
        try:
            connection = await self._connect(self._all.providers[order.provider_type], offers.target(order))
        except port.CouldNotConnect as error:
            self._all.reachability.note(order.host_id, False, error.why, error.detail)
            self._live.give(CouldNotConnect(self._number, error.why, error.detail))
            return
        self._all.reachability.note(order.host_id, True)
        self._all.points.reach(faults.CONNECTED)
        try:
            self._live.give(Connected(self._number))
            await self._watch(connection, await self._instruction)
        finally:
            self._is_over = True
            await connection.release()

    async def _connect(self, provider: port.Provider, target: port.Target) -> port.HostConnection:
        async with self._all.connects.entered():
            try:
                return await provider.open(target)
            except (port.CouldNotConnect, asyncio.CancelledError):
                raise
            except Exception as error:
                self._all.log.error("provider_failed", host=target.name, error=repr(error), exc_info=error)
                raise port.CouldNotConnect("protocol_error", "the provider failed; see the agent's log") from error

    async def _watch(self, connection: port.HostConnection, look: Look | None) -> None:
        try:
            is_final = await self._follow(connection, look)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._all.log.error("provider_failed", attempt=str(self._live.id), error=repr(error), exc_info=error)
            is_final = False
        if not is_final:
            self._live.give(ConnectionCut(self._number, "the connection ended without an answer"))

    async def _follow(self, connection: port.HostConnection, look: Look | None) -> bool:
        observations = self._begin(connection, look)
        if observations is None:
            return False
        async with aclosing(observations) as following:  # type: ignore[type-var]
            async for observation in following:
                self._live.give(offers.seen(self._number, observation))
                if isinstance(observation, _FINAL):
                    return True
                if isinstance(observation, port.Output):
                    await self._live.room()
        return False

    def _begin(self, connection: port.HostConnection, look: Look | None) -> AsyncIterator[port.Observation] | None:
        state, moment, settings = self._live.state, now(), self._all.settings
        if state is None:
            return None
        if look is not None:
            # By the broker's clock: whether the host has booted since must not hang on ours.
            issued_ago = self._all.facts_to_start().true_time(moment) - state.order.issued_at
            order = offers.look_order(state.order, look, issued_ago, settings)
            return connection.look(order)
        terms = rules.start_terms(state, moment)
        if terms is None:
            return None
        try:
            start = offers.start_order(terms, settings, self._all.keys, self._all.secrets)
        except ValueError as error:
            return _refused(port.Refused("not_valid", str(error)))
        return connection.start(start, self._start_allowed)

    def _start_allowed(self) -> bool:
        state = self._live.state
        return state is not None and rules.may_start(state, now(), self._all.facts_to_start())


async def _refused(refusal: port.Refused) -> AsyncIterator[port.Observation]:
    yield refusal
