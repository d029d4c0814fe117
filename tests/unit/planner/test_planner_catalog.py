"""Hosts, templates, people and keys: given what is known, when a command comes, then these events or this refusal."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from chargehand_planner.core import hosts, job_templates, keys, rights, users
from chargehand_planner.core.answers import answer
from chargehand_planner.core.hosts import Host
from chargehand_planner.core.job_templates import Analysis, Fault, SaveLookups
from chargehand_planner.core.keys import EnrolLookups, Key, key_id
from chargehand_planner.core.outcomes import Append, Decided, Outcome, Refused
from chargehand_planner.core.rights import Person, Program
from chargehand_planner.core.routing import routed
from chargehand_planner.core.seeds import seeds
from chargehand_planner.core.users import Token, UserLookups
from chargehand_planner.shell.rendering.sandbox import Sandbox, analyse
from chargehand_planner.shell.seeded_texts import seeded_texts, text_of
from chargehand_schemas.catalog import (
    CommandDecided,
    EnrolmentTokenUsed,
    HostChanged,
    HostRegistered,
    HostRemoved,
    JobTemplateSaved,
    KeyEnrolled,
    TokenIssued,
    UserCreated,
)
from chargehand_schemas.commands import (
    CreateUser,
    DisableUser,
    EnrolKey,
    HostRecord,
    ImportHosts,
    InvokeJob,
    IssueEnrolmentToken,
    IssueToken,
    RemoveHosts,
    RevokeKey,
    RevokeToken,
    SaveJobTemplate,
    Targeting,
    TemplateInput,
)
from chargehand_schemas.keyring import Writer
from chargehand_schemas.reasons import DeadLetterReason, Refusal, Role

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
SEEDED = ["Run Command", "Install check-in", "Remove check-in"]
DAY = timedelta(days=1)


def about(**fields: Any) -> dict[str, Any]:
    return {"id": uuid4(), "time": NOON, "actor": "user:ada", **fields}


def refusal(outcome: Outcome) -> Refused:
    assert isinstance(outcome, Refused), outcome
    return outcome


def decided(outcome: Outcome) -> Decided:
    assert isinstance(outcome, Decided), outcome
    return outcome


# Hosts


def import_of(*records: HostRecord) -> ImportHosts:
    return ImportHosts(**about(import_id=uuid4(), hosts=records))


def known(name: str, version: int = 1, **fields: Any) -> Host:
    return Host(uuid4(), version, HostRecord(name=name, **fields))


def test_an_import_registers_changes_and_leaves_alone() -> None:
    same, other = known("web1"), known("web2", 3)
    command = import_of(HostRecord(name="web1"), HostRecord(name="web2", port=2222), HostRecord(name="web3"))
    outcome = decided(hosts.decide_import(command, {"web1": same, "web2": other}, ("local",), NOON))
    changed, registered = outcome.events
    assert isinstance(changed, HostChanged) and (changed.host_id, changed.version) == (other.host_id, 4)
    assert isinstance(registered, HostRegistered) and registered.version == 1
    assert outcome.counts == {"registered": 1, "changed": 1, "unchanged": 1}
    assert decided(hosts.decide_import(command, {"web1": same, "web2": other}, ("local",), NOON)) == outcome


@pytest.mark.parametrize(
    ("records", "reason", "words"),
    [
        ((HostRecord(name="a"), HostRecord(name="a")), Refusal.MALFORMED, "stands twice, in rows 1 and 2"),
        ((HostRecord(name="a", proxy="locl"),), Refusal.NO_SUCH_PROXY, "did you mean 'local'?"),
        ((HostRecord(name="a", proxy="xyz"),), Refusal.NO_SUCH_PROXY, "known: local"),
        ((HostRecord(name="a", parameters={"work_directory": "-rf"}),), Refusal.MALFORMED, "row 1, host 'a'"),
        ((HostRecord(name="a", parameters={"work_directory": "/a/../b"}),), Refusal.MALFORMED, "no plain path"),
        ((HostRecord(name="a", parameters={"work_directory": "/a;b"}),), Refusal.MALFORMED, "no plain path"),
        ((HostRecord(name="a", parameters={"work_directory": ""}),), Refusal.MALFORMED, "no plain path"),
    ],
)
def test_an_import_is_refused_as_a_whole_and_names_the_row(
    records: tuple[HostRecord, ...], reason: Refusal, words: str
) -> None:
    one = refusal(hosts.decide_import(import_of(*records), {}, ("local",), NOON))
    assert (one.reason, words in one.detail, "othing was imported" in one.detail) == (reason, True, True), one.detail


def test_a_work_directory_may_be_absolute_or_in_the_home() -> None:
    for path in ("/var/lib/jobs", "jobs", ".jobs/run"):
        record = HostRecord(name="a", parameters={"work_directory": path})
        assert hosts.work_directory_fault(record) is None
        assert hosts.lock_path(record, UUID(int=1)) == f"{path}/{UUID(int=1)}"


def test_removing_keeps_history_and_refuses_strangers() -> None:
    web1 = known("web1", 2)
    gone = Host(uuid4(), 3, HostRecord(name="web2"), is_removed=True)
    by_id = {host.host_id: host for host in (web1, gone)}
    command = RemoveHosts(**about(host_ids=(web1.host_id, gone.host_id, web1.host_id)))
    outcome = decided(hosts.decide_remove(command, by_id, NOON))
    (event,) = outcome.events
    assert isinstance(event, HostRemoved) and (event.version, event.name) == (3, "web1")
    assert outcome.counts == {"removed": 1}
    assert refusal(hosts.decide_remove(command, {}, NOON)).reason is Refusal.NO_SUCH_HOST
    after = hosts.evolve(web1, event)
    assert after is not None and after.is_removed


# Templates


def save(**fields: Any) -> SaveJobTemplate:
    common = {"name": "Restart", "body": '{{ input("unit") }}', "inputs": (TemplateInput(name="unit"),)}
    return SaveJobTemplate(**about(**{**common, **fields}))


USED = Analysis((("unit", 1),))


def test_s11_a_template_is_saved_and_each_save_is_a_version() -> None:
    command = save()
    first = decided(job_templates.decide_save(command, SaveLookups(USED), NOON)).events[0]
    assert isinstance(first, JobTemplateSaved) and first.version == 1
    again = save(template_id=first.template_id, body="true", inputs=())
    second = decided(job_templates.decide_save(again, SaveLookups(Analysis(), first), NOON)).appends[0]
    assert (second.stream, second.version) == (first.template_id, 2)


@pytest.mark.parametrize(
    ("command", "lookups", "reason", "words"),
    [
        (save(template_id=uuid4()), SaveLookups(USED), Refusal.NO_SUCH_TEMPLATE, "leave the id out"),
        (save(), SaveLookups(USED, namesake=uuid4()), Refusal.ALREADY_EXISTS, "named 'Restart'"),
        (save(), SaveLookups(Analysis(fault=Fault(7, "boom"))), Refusal.TEMPLATE_INVALID, "'Restart', line 7: boom"),
        (save(), SaveLookups(Analysis((("unti", 4),))), Refusal.TEMPLATE_INVALID, "line 4: input 'unti' is used"),
        (save(inputs=()), SaveLookups(USED), Refusal.TEMPLATE_INVALID, "defined: none"),
        (
            save(inputs=(TemplateInput(name="unit"), TemplateInput(name="unit"))), SaveLookups(USED),
            Refusal.TEMPLATE_INVALID, "defined twice",
        ),
        (
            save(inputs=(TemplateInput(name="unit", hidden_value=True, default="x"),)), SaveLookups(USED),
            Refusal.TEMPLATE_INVALID, "hidden and has a default",
        ),
    ],
)  # fmt: skip
def test_a_template_that_cannot_work_is_refused_with_its_name_and_line(
    command: SaveJobTemplate, lookups: SaveLookups, reason: Refusal, words: str
) -> None:
    one = refusal(job_templates.decide_save(command, lookups, NOON))
    assert (one.reason, words in one.detail) == (reason, True), one.detail


def test_the_seed_is_made_once_and_never_over_somebodys_own() -> None:
    made = seeds((), (), NOON, seeded_texts())
    assert [seed.event.name for seed in made if isinstance(seed.event, JobTemplateSaved)] == SEEDED
    assert isinstance(made[0].event, JobTemplateSaved) and made[0].event.body == '{{ input("command") }}'
    assert seeds([seed.stream for seed in made], (), NOON, seeded_texts()) == ()
    assert seeds((), SEEDED, NOON, seeded_texts()) == ()
    assert seeds((made[0].stream,), (SEEDED[2],), NOON, seeded_texts()) == (made[1],)


@pytest.mark.parametrize("name", SEEDED)
def test_what_every_installation_begins_with_can_be_used(name: str) -> None:
    (event,) = [
        s.event
        for s in seeds((), (), NOON, seeded_texts())
        if isinstance(s.event, JobTemplateSaved) and s.event.name == name
    ]
    found = analyse(Sandbox(), event.body)
    assert {used for used, _ in found["inputs"]} == {one.name for one in event.inputs}
    assert not found["uses_host"], "one rendering for all hosts"
    as_saved = event.model_dump(include=SaveJobTemplate.model_fields.keys() - {"id", "time", "actor", "template_id"})
    assert SaveJobTemplate(id=uuid4(), time=NOON, actor="user:ada", **as_saved).body == event.body


def test_the_script_that_installs_the_check_in_has_the_programs_whole_and_the_key_as_a_placeholder() -> None:
    body = text_of("install_check_in.sh")
    for part in ("check_in.sh", "facts_system.sh", "facts_packages.sh"):
        assert f"<<'END_OF_PROGRAM'\n{text_of(part)}END_OF_PROGRAM\n" in body
    assert body.count("__CHARGEHAND_CHECK_IN__") == 1


# People


ADA = Person("ada", "administrator", 4)


def test_a_login_is_given_once_for_ever() -> None:
    command = CreateUser(**about(login="bob"))
    (event,) = decided(users.decide_create(command, UserLookups(), NOON)).events
    assert isinstance(event, UserCreated)
    gone = UserLookups(person=Person("bob", "administrator", is_disabled=True))
    assert refusal(users.decide_create(command, gone, NOON)).reason is Refusal.ALREADY_EXISTS
    other = CreateUser(**about(login="bob", role="viewer"))
    assert refusal(users.decide_create(other, UserLookups(), NOON)).reason is Refusal.NOT_SUPPORTED


def test_the_last_administrator_stays() -> None:
    command = DisableUser(**about(login="ada"))
    both = UserLookups(person=ADA, administrators=frozenset({"ada", "bob"}))
    assert decided(users.decide_disable(command, both, NOON)).appends[0].version == 5
    alone = UserLookups(person=ADA, administrators=frozenset({"ada"}))
    assert refusal(users.decide_disable(command, alone, NOON)).reason is Refusal.NOT_ALLOWED
    assert refusal(users.decide_disable(command, UserLookups(), NOON)).reason is Refusal.NO_SUCH_USER
    again = UserLookups(person=Person("ada", "administrator", is_disabled=True))
    assert decided(users.decide_disable(command, again, NOON)).appends == ()


@pytest.mark.parametrize(
    ("lookups", "expires_at", "reason"),
    [
        (UserLookups(), NOON + DAY, Refusal.NO_SUCH_USER),
        (UserLookups(person=Person("ada", "x", is_disabled=True)), NOON + DAY, Refusal.NO_SUCH_USER),
        (UserLookups(person=ADA, known_digests={"a" * 64: uuid4()}), NOON + DAY, Refusal.ALREADY_EXISTS),
        (UserLookups(person=ADA), NOON, Refusal.OUT_OF_RANGE),
        (UserLookups(person=ADA), NOON + 400 * DAY, Refusal.OUT_OF_RANGE),
    ],
)
def test_a_token_is_for_a_living_person_new_and_expires(
    lookups: UserLookups, expires_at: datetime, reason: Refusal
) -> None:
    command = IssueToken(**about(login="ada", token_sha256="a" * 64, expires_at=expires_at))
    assert refusal(users.decide_issue(command, lookups, NOON)).reason is reason


def test_a_token_is_issued_and_revoked_in_its_owners_stream() -> None:
    command = IssueToken(**about(login="ada", token_sha256="a" * 64, expires_at=NOON + DAY))
    (append,) = decided(users.decide_issue(command, UserLookups(person=ADA), NOON)).appends
    assert append.version == 5
    event = append.event
    assert isinstance(event, TokenIssued)
    token = Token(event.token_id, "ada", event.expires_at)
    revoke = RevokeToken(**about(token_id=event.token_id))
    found = UserLookups(token=token, token_owner=ADA)
    assert len(decided(users.decide_revoke(revoke, found, NOON)).appends) == 1
    assert refusal(users.decide_revoke(revoke, UserLookups(), NOON)).reason is Refusal.NO_SUCH_KEY
    done = UserLookups(token=Token(event.token_id, "ada", event.expires_at, True), token_owner=ADA)
    assert decided(users.decide_revoke(revoke, done, NOON)).appends == ()


def test_the_first_administrator_is_made_once() -> None:
    appends = users.bootstrap("ada", "a" * 64, NOON + DAY, UserLookups(), NOON)
    assert [(type(a.event), a.version) for a in appends] == [(UserCreated, 1), (TokenIssued, 2)]
    person = None
    for append in appends:
        person = users.evolve(person, append)
    assert person == Person("ada", "administrator", 2)
    there = UserLookups(person=person, known_digests={"a" * 64: uuid4()})
    assert users.bootstrap("ada", "a" * 64, NOON + DAY, there, NOON) == ()


# Keys


def issue(**fields: Any) -> IssueEnrolmentToken:
    common = {"token_key": "11" * 32, "role": Role.AGENT, "subject": "site", "expires_at": NOON + DAY}
    return IssueEnrolmentToken(**about(**{**common, **fields}))


def token_of(command: IssueEnrolmentToken) -> Key:
    (append,) = decided(keys.decide_issue(command, None, NOON)).appends
    key = keys.evolve(None, append)
    assert key is not None
    return key


def enrol(token: Key, **fields: Any) -> EnrolKey:
    common = {"token_kid": token.kid, "agent_id": "agent-1", "signing_key": "22" * 32, "sealing_key": "33" * 32}
    return EnrolKey(**{"id": uuid4(), "time": NOON, **common, **fields})


@pytest.mark.parametrize(
    ("command", "present", "reason"),
    [
        (issue(role=Role.DISPATCHER), None, Refusal.NOT_SUPPORTED),
        (issue(role=Role.PLANNER), None, Refusal.NOT_SUPPORTED),
        (issue(expires_at=NOON), None, Refusal.OUT_OF_RANGE),
        (issue(expires_at=NOON + 31 * DAY), None, Refusal.OUT_OF_RANGE),
        (issue(role=Role.SERVICE_ACCOUNT, actors=("root",)), None, Refusal.MALFORMED),
        (issue(), Key("x", 1, Role.ENROLEE, "site", "11" * 32), Refusal.ALREADY_EXISTS),
    ],
)
def test_a_one_time_token_has_limits(command: IssueEnrolmentToken, present: Key | None, reason: Refusal) -> None:
    assert refusal(keys.decide_issue(command, present, NOON)).reason is reason


def test_an_enrolment_uses_its_token_up() -> None:
    token = token_of(issue(role=Role.SERVICE_ACCOUNT, subject="ci", actors=("user:ada",)))
    outcome = decided(keys.decide_enrol(enrol(token, agent_id=""), EnrolLookups(token), NOON, NOON))
    enrolled, used = outcome.events
    assert isinstance(enrolled, KeyEnrolled) and isinstance(used, EnrolmentTokenUsed)
    assert (enrolled.kid, enrolled.role, enrolled.actors) == (key_id("22" * 32), Role.SERVICE_ACCOUNT, ("user:ada",))
    spent = keys.evolve(token, outcome.appends[1])
    assert spent is not None and not spent.is_alive
    again = refusal(keys.decide_enrol(enrol(token), EnrolLookups(spent), NOON, NOON))
    assert (again.reason, "used or revoked" in again.detail) == (Refusal.TOKEN_INVALID, True)


def test_an_enrolment_too_late_unknown_or_taken_is_refused() -> None:
    token = token_of(issue())
    other = Key("y", 1, Role.AGENT, "site", "44" * 32, agent_id="agent-1")
    answers = [
        keys.decide_enrol(enrol(token), EnrolLookups(token), NOON + 2 * DAY, NOON),
        keys.decide_enrol(enrol(token), EnrolLookups(None), NOON, NOON),
        keys.decide_enrol(enrol(token), EnrolLookups(token, present=other), NOON, NOON),
        keys.decide_enrol(enrol(token, agent_id=""), EnrolLookups(token), NOON, NOON),
        keys.decide_enrol(enrol(token), EnrolLookups(token, agents=[other]), NOON, NOON),
    ]
    assert [refusal(one).reason for one in answers] == [
        Refusal.TOKEN_INVALID, Refusal.TOKEN_INVALID, Refusal.ALREADY_EXISTS, Refusal.MALFORMED, Refusal.ALREADY_EXISTS,
    ]  # fmt: skip


def test_a_key_is_revoked_once_and_the_planners_own_never() -> None:
    agent = Key("kid1", 1, Role.AGENT, "site", "22" * 32)
    command = RevokeKey(**about(kid="kid1"))
    (append,) = decided(keys.decide_revoke(command, agent, NOON)).appends
    revoked = keys.evolve(agent, append)
    assert revoked is not None and revoked.is_revoked
    assert decided(keys.decide_revoke(command, revoked, NOON)).appends == ()
    assert refusal(keys.decide_revoke(command, None, NOON)).reason is Refusal.NO_SUCH_KEY
    own = Key("kid1", 1, Role.PLANNER, "planner", "22" * 32)
    assert refusal(keys.decide_revoke(command, own, NOON)).reason is Refusal.NOT_ALLOWED


def test_keys_of_the_settings_are_enrolled_if_new() -> None:
    writer = Writer("kid1", Role.GATEWAY, "web", b"\1" * 32)
    assert len(keys.trust([writer, writer], (), NOON)) == 1
    assert keys.trust([writer], ("kid1",), NOON) == ()


# Rights


def writer(role: Role, subject: str = "ci", *actors: str) -> Writer:
    return Writer("kid", role, subject, b"", actors=actors)


def command(actor: str) -> CreateUser:
    return CreateUser(**about(actor=actor, login="x"))


@pytest.mark.parametrize(
    ("actor", "who", "may"),
    [
        ("user:ada", writer(Role.GATEWAY, "gateway"), True),
        ("service:ci", writer(Role.GATEWAY, "gateway"), False),
        ("", writer(Role.GATEWAY, "gateway"), False),
        ("service:ci", writer(Role.SERVICE_ACCOUNT), True),
        ("service:cd", writer(Role.SERVICE_ACCOUNT), False),
        ("user:ada", writer(Role.SERVICE_ACCOUNT), False),
        ("user:ada", writer(Role.SERVICE_ACCOUNT, "ci", "user:ada"), True),
    ],
)
def test_who_may_speak_for_whom(actor: str, who: Writer, may: bool) -> None:
    fault = rights.may_speak(command(actor), who)
    assert (fault is None) == may
    assert fault is None or fault.reason is DeadLetterReason.SUBJECT_NOT_ALLOWED


def test_a_one_time_token_speaks_for_itself_alone() -> None:
    token = token_of(issue())
    assert rights.may_speak(enrol(token), Writer(token.kid, Role.ENROLEE, "site", b"")) is None
    assert rights.may_speak(enrol(token), Writer("other", Role.ENROLEE, "site", b"")) is not None


def test_a_programs_command_that_comes_late_is_a_replay_and_has_no_effect() -> None:
    program, limit = writer(Role.SERVICE_ACCOUNT), timedelta(minutes=5)
    assert rights.is_of_age(program, NOON, NOON + timedelta(minutes=4), limit) is None
    for appended in (NOON + timedelta(minutes=6), NOON - timedelta(minutes=6)):
        late = rights.is_of_age(program, NOON, appended, limit)
        assert late is not None and late.reason is DeadLetterReason.TOO_OLD
    assert rights.is_of_age(writer(Role.GATEWAY), NOON, NOON + DAY, limit) is None


def test_every_command_declares_its_right() -> None:
    assert rights.undeclared() == ()


def test_programs_run_jobs_and_do_not_administer() -> None:
    invoke = InvokeJob(
        **about(actor="service:ci", job_invocation_id=uuid4(), template="x", targeting=Targeting(all=True))
    )
    assert rights.check_actor(invoke, Program("ci", True)) is None
    for principal, reason in (
        (Program("ci", False), Refusal.NOT_ALLOWED),
        (None, Refusal.NO_SUCH_USER),
        (Person("ada", "administrator", is_disabled=True), Refusal.NOT_ALLOWED),
        (Person("bob", "nothing"), Refusal.NOT_ALLOWED),
    ):
        refused = rights.check_actor(invoke, principal)
        assert refused is not None and refused.reason is reason
    refused = rights.check_actor(command("service:ci"), Program("ci", True))
    assert refused is not None and "edit_users" in refused.detail


# Answers and ways


def test_an_answer_is_a_stream_of_its_own_and_says_why_or_how_many() -> None:
    one = import_of(HostRecord(name="a"))
    handled = answer(one, Decided(counts={"registered": 1}), NOON)
    assert isinstance(handled.event, CommandDecided)
    assert (handled.stream, handled.version, handled.event.counts) == (one.id, 1, {"registered": 1})
    refused = answer(one, Refused(Refusal.NOT_ALLOWED, "no"), NOON).event
    assert isinstance(refused, CommandDecided) and (refused.decision, refused.reason) == ("refused", "not_allowed")


def test_events_go_to_their_topics_under_the_key_of_what_they_are_about() -> None:
    token = token_of(issue())
    appends: list[Append] = [
        *decided(keys.decide_enrol(enrol(token), EnrolLookups(token), NOON, NOON)).appends,
        *users.bootstrap("ada", "a" * 64, NOON, UserLookups(), NOON),
        *seeds((), (), NOON),
    ]
    ways = [routed(append.event) for append in appends]
    assert {way.topic for way in ways if way} == {"chargehand.catalog-events.v1"}
    assert [way.key for way in ways if way][:3] == [key_id("22" * 32), token.kid, "ada"]
