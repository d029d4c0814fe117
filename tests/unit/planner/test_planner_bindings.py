"""The binder: one decision for each attempt, with what is true now (docs/protocol.md, rules BIND, PIN, FENCE)."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from chargehand_planner.core import bindings
from chargehand_planner.core.bindings import (
    AttemptFacts,
    Bindable,
    Binding,
    BindingKind,
    BoundFacts,
    Decision,
    Proxy,
    Sealed,
)
from chargehand_planner.core.hosts import Host
from chargehand_planner.core.job_invocations import InvocationState, JobInvocation
from chargehand_planner.core.job_templates import Fault
from chargehand_planner.core.rights import Person, Program
from chargehand_schemas.commands import HostRecord
from chargehand_schemas.dispatch import AttemptDue, CancelDue, ResumeDue
from chargehand_schemas.ids import job_task_id
from chargehand_schemas.planning import AttemptBound, AttemptRebound, AttemptRefused, AttemptVoided
from chargehand_schemas.properties import ExecutionProperties
from chargehand_schemas.proxy_commands import CancelProxyCommand, ResumeProxyCommand, RunProxyCommand
from chargehand_schemas.reasons import Reason

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
INVOCATION, WEB1 = uuid4(), uuid4()
TASK = job_task_id(INVOCATION, WEB1)
RECORD = HostRecord(name="web1", address="10.0.0.1", user="ada", groups=("web",), parameters={"tier": "front"})
RUNNING = JobInvocation(
    job_invocation_id=INVOCATION, version=3, actor="user:ada", template_id=uuid4(), template_version=2,
    template_name="Run Command", provider_type="ssh", inputs={"command": "uptime"}, effective_user="root",
    properties=ExecutionProperties(tries=2), start_at=NOON,
)  # fmt: skip
FACTS = AttemptFacts(
    invocation=RUNNING,
    host=Host(WEB1, 4, RECORD),
    is_targeted=True,
    principal=Person("ada", "administrator"),
    proxies={"local": Proxy("local", True), "site": Proxy("site", True), "gone": Proxy("gone", False)},
)


def due(attempt: int = 1, **fields: Any) -> AttemptDue:
    common: dict[str, Any] = {
        "id": uuid4(), "time": NOON, "job_invocation_id": INVOCATION, "job_task_id": TASK, "attempt": attempt,
        "host_id": WEB1, "host_name": "web1", "proxy": "local", "issued_at": NOON,
        "not_after": NOON + timedelta(seconds=30), "run_deadline": NOON + timedelta(hours=1),
    }  # fmt: skip
    return AttemptDue(**{**common, **fields})


def bound(attempt: int = 1, **fields: Any) -> Binding:
    common: dict[str, Any] = {"lock_path": f".chargehand/run/{TASK}", "connecting_user": "ada", "proxy": "local"}
    return Binding(INVOCATION, TASK, attempt, WEB1, BindingKind.BOUND, 4, **{**common, **fields})


def parameters(**values: str) -> HostRecord:
    return RECORD.model_copy(update={"parameters": values})


def host(record: HostRecord) -> dict[str, Any]:
    return {"host": Host(WEB1, 4, record)}


def examined(attempt_due: AttemptDue | None = None, **facts: Any) -> Decision:
    found = bindings.examine(attempt_due or due(), replace(FACTS, **facts), NOON)
    assert isinstance(found, Decision), found
    return found


def bindable(attempt_due: AttemptDue | None = None, **facts: Any) -> Bindable:
    found = bindings.examine(attempt_due or due(), replace(FACTS, **facts), NOON)
    assert isinstance(found, Bindable), found
    return found


def bind(attempt_due: AttemptDue | None = None, script: str | Fault = "uptime", **facts: Any) -> Decision:
    one, own = attempt_due or due(), replace(FACTS, **facts)
    return bindings.bind(one, own, bindable(one, **facts), script, Sealed({"__S__": "c2Vj"}, "cHc="), NOON)


def command_of(decision: Decision) -> RunProxyCommand:
    command = decision.items[1]
    assert isinstance(command, RunProxyCommand)
    return command


def test_an_attempt_is_bound_to_the_facts_of_now_and_the_fact_comes_before_the_command() -> None:
    decision = bind()
    fact, command = decision.items[0], command_of(decision)
    assert isinstance(fact, AttemptBound)
    assert (fact.proxy, fact.lock_path, fact.effective_user) == ("local", f".chargehand/run/{TASK}", "root")
    assert fact.script_digest == command.script_digest
    assert (command.host, command.provider_type, command.lock_path) == (RECORD, "ssh", fact.lock_path)
    assert (command.execution_timeout, command.sealed) == (timedelta(hours=1), {"__S__": "c2Vj"})
    assert command.sealed_effective_user_password == "cHc="
    (script,) = bindings.scripts_of([decision], NOON)
    assert (script.body, script.digest) == ("uptime", command.script_digest)
    assert decision.binding is not None and decision.binding.kind is BindingKind.BOUND


def test_the_same_attempt_has_the_same_ids_however_often_it_is_bound() -> None:
    assert [item.id for item in bind(due()).items] == [item.id for item in bind(due()).items]


def test_what_was_decided_before_has_no_effect_again() -> None:
    for kind in BindingKind:
        assert examined(bindings=[replace(bound(), kind=kind)]) == Decision()


@pytest.mark.parametrize(
    ("facts", "fields", "words"),
    [
        ({"invocation": None}, {}, "accepted no such job invocation"),
        ({"invocation": RUNNING.model_copy(update={"state": InvocationState.REFUSED})}, {}, "accepted no such"),
        ({"is_targeted": False}, {}, "'web1' is not among the hosts"),
        ({}, {"job_task_id": uuid4()}, "not among the hosts"),
        ({}, {"tried": 2}, "2 of 2 tries are used up"),
        ({}, {"attempt": 10_001}, "attempts made"),
        ({"principal": None}, {}, "user:ada is not known"),
        ({"principal": Person("ada", "administrator", is_disabled=True)}, {}, "user:ada is disabled"),
        ({"principal": Program("ci", False)}, {}, "no key that is not revoked"),
        ({"host": None}, {}, "no longer in the inventory"),
        ({"host": Host(WEB1, 5, RECORD, is_removed=True)}, {}, "no longer in the inventory"),
        (host(RECORD.model_copy(update={"proxy": "gone"})), {}, "'gone' of host 'web1' has no enrolled agent"),
        ({"proxies": {}}, {}, "enrolled: none"),
        ({"proxies": {"local": Proxy("local", True, frozenset({"simulated"}))}}, {}, "offers simulated"),
        (host(parameters(work_directory="../../etc")), {}, "'work_directory' is no plain path"),
    ],
)
def test_an_attempt_is_refused_with_the_reason_and_no_command(
    facts: dict[str, Any], fields: dict[str, Any], words: str
) -> None:
    decision = examined(due(**fields), **facts)
    (item,) = decision.items
    assert isinstance(item, AttemptRefused), item
    assert (item.reason, words in item.detail) == (Reason.REFUSED, True), item.detail
    assert decision.binding is not None and decision.binding.kind is BindingKind.REFUSED


@pytest.mark.parametrize(
    ("facts", "fields"),
    [
        ({"invocation": RUNNING.model_copy(update={"is_cancelled": True})}, {}),
        ({"invocation": RUNNING.model_copy(update={"cancelled_job_tasks": frozenset({TASK})})}, {}),
        ({"invocation": RUNNING.model_copy(update={"state": InvocationState.ENDED})}, {}),
        ({"invocation": RUNNING.model_copy(update={"start_at": NOON + timedelta(minutes=1)})}, {}),
        ({"bindings": [bound(2)]}, {}),
        ({}, {"not_after": NOON - timedelta(seconds=6)}),
    ],
    ids=["cancelled", "cancelled on this host", "over", "before its start", "a later one is decided", "too late"],
)
def test_what_must_not_start_is_voided_which_proves_that_it_never_did(
    facts: dict[str, Any], fields: dict[str, Any]
) -> None:
    decision = examined(due(**fields), **facts)
    assert [type(item) for item in decision.items] == [AttemptVoided]


def test_another_proxy_than_the_one_whose_slot_was_counted_is_a_rebound_without_command() -> None:
    (item,) = examined(**host(RECORD.model_copy(update={"proxy": "site"}))).items
    assert isinstance(item, AttemptRebound)
    assert item.proxy == "site"


def test_a_render_fault_fails_this_job_task_with_template_and_line() -> None:
    decision = bind(script=Fault(3, "'x' is undefined"))
    (item,) = decision.items
    assert isinstance(item, AttemptRefused)
    assert (item.reason, item.detail) == (Reason.RENDER_FAILED, "template 'Run Command', line 3: 'x' is undefined")
    assert bindings.scripts_of([decision], NOON) == []


def test_pin_a_later_attempt_keeps_path_and_connecting_user_of_the_first_binding() -> None:
    moved = parameters(work_directory="/srv/jobs").model_copy(update={"user": "bob", "address": "10.0.0.9"})
    command = command_of(bind(due(2), bindings=[bound()], **host(moved)))
    assert (command.lock_path, command.host.user) == (bound().lock_path, "ada")
    assert command.host.address == "10.0.0.9"
    refused_first = replace(bound(), kind=BindingKind.REFUSED, lock_path="")
    assert command_of(bind(due(2), bindings=[refused_first], **host(moved))).lock_path == f"/srv/jobs/{TASK}"


def test_pin_a_path_fixed_before_is_kept_when_the_parameter_became_nonsense() -> None:
    command = command_of(bind(due(2), bindings=[bound()], **host(parameters(work_directory="..;rm"))))
    assert command.lock_path == bound().lock_path


def test_fence_the_binders_own_earlier_attempts_are_named_even_if_the_dispatcher_forgot_them() -> None:
    refused_one = replace(bound(2), kind=BindingKind.REFUSED)
    command = command_of(bind(due(4, earlier=(3,), unknown=(1,)), bindings=[bound(1), refused_one]))
    assert (command.earlier, command.unknown) == ((1, 3), (1,))


def test_fence_one_that_nobody_looked_at_is_told_to_the_host_as_of_unknown_end() -> None:
    """Rules ONE and FENCE."""
    command = command_of(bind(due(4, earlier=(1, 2, 3), unknown=(3,), unlooked=(1, 3)), bindings=[]))
    assert (command.earlier, command.unknown) == ((1, 2, 3), (1, 3))


def test_a_host_may_say_which_script_provider_reaches_it_and_no_other() -> None:
    def provider(template_type: str, wanted: str) -> str:
        invocation = RUNNING.model_copy(update={"provider_type": template_type})
        return bindable(invocation=invocation, **host(parameters(provider=wanted))).provider_type

    assert provider("ssh", "simulated") == "simulated"
    assert provider("ssh", "ansible") == "ssh"
    assert provider("ansible", "simulated") == "ansible"
    only_simulated = {"local": Proxy("local", True, frozenset({"simulated"}))}
    assert bindable(proxies=only_simulated, **host(parameters(provider="simulated"))).provider_type == "simulated"


def test_rendering_sees_plain_data_and_placeholders_for_secrets() -> None:
    hidden = RUNNING.model_copy(update={"hidden_inputs": ("password",)})
    values = bindings.input_values(hidden)
    assert values["command"] == "uptime"
    assert values["password"].startswith("__CHARGEHAND_SECRET_")
    assert bindings.host_values(RECORD) == {
        "name": "web1", "address": "10.0.0.1", "groups": ["web"], "parameters": {"tier": "front"},
    }  # fmt: skip


def cancel_due(**fields: Any) -> CancelDue:
    return CancelDue(**_follow_up(**fields))


def resume_due(**fields: Any) -> ResumeDue:
    return ResumeDue(**_follow_up(**fields))


def _follow_up(**fields: Any) -> dict[str, Any]:
    common: dict[str, Any] = {
        "id": uuid4(), "time": NOON, "job_invocation_id": INVOCATION, "job_task_id": TASK, "attempt": 1, "host_id": WEB1,
        "proxy": "forged", "issued_at": NOON, "run_deadline": NOON + timedelta(hours=1),
    }  # fmt: skip
    return {**common, **fields}


def test_cancel_and_resume_of_a_bound_attempt_go_where_it_was_bound() -> None:
    stored = bound(provider_type="simulated", effective_user="root", connecting_user="ada")
    facts = BoundFacts(stored, RECORD.model_copy(update={"user": "bob"}), RUNNING)
    for follow_up, expected in ((cancel_due(asked=2), CancelProxyCommand), (resume_due(asked=2), ResumeProxyCommand)):
        decision = bindings.follow_up(follow_up, facts, NOON)
        (item,) = decision.items
        assert isinstance(item, expected)
        assert (item.proxy, item.lock_path, item.provider_type) == ("local", stored.lock_path, "simulated")
        assert (item.host.user, item.asked, decision.binding) == ("ada", 2, None)


def test_cancel_or_resume_of_an_attempt_not_bound_is_a_void_stored_in_its_place() -> None:
    for follow_up in (cancel_due(), resume_due()):
        decision = bindings.follow_up(follow_up, BoundFacts(None), NOON)
        assert [type(item) for item in decision.items] == [AttemptVoided]
        assert decision.binding is not None
        assert examined(bindings=[decision.binding]) == Decision()


def test_cancel_of_what_was_refused_or_voided_tells_the_decision_again_under_its_id() -> None:
    refused_one = replace(bound(), kind=BindingKind.REFUSED, reason=Reason.REFUSED, detail="no")
    first = bindings.announced(refused_one, due(), NOON)
    (again,) = bindings.follow_up(cancel_due(), BoundFacts(refused_one), NOON).items
    assert (again.id, isinstance(again, AttemptRefused)) == (first.id, True)


def test_a_script_is_announced_once_per_digest_and_invocation() -> None:
    decisions = [bind(due(1)), bind(due(2)), bind(due(3), script="w")]
    assert [script.body for script in bindings.scripts_of(decisions, NOON)] == ["uptime", "w"]
    assert bindings.scripts_of(decisions, NOON) == bindings.scripts_of(decisions[1:], NOON)


def test_ids_of_one_attempts_items_differ() -> None:
    decision = bind()
    ids: set[UUID] = {item.id for item in (*decision.items, *bindings.scripts_of([decision], NOON))}
    assert len(ids) == 3
