"""The route table: every path of the gateway, the right it needs, what it takes and gives. Nothing else is served."""

from __future__ import annotations

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

from . import about, inventory, job_invocations, job_tasks
from .output import serve_output
from .rights import Right
from .routes import Parameter, Route


class OutputGroups(Model):
    """Groups of job tasks that ended alike, failures first."""

    items: tuple[OutputGroup, ...]


class Proxies(Model):
    """All proxies."""

    items: tuple[ProxyDocument, ...]


_PAGED = (
    Parameter("limit", "How many at most.", "integer"),
    Parameter("after", "`next` of the page before."),
)
_TASKS = (
    Parameter("status", "Only job tasks of this status."),
    Parameter("reason", "Only job tasks that did not succeed for this reason."),
    Parameter("host", "Only the host of this name; `*` stands for anything."),
)
_OUTPUT = (
    Parameter("stream", "`stdout` (default) or `stderr`."),
    Parameter("attempt", "The attempt; the one that is shown by default.", "integer"),
    Parameter("offset", "First byte, of what is kept.", "integer"),
)
_ONE = "/job-invocations/{job_invocation_id}"
_TASK = "/job-tasks/{job_task_id}"

ROUTES: tuple[Route, ...] = (
    Route("GET", "/", Right.LOGIN, job_invocations.index, "The first page.", status=303, is_page=True),
    Route(
        "GET", "/job-invocations", Right.VIEW_JOB_INVOCATIONS, job_invocations.list_job_invocations,
        "Job invocations, newest first.", gives=Page[JobInvocationDocument], problems=(400, 503), is_page=True,
        query=(Parameter("status", "Only those of this status."), *_PAGED),
    ),
    Route(
        "POST", "/job-invocations", Right.CREATE_JOB_INVOCATIONS, job_invocations.invoke,
        "Invoke a job; answered when the planner decided, or with 202.", body=JobInvocationRequest,
        gives=JobInvocationDocument, status=201, problems=(413, 415, 422, 503),
    ),
    Route(
        "GET", _ONE, Right.VIEW_JOB_INVOCATIONS, job_invocations.show_job_invocation,
        "One job invocation with its counts.", gives=JobInvocationDocument, problems=(400, 404, 503), is_page=True,
    ),
    Route(
        "GET", f"{_ONE}/job-tasks", Right.VIEW_JOB_INVOCATIONS, job_invocations.list_job_tasks,
        "Its job tasks by host name.", gives=Page[JobTaskDocument], problems=(400, 404, 503), query=(*_TASKS, *_PAGED),
    ),
    Route(
        "GET", f"{_ONE}/groups", Right.VIEW_JOB_INVOCATIONS, job_invocations.list_groups,
        "Its job tasks gathered by equal ends, failures first.", gives=OutputGroups, problems=(400, 404, 503),
        query=(_PAGED[0],),
    ),
    Route(
        "GET", f"{_ONE}/events", Right.VIEW_JOB_INVOCATIONS, job_invocations.watch_job_invocation,
        "Its changes as server-sent events: `invocation`, `job_tasks`, `end`. Last-Event-ID goes on without a gap.",
        media="text/event-stream", problems=(400, 404, 503), is_stream=True,
        query=(
            Parameter("after", "A position, as Last-Event-ID gives it.", "integer"),
            Parameter("only", "`invocation`: without job tasks."),
        ),
    ),
    Route(
        "POST", f"{_ONE}/cancel", Right.CANCEL_JOB_INVOCATIONS, job_invocations.cancel,
        "Cancel it, or its job tasks on some hosts.", body=CancelRequest, gives=Decision,
        problems=(400, 404, 409, 415, 422, 503),
    ),
    Route(
        "POST", f"{_ONE}/edit", Right.EDIT_JOB_INVOCATIONS, job_invocations.edit,
        "Change its concurrency while it runs; a lower one binds what starts from then on.", body=EditRequest,
        gives=Decision, problems=(400, 404, 409, 415, 422, 503),
    ),
    Route(
        "POST", f"{_ONE}/rerun", Right.CREATE_JOB_INVOCATIONS, job_invocations.rerun,
        "Do it again: on all its hosts, where it failed, or from where it was halted.", body=RerunRequest,
        gives=JobInvocationDocument, status=201, problems=(400, 404, 409, 413, 415, 422, 503),
    ),
    Route(
        "GET", f"{_ONE}/plan", Right.VIEW_JOB_INVOCATIONS, job_invocations.show_plan,
        "When each of its job tasks is due, by batch and splay.", gives=Page[PlannedJobTaskDocument],
        problems=(400, 404, 503), query=_PAGED,
    ),
    Route(
        "GET", _TASK, Right.VIEW_JOB_INVOCATIONS, job_tasks.show_job_task,
        "One job task with its attempts and its delivery ladder.", gives=JobTaskDocument, problems=(400, 404, 503), is_page=True,
    ),
    Route(
        "GET", f"{_TASK}/output", Right.VIEW_JOB_INVOCATIONS, serve_output,
        "One stream of its output as bytes; Range is understood.", media="text/plain",
        problems=(400, 404, 416, 503),
        query=(*_OUTPUT, Parameter("follow", "Go on until the attempt's is complete.", "boolean")),
    ),
    Route(
        "GET", f"{_TASK}/output/events", Right.VIEW_JOB_INVOCATIONS, job_tasks.watch_output,
        "Both streams as server-sent events: `output` with base64 bytes, `next_try` while another try is waited for, `attempt` "
        "when it begins, then `end`.", media="text/event-stream",
        problems=(400, 404, 503), is_stream=True, query=(
            Parameter("after", "`stdout:N,stderr:M`, as Last-Event-ID."),
            Parameter("attempt", "Only this attempt; its end is the end.", "integer"),
            Parameter("only", "`offsets`: without the bytes."),
        ),
    ),
    Route(
        "GET", f"{_TASK}/output/fragment", Right.VIEW_JOB_INVOCATIONS, job_tasks.show_fragment,
        "What was stored from an offset on, as harmless HTML.", media="text/html", problems=(400, 404, 503),
        query=(*_OUTPUT, Parameter("style", "The style in force there.")),
    ),
    Route(
        "GET", "/hosts", Right.VIEW_HOSTS, inventory.list_hosts, "Hosts by name.", gives=Page[HostDocument],
        problems=(400, 503), query=(Parameter("name", "Those whose name contains this; `*` stands for anything."), *_PAGED),
    ),
    Route(
        "POST", "/hosts", Right.EDIT_HOSTS, inventory.register_hosts,
        "Register hosts, or change those of the same name.", body=HostsRequest, gives=Decision,
        problems=(413, 415, 422, 503),
    ),
    Route(
        "POST", "/hosts/remove", Right.EDIT_HOSTS, inventory.remove_hosts, "Take hosts out of the inventory.",
        body=HostsRemoval, gives=Decision, problems=(413, 415, 422, 503),
    ),
    Route(
        "GET", "/hosts/{host_id}", Right.VIEW_HOSTS, inventory.show_host, "One host.", gives=HostDocument,
        problems=(400, 404, 503),
    ),
    Route(
        "GET", "/proxies", Right.VIEW_PROXIES, inventory.list_proxies, "Proxies, and when they were last heard.",
        gives=Proxies, problems=(503,),
    ),
    Route(
        "POST", "/proxies/{proxy}", Right.EDIT_PROXIES, inventory.change_proxy,
        "How many attempts it takes at once, over all jobs.", body=ProxyChange, gives=Decision,
        problems=(404, 413, 415, 422, 503),
    ),
    Route(
        "POST", "/enrolment-tokens", Right.ENROL_PROXIES, inventory.allow_enrolment,
        "Let one agent or program enrol.", body=EnrolmentRequest, gives=Decision, problems=(413, 415, 422, 503),
    ),
    Route("GET", "/status", Right.LOGIN, about.show_status, "Who I am, what this is.", gives=StatusDocument, problems=(503,)),
    Route("POST", "/login-links", Right.LOGIN, about.make_login_link, "A link that logs in once.", gives=LoginLink),
    Route(
        "GET", "/login", Right.ANYONE, about.log_in, "Exchange a login link for a cookie.", status=303, problems=(401,),
        query=(Parameter("code", "The code of the link."),), is_once=True, is_page=True,
    ),
    Route("POST", "/logout", Right.LOGIN, about.log_out, "End this login.", status=204),
    Route("GET", "/openapi.json", Right.ANYONE, about.show_openapi, "This document."),
    Route("GET", "/healthz", Right.ANYONE, about.show_health, "Whether the process lives.", media="text/plain"),
    Route("GET", "/readyz", Right.ANYONE, about.show_readiness, "Whether it can answer.", media="text/plain"),
    Route("GET", "/static/{name}", Right.ANYONE, about.show_static, "A file of the pages.", media="text/css"),
)  # fmt: skip
