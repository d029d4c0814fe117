"""The documents of the HTTP interface: what the gateway answers and what clients send. OpenAPI comes from these.

Owns shapes only. Names are those of the messages. Lists come as pages.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Generic, TypeVar
from uuid import UUID

from pydantic import ConfigDict, Field, StringConstraints

from .base import Instant, Model
from .commands import HostRecord, InputName, Password, Targeting, UserName
from .dispatch import Halt
from .properties import ExecutionOverrides, ExecutionProperties
from .reasons import JobInvocationStatus, JobTaskStatus, Reason, StepKind, Stream

T = TypeVar("T")


class Request(Model):
    """What a client sends: fields we do not know are refused, so that a typing error is seen."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_timedelta="float")


class Page(Model, Generic[T]):
    """One page of a list. `next` is the value of the query parameter `after` of the next page; None on the last."""

    items: tuple[T, ...]
    total: int
    next: str | None = None


class Problem(Model):
    """RFC 9457 `application/problem+json`. `code` is a closed word, `detail` says what was wrong, where, and what to do."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str = ""
    instance: str = ""


class JobInvocationRequest(Request):
    """`POST /job-invocations`. Inputs named in `hidden_inputs`, and the password for becoming the effective user on hosts, are sealed
    by the gateway before they travel."""

    job_invocation_id: UUID | None = None
    template: str = "Run Command"
    targeting: Targeting
    inputs: dict[InputName, Annotated[str, StringConstraints(max_length=65_536)]] = Field(default_factory=dict)
    hidden_inputs: dict[InputName, Annotated[str, StringConstraints(max_length=65_536)]] = Field(default_factory=dict)
    overrides: ExecutionOverrides = ExecutionOverrides()
    effective_user: UserName = ""
    effective_user_password: Password = ""
    description: str = Field("", max_length=1024)
    start_at: Instant | None = None
    start_before: Instant | None = None
    expect_hosts: int | None = Field(None, ge=0)


class RerunWhich(StrEnum):
    """Which hosts of a job are done again."""

    ALL = "all"
    FAILED = "failed"
    FROM_HALT = "from_halt"


class RerunRequest(Request):
    """`POST /job-invocations/ID/rerun`: the same job once more, with the template as it is now. `failed`: on hosts where it did not
    succeed; `from_halt`: of a halted rolling job, where it did not succeed from the batch on in which it was halted.

    Hidden inputs are not kept beyond a job's end: they are given again."""

    job_invocation_id: UUID | None = None
    which: RerunWhich = RerunWhich.ALL
    hidden_inputs: dict[InputName, Annotated[str, StringConstraints(max_length=65_536)]] = Field(default_factory=dict)
    expect_hosts: int | None = Field(None, ge=0)


class EditRequest(Request):
    """`POST /job-invocations/ID/edit`. None: no limit of its own."""

    concurrency: int | None = Field(ge=1, le=1_000_000)


class ProxyChange(Request):
    """`POST /proxies/NAME`. None: the default of the dispatcher."""

    concurrency: int | None = Field(ge=1, le=1_000_000)


class JobInvocationDocument(Model):
    """`GET /job-invocations/ID`. `counts` by status of its job tasks, `reasons` of those that did not succeed.

    `properties` are those in force, so with an edited concurrency. `halt`: where a rolling job was halted."""

    job_invocation_id: UUID
    status: JobInvocationStatus
    description: str = ""
    actor: str = ""
    template_name: str = ""
    template_version: int = 0
    provider_type: str = ""
    inputs: dict[str, str] = Field(default_factory=dict)
    hidden_inputs: tuple[str, ...] = ()
    targeting: str = ""
    effective_user: str = ""
    has_effective_user_password: bool = False
    properties: ExecutionProperties | None = None
    total: int = 0
    counts: dict[JobTaskStatus, int] = Field(default_factory=dict)
    reasons: dict[Reason, int] = Field(default_factory=dict)
    refusal: str = ""
    detail: str = ""
    accepted_at: Instant | None = None
    start_at: Instant | None = None
    started_at: Instant | None = None
    ended_at: Instant | None = None
    halt: Halt | None = None
    rerun_of: UUID | None = None
    position: int = 0


class PlannedJobTaskDocument(Model):
    """A row of `GET /job-invocations/ID/plan`: when a job task is due, by its splay, and which batch it is of (from 1; rolling)."""

    job_task_id: UUID
    host_id: UUID
    host: str
    proxy: str = ""
    ordinal: int
    batch: int | None = None
    due_at: Instant
    status: JobTaskStatus


class StreamDocument(Model):
    """One stream of a job task's current attempt; bytes. `omitted` are ranges a cap left out."""

    length: int = 0
    newlines: int = 0
    digest: str = ""
    complete: bool = False
    omitted: tuple[tuple[int, int], ...] = ()


class StepDocument(Model):
    """One step of a delivery ladder (docs/explanation/delivery-ladder.md): a fact, who said it, and where it stands in the log.

    Steps of one kind are bounded: the first ones and the latest are kept; `more`: others lie before this one that are not.
    """

    kind: StepKind
    time: Instant = Field(description="When it was said, by the clock of who said it.")
    heard_at: Instant = Field(description="When the broker took it: the one clock that all steps have in common.")
    topic: str
    partition: int
    offset: int
    actor: str = Field(description="Who said or asked it: `dispatcher/1`, `agent/PROXY/AGENT`, `user:LOGIN`.")
    late: bool = Field(False, description="The broker took it after the verdict: a fact, and no verdict changes by it.")
    more: bool = False
    facts: dict[str, str | int | bool] = Field(default_factory=dict, description="What was said; by kind of step.")


class AttemptDocument(Model):
    """One attempt of a job task, with what everybody said of it. `late`: its end became known after the verdict."""

    attempt: int
    proxy: str = ""
    agent_id: str = ""
    outcome: str = ""
    detail: str = ""
    due_at: Instant | None = None
    accepted_at: Instant | None = None
    started_at: Instant | None = None
    ended_at: Instant | None = None
    exit_status: int | None = None
    signal: str | None = None
    script_digest: str = ""
    streams: dict[Stream, StreamDocument] = Field(default_factory=dict)
    not_after: Instant | None = None
    effective_user: str = ""
    late: bool = False
    steps: tuple[StepDocument, ...] = Field((), description="Its steps, in the order in which the broker took them.")


class JobTaskDocument(Model):
    """`GET /job-tasks/ID`, and a row of `GET /job-invocations/ID/job-tasks` (there without `tries`, `steps`, `attempts_detail`).

    `attempts` counts dispatches, `tried` the tries used up, `tries` is how many there may be. `steps` are those of no single
    attempt: accepted, planned, cancels, the verdict.
    """

    job_task_id: UUID
    job_invocation_id: UUID
    host_id: UUID
    host: str
    proxy: str = ""
    status: JobTaskStatus
    reason: Reason | None = None
    exit_status: int | None = None
    signal: str | None = None
    attempts: int = 0
    tried: int = 0
    tries: int | None = None
    detail: str = ""
    due_at: Instant | None = None
    next_try_at: Instant | None = Field(None, description="While another try is waited for: when it is due.")
    started_at: Instant | None = None
    ended_at: Instant | None = None
    position: int = 0
    streams: dict[Stream, StreamDocument] = Field(default_factory=dict)
    attempts_detail: tuple[AttemptDocument, ...] = ()
    steps: tuple[StepDocument, ...] = ()

    def ladder(self) -> list[tuple[int, StepDocument]]:
        """All steps by the broker's clock, with the number of their attempt; 0: of none. Equal times stand as things go."""
        whole = [(0, step) for step in self.steps]
        first = [row for row in whole if row[1].kind in (StepKind.ACCEPTED, StepKind.PLANNED)]
        last = [row for row in whole if row not in first]
        of_attempts = [(attempt.attempt, step) for attempt in self.attempts_detail for step in attempt.steps]
        return sorted([*first, *of_attempts, *last], key=lambda row: row[1].heard_at)


class OutputGroup(Model):
    """Job tasks of an invocation that ended alike: status, reason, exit status and digests of both streams."""

    status: JobTaskStatus
    reason: Reason | None = None
    exit_status: int | None = None
    digests: dict[Stream, str] = Field(default_factory=dict)
    lengths: dict[Stream, int] = Field(default_factory=dict)
    count: int
    hosts: tuple[str, ...] = Field((), description="The first 1000 names, sorted.")
    example_job_task_id: UUID
    detail: str = ""


class HostDocument(Model):
    """`GET /hosts/ID`. `reachable` is what an agent last observed; None if nobody tried. `reported_facts` are the host's own
    words, as it last gave them with a check-in."""

    host_id: UUID
    version: int = 0
    host: HostRecord
    reachable: bool | None = None
    reachability_detail: str = ""
    observed_at: Instant | None = None
    last_check_in: Instant | None = None
    reported_facts: dict[str, str] = Field(default_factory=dict)
    facts_reported_at: Instant | None = None


class HostsRequest(Request):
    """`POST /hosts`: register or change up to 500 hosts by name."""

    import_id: UUID | None = None
    hosts: tuple[HostRecord, ...] = Field(min_length=1, max_length=500)


class HostsRemoval(Request):
    """`POST /hosts/remove`."""

    host_ids: tuple[UUID, ...] = Field(min_length=1, max_length=500)


class CancelRequest(Request):
    """`POST /job-invocations/ID/cancel`. Empty `host_ids`: the whole invocation."""

    host_ids: tuple[UUID, ...] = ()


class Choice(Model):
    """Something else that could be asked for, in words and as the request that asks for it."""

    what: str
    text: str
    path: str
    body: dict[str, tuple[UUID, ...]] = Field(default_factory=dict)


class Decision(Model):
    """What became of a posted command: `accepted`, `refused`, or `pending` after 5 s (answered with 202). `choices`: after a cancel on
    some hosts, what else could be cancelled."""

    command_id: UUID
    decision: str
    reason: str | None = None
    detail: str = ""
    counts: dict[str, int] = Field(default_factory=dict)
    location: str = ""
    choices: tuple[Choice, ...] = ()


class ProxyDocument(Model):
    """`GET /proxies`: a proxy, its agents and when they were last heard. `concurrency` None: the dispatcher's default."""

    proxy: str
    agents: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()
    last_heard_at: Instant | None = None
    following: int = 0
    clock_offset_s: float | None = None
    status: str = "unknown"
    concurrency: int | None = None


class EnrolmentRequest(Request):
    """`POST /enrolment-tokens`: allow one enrolment; the client keeps the seed and sends its public half (hex)."""

    token_key: str
    role: str = "agent"
    subject: str
    actors: tuple[str, ...] = ()
    expires_at: Instant


class LoginLink(Model):
    """`POST /login-links`: a path that logs in once."""

    path: str
    expires_at: Instant


class StatusDocument(Model):
    """`GET /status`: who I am, what this installation is."""

    installation: str
    version: str
    login: str
    proxies: int
    hosts: int
    running_job_invocations: int
    dead_letters: int = 0
