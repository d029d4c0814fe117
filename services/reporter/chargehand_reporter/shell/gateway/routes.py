"""The shape of the route table. Every route says which right it needs and what it takes and gives; OpenAPI is made of it.

Owns matching a path. The table itself is in table.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from re import Pattern
from typing import Any

from chargehand_chassis.errors import FatalFailure
from starlette.responses import Response
from starlette.routing import compile_path

from .call import Call
from .rights import Right

View = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter and what it means."""

    name: str
    text: str
    kind: str = "string"


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path. `body` and `gives` are models of the interface; `media` what is given instead of JSON."""

    method: str
    path: str
    right: Right
    view: View
    summary: str
    body: Any = None
    gives: Any = None
    media: str = "application/json"
    status: int = 200
    problems: tuple[int, ...] = ()
    query: tuple[Parameter, ...] = ()
    is_stream: bool = False
    is_once: bool = False
    is_page: bool = False


@dataclass(frozen=True, slots=True)
class Match:
    """A route that fits, with what stands in its path."""

    route: Route
    parameters: dict[str, str]


@dataclass(slots=True)
class RouteTable:
    """All routes. FatalFailure if one declares no right."""

    routes: Sequence[Route]
    _patterns: list[tuple[Pattern[str], Route]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for route in self.routes:
            if not isinstance(route.right, Right):
                raise FatalFailure(f"{route.method} {route.path} declares no right: it must not be served")
            self._patterns.append((compile_path(route.path)[0], route))

    def find(self, method: str, path: str) -> Match | list[str]:
        """The route, or the methods there are at this path: none if there is nothing."""
        methods: list[str] = []
        for pattern, route in self._patterns:
            match = pattern.match(path)
            if match is not None:
                if _serves(route, method):
                    return Match(route, match.groupdict())
                methods.append(route.method)
        return sorted(set(methods))


def _serves(route: Route, method: str) -> bool:
    """HEAD is GET without the body; a stream has no end to leave out, and a link that is good once is not to be tried."""
    if method == "HEAD":
        return route.method == "GET" and not (route.is_stream or route.is_once)
    return route.method == method
