"""Connections kept open for the next job: found by route, counted, closed when nobody used them for a while.

Owns which connection a job gets. How one is opened is in connecting.py.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

import asyncssh

from .connecting import Connector
from .routes import Route
from .settings import SshSettings

_PROMISED_FOR_S = 1.0


@dataclass(eq=False, slots=True)
class Pooled:
    """An open connection. `users` are sessions; `riders` are connections that lead through this one.

    `was_used`: it has carried a session before, so a failure to open another may only mean that it died meanwhile.
    `is_promised`: new, and whoever it was opened for has not come for it yet.
    """

    route: Route
    connection: asyncssh.SSHClientConnection
    below: Pooled | None
    users: int = 0
    riders: int = 0
    was_used: bool = False
    is_retired: bool = False
    is_lost: bool = False
    is_promised: bool = True
    timer: asyncio.TimerHandle | None = field(default=None, repr=False)

    @property
    def is_idle(self) -> bool:
        return not self.users and not self.riders and not self.is_promised


class Pool:
    """All open connections of a provider."""

    def __init__(self, settings: SshSettings, connector: Connector) -> None:
        self._settings = settings
        self._connector = connector
        self._open: dict[Route, list[Pooled]] = {}
        self._opening: dict[Route, asyncio.Task[Pooled]] = {}
        self._count = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    async def take(self, route: Route, *, fresh: bool = False) -> Pooled:
        """A connection with room for one session more, which is now ours; `fresh`: none of those that are open now.

        Raises CouldNotConnect. Who comes while one to the same host is being opened waits for that one, and fails with it.
        """
        while True:
            pooled = None if fresh else self._find(route)
            if pooled is not None:
                pooled.users += 1
                pooled.is_promised = False
                self._stop_timer(pooled)
                return pooled
            await asyncio.shield(self._opening.get(route) or self._open_one(route))
            fresh = False

    def give_back(self, pooled: Pooled) -> None:
        """One session less. The last one starts the idle time."""
        pooled.was_used = True
        pooled.users -= 1
        self._rest(pooled)

    def retire(self, pooled: Pooled) -> None:
        """Give back one that takes no more sessions: it is closed when the last of those it has is over."""
        pooled.is_retired = True
        self.give_back(pooled)

    async def close(self) -> None:
        """Close all, those that lead through others first."""
        for task in list(self._opening.values()):
            task.cancel()
        everything = sorted((one for pools in self._open.values() for one in pools), key=lambda one: one.riders)
        for pooled in everything:
            self._close(pooled)
        await asyncio.gather(*(pooled.connection.wait_closed() for pooled in everything), return_exceptions=True)

    def _find(self, route: Route) -> Pooled | None:
        for pooled in self._open.get(route, ()):
            if pooled.users < self._settings.max_sessions and not pooled.is_retired:
                return pooled
        return None

    def _open_one(self, route: Route) -> asyncio.Task[Pooled]:
        task = asyncio.get_running_loop().create_task(self._connect(route))
        self._opening[route] = task
        task.add_done_callback(lambda _: self._opened(route, task))
        return task

    def _opened(self, route: Route, task: asyncio.Task[Pooled]) -> None:
        if self._opening.get(route) is task:
            del self._opening[route]
        if not task.cancelled():
            task.exception()  # whoever waited for it has it too; if nobody did, nobody is to be told

    async def _connect(self, route: Route) -> Pooled:
        below = await self._ride(route.jump) if route.jump is not None else None
        has_room = False

        async def make_room() -> None:
            nonlocal has_room
            await self._make_room()
            has_room = True

        try:
            connection, client = await self._connector.connect(route, below.connection if below else None, make_room)
        except BaseException:
            if has_room:
                self._release_room()
            self._get_off(below)
            raise
        pooled = Pooled(route, connection, below)
        self._open.setdefault(route, []).append(pooled)
        client.on_lost = lambda: self._forget(pooled)
        pooled.timer = asyncio.get_running_loop().call_later(_PROMISED_FOR_S, self._keep_no_longer, pooled)
        return pooled

    def _keep_no_longer(self, pooled: Pooled) -> None:
        """Whoever it was opened for has gone away."""
        pooled.is_promised = False
        self._rest(pooled)

    async def _ride(self, jump: Route) -> Pooled:
        below = await self.take(jump)
        below.users, below.riders = below.users - 1, below.riders + 1
        return below

    def _get_off(self, below: Pooled | None) -> None:
        if below is not None:
            below.riders -= 1
            self._rest(below)

    async def _make_room(self) -> None:
        """Count one connection more; if that is too many, an idle one goes, or we wait for one to go."""
        while self._count >= self._settings.max_connections:
            idle = next((one for pools in self._open.values() for one in pools if one.is_idle), None)
            if idle is not None:
                self._close(idle)
                continue
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
        self._count += 1

    def _release_room(self) -> None:
        self._count -= 1
        self._wake()

    def _wake(self) -> None:
        """The first that waits for room looks again."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _rest(self, pooled: Pooled) -> None:
        """Nobody may be using it: then its idle time begins, or its end if it takes no more sessions."""
        if pooled.is_lost or not pooled.is_idle:
            return
        self._stop_timer(pooled)
        if pooled.is_retired:
            self._close(pooled)
            return
        idle_s = self._settings.idle_time.total_seconds()
        pooled.timer = asyncio.get_running_loop().call_later(idle_s, self._close, pooled)
        self._wake()

    def _close(self, pooled: Pooled) -> None:
        pooled.connection.close()
        self._forget(pooled)

    def _forget(self, pooled: Pooled) -> None:
        """It is closed, by us or by others."""
        if pooled.is_lost:
            return
        pooled.is_lost = True
        self._stop_timer(pooled)
        there = self._open[pooled.route]
        there.remove(pooled)
        if not there:
            del self._open[pooled.route]
        self._release_room()
        self._get_off(pooled.below)

    @staticmethod
    def _stop_timer(pooled: Pooled) -> None:
        if pooled.timer is not None:
            pooled.timer.cancel()
            pooled.timer = None
