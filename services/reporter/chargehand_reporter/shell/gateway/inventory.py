"""Hosts and proxies over HTTP, as the inventory assigns them and as they were observed. Owns these answers."""

from __future__ import annotations

from chargehand_chassis.clock import now
from chargehand_schemas.api import (
    EnrolmentRequest,
    HostDocument,
    HostsRemoval,
    HostsRequest,
    Page,
    ProxyChange,
)
from chargehand_schemas.commands import ChangeProxy, Command, ImportHosts, IssueEnrolmentToken, RemoveHosts
from chargehand_schemas.ids import new_id
from chargehand_schemas.reasons import Role
from pydantic import ValidationError
from starlette.responses import Response

from ...core.documents import decision_document, host_document, proxy_documents
from ...core.read_model import REFUSED, CommandOutcome
from .answers import cursor_checked, document_response, json_response
from .call import Call
from .job_invocations import refused
from .problems import HttpProblem, not_found


async def list_hosts(call: Call) -> Response:
    """`GET /hosts`."""
    name, after, limit = call.text("name"), call.text("after"), call.limit()
    found = await cursor_checked(call.read(lambda store: store.hosts(name, limit, after)))
    seen = await call.read(lambda store: store.observations([host.host_id for host in found.rows]))
    rows = tuple(host_document(host, seen[host.host_id], call.gateway.settings.default_proxy) for host in found.rows)
    return document_response(Page[HostDocument](items=rows, total=found.total, next=found.next))


async def show_host(call: Call) -> Response:
    """`GET /hosts/ID`."""
    host_id = await call.host_id()
    host = await call.read(lambda store: store.host(host_id))
    if host is None:
        raise not_found("such host")
    seen = await call.read(lambda store: store.observations([host_id]))
    return document_response(host_document(host, seen[host_id], call.gateway.settings.default_proxy))


async def register_hosts(call: Call) -> Response:
    """`POST /hosts`."""
    request = await call.document(HostsRequest)
    import_id = request.import_id or new_id()
    command = ImportHosts(id=new_id(), time=now(), actor=_actor(call), import_id=import_id, hosts=request.hosts)
    return await _decide(call, str(import_id), command)


async def remove_hosts(call: Call) -> Response:
    """`POST /hosts/remove`."""
    request = await call.document(HostsRemoval)
    command = RemoveHosts(id=new_id(), time=now(), actor=_actor(call), host_ids=request.host_ids)
    return await _decide(call, str(command.id), command)


async def list_proxies(call: Call) -> Response:
    """`GET /proxies`."""
    names = await call.read(lambda store: store.proxies())
    agents = await call.read(lambda store: store.agents())
    sizes = await call.read(lambda store: store.proxy_sizes())
    return json_response({"items": proxy_documents(names, agents, sizes, now(), call.gateway.settings.silent_after)})


async def change_proxy(call: Call) -> Response:
    """`POST /proxies/NAME`."""
    request = await call.document(ProxyChange)
    try:
        command = ChangeProxy(
            id=new_id(),
            time=now(),
            actor=_actor(call),
            proxy=call.parameters["proxy"],
            concurrency=request.concurrency,
        )
    except ValidationError as error:
        raise not_found(f"proxy {call.parameters['proxy'][:64]!r}") from error
    return await _decide(call, command.proxy, command)


async def allow_enrolment(call: Call) -> Response:
    """`POST /enrolment-tokens`. The client keeps the token; only its public half comes here."""
    request = await call.document(EnrolmentRequest)
    try:
        command = IssueEnrolmentToken(
            id=new_id(),
            time=now(),
            actor=_actor(call),
            token_key=request.token_key,
            role=Role(request.role),
            subject=request.subject,
            actors=request.actors,
            expires_at=request.expires_at,
        )
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise HttpProblem(422, "malformed", f"{where}: {error.errors()[0]['msg']}") from error
    except ValueError as error:
        raise HttpProblem(422, "malformed", f"role: {str(error)[:200]}") from error
    return await _decide(call, request.subject, command)


async def _decide(call: Call, key: str, command: Command) -> Response:
    """200 with the decision, 202 while there is none, a problem when it is refused."""
    outcome = await call.gateway.commands.post(call, key, command)
    if outcome is None:
        pending = CommandOutcome(command.id, "pending", detail="published, and not decided yet")
        return document_response(decision_document(pending), 202)
    if outcome.decision == REFUSED:
        raise refused(outcome)
    return document_response(decision_document(outcome))


def _actor(call: Call) -> str:
    return f"user:{call.who.login}"
