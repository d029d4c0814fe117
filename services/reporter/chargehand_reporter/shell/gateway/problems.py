"""Errors as RFC 9457 problem documents. Owns their shape; what is wrong, where and what to do stands in `detail`."""

from __future__ import annotations

from http import HTTPStatus

from chargehand_schemas.api import Problem
from starlette.responses import Response


class HttpProblem(Exception):
    """The request is answered with this problem. `code` is a closed word."""

    def __init__(self, status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.headers = headers or {}

    @property
    def title(self) -> str:
        return HTTPStatus(self.status).phrase


def not_found(what: str) -> HttpProblem:
    """There is nothing here that the viewer may see."""
    return HttpProblem(404, "not_found", f"there is no {what}")


def problem_response(problem: HttpProblem, instance: str) -> Response:
    """As `application/problem+json`."""
    document = Problem(
        title=problem.title, status=problem.status, code=problem.code, detail=problem.detail, instance=instance[:512]
    )
    return Response(
        document.model_dump_json(), problem.status, media_type="application/problem+json", headers=problem.headers
    )
