"""Invocations: given templates and hosts, when a command or an occurrence comes, then these events or this refusal."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from chargehand_planner.core import job_invocations as rules
from chargehand_planner.core import proxies
from chargehand_planner.core.events import JobInvocationClosed, TargetingCopied
from chargehand_planner.core.inputs import placeholder
from chargehand_planner.core.job_invocations import InvocationState, Invoked, InvokeLookups, JobInvocation
from chargehand_planner.core.job_templates import Analysis, Fault
from chargehand_planner.core.outcomes import Decided, Refused
from chargehand_planner.core.plans import PlannedHost, plan
from chargehand_planner.core.seeds import seeds
from chargehand_planner.core.targeting import Inventory
from chargehand_schemas.base import MAX_MESSAGE_BYTES
from chargehand_schemas.catalog import JobTemplateSaved, ProxyChanged
from chargehand_schemas.commands import (
    CancelJobInvocation,
    ChangeProxy,
    EditJobInvocation,
    InvokeJob,
    Targeting,
    TemplateInput,
)
from chargehand_schemas.dispatch import JobInvocationDue, JobInvocationEnded
from chargehand_schemas.ids import job_task_id
from chargehand_schemas.planning import (
    JobInvocationAccepted,
    JobInvocationCancelRequested,
    JobInvocationEdited,
    JobInvocationScheduled,
    JobTasksPlanned,
)
from chargehand_schemas.properties import ExecutionOverrides, ExecutionProperties
from chargehand_schemas.reasons import JobInvocationStatus, Refusal

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
(SEED,) = seeds((), (), NOON)
assert isinstance(SEED.event, JobTemplateSaved)
RUN_COMMAND: JobTemplateSaved = SEED.event
WEB1, WEB2, DB1 = (UUID(int=number) for number in (1, 2, 3))
INVENTORY = Inventory(named={"web1": WEB1, "web2": WEB2}, present=frozenset({DB1}), everyone=(DB1, WEB1, WEB2))


def invoke(**fields: Any) -> InvokeJob:
    common: dict[str, Any] = {
        "id": uuid4(), "time": NOON, "actor": "user:ada", "job_invocation_id": uuid4(), "template": "Run Command",
        "targeting": Targeting(host_names=("web1", "web2")), "inputs": {"command": "uptime"},
    }  # fmt: skip
    return InvokeJob(**{**common, **fields})


def template(**fields: Any) -> JobTemplateSaved:
    return RUN_COMMAND.model_copy(update=fields)


def decided(command: InvokeJob, **lookups: Any) -> Invoked | Refused:
    found = {"template": RUN_COMMAND, "inventory": INVENTORY, **lookups}
    return rules.decide_invoke(command, InvokeLookups(**found), NOON)


def accepted(command: InvokeJob, **lookups: Any) -> JobInvocationAccepted:
    outcome = decided(command, **lookups)
    assert isinstance(outcome, Invoked), outcome
    event = outcome.events[0]
    assert isinstance(event, JobInvocationAccepted)
    return event


def refused(command: InvokeJob, **lookups: Any) -> Refused:
    outcome = decided(command, **lookups)
    assert isinstance(outcome, Refused), outcome
    return outcome


def state_after(outcome: Decided, invocation: JobInvocation | None = None) -> JobInvocation:
    for append in outcome.appends:
        invocation = rules.evolve(invocation, append)
    assert invocation is not None
    return invocation


def running(**fields: Any) -> JobInvocation:
    outcome = decided(invoke(**fields))
    assert isinstance(outcome, Invoked)
    return state_after(outcome)


def test_s10_an_accepted_invocation_fixes_template_targeting_and_time() -> None:
    command = invoke()
    outcome = decided(command)
    assert isinstance(outcome, Invoked)
    one, copied, scheduled = outcome.events
    assert isinstance(one, JobInvocationAccepted)
    assert (one.template_version, one.provider_type, one.description) == (1, "ssh", "Run uptime")
    assert (one.targeting, one.inputs) == ("2 hosts: web1, web2", {"command": "uptime"})
    assert isinstance(copied, TargetingCopied)
    assert copied.host_ids == WEB1.bytes + WEB2.bytes
    assert isinstance(scheduled, JobInvocationScheduled)
    assert (scheduled.start_at, scheduled.actor) == (NOON, "user:ada")
    assert [(a.stream, a.version) for a in outcome.appends] == [(command.job_invocation_id, n) for n in (1, 2, 3)]
    assert outcome.counts == {"hosts": 2}


def test_a_command_read_again_gives_the_same_events() -> None:
    command = invoke()
    assert decided(command) == decided(command)


def test_s23_s29_targeting_is_the_union_of_names_ids_and_all_each_host_once_in_order() -> None:
    cases = {
        Targeting(host_names=("web2", "web1", "web2")): (WEB2, WEB1),
        Targeting(host_names=("web1",), host_ids=(DB1, WEB1)): (WEB1, DB1),
        Targeting(all=True): (DB1, WEB1, WEB2),
    }
    inventory = Inventory(named=INVENTORY.named, present=frozenset({DB1, WEB1}), everyone=INVENTORY.everyone)
    for targeting, expected in cases.items():
        outcome = decided(invoke(targeting=targeting), inventory=inventory)
        assert isinstance(outcome, Invoked)
        copied = outcome.events[1]
        assert isinstance(copied, TargetingCopied)
        assert copied.host_ids == b"".join(host.bytes for host in expected)
    assert accepted(invoke(targeting=Targeting(all=True))).targeting == "all hosts (3)"
    assert accepted(invoke(targeting=Targeting(host_names=("web1",)))).targeting == "host web1"


def test_unknown_names_are_refused_and_named_with_what_was_meant() -> None:
    names = tuple(f"nope{number}" for number in range(7))
    inventory = Inventory(named={"web1": WEB1}, near={"wep1": ("web1", "web2")})
    answer = refused(invoke(targeting=Targeting(host_names=("web1", "wep1", *names))), inventory=inventory)
    assert answer.reason is Refusal.NO_SUCH_HOST
    assert "'wep1'; did you mean 'web1'?" in answer.detail
    assert "'nope3' and 3 more" in answer.detail
    assert "nope4" not in answer.detail


@pytest.mark.parametrize(
    ("fields", "lookups", "reason", "words"),
    [
        ({"targeting": Targeting(host_ids=(UUID(int=9),))}, {}, Refusal.NO_SUCH_HOST, "no host has the id"),
        ({"targeting": Targeting()}, {}, Refusal.NO_HOSTS, "names no host"),
        ({"targeting": Targeting(all=True)}, {"inventory": Inventory()}, Refusal.NO_HOSTS, "host import"),
        ({"expect_hosts": 3}, {}, Refusal.UNEXPECTED_HOSTS, "2 hosts, 3 were expected"),
        ({}, {"template": None, "near_templates": ["Run Commands"]}, Refusal.NO_SUCH_TEMPLATE, "mean 'Run Commands'?"),
        ({"inputs": {}}, {}, Refusal.INPUT_MISSING, "input command"),
        ({"inputs": {"command": "w", "comand": "w"}}, {}, Refusal.INPUT_UNKNOWN, "mean 'command'?"),
        ({"start_at": NOON - timedelta(minutes=2)}, {}, Refusal.OUT_OF_RANGE, "in the past"),
        ({"start_at": NOON + timedelta(days=400)}, {}, Refusal.OUT_OF_RANGE, "366 days ahead"),
        ({"start_before": NOON}, {}, Refusal.OUT_OF_RANGE, "not after the start"),
        (
            {"start_at": NOON + timedelta(hours=2), "start_before": NOON + timedelta(hours=1)}, {},
            Refusal.OUT_OF_RANGE, "not after the start",
        ),
        ({}, {"analysis": Analysis(fault=Fault(3, "oops"))}, Refusal.TEMPLATE_INVALID, "'Run Command', line 3: oops"),
        (
            {}, {"analysis": Analysis((("comand", 2),))},
            Refusal.TEMPLATE_INVALID, "line 2: input 'comand' is used and not defined; did you mean 'command'?",
        ),
        ({"sealed_inputs": {"command": "x"}}, {}, Refusal.MALFORMED, "given twice"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_with_what_where_and_what_to_do(
    fields: dict[str, Any], lookups: dict[str, Any], reason: Refusal, words: str
) -> None:
    answer = refused(invoke(**fields), **lookups)
    assert (answer.reason, words in answer.detail) == (reason, True), answer.detail


def test_a_start_a_moment_ago_is_now() -> None:
    outcome = decided(invoke(start_at=NOON - timedelta(seconds=30)))
    assert isinstance(outcome, Invoked)
    scheduled = outcome.events[2]
    assert isinstance(scheduled, JobInvocationScheduled)
    assert scheduled.start_at == NOON


def test_s31_overrides_replace_the_templates_properties_and_leave_the_rest() -> None:
    defaults = ExecutionProperties(tries=3, concurrency=10)
    one = accepted(invoke(overrides=ExecutionOverrides(tries=5)), template=template(properties=defaults))
    assert (one.properties.tries, one.properties.concurrency) == (5, 10)


def test_s94_s96_the_effective_user_is_the_invocations_or_else_the_templates() -> None:
    own = template(effective_user="app")
    assert accepted(invoke(), template=own).effective_user == "app"
    assert accepted(invoke(effective_user="root"), template=own).effective_user == "root"


def test_s12_defaults_fill_in_and_an_optional_input_is_nothing() -> None:
    inputs = (TemplateInput(name="command", default="w"), TemplateInput(name="note"))
    assert accepted(invoke(inputs={}), template=template(inputs=inputs)).inputs == {"command": "w", "note": ""}


def test_s96_a_template_that_fixes_its_user_refuses_another_and_takes_its_own() -> None:
    fixed = template(effective_user="app", effective_user_overridable=False)
    assert accepted(invoke(), template=fixed).effective_user == "app"
    assert accepted(invoke(effective_user="app"), template=fixed).effective_user == "app"
    for own, words in (
        (fixed, "always runs as 'app'"),
        (template(effective_user_overridable=False), "whoever connects"),
    ):
        no = refused(invoke(effective_user="root"), template=own)
        assert (no.reason, words in no.detail) == (Refusal.NOT_ALLOWED, True)


def test_s96_a_template_may_run_as_the_person_who_invokes_it() -> None:
    own = template(effective_user_current_user=True)
    assert accepted(invoke(actor="user:ada"), template=own).effective_user == "ada"
    assert accepted(invoke(actor="user:ada", effective_user="app"), template=own).effective_user == "app"
    program = invoke(actor="service:nightly")
    no = refused(program, template=own)
    assert (no.reason, "is none; name a user" in no.detail) == (Refusal.NOT_ALLOWED, True)


def test_the_password_of_the_effective_user_is_kept_sealed_and_only_its_being_there_is_told() -> None:
    command = invoke(effective_user="app", sealed_effective_user_password="c2VhbGVk")
    outcome = decided(command)
    assert isinstance(outcome, Invoked) and outcome.sealed_inputs == {"effective user password": "c2VhbGVk"}
    one = accepted(command)
    assert one.has_effective_user_password and "c2VhbGVk" not in one.model_dump_json()
    for_nobody = invoke(sealed_effective_user_password="c2VhbGVk")
    assert "no user; name one" in refused(for_nobody).detail


def test_a_hidden_input_travels_sealed_only() -> None:
    hidden = template(inputs=(TemplateInput(name="command", required=True, hidden_value=True),))
    in_clear = refused(invoke(), template=hidden)
    assert (in_clear.reason, "change it" in in_clear.detail) == (Refusal.MALFORMED, True)
    command = invoke(inputs={}, sealed_inputs={"command": "c2VhbGVk"})
    outcome = decided(command, template=hidden)
    assert isinstance(outcome, Invoked)
    one = outcome.events[0]
    assert isinstance(one, JobInvocationAccepted)
    assert (one.inputs, one.hidden_inputs, one.description) == ({}, ("command",), "Run ***")
    assert outcome.sealed_inputs == {"command": "c2VhbGVk"}
    assert not any("c2VhbGVk" in event.model_dump_json() for event in outcome.events)
    foreign = refused(command, template=hidden, unsealable=["command"])
    assert (foreign.reason, "seal again" in foreign.detail) == (Refusal.MALFORMED, True)


def test_a_placeholder_is_one_word_the_same_on_all_hosts_and_another_elsewhere() -> None:
    one, other = uuid4(), uuid4()
    assert placeholder(one, "password") == placeholder(one, "password")
    assert len({placeholder(one, "password"), placeholder(other, "password"), placeholder(one, "pin")}) == 3
    assert placeholder(one, "password").isidentifier()


def test_s37_a_description_is_given_formatted_or_made_up() -> None:
    assert accepted(invoke(description="Nightly")).description == "Nightly"
    bare = template(description_format="")
    assert accepted(invoke(), template=bare).description == "Run Command with command=uptime"
    odd = template(description_format="%{template_name} %{nothing}(%{job_category}): %{command}")
    assert accepted(invoke(inputs={"command": "a\n  b"}), template=odd).description == "Run Command (Commands): a b"
    assert len(accepted(invoke(inputs={"command": "x" * 999})).description) == 255


def test_a_refusal_is_the_only_event_of_its_stream() -> None:
    command = invoke()
    append = rules.refusal(command, Refused(Refusal.NO_HOSTS, "none"), NOON)
    assert (append.stream, append.version) == (command.job_invocation_id, 1)
    assert rules.evolve(None, append).state is InvocationState.REFUSED


def due(invocation: JobInvocation) -> JobInvocationDue:
    return JobInvocationDue(id=uuid4(), time=NOON, job_invocation_id=invocation.job_invocation_id, start_at=NOON)


def test_s7_a_plan_is_made_once_in_chunks_of_at_most_500() -> None:
    invocation = running()
    hosts = [PlannedHost(UUID(int=number), f"web{number}", "local") for number in range(1201)]
    outcome = rules.decide_plan(due(invocation), invocation, hosts, NOON)
    chunks = [event for event in outcome.events if isinstance(event, JobTasksPlanned)]
    assert [(c.chunk, c.chunks, c.total, len(c.job_tasks)) for c in chunks] == [
        (0, 3, 1201, 500), (1, 3, 1201, 500), (2, 3, 1201, 201),
    ]  # fmt: skip
    tasks = [task for chunk in chunks for task in chunk.job_tasks]
    assert [task.ordinal for task in tasks] == list(range(1201))
    assert tasks[7].job_task_id == job_task_id(invocation.job_invocation_id, UUID(int=7))
    planned = state_after(outcome, invocation)
    assert (planned.chunks, planned.total) == (3, 1201)
    assert rules.decide_plan(due(invocation), planned, hosts, NOON).appends == ()


def test_a_chunk_fits_into_a_message_however_long_the_names_are() -> None:
    hosts = [PlannedHost(UUID(int=number), "h" * 253, "p" * 63) for number in range(1000)]
    chunks = plan(uuid4(), hosts, NOON)
    assert sum(len(chunk.job_tasks) for chunk in chunks) == 1000
    assert max(len(chunk.model_dump_json()) for chunk in chunks) < MAX_MESSAGE_BYTES - 4096


def test_nothing_is_planned_for_who_is_unknown_refused_or_over() -> None:
    invocation = running()
    for one in (None, *(invocation.model_copy(update={"state": s}) for s in ("refused", "ended"))):
        assert rules.decide_plan(due(invocation), one, [], NOON).appends == ()


def cancel(invocation: JobInvocation, *host_ids: UUID) -> CancelJobInvocation:
    return CancelJobInvocation(
        id=uuid4(), time=NOON, actor="user:ada", job_invocation_id=invocation.job_invocation_id, host_ids=host_ids
    )


def test_s51_s59_a_cancel_is_for_the_whole_invocation_or_for_some_hosts() -> None:
    invocation = running()
    whole = rules.decide_cancel(cancel(invocation), invocation, (), NOON)
    assert isinstance(whole, Decided)
    after = state_after(whole, invocation)
    assert after.is_cancelled and after.has_cancelled(uuid4())
    some = rules.decide_cancel(cancel(invocation, WEB1), invocation, {WEB1, WEB2}, NOON)
    assert isinstance(some, Decided)
    (event,) = some.events
    assert isinstance(event, JobInvocationCancelRequested)
    assert event.job_task_ids == (job_task_id(invocation.job_invocation_id, WEB1),)
    partly = state_after(some, invocation)
    assert partly.has_cancelled(event.job_task_ids[0])
    assert not partly.has_cancelled(job_task_id(invocation.job_invocation_id, WEB2))


def test_a_cancel_of_what_is_unknown_over_or_not_targeted_is_refused() -> None:
    invocation = running()
    ended = invocation.model_copy(update={"state": InvocationState.ENDED})
    answers = [
        rules.decide_cancel(cancel(invocation), None, (), NOON),
        rules.decide_cancel(cancel(invocation), ended, (), NOON),
        rules.decide_cancel(cancel(invocation, DB1), invocation, {WEB1}, NOON),
    ]
    reasons = [answer.reason for answer in answers if isinstance(answer, Refused)]
    assert reasons == [Refusal.NO_SUCH_JOB_INVOCATION, Refusal.ALREADY_ENDED, Refusal.NO_SUCH_HOST]


def test_a_refused_cancel_does_not_touch_the_invocations_stream() -> None:
    command = cancel(running())
    append = rules.cancel_refusal(command, Refused(Refusal.ALREADY_ENDED, "over"), NOON)
    assert (append.stream, append.version) == (command.id, 1)


def edit(invocation: JobInvocation, concurrency: int | None) -> EditJobInvocation:
    return EditJobInvocation(
        id=uuid4(),
        time=NOON,
        actor="user:ada",
        job_invocation_id=invocation.job_invocation_id,
        concurrency=concurrency,
    )


def test_s56_an_edit_changes_the_limit_of_what_goes_on_and_of_nothing_else() -> None:
    invocation = running()
    for concurrency in (5, None):
        outcome = rules.decide_edit(edit(invocation, concurrency), invocation, NOON)
        assert isinstance(outcome, Decided)
        (event,) = outcome.events
        assert isinstance(event, JobInvocationEdited) and event.concurrency == concurrency
        assert state_after(outcome, invocation).properties.concurrency == concurrency
    command = edit(invocation, 5)
    for one, reason in (
        (None, Refusal.NO_SUCH_JOB_INVOCATION),
        (invocation.model_copy(update={"state": InvocationState.ENDED}), Refusal.ALREADY_ENDED),
    ):
        refused = rules.decide_edit(command, one, NOON)
        assert isinstance(refused, Refused) and refused.reason is reason
        append = rules.edit_refusal(command, refused, NOON)
        assert (append.stream, append.version) == (command.id, 1)


def test_s56_a_proxy_is_given_a_size_and_one_nobody_knows_is_refused() -> None:
    command = ChangeProxy(id=uuid4(), time=NOON, actor="user:ada", proxy="dmz", concurrency=20)
    outcome = proxies.decide_change(command, 3, ("dmz", "lan"), NOON)
    assert isinstance(outcome, Decided)
    (append,) = outcome.appends
    assert append.version == 4 and append.event == ProxyChanged(
        id=append.event.id, time=NOON, causation_id=command.id, actor="user:ada", proxy="dmz", concurrency=20
    )
    refused = proxies.decide_change(command, 0, ("dmzz", "lan"), NOON)
    assert isinstance(refused, Refused) and refused.reason is Refusal.NO_SUCH_PROXY and "dmzz" in refused.detail


def test_the_end_is_recorded_once() -> None:
    invocation = running()
    ended = JobInvocationEnded(
        id=uuid4(), time=NOON, job_invocation_id=invocation.job_invocation_id, status=JobInvocationStatus.SUCCEEDED,
        total=2, counts={"succeeded": 2},
    )  # fmt: skip
    outcome = rules.decide_close(ended, invocation, NOON)
    assert [type(event) for event in outcome.events] == [JobInvocationClosed]
    assert rules.decide_close(ended, state_after(outcome, invocation), NOON).appends == ()
    assert rules.decide_close(ended, None, NOON).appends == ()
