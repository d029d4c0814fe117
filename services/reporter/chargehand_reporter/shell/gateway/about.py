"""The gateway about itself: logging in and out, status, health, its interface, its static files. Owns these answers."""

from __future__ import annotations

from pathlib import Path

from chargehand_chassis.clock import now
from chargehand_schemas.api import LoginLink, StatusDocument
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from ... import __version__
from .answers import document_response, json_response
from .call import Call
from .openapi import openapi_document
from .pages import page
from .problems import HttpProblem, not_found

_STATIC = Path(__file__).parent / "static"
_MEDIA = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_FILES = {path.name: path.read_bytes() for path in sorted(_STATIC.iterdir()) if path.suffix in _MEDIA}


async def make_login_link(call: Call) -> Response:
    """`POST /login-links`."""
    gateway = call.gateway
    lifetime = gateway.settings.login_link_lifetime
    code = gateway.people.sessions.issue_code(call.who.login, now(), lifetime)
    return document_response(LoginLink(path=f"/login?code={code}", expires_at=now() + lifetime))


async def log_in(call: Call) -> Response:
    """`GET /login?code=…`: exchanges the code for a cookie and goes to the first page, whose address has no code in it."""
    code, gateway = call.text("code"), call.gateway
    if not code:
        return page(call, "login.html", http_status=401)
    lifetime = gateway.settings.session_lifetime
    found = gateway.people.sessions.exchange(code, now(), lifetime)
    if found is None:
        raise HttpProblem(
            401, "login_required", "this login link was used before, or is too old; `chargehand open` makes another"
        )
    response = RedirectResponse("/job-invocations", 303)
    response.set_cookie(
        gateway.people.cookie,
        found[1],
        max_age=int(lifetime.total_seconds()),
        path="/",
        secure=gateway.door.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return response


async def log_out(call: Call) -> Response:
    """`POST /logout`."""
    if call.who.by == "cookie":
        call.gateway.people.sessions.end(call.who.proof)
    response = RedirectResponse("/login", 303) if call.is_form else Response(status_code=204)
    response.delete_cookie(call.gateway.people.cookie, path="/", httponly=True, samesite="strict")
    return response


async def show_status(call: Call) -> Response:
    """`GET /status`."""
    proxies = await call.read(lambda store: store.proxies())
    hosts = await call.read(lambda store: store.count_hosts())
    running = await call.read(lambda store: store.running_job_invocations())
    return document_response(
        StatusDocument(
            installation=call.gateway.installation,
            version=__version__,
            login=call.who.login,
            proxies=len(proxies),
            hosts=hosts,
            running_job_invocations=running,
        )
    )


async def show_health(call: Call) -> Response:
    """`GET /healthz`."""
    return PlainTextResponse("alive\n")


async def show_readiness(call: Call) -> Response:
    """`GET /readyz`."""
    why = await call.gateway.why_not_ready()
    return PlainTextResponse(f"not ready: {why}\n", 503) if why else PlainTextResponse("ready\n")


async def show_openapi(call: Call) -> Response:
    """`GET /openapi.json`."""
    return json_response(openapi_document(call.gateway.table.routes, __version__))


async def show_static(call: Call) -> Response:
    """`GET /static/NAME`: one of the files that were there at the start."""
    name = call.parameters["name"]
    if name not in _FILES:
        raise not_found(f"file {name[:64]!r}")
    headers = {"Cache-Control": "public, max-age=3600"} if call.text("v", at_most=64) else {}
    return Response(_FILES[name], media_type=_MEDIA[Path(name).suffix], headers=headers)
