"""What the planner's store promises, on SQLite and on PostgreSQL alike."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from chargehand_chassis.errors import FatalFailure, TransientFailure
from chargehand_planner.core import answers, hosts, job_invocations, keys, seeds, users
from chargehand_planner.core.bindings import Binding, BindingKind, announced
from chargehand_planner.core.job_invocations import InvocationState, JobInvocation
from chargehand_planner.core.keys import key_id
from chargehand_planner.core.outcomes import Append, Decided
from chargehand_planner.core.rights import Person, Program
from chargehand_planner.core.routing import PRIVATE
from chargehand_planner.core.users import UserLookups
from chargehand_planner.shell.store import Change, Conflict, Due, Fenced, HostReport, Offer, PlannerStore, open_store
from chargehand_planner.shell.store.stored_events import model_named, type_name
from chargehand_schemas.base import Item
from chargehand_schemas.catalog import CommandDecided, HostChanged, HostRegistered, HostRemoved, JobTemplateSaved
from chargehand_schemas.commands import (
    HostRecord,
    ImportHosts,
    InvokeJob,
    IssueEnrolmentToken,
    RemoveHosts,
    Targeting,
)
from chargehand_schemas.dispatch import AttemptDue, JobInvocationDue, JobInvocationEnded
from chargehand_schemas.ids import job_task_id
from chargehand_schemas.keyring import Writer
from chargehand_schemas.planning import (
    AttemptBound,
    AttemptVoided,
    JobInvocationAccepted,
    JobInvocationScheduled,
    JobTasksPlanned,
    ScriptRendered,
)
from chargehand_schemas.reasons import JobInvocationStatus, Role
from chargehand_schemas.registry import MESSAGE_TYPES
from chargehand_schemas.topics import CATALOG_EVENTS, PLANNING_EVENTS, PROXY_COMMANDS
from support.waiting import wait_until

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
HERE = ("chargehand.dispatch-events.v1", 2)
COMMANDS = ("chargehand.commands.v1", 0)


@pytest.fixture(params=["sqlite", "postgres"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], PlannerStore]]:
    """Opens the same database each time; on SQLite, close the one before first."""
    url = request.getfixturevalue("postgres")() if request.param == "postgres" else ""
    opened: list[PlannerStore] = []

    def make() -> PlannerStore:
        opened.append(open_store(tmp_path, url))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def store(reopen: Callable[[], PlannerStore]) -> PlannerStore:
    return reopen()


def imported(store: PlannerStore, *records: HostRecord) -> list[Append]:
    command = ImportHosts(id=uuid4(), time=NOON, actor="user:ada", import_id=uuid4(), hosts=records)
    outcome = hosts.decide_import(command, store.hosts_by_name([r.name for r in records]), ("local",), NOON)
    assert isinstance(outcome, Decided)
    store.record(Change([*outcome.appends, answers.answer(command, outcome, NOON)], handled=[command.id], moment=NOON))
    return list(outcome.appends)


def named(*names: str) -> tuple[HostRecord, ...]:
    return tuple(HostRecord(name=name) for name in names)


def invoked(store: PlannerStore, *names: str, sealed: dict[str, str] | None = None) -> JobInvocation:
    """An accepted invocation of the seeded template on these hosts."""
    if not store.templates():
        store.record(Change(seeds.seeds((), (), NOON), moment=NOON))
    command = InvokeJob(
        id=uuid4(), time=NOON, actor="user:ada", job_invocation_id=uuid4(), template="Run Command",
        targeting=Targeting(host_names=names), inputs={"command": "uptime"},
    )  # fmt: skip
    lookups = job_invocations.InvokeLookups(store.template("Run Command"), inventory=store.inventory(command.targeting))
    outcome = job_invocations.decide_invoke(command, lookups, NOON)
    assert isinstance(outcome, Decided)
    invocation = folded(None, outcome.appends)
    sealed_inputs = {command.job_invocation_id: sealed or {}}
    store.record(Change(outcome.appends, [invocation], sealed_inputs, handled=[command.id], moment=NOON))
    return invocation


def folded(invocation: JobInvocation | None, appends: tuple[Append, ...]) -> JobInvocation:
    for append in appends:
        invocation = job_invocations.evolve(invocation, append)
    assert invocation is not None
    return invocation


def planned(store: PlannerStore, invocation: JobInvocation) -> JobInvocation:
    due = JobInvocationDue(id=uuid4(), time=NOON, job_invocation_id=invocation.job_invocation_id, start_at=NOON)
    rows = store.planned_hosts(invocation.job_invocation_id, "local")
    outcome = job_invocations.decide_plan(due, invocation, rows, NOON)
    invocation = folded(invocation, outcome.appends)
    store.record(Change(outcome.appends, [invocation], moment=NOON))
    return invocation


def bound(invocation: UUID, host_id: UUID, attempt: int = 1, kind: BindingKind = BindingKind.BOUND) -> Binding:
    return Binding(
        invocation, job_task_id(invocation, host_id), attempt, host_id, kind, 1, "local", "path", "ada", "ssh", "", "d" * 64,
        uuid4(), 1,
    )  # fmt: skip


def due(invocation: UUID, host_id: UUID, attempt: int = 1) -> AttemptDue:
    return AttemptDue(
        id=uuid4(), time=NOON, job_invocation_id=invocation, job_task_id=job_task_id(invocation, host_id),
        attempt=attempt, host_id=host_id, host_name="web1", proxy="local", issued_at=NOON,
        not_after=NOON + timedelta(seconds=30), run_deadline=NOON + timedelta(hours=1),
    )  # fmt: skip


def drained(store: PlannerStore) -> list[Item]:
    """Everything that waits to be published, noted as sent."""
    items: list[Item] = []
    while not (sending := store.next_sending()).is_empty:
        items += [out.item for out in sending.outgoing]
        store.note_sent(sending)
    return items


def test_hosts_are_found_by_name_and_id_with_their_version(store: PlannerStore) -> None:
    first, second = imported(store, *named("web1", "web2"))
    changed = HostRecord(name="web1", address="10.0.0.1")
    imported(store, changed)
    found = store.hosts_by_name(["web1", "web2", "web3"])
    assert {name: host.version for name, host in found.items()} == {"web1": 2, "web2": 1}
    assert store.hosts_by_id([first.stream, uuid4()])[first.stream].record == changed
    assert store.host_record(first.stream, 1) == HostRecord(name="web1")
    assert store.host_record(first.stream, 2) == changed
    assert store.host_record(second.stream, 7) is None


def test_a_removed_host_gives_its_name_back_and_keeps_its_id(store: PlannerStore) -> None:
    (first,) = imported(store, *named("web1"))
    command = RemoveHosts(id=uuid4(), time=NOON, actor="user:ada", host_ids=(first.stream,))
    outcome = hosts.decide_remove(command, store.hosts_by_id([first.stream]), NOON)
    assert isinstance(outcome, Decided)
    store.record(Change(outcome.appends, moment=NOON))
    assert store.hosts_by_name(["web1"]) == {}
    assert store.hosts_by_id([first.stream])[first.stream].is_removed
    (second,) = imported(store, *named("web1"))
    assert second.stream != first.stream


def test_two_hosts_cannot_have_one_name(store: PlannerStore) -> None:
    imported(store, *named("web1"))
    other = HostRegistered(id=uuid4(), time=NOON, host_id=uuid4(), version=1, host=HostRecord(name="web1"))
    with pytest.raises(Conflict):
        store.record(Change([Append(other.host_id, 1, other)], moment=NOON))
    assert len([item for item in drained(store) if isinstance(item, HostRegistered)]) == 1


def test_a_place_in_a_stream_is_taken_once_and_nothing_of_the_loser_is_written(store: PlannerStore) -> None:
    (first,) = imported(store, *named("web1"))
    drained(store)
    late = HostChanged(id=uuid4(), time=NOON, host_id=first.stream, version=1, host=HostRecord(name="web9"))
    command_id = uuid4()
    with pytest.raises(Conflict):
        store.record(
            Change([Append(first.stream, 1, late)], handled=[command_id], moment=NOON, positions={COMMANDS: 5})
        )
    assert store.handled([command_id]) == set()
    assert store.positions([COMMANDS]) == {}
    assert drained(store) == []


def test_the_inventory_answers_for_names_ids_and_all_with_names_near_unknown_ones(store: PlannerStore) -> None:
    (web1, web2, db1) = [a.stream for a in imported(store, *named("web1", "web2", "db1"))]
    found = store.inventory(Targeting(host_names=("web1", "web22"), host_ids=(db1, uuid4())))
    assert dict(found.named) == {"web1": web1}
    assert set(found.present) == {db1}
    assert set(found.near["web22"]) == {"web1", "web2"}
    assert store.inventory(Targeting(all=True)).everyone == (db1, web1, web2)


def test_templates_are_found_by_name_id_and_version(store: PlannerStore) -> None:
    (seed,) = seeds.seeds((), (), NOON)
    store.record(Change([seed], moment=NOON))
    assert isinstance(seed.event, JobTemplateSaved)
    second = seed.event.model_copy(update={"version": 2, "name": "Run", "id": uuid4()})
    store.record(Change([Append(seed.stream, 2, second)], moment=NOON))
    assert store.template("Run") == store.template(str(seed.stream).upper()) == second
    assert store.template("Run Command") is None
    assert store.template_version(seed.stream, 1) == seed.event
    assert store.template_version(seed.stream, 3) is None


def test_an_invocation_keeps_its_hosts_in_order_and_plans_removed_ones_too(store: PlannerStore) -> None:
    appends = imported(store, HostRecord(name="web1"), HostRecord(name="web2"), HostRecord(name="web3"))
    invocation = invoked(store, "web3", "web1")
    assert store.targeted(invocation.job_invocation_id) == (appends[2].stream, appends[0].stream)
    removal = HostRemoved(id=uuid4(), time=NOON, host_id=appends[0].stream, version=2, name="web1")
    store.record(Change([Append(appends[0].stream, 2, removal)], moment=NOON))
    rows = store.planned_hosts(invocation.job_invocation_id, "local")
    assert [(row.name, row.proxy) for row in rows] == [("web3", "local"), ("web1", "local")]
    assert store.invocation(invocation.job_invocation_id) == invocation
    assert store.targeted(uuid4()) == ()


def test_a_plan_is_stored_once_and_its_chunks_can_be_had_again(store: PlannerStore) -> None:
    imported(store, *named("web1", "web2"))
    invocation = planned(store, invoked(store, "web1", "web2"))
    (chunk,) = store.plan_chunks(invocation.job_invocation_id, ())
    assert store.plan_chunks(invocation.job_invocation_id, (0,)) == [chunk]
    assert store.plan_chunks(invocation.job_invocation_id, (1,)) == []
    assert [task.host_name for task in chunk.job_tasks] == ["web1", "web2"]
    stored = store.invocation(invocation.job_invocation_id)
    assert stored is not None and (stored.chunks, stored.total) == (1, 2)


def test_hidden_values_are_there_until_the_invocation_ends(store: PlannerStore) -> None:
    imported(store, *named("web1"))
    invocation = invoked(store, "web1", sealed={"password": "c2VhbGVk"})
    ids = [invocation.job_invocation_id]
    assert store.sealed_inputs(ids) == {ids[0]: {"password": "c2VhbGVk"}}
    ended = JobInvocationEnded(
        id=uuid4(), time=NOON, job_invocation_id=ids[0], status=JobInvocationStatus.SUCCEEDED, total=1, counts={}
    )
    outcome = job_invocations.decide_close(ended, invocation, NOON)
    invocation = folded(invocation, outcome.appends)
    store.record(Change(outcome.appends, [invocation], moment=NOON))
    assert store.sealed_inputs(ids) == {}
    assert invocation.state is InvocationState.ENDED


def test_people_and_programs_are_principals_while_they_are_alive(store: PlannerStore) -> None:
    store.record(Change(users.bootstrap("ada", "a" * 64, NOON, UserLookups(), NOON), moment=NOON))
    account = Writer("kid1", Role.SERVICE_ACCOUNT, "ci", b"\1" * 32)
    store.record(Change(keys.trust([account], (), NOON), moment=NOON))
    found = store.principals(["user:ada", "user:bob", "service:ci", "service:cd", "nonsense"])
    assert found == {"user:ada": Person("ada", "administrator", 2), "service:ci": Program("ci", True)}
    lookups = store.user_lookups("ada", token_sha256="a" * 64)
    assert lookups.administrators == {"ada"}
    assert set(lookups.known_digests) == {"a" * 64}
    token_id = lookups.known_digests["a" * 64]
    assert store.user_lookups(token_id=token_id).token_owner == Person("ada", "administrator", 2)


def test_keys_and_tokens_are_kept_with_what_became_of_them(store: PlannerStore) -> None:
    issue = IssueEnrolmentToken(
        id=uuid4(), time=NOON, actor="user:ada", token_key="11" * 32, role=Role.AGENT, subject="site",
        expires_at=NOON + timedelta(days=1),
    )  # fmt: skip
    outcome = keys.decide_issue(issue, None, NOON)
    assert isinstance(outcome, Decided)
    store.record(Change(outcome.appends, moment=NOON))
    token = store.key(key_id("11" * 32))
    assert token is not None and token.enrols is Role.AGENT and token.is_alive
    agent = Writer("kid2", Role.AGENT, "site", b"\2" * 32, b"\3" * 32, "agent-1")
    store.record(Change(keys.trust([agent], (), NOON), offers=[Offer("site", "agent-1", ("ssh", "simulated"))]))
    proxies = store.proxies()
    assert (proxies["site"].has_agent, proxies["site"].providers) == (True, frozenset({"ssh", "simulated"}))
    assert [key.agent_id for key in store.agents_of("site")] == ["agent-1"]
    assert {key.kid for key in store.all_keys()} == {token.kid, "kid2"}


def test_an_attempt_is_bound_once_and_the_loser_writes_nothing(store: PlannerStore) -> None:
    invocation, host_id = uuid4(), uuid4()
    binding = bound(invocation, host_id)
    item = announced(binding, due(invocation, host_id), NOON)
    store.record(Change(bindings=[binding], items=[item], positions={HERE: 10}, moment=NOON))
    with pytest.raises(Conflict):
        store.record(Change(bindings=[binding], items=[item], positions={HERE: 11}, moment=NOON))
    assert store.bindings([binding.job_task_id]) == {binding.job_task_id: [binding]}
    assert store.positions([HERE]) == {HERE: 10}
    assert drained(store) == [item]


def test_a_position_never_goes_back(store: PlannerStore) -> None:
    store.record(Change(positions={HERE: 10}))
    with pytest.raises(Conflict):
        store.record(Change(positions={HERE: 10}))
    assert store.positions([HERE, COMMANDS]) == {HERE: 10}


def test_who_lost_a_partition_writes_nothing_any_more(store: PlannerStore) -> None:
    _, mine = store.take([HERE])
    store.record(Change(positions={HERE: 3}, tokens=mine))
    positions, yours = store.take([HERE])
    assert positions == {HERE: 3}
    with pytest.raises(Fenced):
        store.record(Change(positions={HERE: 9}, tokens=mine))
    store.record(Change(positions={HERE: 4}, tokens=yours))
    assert store.positions([HERE]) == {HERE: 4}


def test_a_script_is_published_once_per_digest_and_invocation(store: PlannerStore) -> None:
    invocation = uuid4()
    script = ScriptRendered(id=uuid4(), time=NOON, job_invocation_id=invocation, digest="d" * 64, body="uptime")
    store.record(Change(scripts=[script, script], moment=NOON))
    store.record(Change(scripts=[script], moment=NOON))
    other = script.model_copy(update={"job_invocation_id": uuid4()})
    store.record(Change(scripts=[other], moment=NOON))
    assert drained(store) == [script, other]


def test_what_is_published_keeps_its_order_and_facts_come_before_what_follows_from_them(store: PlannerStore) -> None:
    imported(store, *named("web1"))
    invocation = invoked(store, "web1")
    host_id = store.targeted(invocation.job_invocation_id)[0]
    binding = bound(invocation.job_invocation_id, host_id)
    store.record(
        Change(bindings=[binding], items=[announced(binding, due(invocation.job_invocation_id, host_id), NOON)])
    )
    planned(store, invocation)
    kinds = [type(item) for item in drained(store)]
    assert kinds == [
        HostRegistered, CommandDecided, JobTemplateSaved, JobInvocationAccepted, JobInvocationScheduled, JobTasksPlanned,
        AttemptBound,
    ]  # fmt: skip


def test_what_was_not_acknowledged_is_handed_out_again(reopen: Callable[[], PlannerStore]) -> None:
    store = reopen()
    imported(store, *named("web1"))
    voided = bound(uuid4(), uuid4(), kind=BindingKind.VOIDED)
    store.record(Change(items=[announced(voided, due(voided.job_invocation_id, voided.host_id), NOON)]))
    first = store.next_sending()
    store.close()
    again = reopen()
    assert again.unpublished() > 0
    sending = again.next_sending()
    assert [out.item for out in sending.outgoing] == [out.item for out in first.outgoing]
    assert isinstance(sending.outgoing[-1].item, AttemptVoided)
    again.note_sent(sending)
    assert again.next_sending().is_empty
    assert again.unpublished() == 0


def test_more_events_than_one_reading_come_in_order_and_hold_the_bindings_back(store: PlannerStore) -> None:
    for start in range(0, 600, 300):
        imported(store, *named(*(f"web{number}" for number in range(start, start + 300))))
    invocation, host_id = uuid4(), uuid4()
    binding = bound(invocation, host_id)
    store.record(Change(bindings=[binding], items=[announced(binding, due(invocation, host_id), NOON)], moment=NOON))
    items = drained(store)
    assert [i.host.name for i in items if isinstance(i, HostRegistered)] == [f"web{number}" for number in range(600)]
    assert isinstance(items[-1], AttemptBound)


def test_a_tailing_relay_misses_nothing_while_several_write(store: PlannerStore) -> None:
    def write(number: int) -> None:
        for turn in range(10):
            imported(store, *named(f"web{number}-{turn}"))

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in writers:
        thread.start()
    seen: list[Item] = []
    while any(thread.is_alive() for thread in writers):
        seen += drained(store)
    for thread in writers:
        thread.join()
    seen += drained(store)
    names = [item.host.name for item in seen if isinstance(item, HostRegistered)]
    assert sorted(names) == sorted(f"web{number}-{turn}" for number in range(4) for turn in range(10))


def test_parked_attempts_survive_and_are_found_by_partition(reopen: Callable[[], PlannerStore]) -> None:
    store = reopen()
    waiting = Due(due(uuid4(), uuid4()), HERE)
    store.record(Change(parked=[waiting, waiting], positions={HERE: 1}))
    store.close()
    store = reopen()
    assert store.parked([HERE, COMMANDS]) == [waiting]
    assert store.parked([COMMANDS]) == []
    key = (waiting.due.job_task_id, 1)
    assert store.parked_attempts([waiting.due.job_task_id]) == {key}
    store.record(Change(unparked=[key]))
    assert store.parked([HERE]) == []


def test_only_the_latest_report_of_a_kind_is_kept(store: PlannerStore) -> None:
    host_id = uuid4()
    for minutes in (1, 3, 2):
        moment = NOON + timedelta(minutes=minutes)
        store.record(Change(reports=[HostReport(host_id, "reachability", moment, f'"{minutes}"')]))
    assert store.host_reports([host_id]) == {(host_id, "reachability"): '"3"'}


def test_old_bindings_of_ended_invocations_are_forgotten_and_no_others(store: PlannerStore) -> None:
    imported(store, *named("web1"))
    going_on, over = invoked(store, "web1"), invoked(store, "web1")
    host_id = store.targeted(over.job_invocation_id)[0]
    rows = [bound(i.job_invocation_id, host_id) for i in (going_on, over)]
    store.record(
        Change(bindings=rows, invocations=[over.model_copy(update={"state": InvocationState.ENDED})], moment=NOON)
    )
    assert store.forget(NOON) == 0
    assert store.forget(NOON + timedelta(days=15)) == 1
    assert set(store.bindings([row.job_task_id for row in rows])) == {rows[0].job_task_id}


def test_a_store_of_a_newer_release_is_not_opened(
    reopen: Callable[[], PlannerStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    reopen().close()
    monkeypatch.setattr("chargehand_planner.shell.store.engines.STEPS", ())
    with pytest.raises(FatalFailure, match="newer release"):
        reopen()


def test_one_sqlite_file_is_for_one_planner(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with pytest.raises(TransientFailure, match="another planner"):
        open_store(tmp_path)
    store.close()
    open_store(tmp_path).close()


def test_the_sqlite_file_is_its_owners_alone(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    imported(store, *named("web1"))
    modes = {path.name: path.stat().st_mode & 0o077 for path in tmp_path.iterdir()}
    store.close()
    assert set(modes.values()) == {0}, modes


def test_one_planner_at_a_time_publishes_and_hears_of_the_others(postgres: Callable[[], str], tmp_path: Path) -> None:
    url = postgres()
    first, second = open_store(tmp_path, url), open_store(tmp_path, url)
    assert (first.take_relay_lock(), second.take_relay_lock(), first.take_relay_lock()) == (True, False, True)
    while first.wait_for_commit(timedelta(milliseconds=1)):
        pass
    imported(second, *named("web1"))
    assert first.wait_for_commit(timedelta(seconds=5))
    first.close()
    wait_until(second.take_relay_lock)
    second.close()


def test_a_planner_that_stands_still_publishes_no_more_and_another_does(
    postgres: Callable[[], str], tmp_path: Path
) -> None:
    """A stopped process keeps its connection; its lease of the relay's lock runs out all the same."""
    url, lease = postgres(), timedelta(milliseconds=300)
    stopped, other = (open_store(tmp_path, url, lease=lease) for _ in range(2))
    assert stopped.take_relay_lock()
    assert not other.take_relay_lock()
    wait_until(other.take_relay_lock, within=timedelta(seconds=5))
    with pytest.raises(TransientFailure):
        stopped.take_relay_lock()
    assert not stopped.take_relay_lock()
    for _ in range(20):
        other.keep_relay_lock()
        assert not stopped.wait_for_commit(timedelta(milliseconds=50)) or not stopped.take_relay_lock()
    stopped.close()
    other.close()


def test_database_functions_of_the_library_are_refused(
    postgres: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTGRES_ENABLE_DB_FUNCTIONS", "y")
    with pytest.raises(FatalFailure, match="POSTGRES_ENABLE_DB_FUNCTIONS"):
        open_store(tmp_path, postgres())


def test_every_event_the_planner_writes_comes_back_as_its_own_type() -> None:
    written = [m.model for m in MESSAGE_TYPES if m.topic in (CATALOG_EVENTS, PLANNING_EVENTS, PROXY_COMMANDS)]
    for model in (*written, *PRIVATE):
        assert model_named(type_name(model)) is model
