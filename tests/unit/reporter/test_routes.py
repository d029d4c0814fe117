"""The route table: everything declares its right, and nothing is served that does not."""

from dataclasses import replace
from typing import cast

import pytest
from chargehand_chassis.errors import FatalFailure
from chargehand_reporter.shell.gateway.openapi import openapi_document
from chargehand_reporter.shell.gateway.rights import ROLE_RIGHTS, Right, Viewer
from chargehand_reporter.shell.gateway.routes import Match, RouteTable
from chargehand_reporter.shell.gateway.table import ROUTES
from openapi_spec_validator import OpenAPIV31SpecValidator


def test_a_route_without_a_right_is_fatal() -> None:
    nobody = replace(ROUTES[0], right=cast(Right, None))
    with pytest.raises(FatalFailure, match="declares no right"):
        RouteTable([nobody])


def test_only_what_a_stranger_needs_is_open_to_anyone() -> None:
    open_to_anyone = {route.path for route in ROUTES if route.right is Right.ANYONE}
    assert open_to_anyone == {"/login", "/openapi.json", "/healthz", "/readyz", "/static/{name}"}


def test_what_changes_something_needs_more_than_to_look() -> None:
    looking = {Right.ANYONE, Right.VIEW_HOSTS, Right.VIEW_JOB_INVOCATIONS, Right.VIEW_PROXIES}
    assert not [route for route in ROUTES if route.method == "POST" and route.right in looking]


def test_a_path_leads_to_one_route_and_a_wrong_method_says_which_there_are() -> None:
    table = RouteTable(ROUTES)
    for route in ROUTES:
        path = route.path.replace("{", "").replace("}", "")
        found = table.find(route.method, path)
        assert isinstance(found, Match)
        assert found.route is route
    assert table.find("DELETE", "/hosts") == ["GET", "POST"]
    assert table.find("GET", "/nowhere") == []
    assert table.find("HEAD", "/job-invocations/x/events") == ["GET"], "a stream has no head"


def test_an_unknown_role_has_no_right() -> None:
    assert not Viewer("x", "nobody knows", "token", "").has(Right.LOGIN)
    assert Viewer("x", "administrator", "token", "").has(Right.EDIT_HOSTS)
    assert set(ROLE_RIGHTS) == {"administrator"}


def test_the_openapi_document_is_valid() -> None:
    OpenAPIV31SpecValidator(openapi_document(ROUTES, "1")).validate()
