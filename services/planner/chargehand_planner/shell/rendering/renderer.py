"""Scripts for hosts, from templates nobody has to trust: which worker renders what, for how long, and what becomes of a bomb.

Owns queues and limits. A template has a worker of its own while it is in use, so that it waits only for itself; some workers are
kept for templates that have rendered before, so that those never wait for new ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeAlias

from chargehand_chassis.metrics import METRICS

from ...core.job_templates import Analysis, Fault
from .frames import Kind, json_frame
from .processes import Worker, WorkerEnded, Zygote

PATIENCE = timedelta(seconds=1.6)
"""Without an answer for so long a worker is ended: below the 2 s a template may take."""

SLOW_AFTER_S = 0.1
BUSY = 8
BUSY_UNKNOWN = 4
IDLE = 4
ENDED_AT_MOST = 3
CHUNK = 100
CACHED_SCRIPTS = 1024
CACHED_BYTES = 16 * 1024
CACHED_ANALYSES = 4096

ENDED = "rendering was ended: it took more time or memory than a template may"

Answer: TypeAlias = "str | Fault"


@dataclass(frozen=True, slots=True)
class RenderJob:
    """A template's body and inputs, and the data of each host, as far as the template looks at it."""

    body: str
    inputs: Mapping[str, str]
    hosts: Sequence[Mapping[str, Any]]
    uses_host: bool = True


@dataclass(slots=True)
class _Lane:
    """A template's place in the queue: one request at a time, on its own worker."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    worker: Worker | None = None
    has_rendered: bool = False
    waiting: int = 0


class Renderer:
    """Renders in worker processes. One event loop; start it before use."""

    def __init__(self, patience: timedelta = PATIENCE) -> None:
        self._patience = patience
        self._zygote = Zygote()
        self._lanes: OrderedDict[str, _Lane] = OrderedDict()
        self._turns = asyncio.Semaphore(BUSY)
        self._unknown_turns = asyncio.Semaphore(BUSY_UNKNOWN)
        self._analyses: OrderedDict[str, Analysis] = OrderedDict()
        self._scripts: OrderedDict[tuple[str, str], str] = OrderedDict()

    async def start(self) -> bool:
        """Whether the workers are without network, which not every system allows. TransientFailure if nothing starts."""
        await self._zygote.start()
        return self._zygote.is_isolated

    async def stop(self) -> None:
        """End all workers; what is being rendered fails with WorkerEnded."""
        for lane in self._lanes.values():
            self._discard(lane)
        await self._zygote.stop()

    async def analyse(self, body: str) -> Analysis:
        """What a body says without being rendered; remembered."""
        key = _digest(body)
        known = self._analyses.get(key)
        if known is None:
            known = await self._analyse(key, body)
            _remember(self._analyses, key, known, CACHED_ANALYSES)
        return known

    async def _analyse(self, key: str, body: str) -> Analysis:
        (answer,) = await self._answers(f"analysis:{key}", {"body": body}, [])
        self._forget(f"analysis:{key}")
        if isinstance(answer, Fault):
            return Analysis(fault=answer)
        found = json.loads(answer)
        return Analysis(tuple((name, line) for name, line in found["inputs"]), found["uses_host"])

    def remembered(self, job: RenderJob) -> list[Answer] | None:
        """The scripts, if this job does not look at the host and was rendered before."""
        script = None if job.uses_host else self._scripts.get(_script_key(job))
        return None if script is None else [script] * len(job.hosts)

    async def render(self, job: RenderJob) -> list[Answer]:
        """A script or a fault for each host, in their order. One template's fault on one host is no other host's."""
        known = self.remembered(job)
        if known is not None:
            return known
        asked: Sequence[Mapping[str, Any] | None] = job.hosts if job.uses_host else [None]
        answers = await self._answers(_digest(job.body), {"body": job.body, "inputs": dict(job.inputs)}, asked)
        for answer in answers:
            METRICS.renders.labels("fault" if isinstance(answer, Fault) else "script").inc()
        if job.uses_host:
            return answers
        if isinstance(answers[0], str) and len(answers[0]) <= CACHED_BYTES:
            _remember(self._scripts, _script_key(job), answers[0], CACHED_SCRIPTS)
        return answers * len(job.hosts)

    async def _answers(
        self, key: str, request: Mapping[str, Any], hosts: Sequence[Mapping[str, Any] | None]
    ) -> list[Answer]:
        lane = self._lanes.setdefault(key, _Lane())
        lane.waiting += 1
        try:
            async with lane.lock, self._turn(lane):
                self._lanes.move_to_end(key)
                return await self._ask_until_done(lane, request, hosts)
        finally:
            lane.waiting -= 1
            self._tidy()

    @contextlib.asynccontextmanager
    async def _turn(self, lane: _Lane) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            if not lane.has_rendered:
                await stack.enter_async_context(self._unknown_turns)
            await stack.enter_async_context(self._turns)
            yield

    async def _ask_until_done(
        self, lane: _Lane, request: Mapping[str, Any], hosts: Sequence[Mapping[str, Any] | None]
    ) -> list[Answer]:
        """Ask again behind a host whose script ended the worker; after three of them the template itself is to blame."""
        wanted, answers, ended = max(1, len(hosts)), list[Answer](), 0
        while len(answers) < wanted and ended < ENDED_AT_MOST:
            done = len(answers)
            chunk = {**request, "hosts": list(hosts[done : done + CHUNK])} if hosts else request
            try:
                await self._ask(lane, chunk, min(CHUNK, wanted - done), answers)
            except WorkerEnded:
                ended += 1
                self._discard(lane)
                answers.append(Fault(0, ENDED))
        lane.has_rendered = not ended
        return answers + [Fault(0, ENDED)] * (wanted - len(answers))

    async def _ask(self, lane: _Lane, request: Mapping[str, Any], count: int, answers: list[Answer]) -> None:
        worker = lane.worker = lane.worker or await self._zygote.fork()
        slow = asyncio.get_running_loop().call_later(SLOW_AFTER_S, self._zygote.slow_down, worker)
        try:
            async for kind, payload in worker.ask(json_frame(Kind.REQUEST, request), count, self._patience):
                answers.append(_answer(kind, payload))
        except asyncio.CancelledError:
            self._discard(lane)
            raise
        finally:
            slow.cancel()

    def _discard(self, lane: _Lane) -> None:
        if lane.worker is not None:
            self._zygote.end(lane.worker)
            lane.worker = None

    def _forget(self, key: str) -> None:
        """A lane that is not needed again, unless somebody waits in it."""
        lane = self._lanes.get(key)
        if lane is not None and not lane.waiting:
            _close(lane)
            del self._lanes[key]

    def _tidy(self) -> None:
        """Keep the workers of the templates used last; a lane without a worker that never rendered is forgotten."""
        idle = [key for key, lane in self._lanes.items() if not lane.waiting]
        for key in idle[:-IDLE]:
            _close(self._lanes[key])
        for key in idle[: -CACHED_ANALYSES // 4]:
            del self._lanes[key]


def _close(lane: _Lane) -> None:
    """Its worker ends by itself when it reads the end."""
    if lane.worker is not None:
        lane.worker.close()
        lane.worker = None


def _answer(kind: Kind, payload: bytes) -> Answer:
    if kind is Kind.FAULT:
        line, message = json.loads(payload)
        return Fault(int(line), str(message))
    return payload.decode()


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()


def _script_key(job: RenderJob) -> tuple[str, str]:
    return _digest(job.body), _digest(json.dumps(dict(job.inputs), sort_keys=True))


def _remember(cache: OrderedDict[Any, Any], key: Any, value: Any, at_most: int) -> None:
    cache[key] = value
    while len(cache) > at_most:
        cache.popitem(last=False)
