"""Hosts by ssh, with nothing installed on them: the port of providers/port.py over a pool of connections and the wrapper.

Owns the course of a visit: session, hello, order, answers. What the host may be told and what its answers mean is wrapper.py's; whether
to start, retry or believe is the agent's.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

from ..becoming import explained, needs_terminal
from ..details import harmless
from ..port import (
    ConnectionLost,
    CouldNotConnect,
    LookOrder,
    Observation,
    Refused,
    StartAllowed,
    StartOrder,
    Stream,
    Support,
    Target,
)
from ..wrapper import (
    Alive,
    Answers,
    Hello,
    LineWanted,
    PasswordWanted,
    Surroundings,
    Unreadable,
    command,
    fault_of,
    has_rebooted,
    look_text,
    opening,
    start_text,
)
from .connecting import Connector
from .pool import Pool, Pooled
from .routes import Route, Routes
from .session import Session, SessionLost, open_session
from .settings import SshSettings

_NONCE_BYTES = 16


class _NoWrapper(Exception):
    """The host does not say hello: `refusal` says why no order was sent."""

    def __init__(self, refusal: Refused) -> None:
        super().__init__(refusal.detail)
        self.refusal = refusal


class SshProvider:
    """Reaches hosts by ssh. Made inside a running event loop's process, before or after it runs; see SshSettings."""

    name = "ssh"
    supports = Support(host_lock=True, cancel=True, effective_user=True, resume=True)

    def __init__(self, settings: SshSettings) -> None:
        self._settings = settings
        self._routes = Routes(settings)
        self._connector = Connector(settings)
        self._pool = Pool(settings, self._connector)

    async def open(self, target: Target) -> SshHost:
        """An open connection, or a new one. Raises CouldNotConnect, and only that, for what a host can cause."""
        route = self._routes.find(target)
        return SshHost(self._settings, self._pool, route, await self._pool.take(route))

    async def close(self) -> None:
        """Close every connection. Nothing on a host is stopped by it."""
        await self._pool.close()
        self._connector.close()

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._pool)


class SshHost:
    """One user's share of a connection to one host."""

    def __init__(self, settings: SshSettings, pool: Pool, route: Route, pooled: Pooled) -> None:
        self._settings, self._pool, self._route = settings, pool, route
        self._pooled: Pooled | None = pooled

    def start(self, order: StartOrder, start_allowed: StartAllowed) -> AsyncGenerator[Observation, None]:
        """Start an attempt and follow it to its end; see HostConnection."""
        return self._start(order, start_allowed)

    def look(self, order: LookOrder) -> AsyncGenerator[Observation, None]:
        """See what is true of an attempt, and follow it if it runs; see HostConnection."""
        return self._look(order)

    async def release(self) -> None:
        """Give the connection back to the pool."""
        if self._pooled is not None:
            self._pool.give_back(self._pooled)
            self._pooled = None

    async def _start(self, order: StartOrder, start_allowed: StartAllowed) -> AsyncGenerator[Observation, None]:
        asked_at = _now()
        if (fault := fault_of(order)) is not None:
            yield Refused("not_valid", fault)
            return
        is_sent = False
        try:
            async with self._visit(order) as visit:
                around = self._surroundings(order, visit, asked_at)
                if has_rebooted(order, around):
                    yield Refused("rebooted", "the host booted after the attempt was issued")
                elif not start_allowed():
                    yield Refused("start_not_allowed", "it was too late to send the order")
                else:
                    is_sent = True
                    visit.give(start_text(order, around), {}, order.output_cap_bytes)
                    async for observation in visit.observations(self._settings.answer_timeout, order):
                        yield explained(observation, order)
        except _NoWrapper as error:
            yield error.refusal
        except (SessionLost, CouldNotConnect) as error:
            yield ConnectionLost(harmless(str(error)), order_sent=is_sent)

    async def _look(self, order: LookOrder) -> AsyncGenerator[Observation, None]:
        asked_at = _now()
        if (fault := fault_of(order)) is not None:
            yield ConnectionLost(f"no host can be asked: {fault}", order_sent=False)
            return
        is_sent = False
        try:
            async with self._visit(order) as visit:
                text = look_text(order, self._surroundings(order, visit, asked_at))
                is_sent = True
                visit.give(text, order.offsets, order.output_cap_bytes)
                async for observation in visit.observations(self._settings.answer_timeout):
                    # A look that is refused has seen nothing: it is as if the host could not be reached.
                    if isinstance(observation, Refused):
                        yield ConnectionLost(observation.detail)
                        return
                    yield explained(observation, order)
        except (SessionLost, CouldNotConnect, _NoWrapper) as error:
            yield ConnectionLost(harmless(str(error)), order_sent=is_sent)

    def _surroundings(self, order: StartOrder | LookOrder, visit: _Visit, asked_at: float) -> Surroundings:
        """The host's uptime when the order's durations began to count: what it said since, less what has passed here."""
        return Surroundings(
            uptime=visit.hello.uptime - timedelta(seconds=visit.hello_at - asked_at),
            same_user=order.effective_user == self._route.user,
            allow_memory_filesystem=self._settings.allow_memory_filesystem,
        )

    @asynccontextmanager
    async def _visit(self, order: StartOrder | LookOrder) -> AsyncIterator[_Visit]:
        """A session that has said hello. Raises SessionLost, CouldNotConnect, _NoWrapper: then nothing of the order was sent."""
        has_terminal = isinstance(order, StartOrder) and self._route.user != "root" and needs_terminal(order)
        text = command(order.job_task_id, order.attempt, has_terminal=has_terminal)
        session = await self._session(text, has_terminal)
        try:
            yield await _greet(session, self._settings.answer_timeout)
        finally:
            session.close()

    async def _session(self, text: str, has_terminal: bool) -> Session:
        """A session; on a connection that was open before and turns out to be dead, once more on a new one."""
        if self._pooled is None:
            self._pooled = await self._pool.take(self._route)
        pooled = self._pooled
        try:
            return await open_session(pooled.connection, text, self._settings.answer_timeout, has_terminal=has_terminal)
        except SessionLost:
            if not pooled.was_used:
                raise
        self._pooled = None
        self._pool.retire(pooled)
        self._pooled = await self._pool.take(self._route, fresh=True)
        return await open_session(
            self._pooled.connection, text, self._settings.answer_timeout, has_terminal=has_terminal
        )


class _Visit:
    """A session after its hello."""

    def __init__(self, session: Session, answers: Answers, hello: Hello) -> None:
        self._session, self._answers = session, answers
        self.hello = hello
        self.hello_at = _now()
        self._was_asked = False

    def give(self, text: bytes, offsets: Mapping[Stream, int], cap_bytes: int) -> None:
        """Send the order. Raises SessionLost."""
        self._answers.expect(dict(offsets), cap_bytes)
        self._session.write(text)

    async def observations(
        self, answer_timeout: timedelta, order: StartOrder | None = None
    ) -> AsyncGenerator[Observation, None]:
        """What the host answers, up to the final observation. Raises SessionLost."""
        while not self._answers.is_over:
            data = await self._session.read(answer_timeout)
            if not data:
                raise SessionLost("the session ended before its answer did")
            for answer in self._answers.feed(data):
                match answer:
                    case Unreadable():
                        raise SessionLost(f"the host's answer cannot be read: {answer.detail}")
                    case Hello() | Alive():
                        pass
                    case LineWanted():
                        self._session.write(b"\n")
                    case PasswordWanted():
                        self._give_password(order)
                    case _:
                        yield answer

    def _give_password(self, order: StartOrder | None) -> None:
        """Once, to the program that has the session's input now; on a terminal an end of input would be read as a byte."""
        if order is None or not order.effective_user_password:
            raise SessionLost("the host asks for a password that nobody gave")
        if self._was_asked:
            return
        self._was_asked = True
        line = order.effective_user_password.encode() + b"\n"
        if needs_terminal(order):
            self._session.write(line)
        else:
            self._session.write_last(line)


async def _greet(session: Session, within: timedelta) -> _Visit:
    """Send the opening and wait for the hello. Raises SessionLost, _NoWrapper."""
    nonce = secrets.token_hex(_NONCE_BYTES)
    answers = Answers(nonce)
    with suppress(SessionLost):  # what it said before it closed is still there to be read
        session.write(opening(nonce))
    give_up_at = _now() + within.total_seconds()
    while data := await session.read(timedelta(seconds=max(0.0, give_up_at - _now()))):
        for answer in answers.feed(data):
            if isinstance(answer, Hello):
                return _Visit(session, answers, answer)
            if isinstance(answer, Unreadable):
                raise _NoWrapper(Refused("unsupported_host" if answer.is_unsupported else "no_shell", answer.detail))
    said = harmless(bytes(session.stderr)) or answers.noise or "nothing"
    raise _NoWrapper(Refused("no_shell", f"no POSIX shell answers there; the login said: {said}"))


def _now() -> float:
    return asyncio.get_running_loop().time()
