"""One request on its way through the gateway: who asks, what for, and how to get at the store.

Owns reading requests within limits. What is answered is decided by the views.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from chargehand_schemas.base import Model
from pydantic import ValidationError
from starlette.requests import Request

from ...core.cursors import id_range
from ..store.read_store import ReadStore
from .problems import HttpProblem, not_found
from .rights import Viewer

if TYPE_CHECKING:
    from .gateway import Gateway

T = TypeVar("T")
M = TypeVar("M", bound=Model)
E = TypeVar("E", bound=StrEnum)

LIST_LIMIT = 200
MAX_LIMIT = 1000


@dataclass(slots=True)
class Call:
    """A request that may be answered. `viewer` is None only where the route asks for no login."""

    gateway: Gateway
    request: Request
    parameters: dict[str, str]
    wants_html: bool
    viewer: Viewer | None = None

    @property
    def who(self) -> Viewer:
        """The viewer of a route that needs one."""
        if self.viewer is None:
            raise HttpProblem(401, "login_required", "log in first")
        return self.viewer

    async def read(self, question: Callable[[ReadStore], T]) -> T:
        """Ask the store, in a thread of its own."""
        return await self.gateway.read(question)

    @property
    def is_form(self) -> bool:
        """A form of one of our pages, which carries no document."""
        return self._content_type == "application/x-www-form-urlencoded"

    @property
    def _content_type(self) -> str:
        return self.request.headers.get("content-type", "").partition(";")[0].strip().lower()

    # --- the query --------------------------------------------------------------------------------------------------

    def text(self, name: str, default: str = "", at_most: int = 1024) -> str:
        """A query parameter. HttpProblem 400 if it is given twice or is too long."""
        values = self.request.query_params.getlist(name)
        if len(values) > 1 or (values and len(values[0]) > at_most):
            raise _bad_query(name, "is given twice" if len(values) > 1 else f"is longer than {at_most} characters")
        return values[0] if values else default

    def number(self, name: str, default: int | None = None, least: int = 0, most: int = 2**62) -> int | None:
        """A whole number."""
        text = self.text(name, at_most=20)
        if not text:
            return default
        if not (text.isascii() and text.isdigit()) or not least <= int(text) <= most:
            raise _bad_query(name, f"is not a whole number from {least} to {most}")
        return int(text)

    def limit(self, default: int = LIST_LIMIT) -> int:
        """How many rows at most."""
        return self.number("limit", default, 1, MAX_LIMIT) or default

    def is_set(self, name: str) -> bool:
        """A flag: true or false."""
        text = self.text(name, "false", 5).lower()
        if text not in ("true", "false", "1", "0", ""):
            raise _bad_query(name, "is neither true nor false")
        return text in ("true", "1")

    def word(self, name: str, words: type[E]) -> E | None:
        """One word of a closed list."""
        text = self.text(name)
        if not text:
            return None
        try:
            return words(text)
        except ValueError:
            raise _bad_query(name, f"is none of {', '.join(words)}") from None

    # --- the path ---------------------------------------------------------------------------------------------------

    async def job_invocation_id(self) -> UUID:
        """By id, by a unique prefix of at least 4 digits, or `@last`."""
        text = self.parameters["job_invocation_id"]
        if text == "@last":
            last = await self.read(lambda store: store.last_job_invocation_id())
            if last is None:
                raise not_found("job invocation yet")
            return last
        return await self._by_prefix(text, "job_invocations", "job_invocation_id", "job invocation")

    async def job_task_id(self) -> UUID:
        text = self.parameters["job_task_id"]
        return await self._by_prefix(text, "job_tasks", "job_task_id", "job task")

    async def host_id(self) -> UUID:
        """By id, by a unique prefix of it, or by name."""
        text = self.parameters["host_id"]
        named = await self.read(lambda store: store.host_named(text))
        if named is not None:
            return named.host_id
        return await self._by_prefix(text, "hosts", "host_id", "host")

    async def _by_prefix(self, text: str, table: str, key: str, noun: str) -> UUID:
        span = id_range(text)
        if span is None:
            raise not_found(f"{noun} {text[:64]!r}; give its id, or at least 4 hexadecimal digits of it")
        found = await self.read(lambda store: store.ids_between(table, key, *span))
        if not found:
            raise not_found(f"{noun} {text[:64]!r}")
        if len(found) > 1:
            raise HttpProblem(400, "ambiguous", f"more than one {noun} begins with {text[:64]!r}; give more digits")
        return found[0]

    # --- the body ---------------------------------------------------------------------------------------------------

    async def document(self, model: type[M]) -> M:
        """The JSON body as a model. HttpProblem 413, 415 or 422 with what is wrong and where."""
        if self._content_type != "application/json":
            raise HttpProblem(415, "unsupported_media_type", "send the body as application/json")
        try:
            return model.model_validate_json(await self.body() or b"{}")
        except ValidationError as error:
            raise HttpProblem(422, "malformed", _first_errors(error)) from error

    async def body(self) -> bytes:
        """All of the body, within the limit of the settings."""
        most = self.gateway.settings.max_body_bytes
        given = self.request.headers.get("content-length", "0")
        parts: list[bytes] = []
        size = 0
        if given.isdigit() and int(given) > most:
            raise _too_large(most)
        async for part in self.request.stream():
            size += len(part)
            if size > most:
                raise _too_large(most)
            parts.append(part)
        return b"".join(parts)


def _too_large(most: int) -> HttpProblem:
    return HttpProblem(
        413, "too_large", f"the body is larger than {most} bytes; send it in parts", {"Connection": "close"}
    )


def _bad_query(name: str, why: str) -> HttpProblem:
    return HttpProblem(400, "malformed", f"query parameter `{name}` {why}")


def _first_errors(error: ValidationError) -> str:
    """The first three errors in words; never the values, which may be secret."""
    rows = error.errors(include_url=False, include_input=False, include_context=False)[:3]
    return "; ".join(f"{'.'.join(map(str, row['loc'])) or 'body'}: {row['msg']}" for row in rows)[:1000]
