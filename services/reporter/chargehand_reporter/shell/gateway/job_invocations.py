"""Job invocations over HTTP: invoking, listing, watching, cancelling. Owns these answers, as JSON and as pages."""

from __future__ import annotations

from urllib.parse import parse_qs
from uuid import UUID

from chargehand_chassis.clock import now
from chargehand_schemas.api import (
    CancelRequest,
    EditRequest,
    JobInvocationDocument,
    JobInvocationRequest,
    JobTaskDocument,
    Page,
    PlannedJobTaskDocument,
    RerunRequest,
)
from chargehand_schemas.commands import CancelJobInvocation, EditJobInvocation, InvokeJob
from chargehand_schemas.ids import item_id, new_id
from chargehand_schemas.reasons import JobInvocationStatus, JobTaskStatus, Reason, Refusal
from starlette.responses import RedirectResponse, Response

from ...core.again import CannotRerun, command_again, hosts_again
from ...core.choices import choices_beside, over_in_words
from ...core.documents import decision_document, job_invocation_document, job_task_document
from ...core.invocation import JobInvocation
from ...core.read_model import REFUSED, CommandOutcome
from ...core.timetable import foreseen, timetable
from ..store.read_store import TaskFilter
from .answers import cursor_checked, document_response, json_response
from .call import Call
from .pages import page
from .problems import HttpProblem, not_found
from .streams import event_response, job_invocation_events

GROUPS_LIMIT = 1000
_GROUPS_ON_PAGE = 50
_NAMES_ON_PAGE = 30


async def index(call: Call) -> Response:
    """`GET /`."""
    return RedirectResponse("/job-invocations", 303)


async def list_job_invocations(call: Call) -> Response:
    """`GET /job-invocations`."""
    status, after = call.word("status", JobInvocationStatus), call.text("after")
    limit = call.limit(50)
    found = await cursor_checked(call.read(lambda store: store.job_invocations(status, limit, after)))
    rows = [job_invocation_document(row) for row in found.rows]
    if not call.wants_html:
        return document_response(Page[JobInvocationDocument](items=tuple(rows), total=found.total, next=found.next))
    hosts = await call.read(lambda store: store.count_hosts())
    return page(call, "job_invocations.html", rows=rows, found=found, status=status, hosts=hosts, after=after)


async def show_job_invocation(call: Call) -> Response:
    """`GET /job-invocations/ID`."""
    invocation = await _found(call)
    if not call.wants_html:
        return document_response(job_invocation_document(invocation))
    wanted = _filter(call)
    after = call.text("after")
    found = await cursor_checked(call.read(lambda store: store.job_tasks(invocation, wanted, call.limit(), after)))
    groups = await call.read(lambda store: store.groups(invocation.job_invocation_id, _GROUPS_ON_PAGE, _NAMES_ON_PAGE))
    return page(
        call,
        "job_invocation.html",
        invocation=job_invocation_document(invocation),
        rows=[job_task_document(task) for task in found.rows],
        found=found,
        groups=groups,
        wanted=wanted,
        after=after,
        is_fragment=call.is_set("fragment"),
    )


async def list_job_tasks(call: Call) -> Response:
    """`GET /job-invocations/ID/job-tasks`."""
    invocation = await _found(call)
    wanted, after, limit = _filter(call), call.text("after"), call.limit()
    found = await cursor_checked(call.read(lambda store: store.job_tasks(invocation, wanted, limit, after)))
    rows = tuple(job_task_document(task) for task in found.rows)
    return document_response(Page[JobTaskDocument](items=rows, total=found.total, next=found.next))


async def list_groups(call: Call) -> Response:
    """`GET /job-invocations/ID/groups`."""
    job_invocation_id, limit = await call.job_invocation_id(), call.limit(GROUPS_LIMIT)
    return json_response({"items": await call.read(lambda store: store.groups(job_invocation_id, limit))})


async def watch_job_invocation(call: Call) -> Response:
    """`GET /job-invocations/ID/events`."""
    job_invocation_id = await call.job_invocation_id()
    last_id = call.request.headers.get("last-event-id") or call.text("after", at_most=20)
    if last_id and not (last_id.isascii() and last_id.isdigit() and len(last_id) <= 18):
        raise HttpProblem(400, "malformed", "Last-Event-ID is not a position of this stream")
    with_job_tasks = call.text("only") != "invocation"
    events = job_invocation_events(call, job_invocation_id, int(last_id or 0), with_job_tasks=with_job_tasks)
    return event_response(call, events)


async def invoke(call: Call) -> Response:
    """`POST /job-invocations`. The command's id follows from the invocation's, so that a repeat is the same command."""
    request = await call.document(JobInvocationRequest)
    job_invocation_id = request.job_invocation_id or new_id()
    commands = call.gateway.commands
    command = InvokeJob(
        id=item_id("invoke", call.who.login, job_invocation_id),
        time=now(),
        actor=f"user:{call.who.login}",
        job_invocation_id=job_invocation_id,
        sealed_inputs={name: commands.sealed(value) for name, value in request.hidden_inputs.items()},
        sealed_effective_user_password=commands.sealed(password)
        if (password := request.effective_user_password)
        else "",
        **request.model_dump(exclude={"job_invocation_id", "hidden_inputs", "effective_user_password"}),
    )
    return await _invoked(call, command)


async def _invoked(call: Call, command: InvokeJob) -> Response:
    """201 with the invocation, 202 while nothing is decided, a problem when it is refused."""
    path = f"/job-invocations/{command.job_invocation_id}"
    outcome = await call.gateway.commands.post(call, str(command.job_invocation_id), command)
    if outcome is None:
        return _pending(command.id, path)
    if outcome.decision == REFUSED:
        raise refused(outcome)
    invocation = await call.read(lambda store: store.job_invocation(command.job_invocation_id))
    if invocation is None:
        raise not_found(f"job invocation {command.job_invocation_id}")
    return document_response(job_invocation_document(invocation), 201, {"Location": path})


async def rerun(call: Call) -> Response:
    """`POST /job-invocations/ID/rerun`."""
    invocation = await _found(call)
    request = await call.document(RerunRequest)
    job_invocation_id = request.job_invocation_id or new_id()
    if not invocation.status.is_end:
        raise HttpProblem(409, "still_running", "this job has not ended; do it again when it has, or cancel it first")
    tasks = await call.read(lambda store: store.ordered_job_tasks(invocation.job_invocation_id))
    try:
        command = command_again(
            invocation,
            hosts_again(invocation, tasks, request.which),
            {name: call.gateway.commands.sealed(value) for name, value in request.hidden_inputs.items()},
            command_id=item_id("invoke", call.who.login, job_invocation_id),
            job_invocation_id=job_invocation_id,
            actor=f"user:{call.who.login}",
            now=now(),
            expect_hosts=request.expect_hosts,
        )
    except CannotRerun as why:
        raise HttpProblem(422, why.code, why.detail) from why
    return await _invoked(call, command)


async def show_plan(call: Call) -> Response:
    """`GET /job-invocations/ID/plan`."""
    invocation = await _found(call)
    begins, limit = call.number("after", 0) or 0, call.limit()
    tasks = await call.read(lambda store: store.ordered_job_tasks(invocation.job_invocation_id))
    if not tasks:
        hosts = await call.read(lambda store: store.targets(invocation.job_invocation_id))
        tasks = foreseen(invocation, hosts, call.gateway.settings.default_proxy)
    rows = timetable(invocation, tasks)
    following = str(begins + limit) if begins + limit < len(rows) else None
    page_of = tuple(rows[begins : begins + limit])
    return document_response(Page[PlannedJobTaskDocument](items=page_of, total=len(rows), next=following))


async def edit(call: Call) -> Response:
    """`POST /job-invocations/ID/edit`."""
    job_invocation_id = await call.job_invocation_id()
    request = await call.document(EditRequest)
    command = EditJobInvocation(
        id=new_id(),
        time=now(),
        actor=f"user:{call.who.login}",
        job_invocation_id=job_invocation_id,
        concurrency=request.concurrency,
    )
    path = f"/job-invocations/{job_invocation_id}"
    outcome = await call.gateway.commands.post(call, str(job_invocation_id), command)
    if outcome is None:
        return _pending(command.id, path)
    if outcome.decision == REFUSED:
        raise refused(outcome)
    return document_response(decision_document(outcome, path))


async def cancel(call: Call) -> Response:
    """`POST /job-invocations/ID/cancel`."""
    invocation = await _found(call)
    job_invocation_id = invocation.job_invocation_id
    request = await _form(call) if call.is_form else await call.document(CancelRequest)
    tasks = await call.read(lambda store: store.job_tasks_of_hosts(job_invocation_id, request.host_ids))
    over = over_in_words(tasks)
    if request.host_ids and all(task.verdict_rank for task in tasks) and len(tasks) == len(set(request.host_ids)):
        raise HttpProblem(409, Refusal.ALREADY_ENDED.value, f"{over}; nothing was cancelled")
    command = CancelJobInvocation(
        id=new_id(),
        time=now(),
        actor=f"user:{call.who.login}",
        job_invocation_id=job_invocation_id,
        host_ids=request.host_ids,
    )
    path = f"/job-invocations/{job_invocation_id}"
    outcome = await call.gateway.commands.post(call, str(job_invocation_id), command)
    if outcome is not None and outcome.decision == REFUSED:
        raise refused(outcome)
    if call.is_form:
        return RedirectResponse(path, 303)
    if outcome is None:
        return _pending(command.id, path)
    known = await call.read(lambda store: store.job_invocation(job_invocation_id)) or invocation
    return document_response(
        decision_document(outcome, path).model_copy(
            update={
                "detail": over,
                "counts": {status.value: count for status, count in known.counts.items()},
                "choices": choices_beside(known, request.host_ids) if request.host_ids else (),
            }
        )
    )


async def _form(call: Call) -> CancelRequest:
    """The form of a page: the whole job, or one host of it."""
    fields = parse_qs((await call.body()).decode("ascii", "replace"))
    try:
        return CancelRequest(host_ids=tuple(UUID(text) for text in fields.get("host_id", ())))
    except ValueError as error:
        raise HttpProblem(422, "malformed", "host_id is no id") from error


def refused(outcome: CommandOutcome) -> HttpProblem:
    """What the planner refused, as a problem: 409 where there is nothing left to do, else 422."""
    status = 409 if outcome.reason == Refusal.ALREADY_ENDED.value else 422
    return HttpProblem(status, outcome.reason or "refused", outcome.detail)


def _pending(command_id: UUID, path: str) -> Response:
    outcome = CommandOutcome(command_id, "pending", detail="published, and not decided yet; look again")
    return document_response(decision_document(outcome, path), 202, {"Location": path})


async def _found(call: Call) -> JobInvocation:
    job_invocation_id = await call.job_invocation_id()
    invocation = await call.read(lambda store: store.job_invocation(job_invocation_id))
    if invocation is None:
        raise not_found("such job invocation")
    return invocation


def _filter(call: Call) -> TaskFilter:
    group = call.text("group", at_most=32)
    if group and (len(group) != 32 or set(group) - set("0123456789abcdef")):
        raise HttpProblem(400, "malformed", "query parameter `group` is no group")
    return TaskFilter(call.word("status", JobTaskStatus), call.word("reason", Reason), call.text("host"), group)
