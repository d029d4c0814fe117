"""Answers as JSON. Owns how documents are written; which documents is the views' business."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, TypeVar

from chargehand_schemas.base import Model
from pydantic_core import to_json
from starlette.responses import Response

from .problems import HttpProblem

T = TypeVar("T")


def document_response(document: Model, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A model of the interface."""
    return Response(document.model_dump_json(), status, headers, media_type="application/json")


def json_response(value: Any, status: int = 200) -> Response:
    """Anything that JSON can say; models within it too."""
    return Response(to_json(value), status, media_type="application/json")


async def cursor_checked(found: Awaitable[T]) -> T:
    """HttpProblem 400 for a cursor that is none."""
    try:
        return await found
    except ValueError as error:
        raise HttpProblem(400, "malformed", str(error)) from error
