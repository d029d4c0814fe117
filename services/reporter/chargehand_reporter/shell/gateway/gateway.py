"""The gateway as an ASGI application: the door, the viewer, the right, the view, and what every answer carries.

Owns the order of these checks and the headers of answers. Nothing is done for a request before all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from chargehand_chassis.clock import now
from chargehand_chassis.metrics import METRICS
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ...core.access import Door
from ..settings import GatewaySettings
from ..store.database import Connections, Database, StoreUnavailable
from ..store.read_store import ReadStore
from .call import Call
from .changes import Changes
from .commands import Commands
from .pages import problem_page
from .people import People
from .problems import HttpProblem, not_found, problem_response
from .rights import Right, Viewer
from .routes import Route, RouteTable

T = TypeVar("T")

_READERS = 4
_SECURITY_HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class Gateway:
    """What all requests share."""

    def __init__(
        self,
        settings: GatewaySettings,
        door: Door,
        people: People,
        table: RouteTable,
        installation: str,
    ) -> None:
        self.settings = settings
        self.door = door
        self.people = people
        self.table = table
        self.installation = installation
        self.is_stopping = False
        self.streams_open = 0
        self.connections = Connections(settings.store_url, settings.store_directory)
        self.changes = Changes(self._version)
        self.is_connected: Callable[[], bool] = lambda: False
        self.commands: Commands
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="read")
        self._watching: Database | None = None

    async def read(self, question: Callable[[ReadStore], T]) -> T:
        """Ask the store, in one of the reading threads."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, lambda: question(ReadStore(self.connections.mine())))

    async def apart(self, work: Callable[[], T]) -> T:
        """Do what takes some milliseconds in one of the reading threads, so that others are answered meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    async def _version(self) -> int:
        return await self.read(lambda store: store.database.version())

    async def is_still(self, viewer: Viewer) -> bool:
        """Whether a viewer's login and account are still good."""
        return await self.read(lambda store: self.people.again(store, viewer.by, viewer.proof, now())) is not None

    async def why_not_ready(self) -> str:
        """Empty when everything that a request needs is there."""
        try:
            await self.read(lambda store: store.database.version())
        except StoreUnavailable as error:
            return str(error)
        return "" if self.is_connected() else "Kafka does not answer yet"

    def stop(self) -> None:
        """Let every open stream end."""
        self.is_stopping = True
        self.changes.wake_all()

    def close(self) -> None:
        self._readers.shutdown()
        self.connections.close()
        self.people.sessions.close()

    # --- one request ------------------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError("the gateway speaks HTTP only")
        request = Request(scope, receive)
        answer = _Answer(send)
        try:
            response = await self._respond(request, answer)
            await response(scope, receive, answer)
        except ClientDisconnect:
            return
        finally:
            METRICS.http_requests.labels(answer.route, answer.status).inc()

    async def _respond(self, request: Request, answer: _Answer) -> Response:
        path, wants_json = _without_suffix(request.scope["path"])
        call = Call(self, request, {}, wants_html=not wants_json and _prefers_html(request))
        try:
            route = self._route(call, path)
            answer.route = route.path
            if route.right is not Right.ANYONE:
                call.viewer = await self._viewer(call, route)
            call.wants_html = call.wants_html and route.is_page
            return await route.view(call)
        except HttpProblem as problem:
            return _problem(call, problem)
        except StoreUnavailable as error:
            detail = f"the read model cannot be read: {error}"
            return _problem(call, HttpProblem(503, "store_unavailable", detail, {"Retry-After": "1"}))

    def _route(self, call: Call, path: str) -> Route:
        """The route of a request that may come in."""
        method, headers = call.request.method, call.request.scope["headers"]
        found = self.table.find(method, path)
        is_stream = not isinstance(found, list) and found.route.is_stream
        refused = self.door.judge(method, headers, is_stream=is_stream)
        if refused is not None:
            call.wants_html = False
            raise HttpProblem(refused.status, refused.code, refused.detail)
        if isinstance(found, list):
            if found:
                detail = f"{method} is not one of {', '.join(found)}"
                raise HttpProblem(405, "method_not_allowed", detail, {"Allow": ", ".join(found)})
            raise not_found(f"page {path[:100]!r}")
        call.parameters = found.parameters
        return found.route

    async def _viewer(self, call: Call, route: Route) -> Viewer:
        method, headers = call.request.method, call.request.scope["headers"]
        viewer = await self.read(lambda store: self.people.find(store, method, headers, now()))
        if not viewer.has(route.right):
            raise HttpProblem(403, "not_allowed", f"{viewer.login} has no right to {route.right.value}")
        return viewer


class _Answer:
    """Sends, adds what every answer carries, and remembers what was sent."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.route = "none"
        self.status = "none"

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = str(message["status"])
            headers: list[Any] = list(message.get("headers", []))
            if not any(name == b"cache-control" for name, _ in headers):
                headers.append((b"cache-control", b"no-store"))
            message = {**message, "headers": [*headers, *_SECURITY_HEADERS]}
        await self._send(message)


def _without_suffix(path: str) -> tuple[str, bool]:
    """The same resource is at the path and, as JSON whatever is accepted, at the path with `.json`."""
    if path.endswith(".json") and path != "/openapi.json":
        return path.removesuffix(".json"), True
    return path, False


def _prefers_html(request: Request) -> bool:
    accepted = request.headers.get("accept", "")
    return request.method in ("GET", "HEAD") and "text/html" in accepted and "application/json" not in accepted


def _problem(call: Call, problem: HttpProblem) -> Response:
    if call.wants_html:
        return problem_page(call, problem)
    return problem_response(problem, call.request.scope["path"])
