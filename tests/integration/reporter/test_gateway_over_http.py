"""The gateway as a process, from outside: documents, commands, live streams, output, pages, and who may not come in
(S1, S5, S23, S28, S29, S63, S64, S69; hostile input of every kind it can be sent over HTTP)."""

import asyncio
import base64
import contextlib
import json
import random
import re
import signal
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import pytest_asyncio
from chargehand.client.sse import EventParser, ServerEvent
from chargehand_reporter.shell.gateway.rights import Right
from chargehand_reporter.shell.gateway.routes import Route
from chargehand_reporter.shell.gateway.table import ROUTES
from chargehand_schemas.api import JobInvocationDocument, JobTaskDocument
from chargehand_schemas.catalog import HostChanged, HostRegistered, TokenRevoked, UserCreated, UserDisabled
from chargehand_schemas.commands import HostRecord, InvokeJob
from chargehand_schemas.execution import AttemptEnded
from chargehand_schemas.hosts import HostReachabilityObserved
from chargehand_schemas.proxies import AgentStarted
from chargehand_schemas.reasons import JobTaskStatus, Reason, Role, Stream
from openapi_spec_validator import OpenAPIV31SpecValidator
from support.kafka import running_kafka
from support.reporting import Installation, PlannerVoice, scratch, until
from support.story import Line, Part, Story

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKEN, EXPIRED, REVOKED, DISABLED, POWERLESS = (f"chg_{name}_{uuid4().hex}" for name in "tersp")
HOSTILE = (
    b"<script>alert(1)</script>\n\x1b[31mred\x1b[0m\x1b]0;title\x07\x1b]52;c;ZXZpbA==\x07\rover\x08written\n"
    b"</pre><img src=x onerror=alert(1)>\n\x9b\xff\x00" + "\u202etxt.exe\n".encode()
)
HOSTILE_NAME = 'job"><script>alert(2)</script>\u202e'


class Site:
    """An installation with a reporter, a gateway and a voice for its planner."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.planner = PlannerVoice(installation)
        self.url = ""
        self.gateway: Any = None
        self.client: httpx.AsyncClient
        self.story = Story(
            [
                *(Part(f"web{n:03}", {Stream.STDOUT: b"up 3 days\n"}) for n in range(40)),
                Part("evil", {Stream.STDOUT: HOSTILE}, exits=(1,)),
                Part("big", {Stream.STDOUT: random.Random(1).randbytes(700_000)}),
            ],
            chunk_bytes=60_000,
            description=HOSTILE_NAME,
            began=datetime.now(UTC),
        )

    async def open(self) -> None:
        await self.installation.open()
        await self._people()
        self.installation.start_reporter()
        self.start_gateway()
        await self.planner.start()
        await self.installation.tell(self.story.lines())
        await until(self._is_there, within_s=60)

    def start_gateway(self) -> None:
        self.gateway, self.url = self.installation.start_gateway(DECIDE_WITHIN="PT2S", MAX_BODY_BYTES="200000")
        self.client = self.as_bearer(TOKEN)

    async def close(self) -> None:
        await self.planner.stop()
        await self.installation.close()

    def as_bearer(self, token: str) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=20)

    async def _people(self) -> None:
        installation = self.installation
        await installation.admit("admin", TOKEN)
        await installation.admit("late", EXPIRED, -timedelta(seconds=1))
        revoked = await installation.admit("gone", REVOKED)
        await installation.say("gone", TokenRevoked(id=uuid4(), time=datetime.now(UTC), token_id=revoked.token_id))
        await installation.admit("off", DISABLED)
        await installation.say("off", UserDisabled(id=uuid4(), time=datetime.now(UTC), login="off"))
        await installation.admit("powerless", POWERLESS)
        powerless = UserCreated(id=uuid4(), time=datetime.now(UTC), login="powerless", role="nobody knows")
        await installation.say("powerless", powerless)

    async def _is_there(self) -> bool:
        response = await self.client.get(f"/job-tasks/{self.task_id('big')}")
        return response.status_code == 200 and response.json()["streams"].get("stdout", {}).get("complete", False)

    def part(self, host: str) -> Part:
        return next(part for part in self.story.parts if part.host_name == host)

    def task_id(self, host: str) -> UUID:
        return self.story.task_id(self.part(host))

    @property
    def path(self) -> str:
        return f"/job-invocations/{self.story.job_invocation_id}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site() -> AsyncIterator[Site]:
    with running_kafka() as broker, scratch() as directory:
        found = Site(Installation(broker.address, Path(directory) / "installation"))
        await found.open()
        yield found
        await found.close()


async def events(client: httpx.AsyncClient, path: str, last_id: str = "", **more: Any) -> AsyncIterator[ServerEvent]:
    """The events of a stream until the server ends it."""
    headers = {"Last-Event-ID": last_id} if last_id else {}
    async with client.stream("GET", path, headers=headers, **more) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        parser = EventParser(last_id)
        async for piece in response.aiter_raw():
            for event in parser.feed(piece):
                yield event


async def raw(site: Site, request: bytes) -> tuple[int, bytes]:
    """The status and the rest of the answer to bytes on a socket."""
    host, port = site.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(65536), 10)
    writer.close()
    return int(answer.split(b" ", 2)[1]), answer


# --- who may come in ------------------------------------------------------------------------------------------------


def address(route: Route, site: Site) -> str:
    known = {
        "job_invocation_id": str(site.story.job_invocation_id),
        "job_task_id": str(site.task_id("web001")),
        "host_id": str(uuid4()),
        "proxy": "local",
        "name": "style.css",
    }
    return re.sub(r"\{(\w+)\}", lambda match: known[match[1]], route.path)


GUARDED = [route for route in ROUTES if route.right is not Right.ANYONE]


@pytest.mark.parametrize("route", GUARDED, ids=lambda route: f"{route.method} {route.path}")
@pytest.mark.parametrize(
    "token",
    ["", "wrong", EXPIRED, REVOKED, DISABLED, "x" * 2000],
    ids=["no token", "wrong", "expired", "revoked", "disabled account", "long"],
)
async def test_every_route_asks_who_it_is(site: Site, route: Route, token: str) -> None:
    async with site.as_bearer(token) as client:
        response = await client.request(route.method, address(route, site), json={} if route.method == "POST" else None)
    assert response.status_code == 401
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == "login_required"


@pytest.mark.parametrize("route", GUARDED, ids=lambda route: f"{route.method} {route.path}")
async def test_every_route_asks_whether_one_may(site: Site, route: Route) -> None:
    async with site.as_bearer(POWERLESS) as client:
        response = await client.request(route.method, address(route, site), json={} if route.method == "POST" else None)
    assert (response.status_code, response.json()["code"]) == (403, "not_allowed")


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Basic YWRtaW46YWRtaW4="},
        {"Authorization": TOKEN},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"X-Api-Key": TOKEN},
        {"Cookie": f"token={TOKEN}"},
    ],
)
async def test_a_token_counts_only_where_it_belongs(site: Site, headers: dict[str, str]) -> None:
    async with httpx.AsyncClient(base_url=site.url) as client:
        assert (await client.get("/status", headers=headers)).status_code == 401
        assert (await client.get(f"/status?token={TOKEN}", headers=headers)).status_code == 401


@pytest.mark.parametrize(
    ("request_line", "headers", "status"),
    [
        ("GET /status HTTP/1.1", ["Host: localhost"], 200),
        ("GET /status HTTP/1.1", [], 400),
        ("GET /status HTTP/1.0", [], 400),
        ("GET /status HTTP/1.1", ["Host: localhost", "Host: evil.example"], 400),
        ("GET /status HTTP/1.1", ["Host: evil.example"], 403),
        ("GET /status HTTP/1.1", ["Host: evil.example", "X-Forwarded-Host: localhost"], 403),
        ("GET http://evil.example/status HTTP/1.1", ["Host: evil.example"], 403),
        ("GET /status HTTP/1.1", ["Host: localhost", "Origin: null"], 403),
        ("GET /status HTTP/1.1", ["Host: localhost", "Origin: http://localhost:1"], 403),
        ("GET /status HTTP/1.1", ["Host: localhost", "Sec-Fetch-Site: same-site"], 403),
        ("GET /healthz HTTP/1.1", ["Host: evil.example"], 403),
        ("GET /static/style.css HTTP/1.1", ["Host: evil.example"], 403),
        ("GET /openapi.json HTTP/1.1", ["Host: evil.example"], 403),
        ("GET /nothing HTTP/1.1", ["Host: evil.example"], 403),
        ("POST /login-links HTTP/1.1", ["Host: localhost", "Origin: http://evil.example", "Content-Length: 0"], 403),
        ("POST /login-links HTTP/1.1", ["Host: localhost", "Sec-Fetch-Site: cross-site", "Content-Length: 0"], 403),
        ("OPTIONS /status HTTP/1.1", ["Host: localhost", "Origin: http://evil.example"], 403),
    ],
)
async def test_host_and_origin_are_judged_as_they_came(
    site: Site, request_line: str, headers: list[str], status: int
) -> None:
    lines = [request_line, *headers, f"Authorization: Bearer {TOKEN}", "Connection: close", "", ""]
    found, answer = await raw(site, "\r\n".join(lines).encode())
    assert found == status, answer
    assert b"access-control-allow" not in answer.lower()


async def test_a_login_link_works_once_and_becomes_a_cookie_that_acts_only_for_our_pages(site: Site) -> None:
    link = (await site.client.post("/login-links")).json()
    async with httpx.AsyncClient(base_url=site.url) as browser:
        assert (await browser.head(link["path"])).status_code == 405, "a look at the link does not use it up"
        response = await browser.get(link["path"])
        assert (response.status_code, response.headers["location"]) == (303, "/job-invocations")
        cookie = response.headers["set-cookie"]
        assert re.match(r"chargehand-[0-9a-f]{8}=\S{43}; HttpOnly; Max-Age=43200; Path=/; SameSite=strict", cookie)
        assert (await browser.get("/status")).json()["login"] == "admin"
        cancel = f"{site.path}/cancel"
        assert (await browser.post(cancel, json={})).json()["code"] == "origin_not_allowed"
        ours = {"Origin": site.url}
        assert (await browser.post("/login-links", headers=ours)).status_code == 200
        again = await httpx.AsyncClient(base_url=site.url).get(link["path"])
        assert (again.status_code, again.json()["code"]) == (401, "login_required")
        assert (await browser.post("/logout", headers=ours)).status_code == 204
        browser.cookies.set(*cookie.split(";")[0].split("=", 1))
        assert (await browser.get("/status")).status_code == 401, "the session is over, not only forgotten"


async def test_nothing_secret_lies_in_the_gateway_s_database_or_log(site: Site) -> None:
    link = (await site.client.post("/login-links")).json()["path"].split("code=")[1]
    directory = site.installation.directory
    stored = b"".join(file.read_bytes() for file in (directory / "gateway").glob("gateway.db*"))
    assert link.encode() not in stored
    for file in (*(directory / "reporter").glob("reporter.db*"), directory / "gateway.log", directory / "reporter.log"):
        assert TOKEN.encode() not in file.read_bytes()


async def test_what_is_not_there_is_a_problem_like_any_other(site: Site) -> None:
    for method, path, status in (
        ("GET", "/nowhere", 404),
        ("GET", "/job-invocations/not-an-id", 404),
        ("GET", f"/job-invocations/{uuid4()}", 404),
        ("GET", f"/job-tasks/{uuid4()}/output", 404),
        ("GET", "/static/..%2f__init__.py", 404),
        ("GET", "/static/../gateway.py", 404),
        ("DELETE", "/hosts", 405),
        ("PUT", "/job-invocations", 405),
        ("GET", "/job-invocations?limit=0", 400),
        ("GET", "/job-invocations?limit=1&limit=2", 400),
        ("GET", "/job-invocations?status=sleeping", 400),
        ("GET", "/job-invocations?after=nonsense", 400),
        ("GET", f"/job-tasks/{site.task_id('big')}/output?offset=-1", 400),
        ("GET", f"/job-tasks/{site.task_id('big')}/output?attempt=7", 404),
        ("GET", f"{site.path}/job-tasks?group=x'--", 400),
    ):
        response = await site.client.request(method, path)
        assert response.status_code == status, path
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["status"] == status
        assert response.headers["x-content-type-options"] == "nosniff"


# --- commands -------------------------------------------------------------------------------------------------------


def invocation(**more: Any) -> dict[str, Any]:
    return {"targeting": {"all": True}, "inputs": {"command": "uptime"}, **more}


async def test_an_invocation_is_answered_when_the_planner_decided(site: Site) -> None:
    began = time.monotonic()
    response = await site.client.post("/job-invocations", json=invocation(description="check"))
    assert response.status_code == 201
    assert time.monotonic() - began < 1.5
    document = JobInvocationDocument.model_validate_json(response.content)
    assert response.headers["location"] == f"/job-invocations/{document.job_invocation_id}"
    assert (document.description, document.actor, document.status) == ("check", "user:admin", "scheduled")
    assert site.planner.writers == {Role.GATEWAY}


async def test_a_repeat_with_the_same_id_is_the_same_command(site: Site) -> None:
    body = invocation(job_invocation_id=str(uuid4()))
    first = await site.client.post("/job-invocations", json=body)
    second = await site.client.post("/job-invocations", json=body)
    assert (first.status_code, second.status_code) == (201, 201)
    ids = [c.id for c in site.planner.heard if getattr(c, "job_invocation_id", None) == UUID(body["job_invocation_id"])]
    assert len(set(ids)) == 1


async def test_a_refusal_is_a_problem_with_its_reason(site: Site) -> None:
    response = await site.client.post("/job-invocations", json=invocation(template="Nonesuch"))
    assert response.status_code == 422
    assert response.json()["code"] == "no_such_template"
    assert "Nonesuch" in response.json()["detail"]


async def test_without_a_decision_in_time_the_answer_says_where_to_look(site: Site) -> None:
    response = await site.client.post("/job-invocations", json=invocation(template="silence"))
    assert response.status_code == 202
    assert response.json()["decision"] == "pending"
    assert response.headers["location"] == response.json()["location"]


async def test_hidden_inputs_travel_sealed_to_the_planner_only(site: Site) -> None:
    secret = f"hunter2-{uuid4()}"
    response = await site.client.post("/job-invocations", json=invocation(hidden_inputs={"password": secret}))
    assert response.json()["hidden_inputs"] == ["password"]
    assert secret not in response.text
    command = site.planner.heard[-1]
    assert isinstance(command, InvokeJob)
    assert secret not in command.model_dump_json()
    planner = site.installation.keys["planner"]
    assert planner.unseal(base64.b64decode(command.sealed_inputs["password"])).decode() == secret


async def test_the_password_of_the_effective_user_travels_sealed_to_the_planner_only(site: Site) -> None:
    secret = f"hunter2-{uuid4()}"
    fields = {"effective_user": "app", "effective_user_password": secret}
    response = await site.client.post("/job-invocations", json=invocation(**fields))
    assert secret not in response.text and "sealed" not in response.text
    command = site.planner.heard[-1]
    assert isinstance(command, InvokeJob) and secret not in command.model_dump_json()
    planner = site.installation.keys["planner"]
    assert planner.unseal(base64.b64decode(command.sealed_effective_user_password)).decode() == secret
    two_lines = await site.client.post(
        "/job-invocations", json=invocation(effective_user_password=f"{secret}\n{secret}")
    )
    assert two_lines.status_code == 422 and secret not in two_lines.text


@pytest.mark.parametrize(
    ("content", "content_type", "status", "code"),
    [
        (b"{", "application/json", 422, "malformed"),
        (b"[]", "application/json", 422, "malformed"),
        (b'{"targetting": {"all": true}}', "application/json", 422, "malformed"),
        (b'{"targeting": {"host_names": ["-oProxyCommand=x"]}}', "application/json", 422, "malformed"),
        (b"[" * 100_000, "application/json", 422, "malformed"),
        (b'{"targeting": {"all": NaN}}', "application/json", 422, "malformed"),
        (b"\xff", "application/json", 422, "malformed"),
        (b"x" * 300_000, "application/json", 413, "too_large"),
        (b"targeting=all", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        (b"{}", "text/plain", 415, "unsupported_media_type"),
        (b"{}", "", 415, "unsupported_media_type"),
    ],
)
async def test_what_cannot_be_read_is_refused_with_the_reason(
    site: Site, content: bytes, content_type: str, status: int, code: str
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    response = await site.client.post("/job-invocations", content=content, headers=headers)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.json()["detail"]


async def test_a_body_without_end_is_cut_off(site: Site) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b" " * 10_000

    with contextlib.suppress(httpx.WriteError, httpx.ReadError):
        response = await site.client.post(
            "/job-invocations", content=endless(), headers={"Content-Type": "application/json"}
        )
        assert response.status_code == 413


async def test_a_secret_in_a_wrong_place_is_not_repeated_to_anybody(site: Site) -> None:
    response = await site.client.post("/job-invocations", json=invocation(hidden_inputs={"bad name": "s3cret-value"}))
    assert response.status_code == 422
    assert "s3cret-value" not in response.text


async def test_a_cancel_is_answered_and_a_second_one_comes_too_late(site: Site) -> None:
    made = (await site.client.post("/job-invocations", json=invocation())).json()
    path = f"/job-invocations/{made['job_invocation_id']}/cancel"
    first = await site.client.post(path, json={})
    assert (first.status_code, first.json()["decision"]) == (200, "accepted")
    second = await site.client.post(path, json={})
    assert (second.status_code, second.json()["code"]) == (409, "already_ended")


async def test_hosts_are_registered_and_found(site: Site) -> None:
    host_id = uuid4()
    record = HostRecord(name="db7.example.net", address="10.0.0.7", proxy="local")
    moment = datetime.now(UTC)
    await site.installation.say(
        str(host_id), HostRegistered(id=uuid4(), time=moment, host_id=host_id, version=1, host=record)
    )
    seen = HostReachabilityObserved(
        id=uuid4(), time=moment, host_id=host_id, proxy="local", agent_id="agent-local", reachable=False,
        why="timeout", detail="after 10 s", observed_at=moment,
    )  # fmt: skip
    await site.installation.say(f"{host_id}:reachability", seen, by="agent-local")
    await until(lambda: _is_observed(site, host_id))
    for ref in (str(host_id), str(host_id)[:8], "db7.example.net"):
        document = (await site.client.get(f"/hosts/{ref}")).json()
        assert document["host"]["address"] == "10.0.0.7"
        assert document["reachability_detail"] == "timeout: after 10 s"
    await site.installation.say(
        str(host_id),
        HostChanged(
            id=uuid4(), time=moment, host_id=host_id, version=2, host=record.model_copy(update={"proxy": None})
        ),
    )
    stranger = seen.model_copy(
        update={
            "id": uuid4(),
            "proxy": "other",
            "agent_id": "agent-other",
            "reachable": True,
            "observed_at": moment + timedelta(seconds=9),
        }
    )
    await site.installation.say(f"{host_id}:reachability", stranger, by="agent-other")
    liar = stranger.model_copy(update={"id": uuid4(), "proxy": "local"})
    await site.installation.say(f"{host_id}:reachability", liar, by="agent-other")
    again = seen.model_copy(
        update={"id": uuid4(), "detail": "after 11 s", "observed_at": moment + timedelta(seconds=1)}
    )
    await site.installation.say(f"{host_id}:reachability", again, by="agent-local")
    await until(lambda: _shows(site, host_id, version=2, reachability_detail="timeout: after 11 s"))
    document = (await site.client.get(f"/hosts/{host_id}")).json()
    assert document["reachable"] is False, "whose host it is, is listened to, also where it is the default proxy's"
    page = (await site.client.get("/hosts", params={"name": "db7"})).json()
    assert (page["total"], page["items"][0]["host_id"]) == (1, str(host_id))
    assert (await site.client.get("/hosts", params={"name": "%"})).json()["total"] == 0
    response = await site.client.post("/hosts", json={"hosts": [{"name": "a"}, {"name": "b"}]})
    assert (response.status_code, response.json()["counts"]) == (200, {"registered": 2})


async def _shows(site: Site, host_id: UUID, **fields: object) -> bool:
    document = (await site.client.get(f"/hosts/{host_id}")).json()
    return {name: document[name] for name in fields} == fields


async def _is_observed(site: Site, host_id: UUID) -> bool:
    response = await site.client.get(f"/hosts/{host_id}")
    return response.status_code == 200 and response.json()["reachable"] is not None


async def test_proxies_are_listed_from_their_enrolment_on(site: Site) -> None:
    started = AgentStarted(
        id=uuid4(), time=datetime.now(UTC), agent_id="agent-local", agent_boot_id=uuid4(), proxy="local",
        journal_id=uuid4(), providers=("simulated", "ssh"),
    )  # fmt: skip
    await site.installation.say("agent-local", started, by="agent-local")

    async def proxies() -> dict[str, Any]:
        return {row["proxy"]: row for row in (await site.client.get("/proxies")).json()["items"]}

    await until(lambda: _is_up(proxies))
    found = await proxies()
    assert (found["local"]["providers"], found["other"]["status"]) == (["simulated", "ssh"], "unknown")


async def _is_up(proxies: Any) -> bool:
    found = await proxies()
    return bool(found["local"]["status"] == "up")


async def test_an_enrolment_token_is_allowed_by_its_public_half(site: Site) -> None:
    body = {"token_key": "ab" * 32, "subject": "site-b", "expires_at": "2030-01-01T00:00:00Z"}
    assert (await site.client.post("/enrolment-tokens", json=body)).json()["decision"] == "accepted"
    for wrong in ({"token_key": "secret"}, {"role": "emperor"}, {"subject": "../x"}):
        assert (await site.client.post("/enrolment-tokens", json=body | wrong)).status_code == 422


# --- reading --------------------------------------------------------------------------------------------------------


async def test_an_invocation_is_found_by_id_prefix_and_as_the_last_one(site: Site) -> None:
    whole = (await site.client.get(site.path)).json()
    assert whole["counts"] == {"succeeded": 41, "failed": 1}
    assert whole["reasons"] == {"exit_status": 1}
    prefix = str(site.story.job_invocation_id)[:12]
    assert (await site.client.get(f"/job-invocations/{prefix}")).json() == whole
    assert (await site.client.get(f"{site.path}.json", headers={"Accept": "text/html"})).json() == whole
    newest = (await site.client.get("/job-invocations?limit=1")).json()
    last = (await site.client.get("/job-invocations/@last")).json()
    assert newest["items"] == [last]
    assert newest["total"] > 1
    older = (await site.client.get("/job-invocations", params={"after": newest["next"], "limit": 1000})).json()
    assert last not in older["items"]
    assert whole in [*older["items"], last]


async def test_job_tasks_come_in_pages_and_by_filter(site: Site) -> None:
    names: list[str] = []
    after: str | None = ""
    while after is not None:
        page = (await site.client.get(f"{site.path}/job-tasks", params={"limit": 17, "after": after})).json()
        names += [row["host"] for row in page["items"]]
        after = page["next"]
    assert names == sorted(part.host_name for part in site.story.parts)
    failed = (await site.client.get(f"{site.path}/job-tasks?status=failed")).json()
    assert [row["host"] for row in failed["items"]] == ["evil"]
    one = (await site.client.get(f"{site.path}/job-tasks?host=web007")).json()
    assert (one["total"], one["items"][0]["exit_status"]) == (1, 0)


async def test_equal_ends_are_gathered_failures_first(site: Site) -> None:
    groups = (await site.client.get(f"{site.path}/groups")).json()["items"]
    assert [(group["status"], group["count"]) for group in groups] == [
        ("failed", 1),
        ("succeeded", 40),
        ("succeeded", 1),
    ]


async def test_a_job_task_shows_its_attempts(site: Site) -> None:
    document = JobTaskDocument.model_validate((await site.client.get(f"/job-tasks/{site.task_id('evil')}")).json())
    (attempt,) = document.attempts_detail
    assert (attempt.outcome, attempt.exit_status, attempt.agent_id) == ("exited", 1, "agent-1")


async def test_a_job_task_shows_its_ladder_and_each_step_is_where_it_says(site: Site) -> None:
    document = JobTaskDocument.model_validate((await site.client.get(f"/job-tasks/{site.task_id('evil')}")).json())
    steps = [(number, step.kind.value, step.actor) for number, step in document.ladder() if step.kind.value != "output"]
    assert steps == [
        (0, "accepted", "user:admin"),
        (0, "planned", "planner/test"),
        (1, "dispatched", "dispatcher/test"),
        (1, "bound", "planner/test"),
        (1, "delivered", "agent/local/agent-local"),
        (1, "started", "agent/local/agent-local"),
        (1, "ended", "agent/local/agent-local"),
        (0, "verdict", "dispatcher/test"),
    ]
    places = {(step.topic, step.partition, step.offset) for _, step in document.ladder()}
    assert len({topic for topic, _, _ in places}) == 4
    page = (await site.client.get(f"/job-tasks/{site.task_id('evil')}", headers={"Accept": "text/html"})).text
    assert "Every step on the way" in page
    for topic, partition, offset in places:
        assert f"{topic.removeprefix('chargehand.')} {partition}:{offset}" in page


# --- output ---------------------------------------------------------------------------------------------------------


async def test_output_comes_back_byte_for_byte(site: Site) -> None:
    for host in ("big", "evil", "web000"):
        response = await site.client.get(f"/job-tasks/{site.task_id(host)}/output")
        data = site.part(host).output[Stream.STDOUT]
        assert response.content == data
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["chargehand-complete"] == "true"
        assert response.headers["content-length"] == response.headers["chargehand-length"] == str(len(data))


@pytest.mark.parametrize(
    ("query", "header", "status", "start", "end"),
    [
        ("offset=699990", None, 200, 699_990, 700_000),
        ("offset=700000", None, 200, 700_000, 700_000),
        ("", "bytes=0-99", 206, 0, 100),
        ("", "bytes=131070-131080", 206, 131_070, 131_081),
        ("", "bytes=699999-", 206, 699_999, 700_000),
        ("", "bytes=-5", 206, 699_995, 700_000),
        ("", "bytes=10-999999999", 206, 10, 700_000),
        ("", "bytes=0-1,5-9", 200, 0, 700_000),
        ("", "items=0-1", 200, 0, 700_000),
        ("offset=100", "bytes=5-9", 206, 105, 110),
    ],
)
async def test_output_is_read_from_an_offset_and_by_range(
    site: Site, query: str, header: str | None, status: int, start: int, end: int
) -> None:
    headers = {"Range": header} if header else {}
    response = await site.client.get(f"/job-tasks/{site.task_id('big')}/output?{query}", headers=headers)
    assert response.status_code == status
    assert response.content == site.part("big").output[Stream.STDOUT][start:end]
    assert response.headers["chargehand-offset"] == str(start)
    if status == 206:
        assert response.headers["content-range"].startswith("bytes ")


async def test_what_lies_beyond_the_output_is_416_and_head_has_no_body(site: Site) -> None:
    path = f"/job-tasks/{site.task_id('big')}/output"
    beyond = await site.client.get(path, headers={"Range": "bytes=700000-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, "bytes */700000")
    assert (await site.client.get(f"{path}?offset=700001")).status_code == 416
    head = await site.client.head(path)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "700000")
    assert (await site.client.get(f"{path}?stream=stderr")).content == b""


async def test_output_is_followed_while_it_grows(site: Site) -> None:
    story = Story([Part("slow", {Stream.STDOUT: b"".join(b"line %d\n" % n for n in range(30))})], chunk_bytes=50)
    part = story.parts[0]
    lines = list(story.of_part(part))
    reports = [line for line in lines if line.raw is not None]
    rest = [line for line in lines if line.raw is None]
    await site.installation.tell([*story.opening(), *rest[:4], reports[0]])
    path = f"/job-tasks/{story.task_id(part)}/output"
    await until(lambda: _is_ok(site.client, path))
    got = bytearray()
    async with site.client.stream("GET", path, params={"follow": "true"}) as response:
        assert response.headers["chargehand-complete"] == "false"
        pieces = response.aiter_raw()
        got += await anext(pieces)
        for report in reports[1:]:
            await site.installation.tell([report])
        await site.installation.tell([*rest[4:], story.ending()])
        async for piece in pieces:
            got += piece
    assert bytes(got) == part.output[Stream.STDOUT]


def _tried_twice() -> tuple[Story, Part, list[Line], list[Line]]:
    """The lines of a first try that fails and of a second one that succeeds, each with output of its own."""
    story = Story([Part("again", exits=(1, 0))], chunk_bytes=10, began=datetime.now(UTC))
    part = story.parts[0]
    first = list(story.attempt(part, 1, 1, {Stream.STDOUT: b"the first line\n", Stream.STDERR: b"no\n"}))
    waiting = next(line for line in story.of_part(part) if getattr(line.item, "status", None) is JobTaskStatus.WAITING)
    second = list(story.attempt(part, 2, 0, {Stream.STDOUT: b"the second\n"}))
    return story, part, [*first, waiting], [*second, story.verdict(part), story.ending()]


async def test_a_host_that_is_tried_again_is_followed_into_its_next_attempt(site: Site) -> None:
    """S62: all of the first attempt, when the next try is due, that it begins, and then that one; also when the last bytes
    of the first come after the second has begun."""
    story, part, first, second = _tried_twice()
    (last,) = [line for line in first if getattr(line.item, "offset", 0) == 10]
    await site.installation.tell([*story.opening(), *(line for line in first if line is not last)])
    path = f"/job-tasks/{story.task_id(part)}"
    await until(lambda: _is_ok(site.client, path))
    seen: list[ServerEvent] = []

    async def follow() -> None:
        async for event in events(site.client, f"{path}/output/events"):
            seen.append(event)

    following = asyncio.create_task(follow())
    await until(lambda: any(event.event == "next_try" for event in seen))
    assert (await site.client.get(path)).json()["next_try_at"] is not None
    begins = next(n for n, line in enumerate(second) if line.raw is not None)
    await site.installation.tell(second[: begins + 1])
    await until(lambda: _shows_attempt(site.client, path, 2))
    assert not any(event.event == "attempt" for event in seen), "the first attempt is not all there"
    await site.installation.tell([last])
    await until(lambda: any(event.event == "attempt" for event in seen))
    await site.installation.tell(second[begins + 1 :])
    await asyncio.wait_for(following, 30)
    turn = next(n for n, event in enumerate(seen) if event.event == "attempt")
    assert _bytes_of(seen[:turn]) == {"stdout": b"the first line\n", "stderr": b"no\n"}
    assert _bytes_of(seen[turn:]) == {"stdout": b"the second\n"}
    told = json.loads(seen[turn].data)
    assert (told["attempt"], told["earlier"]["attempt"], told["earlier"]["exit_status"]) == (2, 1, 1)
    assert [event.event for event in seen if event.event != "output"] == ["next_try", "attempt", "end"]
    again = [event async for event in events(site.client, f"{path}/output/events", seen[turn - 1].id)]
    assert [event.event for event in again if event.event != "output"] == ["attempt", "end"]
    assert _bytes_of(again) == {"stdout": b"the second\n"}
    first_only = [event async for event in events(site.client, f"{path}/output/events?attempt=1")]
    assert _bytes_of(first_only) == {"stdout": b"the first line\n", "stderr": b"no\n"}
    assert (await site.client.get(f"{path}/output?attempt=1")).content == b"the first line\n"
    assert (await site.client.get(f"{path}/output?attempt=1&stream=stderr&follow=true")).content == b"no\n"
    assert (await site.client.get(f"{path}/output")).content == b"the second\n"
    assert (await site.client.get(f"{path}/output/events?attempt=3")).status_code == 404


def _bytes_of(found: list[ServerEvent]) -> dict[str, bytes]:
    streams: dict[str, bytes] = {}
    for event in found:
        if event.event == "output":
            row = json.loads(event.data)
            assert row["offset"] == len(streams.get(row["stream"], b""))
            streams[row["stream"]] = streams.get(row["stream"], b"") + base64.b64decode(row["data"])
    return streams


async def _shows_attempt(client: httpx.AsyncClient, path: str, attempt: int) -> bool:
    response = await client.get(f"{path}/output")
    return response.headers["chargehand-attempt"] == str(attempt)


async def test_a_report_after_the_verdict_is_shown_as_late_and_changes_none(site: Site) -> None:
    """What a host says is escaped on its way to the page."""
    story = Story([Part("sleepy", {Stream.STDOUT: b"done after all\n"})], began=datetime.now(UTC))
    part = story.parts[0]
    lines = list(story.attempt(part, 1, 0, part.output))
    late = [line for line in lines if line.raw is not None or isinstance(line.item, AttemptEnded)]
    verdict = story.verdict(part)
    unknown = {"status": JobTaskStatus.FAILED, "reason": Reason.UNKNOWN, "exit_status": None, "detail": "<b>nobody</b>"}
    gone = replace(verdict, item=verdict.item.model_copy(update=unknown))
    await site.installation.tell([*story.opening(), *(line for line in lines if line not in late), gone])
    path = f"/job-tasks/{story.task_id(part)}"
    await until(lambda: _has_status(site.client, path, "failed"))
    assert [s["kind"] for s in (await site.client.get(path)).json()["attempts_detail"][0]["steps"]][-1] == "no_reply"
    await site.installation.tell(late)
    await until(lambda: _is_told_late(site.client, path))
    document = JobTaskDocument.model_validate((await site.client.get(path)).json())
    assert (document.status, document.reason, document.exit_status) == (JobTaskStatus.FAILED, Reason.UNKNOWN, None)
    (attempt,) = document.attempts_detail
    assert (attempt.outcome, attempt.exit_status) == ("exited", 0)
    assert {step.kind.value for step in attempt.steps if step.late} == {"output", "ended"}
    assert (await site.client.get(f"{path}/output")).content == b"done after all\n"
    page = (await site.client.get(path, headers={"Accept": "text/html"})).text
    assert page.count('<strong class="late">late</strong>') == 2
    assert '<strong class="late">told late</strong>' in page
    assert "<b>nobody" not in page


async def _has_status(client: httpx.AsyncClient, path: str, status: str) -> bool:
    response = await client.get(path)
    return response.status_code == 200 and response.json()["status"] == status


async def _is_told_late(client: httpx.AsyncClient, path: str) -> bool:
    (attempt,) = (await client.get(path)).json()["attempts_detail"]
    return bool(attempt["late"]) and (await client.get(f"{path}/output")).headers["chargehand-length"] != "0"


async def _is_ok(client: httpx.AsyncClient, path: str) -> bool:
    return (await client.get(path)).status_code == 200


async def test_output_events_carry_both_streams_and_go_on_from_their_id(site: Site) -> None:
    path = f"/job-tasks/{site.task_id('big')}/output/events"
    found = [event async for event in events(site.client, path)]
    assert found[-1].event == "end"
    rows = [json.loads(event.data) for event in found if event.event == "output"]
    assert b"".join(base64.b64decode(row["data"]) for row in rows) == site.part("big").output[Stream.STDOUT]
    middle = found[0]
    assert re.match(r"stdout:\d+,stderr:\d+", middle.id)
    again = [json.loads(e.data) async for e in events(site.client, path, middle.id) if e.event == "output"]
    assert again == rows[1:]
    assert (await site.client.get(path, headers={"Last-Event-ID": "x"})).status_code == 400


# --- live -----------------------------------------------------------------------------------------------------------


async def test_an_ended_invocation_is_told_whole_and_then_ends(site: Site) -> None:
    found = [event async for event in events(site.client, f"{site.path}/events")]
    assert (found[0].event, found[-1].event) == ("invocation", "end")
    rows = [row for event in found if event.event == "job_tasks" for row in json.loads(event.data)["items"]]
    assert sorted(row["host"] for row in rows) == sorted(part.host_name for part in site.story.parts)
    nothing = [event.event async for event in events(site.client, f"{site.path}/events", found[-1].id)]
    assert nothing == ["invocation", "end"]


async def test_changes_come_live_and_a_broken_stream_goes_on_without_a_gap(site: Site) -> None:
    """The gateway is killed while a stream is open; the client goes on at another one from the last id it saw."""
    story = Story([Part(f"live{n:02}", {Stream.STDOUT: b"x\n"}) for n in range(30)], began=datetime.now(UTC))
    await site.installation.tell(list(story.opening()))
    path = f"/job-invocations/{story.job_invocation_id}/events"
    await until(lambda: _is_ok(site.client, f"/job-invocations/{story.job_invocation_id}"))
    seen: dict[str, JobTaskDocument] = {}
    last_id = ""

    def take(event: ServerEvent) -> None:
        nonlocal last_id
        last_id = event.id
        if event.event == "job_tasks":
            for row in json.loads(event.data)["items"]:
                seen[row["host"]] = JobTaskDocument.model_validate(row)

    tell = asyncio.create_task(_tell_slowly(site, story))
    with contextlib.suppress(httpx.TransportError):
        async for event in events(site.client, path):
            take(event)
            if sum(task.status.is_verdict for task in seen.values()) >= 8:
                site.gateway.send_signal(signal.SIGKILL)
    site.gateway.wait()
    site.start_gateway()
    await tell
    await until(lambda: _is_ok(site.client, "/status"))
    verdicts = {name for name, task in seen.items() if task.status.is_verdict}
    is_resent = False
    async for event in events(site.client, path, last_id):
        if event.event == "job_tasks":
            is_resent |= any(
                row["host"] in verdicts and row["position"] <= int(last_id or 0)
                for row in json.loads(event.data)["items"]
            )
        take(event)
    assert not is_resent
    assert {task.status for task in seen.values()} == {"succeeded"}
    assert len(seen) == 30
    assert all(task.streams[Stream.STDOUT].complete for task in seen.values())


async def _tell_slowly(site: Site, story: Story) -> None:
    for part in story.parts:
        await site.installation.tell(list(story.of_part(part)))
        await asyncio.sleep(0.02)
    await site.installation.tell([story.ending()])


async def test_the_gateway_stops_within_three_seconds_with_streams_open(site: Site) -> None:
    story = Story([Part("waiting")], began=datetime.now(UTC))
    await site.installation.tell(list(story.opening()))
    path = f"/job-invocations/{story.job_invocation_id}"
    await until(lambda: _is_ok(site.client, path))
    streams = [events(site.client, f"{path}/events") for _ in range(3)]
    for stream in streams:
        assert (await anext(stream)).event == "invocation"
    began = time.monotonic()
    site.gateway.terminate()
    with contextlib.suppress(httpx.TransportError):
        for stream in streams:
            async for _ in stream:
                pass
    assert await asyncio.to_thread(site.gateway.wait, 10) == 0
    assert time.monotonic() - began < 3
    site.start_gateway()
    await until(lambda: _is_ok(site.client, "/status"))


async def test_a_stream_ends_when_its_viewer_may_see_no_more(site: Site) -> None:
    """Only the check itself: the stream looks every 15 s, `is_still` is what it asks."""
    token = f"chg_short_{uuid4().hex}"
    issued = await site.installation.admit("guest", token)
    async with site.as_bearer(token) as guest:
        await until(lambda: _is_ok(guest, "/status"))
        revoked = TokenRevoked(id=uuid4(), time=datetime.now(UTC), token_id=issued.token_id)
        await site.installation.say("guest", revoked)
        await until(lambda: _is_refused(guest))


async def _is_refused(client: httpx.AsyncClient) -> bool:
    return (await client.get("/status")).status_code == 401


# --- pages ----------------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """Tags and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def links(self) -> Iterator[str]:
        for _, attributes in self.found:
            yield from (str(attributes[name]) for name in ("href", "src", "action") if attributes.get(name))


async def pages(site: Site) -> dict[str, Tags]:
    headers = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    paths = ["/job-invocations", site.path, f"{site.path}?status=failed", "/nowhere", "/job-invocations?status=refused"]
    paths += [f"/job-tasks/{site.task_id(host)}" for host in ("evil", "big", "web001")]
    found = {}
    for path in paths:
        response = await site.client.get(path, headers=headers)
        assert response.headers["content-type"] == "text/html; charset=utf-8", path
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        found[path] = Tags(response.text)
    return found


async def test_pages_have_no_script_or_style_in_them_and_name_no_other_place(site: Site) -> None:
    for path, page in (await pages(site)).items():
        for tag, attributes in page.found:
            assert not [name for name in attributes if name.startswith("on") or name == "style"], (path, tag)
            assert tag not in ("style", "iframe", "object", "embed", "base"), path
            if tag == "script":
                assert str(attributes["src"]).startswith("/static/page.js"), path
            if tag == "img":
                assert str(attributes["src"]).startswith("/static/icon.svg"), path
        assert all(link.startswith(("/", "#")) and not link.startswith("//") for link in page.links()), path


async def test_a_page_is_readable_without_scripts_and_shows_what_a_host_sent_without_obeying_it(site: Site) -> None:
    found = await pages(site)
    invocation_page = found[site.path]
    assert "41 succeeded" in invocation_page.text
    assert "1 failed" in invocation_page.text
    assert 'job"><script>alert(2)</script><U+202E>' in invocation_page.text
    output = found[f"/job-tasks/{site.task_id('evil')}"].text
    assert "<script>alert(1)</script>" in output
    assert "␛]0;title␇" in output
    assert "␍over␈written" in output
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", output)
    rows = [
        attributes for tag, attributes in found[f"{site.path}?status=failed"].found if attributes.get("class") == "name"
    ]
    assert [row["href"] for row in rows] == [f"/job-tasks/{site.task_id('evil')}"]


async def test_a_fragment_goes_on_where_the_page_ended(site: Site) -> None:
    path = f"/job-tasks/{site.task_id('evil')}/output/fragment"
    response = await site.client.get(path, params={"offset": 27, "style": "red.-.bold"})
    assert response.headers["chargehand-final"] == "true"
    assert response.text.startswith('<span class="bold fg-red">')
    assert "<script" not in response.text
    hostile = await site.client.get(path, params={"style": '"><script>'})
    assert "<script" not in hostile.text


async def test_a_stranger_is_told_how_to_log_in(site: Site) -> None:
    async with httpx.AsyncClient(base_url=site.url) as client:
        response = await client.get("/job-invocations", headers={"Accept": "text/html"})
    assert response.status_code == 401
    assert "chargehand open" in response.text


async def test_the_pages_own_files_are_served_and_nothing_else(site: Site) -> None:
    async with httpx.AsyncClient(base_url=site.url) as client:
        for name, kind in (("style.css", "text/css"), ("page.js", "text/javascript"), ("icon.svg", "image/svg+xml")):
            response = await client.get(f"/static/{name}?v=1")
            assert response.headers["content-type"].startswith(kind)
            assert "max-age" in response.headers["cache-control"]
        assert (await client.get("/healthz")).text == "alive\n"
        assert (await client.get("/readyz")).text == "ready\n"


async def test_the_interface_describes_itself(site: Site) -> None:
    document = (await site.client.get("/openapi.json")).json()
    OpenAPIV31SpecValidator(document).validate()
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described == {(route.method, route.path) for route in ROUTES}


async def test_status_says_who_asks_and_what_this_is(site: Site) -> None:
    status = (await site.client.get("/status")).json()
    assert (status["login"], status["proxies"]) == ("admin", 2)
    assert status["installation"] == site.installation.keys["planner"].kid[:8]
