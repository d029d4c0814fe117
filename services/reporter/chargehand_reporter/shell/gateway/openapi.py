"""The OpenAPI 3.1 document, made of the route table and the models of the interface. Owns that translation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from chargehand_schemas.api import Problem
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from .rights import Right
from .routes import Parameter, Route

_REF = "#/components/schemas/{model}"
_PROBLEMS = {
    400: "Something in the request cannot be read.",
    401: "Log in first.",
    403: "Not allowed, or asked by a page of another origin.",
    404: "There is no such thing.",
    409: "There is nothing left to do.",
    413: "Too large.",
    415: "The body is not application/json.",
    416: "There are no such bytes.",
    422: "Malformed, or refused by the planner; `code` says which.",
    503: "The store or Kafka is away.",
}
_PATH_TEXTS = {
    "job_invocation_id": "Its id, a unique prefix of at least 4 digits, or `@last`.",
    "job_task_id": "Its id, or a unique prefix of at least 4 digits.",
    "host_id": "Its id, a unique prefix of it, or its name.",
    "proxy": "Its name.",
    "name": "Name of the file.",
}


def openapi_document(routes: Sequence[Route], version: str) -> dict[str, Any]:
    """The whole document as JSON values."""
    models = _models(routes)
    names, schemas = models_json_schema([(model, "serialization") for model in models], ref_template=_REF)
    refs = {model: schema for (model, _), schema in names.items()}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, refs)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Chargehand",
            "version": version,
            "description": "Run jobs on large numbers of hosts, and know for certain what happened.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas.get("$defs", {}),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _models(routes: Sequence[Route]) -> list[type[BaseModel]]:
    found: dict[type[BaseModel], None] = {Problem: None}
    for route in routes:
        for model in (route.body, route.gives):
            if model is not None:
                found[model] = None
    return list(found)


def _operation(route: Route, refs: dict[Any, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.view.__name__,
        "summary": route.summary,
        "description": f"Needs the right `{route.right.value}`.",
        "security": [] if route.right is Right.ANYONE else [{"token": []}],
        "parameters": [*_path_parameters(route.path), *map(_query_parameter, route.query)],
        "responses": _responses(route, refs),
    }
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": refs[route.body]}}}
    return operation


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "description": _PATH_TEXTS[name], "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", path)
    ]


def _query_parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": "query",
        "required": False,
        "description": parameter.text,
        "schema": {"type": parameter.kind},
    }


def _responses(route: Route, refs: dict[Any, Any]) -> dict[str, Any]:
    schema = refs[route.gives] if route.gives is not None else {"type": "object" if "json" in route.media else "string"}
    good: dict[str, Any] = {"description": route.summary, "content": {route.media: {"schema": schema}}}
    if route.status in (204, 303):
        good = {"description": route.summary}
    found: dict[str, Any] = {str(route.status): good}
    needed = route.problems if route.right is Right.ANYONE else (401, 403, *route.problems)
    for status in sorted({*needed}):
        found[str(status)] = {
            "description": _PROBLEMS[status],
            "content": {"application/problem+json": {"schema": refs[Problem]}},
        }
    return found
