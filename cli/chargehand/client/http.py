"""Chargehand over HTTP, as a person: what the command line is written on (docs/reference/commands.md).

Owns requests, pages, live streams with reconnection, and turning problems into the errors of `client.errors`. No decision
about jobs and nothing of a terminal enters here.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit
from uuid import UUID, uuid4

import httpx
from chargehand_schemas.api import (
    CancelRequest,
    Decision,
    EditRequest,
    EnrolmentRequest,
    HostDocument,
    HostsRemoval,
    HostsRequest,
    JobInvocationDocument,
    JobInvocationRequest,
    JobTaskDocument,
    LoginLink,
    OutputGroup,
    Page,
    PlannedJobTaskDocument,
    ProxyChange,
    ProxyDocument,
    RerunRequest,
    StatusDocument,
)
from chargehand_schemas.base import Model
from chargehand_schemas.commands import HostRecord
from chargehand_schemas.reasons import Stream
from pydantic import ValidationError

from .errors import ClientError, LoginRequired, NotFound, Pending, Refused, Unreachable
from .sse import EventParser, ServerEvent

M = TypeVar("M", bound=Model)

MAX_HOSTS_PER_REQUEST = 500
_PAGE = 500
_DECIDED_WITHIN = timedelta(seconds=60)
_LOOK_AGAIN_S = 0.5
_SILENT_STREAM_S = 45.0
_BACK_OFF_S = (0.1, 0.2, 0.5, 1.0, 2.0)

Change = JobInvocationDocument | tuple[JobTaskDocument, ...]
"""What a watched job tells: itself as it is now, or some of its job tasks as they are now."""


@dataclass(frozen=True, slots=True)
class AttemptOver:
    """A followed attempt has ended and another begins (`next_attempt`), or is waited for until `next_try_at`."""

    attempt: int
    outcome: str
    exit_status: int | None = None
    signal: str | None = None
    next_attempt: int | None = None
    next_try_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class OutputPiece:
    """Bytes of one stream at their offset (bytes from its beginning)."""

    stream: Stream
    offset: int
    data: bytes


class Client:
    """One server and one token. Thread-safe. Every method raises Unreachable, LoginRequired, NotFound or Refused.

    Ids may be given as unique prefixes of four or more characters, or as `@last`.
    """

    def __init__(
        self,
        server: str,
        token: str = "",
        *,
        timeout: timedelta = timedelta(seconds=30),
        patience: timedelta = timedelta(seconds=60),
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`timeout` of one request; `patience`: how long a live stream tries to come back before it is Unreachable."""
        self.server = server.rstrip("/")
        self._patience_s = patience.total_seconds()
        headers = {"Accept": "application/json", "User-Agent": "chargehand"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        limits = httpx.Timeout(timeout.total_seconds(), connect=5.0)
        # A loopback address is never reached through a proxy of the environment.
        self._http = httpx.Client(
            base_url=self.server,
            headers=headers,
            timeout=limits,
            transport=transport,
            trust_env=not _is_loopback(server),
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    # --- this installation ---

    def status(self) -> StatusDocument:
        """Who I am, and what this installation is."""
        return self._get(StatusDocument, "/status")

    def login_link(self) -> str:
        """A link that logs a browser in, once."""
        link = _read(LoginLink, self._request("POST", "/login-links"))
        return self.server + link.path

    def page_of(self, job_invocation_id: UUID) -> str:
        """The address of a job's page."""
        return f"{self.server}/job-invocations/{job_invocation_id}"

    def page_of_job_task(self, job_task_id: UUID) -> str:
        """The address of the page of a job task."""
        return f"{self.server}/job-tasks/{job_task_id}"

    # --- jobs ---

    def invoke(self, request: JobInvocationRequest) -> JobInvocationDocument:
        """Invoke a job; returns when it is accepted. Refused says why not; Pending if that took longer than a minute.

        A lost answer is asked for again: the id is chosen here, so that a repeat is the same job.
        """
        request = request.model_copy(update={"job_invocation_id": request.job_invocation_id or uuid4()})
        body = request.model_dump(mode="json", exclude_none=True)
        response = self._request("POST", "/job-invocations", body, tries=3)
        if response.status_code == 202:
            return self._await_decision(str(request.job_invocation_id), _read(Decision, response))
        return _read(JobInvocationDocument, response)

    def _await_decision(self, job_invocation_id: str, decision: Decision) -> JobInvocationDocument:
        deadline = time.monotonic() + _DECIDED_WITHIN.total_seconds()
        while time.monotonic() < deadline:
            time.sleep(_LOOK_AGAIN_S)
            try:
                document = self.job_invocation(job_invocation_id)
            except NotFound:
                continue
            if document.refusal:
                raise Refused(document.refusal, document.detail)
            return document
        raise Pending(
            "pending", f"command {decision.command_id} is published and not decided yet; job {job_invocation_id}"
        )

    def job_invocations(self, *, status: str | None = None, limit: int = 50) -> Iterator[JobInvocationDocument]:
        """At most `limit` jobs, newest first."""
        return self._pages(JobInvocationDocument, "/job-invocations", {"status": status}, limit)

    def job_invocation(self, ref: str) -> JobInvocationDocument:
        """One job."""
        return self._get(JobInvocationDocument, f"/job-invocations/{_part(ref)}")

    def job_tasks(
        self, ref: str, *, status: str | None = None, reason: str | None = None, host: str | None = None
    ) -> Iterator[JobTaskDocument]:
        """The job tasks of a job, page by page."""
        wanted = {"status": status, "reason": reason, "host": host}
        return self._pages(JobTaskDocument, f"/job-invocations/{_part(ref)}/job-tasks", wanted, None)

    def groups(self, ref: str) -> tuple[OutputGroup, ...]:
        """The job tasks of a job, those that ended alike together."""
        document = self._request("GET", f"/job-invocations/{_part(ref)}/groups").json()
        return tuple(_validated(OutputGroup, row) for row in document["items"])

    def watch(self, ref: str, *, last_event_id: str = "") -> Iterator[Change]:
        """A job's changes until it has ended; what stands already comes first. Reconnects without a gap."""
        for event in self._events(f"/job-invocations/{_part(ref)}/events", last_event_id):
            match event.event:
                case "invocation":
                    yield _parsed(JobInvocationDocument, event.data)
                case "job_tasks":
                    yield tuple(_validated(JobTaskDocument, row) for row in json.loads(event.data)["items"])
                case "end":
                    return
                case _:
                    pass

    def edit(self, ref: str, concurrency: int | None) -> Decision:
        """Change the concurrency limit of a job that goes on; None: none of its own. Refused(already_ended) if it is over."""
        body = EditRequest(concurrency=concurrency).model_dump(mode="json")
        return _decided(self._request("POST", f"/job-invocations/{_part(ref)}/edit", body))

    def rerun(self, ref: str, request: RerunRequest) -> JobInvocationDocument:
        """Do a job again; returns when the new one is accepted. A lost answer is asked for again, as in `invoke`."""
        request = request.model_copy(update={"job_invocation_id": request.job_invocation_id or uuid4()})
        body = request.model_dump(mode="json", exclude_none=True)
        response = self._request("POST", f"/job-invocations/{_part(ref)}/rerun", body, tries=3)
        if response.status_code == 202:
            return self._await_decision(str(request.job_invocation_id), _read(Decision, response))
        return _read(JobInvocationDocument, response)

    def plan(self, ref: str) -> Iterator[PlannedJobTaskDocument]:
        """When each job task of a job is due, in that order."""
        return self._pages(PlannedJobTaskDocument, f"/job-invocations/{_part(ref)}/plan", {}, None, size=1000)

    def cancel(self, ref: str, host_ids: Iterable[UUID] = ()) -> Decision:
        """Cancel a job, or its job tasks on some hosts. Refused(already_ended) if there is nothing left to cancel."""
        body = CancelRequest(host_ids=tuple(host_ids)).model_dump(mode="json")
        return _read(Decision, self._request("POST", f"/job-invocations/{_part(ref)}/cancel", body))

    # --- job tasks and their output ---

    def job_task(self, job_task_id: UUID) -> JobTaskDocument:
        """One job task with its attempts."""
        return self._get(JobTaskDocument, f"/job-tasks/{job_task_id}")

    def output(
        self, job_task_id: UUID, stream: Stream = Stream.STDOUT, *, attempt: int | None = None, offset: int = 0,
        limit: int | None = None,
    ) -> Iterator[bytes]:  # fmt: skip
        """What is stored of one stream from `offset` on, at most `limit` bytes, in pieces."""
        query = {"stream": stream.value, "offset": offset, "attempt": attempt}
        headers = {"Accept": "text/plain"}
        left = limit if limit is not None else -1
        with self._open(f"/job-tasks/{job_task_id}/output", query, headers) as response:
            for piece in self._pieces(response):
                if left >= 0:
                    piece, left = piece[:left], left - min(left, len(piece))
                yield piece
                if left == 0:
                    return

    def follow_output(
        self, job_task_id: UUID, *, attempt: int | None = None, last_event_id: str = ""
    ) -> Iterator[OutputPiece | AttemptOver]:
        """Both streams of a job task as they grow, until all is there; each further attempt after all of the one before it.
        With `attempt` only that one. Reconnects without a gap."""
        for event in self._events(f"/job-tasks/{job_task_id}/output/events", last_event_id, {"attempt": attempt}):
            match event.event:
                case "output":
                    row = json.loads(event.data)
                    yield OutputPiece(Stream(row["stream"]), int(row["offset"]), base64.b64decode(row["data"]))
                case "attempt" | "next_try":
                    yield _attempt_over(json.loads(event.data))
                case "end":
                    return

    # --- hosts and proxies ---

    def hosts(self, *, name: str | None = None, limit: int | None = None) -> Iterator[HostDocument]:
        """Hosts of the inventory by name, page by page; `name`: those whose name contains it."""
        return self._pages(HostDocument, "/hosts", {"name": name}, limit)

    def host_count(self) -> int:
        """How many hosts there are."""
        return int(self._request("GET", "/hosts", query={"limit": 1}).json()["total"])

    def host(self, ref: str) -> HostDocument:
        """One host, by id, name or prefix of its id."""
        return self._get(HostDocument, f"/hosts/{_part(ref)}")

    def register_hosts(self, hosts: Iterable[HostRecord]) -> dict[str, int]:
        """Register hosts, or change those of the same name. The counts `registered`, `changed`, `unchanged`."""
        import_id, rows = uuid4(), tuple(hosts)
        counts = {"registered": 0, "changed": 0, "unchanged": 0}
        for start in range(0, len(rows), MAX_HOSTS_PER_REQUEST):
            request = HostsRequest(import_id=import_id, hosts=rows[start : start + MAX_HOSTS_PER_REQUEST])
            decision = _decided(self._request("POST", "/hosts", request.model_dump(mode="json")))
            for name, count in decision.counts.items():
                counts[name] = counts.get(name, 0) + count
        return counts

    def remove_hosts(self, host_ids: Iterable[UUID]) -> dict[str, int]:
        """Take hosts out of the inventory. The counts of what was decided."""
        rows, counts = tuple(host_ids), {"removed": 0}
        for start in range(0, len(rows), MAX_HOSTS_PER_REQUEST):
            request = HostsRemoval(host_ids=rows[start : start + MAX_HOSTS_PER_REQUEST])
            decision = _decided(self._request("POST", "/hosts/remove", request.model_dump(mode="json")))
            for name, count in decision.counts.items():
                counts[name] = counts.get(name, 0) + count
        return counts

    def proxies(self) -> tuple[ProxyDocument, ...]:
        """The proxies, their agents and when they were last heard."""
        document = self._request("GET", "/proxies").json()
        return tuple(_validated(ProxyDocument, row) for row in document["items"])

    def change_proxy(self, proxy: str, concurrency: int | None) -> Decision:
        """How many attempts a proxy takes at once; None: the dispatcher's default. Refused(no_such_proxy) if there is none."""
        body = ProxyChange(concurrency=concurrency).model_dump(mode="json")
        return _decided(self._request("POST", f"/proxies/{_part(proxy)}", body))

    def allow_enrolment(self, request: EnrolmentRequest) -> Decision:
        """Let one agent or program enrol with the token whose public half is given."""
        return _decided(self._request("POST", "/enrolment-tokens", request.model_dump(mode="json")))

    # --- requests ---

    def _get(self, model: type[M], path: str) -> M:
        return _read(model, self._request("GET", path))

    def _pages(
        self, model: type[M], path: str, query: Mapping[str, Any], limit: int | None, size: int = _PAGE
    ) -> Iterator[M]:
        after: str | None = None
        left = limit if limit is not None else -1
        while left != 0:
            size = size if left < 0 else min(size, left)
            page = _read(Page[model], self._request("GET", path, query={**query, "limit": size, "after": after}))  # type: ignore[valid-type]
            yield from page.items[:left] if left >= 0 else page.items
            left = left if left < 0 else max(0, left - len(page.items))
            after = page.next
            if after is None:
                return

    def _request(
        self, method: str, path: str, body: Any = None, *, query: Mapping[str, Any] | None = None, tries: int = 1
    ) -> httpx.Response:
        for n in range(tries):
            try:
                response = self._http.request(method, path, json=body, params=_present(query))
                break
            except httpx.TransportError as error:
                if n == tries - 1:
                    raise self._unreachable(error) from error
                time.sleep(_BACK_OFF_S[n])
        _check(response)
        return response

    def _open(self, path: str, query: Mapping[str, Any], headers: Mapping[str, str], read_s: float = 30.0) -> _Opened:
        timeout = httpx.Timeout(read_s, connect=5.0)
        request = self._http.build_request("GET", path, params=_present(query), headers=dict(headers), timeout=timeout)
        try:
            response = self._http.send(request, stream=True)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        try:
            if response.status_code >= 400:
                response.read()
            _check(response)
        except (ClientError, httpx.TransportError):
            response.close()
            raise
        return _Opened(response)

    def _pieces(self, response: httpx.Response) -> Iterator[bytes]:
        try:
            yield from response.iter_bytes()
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def _events(self, path: str, last_event_id: str, query: Mapping[str, Any] = {}) -> Iterator[ServerEvent]:
        """Events for ever: a stream that breaks is opened again after the last event it gave."""
        failures, silent_since, last_id = 0, time.monotonic(), last_event_id
        while True:
            try:
                for event in self._event_stream(path, last_id, query):
                    failures, silent_since, last_id = 0, time.monotonic(), event.id
                    yield event
            except Unreachable:
                if time.monotonic() - silent_since > self._patience_s:
                    raise
            time.sleep(_BACK_OFF_S[min(failures, len(_BACK_OFF_S) - 1)])
            failures += 1

    def _event_stream(self, path: str, last_id: str, query: Mapping[str, Any]) -> Iterator[ServerEvent]:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
        with self._open(path, query, headers, _SILENT_STREAM_S) as response:
            parser = EventParser(last_id)
            for piece in self._pieces(response):
                yield from parser.feed(piece)

    def _unreachable(self, error: Exception) -> Unreachable:
        return Unreachable("unreachable", f"{self.server} does not answer: {str(error) or type(error).__name__}")


def _attempt_over(row: dict[str, Any]) -> AttemptOver:
    earlier, due_at = row["earlier"], row.get("due_at")
    return AttemptOver(
        attempt=int(earlier["attempt"]),
        outcome=str(earlier["outcome"]),
        exit_status=earlier["exit_status"],
        signal=earlier["signal"],
        next_attempt=row.get("attempt"),
        next_try_at=None if due_at is None else datetime.fromisoformat(due_at),
    )


class _Opened:
    """A response whose body is read piece by piece, closed at the end of a `with`."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response

    def __enter__(self) -> httpx.Response:
        return self._response

    def __exit__(self, *_: object) -> None:
        self._response.close()


def _check(response: httpx.Response) -> None:
    if response.status_code < 400 and not response.is_redirect:
        return
    code, detail = _problem(response)
    match response.status_code:
        case 401:
            raise LoginRequired(code, detail)
        case 404:
            raise NotFound(code, detail)
        case 502 | 503 | 504:
            raise Unreachable(code, detail)
        case status if 400 <= status < 500:
            raise Refused(code, detail)
        case status:
            raise ClientError(code, f"{detail} (HTTP {status})")


def _problem(response: httpx.Response) -> tuple[str, str]:
    try:
        document = response.json()
        return str(document.get("code") or "http_error"), str(document.get("detail") or document.get("title") or "")
    except (ValueError, AttributeError):
        return "http_error", f"HTTP {response.status_code} from {response.url}: {response.text[:200]}"


def _decided(response: httpx.Response) -> Decision:
    decision = _read(Decision, response)
    if decision.decision == "refused":
        raise Refused(decision.reason or "refused", decision.detail)
    if response.status_code == 202:
        raise Pending("pending", f"command {decision.command_id} is published and not decided yet")
    return decision


def _read(model: type[M], response: httpx.Response) -> M:
    return _parsed(model, response.content)


def _parsed(model: type[M], document: bytes | str) -> M:
    try:
        return model.model_validate_json(document)
    except ValidationError as error:
        raise _not_ours(model, error) from error


def _validated(model: type[M], row: Any) -> M:
    try:
        return model.model_validate(row)
    except ValidationError as error:
        raise _not_ours(model, error) from error


def _not_ours(model: type[Model], error: ValidationError) -> ClientError:
    return ClientError("unreadable_answer", f"the server's {model.__name__} cannot be read: {error.errors()[0]['msg']}")


def _present(query: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (query or {}).items() if value is not None}


def _part(ref: str) -> str:
    return quote(ref, safe="@")


def _is_loopback(server: str) -> bool:
    host = urlsplit(server).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")
