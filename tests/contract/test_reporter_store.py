"""What both stores of the reporter must do: the same suite over SQLite and PostgreSQL (S5, S63, S64, S69)."""

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from chargehand_chassis.kafka import Mark
from chargehand_chassis.sqlite import migrate, open_sqlite
from chargehand_reporter.core.catalog import Observation
from chargehand_reporter.core.documents import history_document
from chargehand_reporter.core.read_model import Said
from chargehand_reporter.shell.folding import Folded, Folding
from chargehand_reporter.shell.store.database import Database, StoreUnavailable, open_database
from chargehand_reporter.shell.store.fold_store import FoldStore
from chargehand_reporter.shell.store.output_store import CHUNK_BYTES, OutputReader
from chargehand_reporter.shell.store.read_store import ReadStore, TaskFilter
from chargehand_reporter.shell.store.schema import READ_MODEL_STEPS, sqlite_ddl
from chargehand_schemas.api import JobTaskDocument
from chargehand_schemas.base import Item
from chargehand_schemas.catalog import (
    CommandDecided,
    HostChanged,
    HostRegistered,
    HostRemoved,
    KeyEnrolled,
    TokenIssued,
    TokenRevoked,
    UserCreated,
    UserDisabled,
)
from chargehand_schemas.commands import HostRecord
from chargehand_schemas.hosts import HostCheckedIn, HostFactsReported, HostReachabilityObserved
from chargehand_schemas.planning import JobInvocationCancelRequested, JobInvocationRefused
from chargehand_schemas.proxies import AgentHeartbeat, AgentStarted
from chargehand_schemas.reasons import JobInvocationStatus, JobTaskStatus, Reason, Refusal, Role, Stream
from chargehand_schemas.registry import type_of
from support.story import Line, Part, Story

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


class Stores:
    """A writer and a reader of one database."""

    def __init__(self, store_url: str, directory: Path) -> None:
        self.url, self.directory = store_url, directory
        self._open: list[Database] = []
        self._offsets: dict[str, int] = {}
        self.store = FoldStore(self.open(is_writer=True), locks=bool(store_url))
        self.folding = Folding(self.store, timedelta(days=7))
        self.read = ReadStore(self.open(is_writer=False))
        self.output = OutputReader(self.read.database)

    def open(self, *, is_writer: bool) -> Database:
        database = open_database(self.url, self.directory, is_writer=is_writer)
        self._open.append(database)
        return database

    def close(self) -> None:
        for database in self._open:
            database.close()

    def take(self, lines: Sequence[Line], proxy: str = "local", offset: int | None = None) -> Folded:
        messages = [said(line, proxy, self._offset(line, offset)) for line in lines]
        return self.folding.fold(messages, [(m.topic, m.partition, m.offset) for m in messages], NOW)

    def _offset(self, line: Line, offset: int | None) -> int:
        topic = type_of(type(line.item)).topic.name
        self._offsets[topic] = self._offsets.get(topic, -1) + 1 if offset is None else offset
        return self._offsets[topic]

    def say(self, *items: Item, proxy: str = "local") -> Folded:
        return self.take([Line(Role.PLANNER, item, "") for item in items], proxy)

    def all_output(self, job_task_id: UUID, attempt: int, stream: Stream) -> bytes:
        found = self.output.find((job_task_id, attempt, "local", stream))
        if found is None:
            return b""
        stream_id, state = found
        data = b""
        while part := self.output.read(stream_id, len(data), state.stored, 1 << 20):
            data += part
        return data


def said(line: Line, proxy: str, offset: int) -> Said:
    return Said(
        topic=type_of(type(line.item)).topic.name,
        partition=0,
        offset=offset,
        role=line.role,
        subject=proxy,
        agent_id="",
        heard_at=NOW,
        items=(line.item,),
        raw=line.raw or b"",
    )


@pytest.fixture(params=["sqlite", "postgresql"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stores]:
    url = ""
    if request.param == "postgresql":
        create: Callable[[], str] = request.getfixturevalue("postgres")
        url = create()
    found = Stores(url, tmp_path / "reporter")
    yield found
    found.close()


@pytest.fixture
def story() -> Story:
    parts = [Part(f"web{n:03}", {Stream.STDOUT: b"up 3 days\n"}) for n in range(250)]
    parts += [Part(f"db{n}", {Stream.STDERR: b"no\n"}, exits=(1,)) for n in range(3)]
    return Story(parts, began=NOW - timedelta(minutes=1))


def test_what_is_folded_is_read_back_whole(stores: Stores, story: Story) -> None:
    folded = stores.take(story.lines())
    assert not (folded.disbelieved or folded.contradictions or folded.miscounted or folded.gaps)
    assert len(folded.touched) == 253
    invocation = stores.read.job_invocation(story.job_invocation_id)
    assert invocation is not None
    assert invocation.status is JobInvocationStatus.FAILED
    assert invocation.counts == {JobTaskStatus.SUCCEEDED: 250, JobTaskStatus.FAILED: 3}
    task = stores.read.job_task(story.task_id(story.parts[0]))
    assert task is not None
    assert (task.host_name, task.exit_status, task.streams[Stream.STDOUT].complete) == ("web000", 0, True)
    assert stores.all_output(task.job_task_id, 1, Stream.STDOUT) == b"up 3 days\n"


def test_the_same_messages_again_and_in_other_groups_change_nothing(stores: Stores, story: Story) -> None:
    lines = story.lines()
    for start in range(0, len(lines), 100):
        stores.take(lines[start : start + 100])
    before = [stores.read.job_task(story.task_id(part)) for part in story.parts]
    order = random.Random(7)
    mixed = [line for line in lines if order.random() < 0.5]
    order.shuffle(mixed)
    folded = stores.take(mixed)
    after = [stores.read.job_task(story.task_id(part)) for part in story.parts]
    assert after == before
    assert stores.all_output(story.task_id(story.parts[0]), 1, Stream.STDOUT) == b"up 3 days\n"
    assert folded.output_bytes == 0
    assert folded.touched, "touched rows are sent again: what was sent before a crash may be lost"


def test_lists_are_paged_and_filtered_with_their_totals(stores: Stores, story: Story) -> None:
    stores.take(story.lines())
    invocation = stores.read.job_invocation(story.job_invocation_id)
    assert invocation is not None
    names: list[str] = []
    after = ""
    while True:
        page = stores.read.job_tasks(invocation, TaskFilter(), 100, after)
        assert page.total == 253
        names += [task.host_name for task in page.rows]
        if page.next is None:
            break
        after = page.next
    assert names == sorted(part.host_name for part in story.parts)
    failed = stores.read.job_tasks(invocation, TaskFilter(status=JobTaskStatus.FAILED), 2, "")
    assert ([t.host_name for t in failed.rows], failed.total) == (["db0", "db1"], 3)
    by_reason = stores.read.job_tasks(invocation, TaskFilter(reason=Reason.EXIT_STATUS), 10, "")
    assert (len(by_reason.rows), by_reason.total) == (3, 3)
    assert stores.read.job_tasks(invocation, TaskFilter(host="web01*"), 100, "").total == 10
    assert stores.read.job_tasks(invocation, TaskFilter(host="WEB011"), 100, "").total == 0
    with pytest.raises(ValueError, match="after"):
        stores.read.job_tasks(invocation, TaskFilter(), 100, "nonsense")


def test_groups_gather_equal_ends_failures_first(stores: Stores, story: Story) -> None:
    stores.take(story.lines())
    failed, succeeded = stores.read.groups(story.job_invocation_id, 10)
    assert (failed.status, failed.count, failed.hosts) == (JobTaskStatus.FAILED, 3, ("db0", "db1", "db2"))
    assert (succeeded.count, succeeded.hosts[0], succeeded.lengths[Stream.STDOUT]) == (250, "web000", 10)


def test_every_change_has_a_position_and_a_reader_goes_on_from_it(stores: Stores, story: Story) -> None:
    lines = story.lines()
    stores.take(lines[:4])
    seen = stores.read.job_tasks_after(story.job_invocation_id, 0, 1000)
    assert len(seen) == 253
    last = seen[-1].position
    stores.take(lines[4:10])
    changed = stores.read.job_tasks_after(story.job_invocation_id, last, 1000)
    assert [task.host_name for task in changed] == ["web000"]
    assert changed[0].position > last


def test_output_is_read_from_any_offset(stores: Stores, story: Story) -> None:
    data = random.Random(3).randbytes(3 * CHUNK_BYTES + 77)
    part = Part("big", {Stream.STDOUT: data})
    told = Story([part], chunk_bytes=50_000, began=NOW)
    stores.take(told.lines())
    found = stores.output.find((told.task_id(part), 1, "local", Stream.STDOUT))
    assert found is not None
    stream_id, state = found
    assert (state.stored, state.tail) == (len(data), data[-2048:])
    for start, end in ((0, 10), (CHUNK_BYTES - 5, CHUNK_BYTES + 5), (len(data) - 1, len(data)), (123_456, 234_567)):
        got = b""
        while start + len(got) < end:
            got += stores.output.read(stream_id, start + len(got), end, 1 << 16)
        assert got == data[start:end]
    assert stores.output.read(stream_id, len(data), len(data) + 10, 100) == b""


def test_a_hole_waits_in_the_store_until_it_is_filled(stores: Stores, story: Story) -> None:
    part = story.parts[0]
    stores.take([*story.opening(), story.due(part, 1)])
    stores.take([story.report(part, 1, Stream.STDOUT, 6, b"world")])
    stores.take([story.report(part, 1, Stream.STDOUT, 11, b"!")])
    assert stores.all_output(story.task_id(part), 1, Stream.STDOUT) == b""
    stores.take([story.report(part, 1, Stream.STDOUT, 0, b"hello ")])
    assert stores.all_output(story.task_id(part), 1, Stream.STDOUT) == b"hello world!"
    task = stores.read.job_task(story.task_id(part))
    assert task is not None
    assert task.streams[Stream.STDOUT].length == 12


def test_output_of_a_proxy_that_was_not_asked_is_forgotten(stores: Stores, story: Story) -> None:
    part = story.parts[0]
    stores.take([story.report(part, 1, Stream.STDOUT, 0, b"forged")], proxy="other")
    stores.take([*story.opening(), story.due(part, 1)])
    assert stores.output.find((story.task_id(part), 1, "other", Stream.STDOUT)) is None
    assert stores.all_output(story.task_id(part), 1, Stream.STDOUT) == b""


def test_what_was_said_of_a_host_has_its_history_folded(stores: Stores) -> None:
    host_id = uuid4()
    base = {"host_id": host_id, "time": NOW}
    record = HostRecord(name="web1", address="10.0.0.1", proxy="local")
    stores.say(HostChanged(id=uuid4(), version=2, host=record, **base))
    stores.say(HostRegistered(id=uuid4(), version=1, host=HostRecord(name="old"), **base))
    seen = HostReachabilityObserved(
        id=uuid4(), proxy="local", agent_id="a", reachable=False, why="timeout", observed_at=NOW, **base
    )
    stores.say(seen, HostCheckedIn(id=uuid4(), proxy="local", agent_id="a", checked_in_at=NOW, **base))
    host = stores.read.host(host_id)
    assert host is not None
    assert (host.name, host.record, host.version) == ("web1", record, 2)
    assert stores.read.observations([host_id])[host_id] == [
        Observation(host_id, "local", False, "timeout", "", NOW, NOW)
    ]
    told = HostFactsReported(
        id=uuid4(), proxy="local", agent_id="a", facts={"os": "<b>\x00\x1b[31m"}, reported_at=NOW, **base
    )
    older = HostFactsReported(
        id=uuid4(), proxy="local", agent_id="a", facts={"os": "old"}, reported_at=NOW - timedelta(hours=1), **base
    )
    stores.say(told, older)
    assert stores.read.observations([host_id])[host_id] == [
        Observation(host_id, "local", False, "timeout", "", NOW, NOW, told.facts, NOW)
    ]
    assert stores.read.hosts("web*", 10, "").total == stores.read.count_hosts() == 1
    stores.say(HostRemoved(id=uuid4(), version=3, name="web1", **base))
    assert stores.read.host(host_id) is None
    assert stores.read.count_hosts() == 0


def test_tokens_and_users_end_for_ever_in_whatever_order_it_is_read(stores: Stores) -> None:
    token_id, digest = uuid4(), "ab" * 32
    issued = TokenIssued(
        id=uuid4(), time=NOW, token_id=token_id, login="ann", token_sha256=digest, label="x", expires_at=NOW
    )
    stores.say(TokenRevoked(id=uuid4(), time=NOW, token_id=token_id))
    assert stores.read.token(digest) is None
    stores.say(issued)
    token = stores.read.token(digest)
    assert token is not None
    assert (token.login, token.is_revoked, token.expires_at) == ("ann", True, NOW)
    stores.say(UserDisabled(id=uuid4(), time=NOW, login="ann"))
    stores.say(UserCreated(id=uuid4(), time=NOW, login="ann", role="administrator"))
    user = stores.read.user("ann")
    assert user is not None
    assert (user.role, user.is_disabled) == ("administrator", True)


def test_a_command_s_outcome_is_found_by_its_id(stores: Stores, story: Story) -> None:
    command = uuid4()
    stores.say(CommandDecided(id=uuid4(), time=NOW, command_id=command, decision="handled", counts={"registered": 3}))
    outcome = stores.read.outcome(command)
    assert outcome is not None
    assert (outcome.decision, outcome.counts) == ("accepted", {"registered": 3})
    refused = JobInvocationRefused(
        id=uuid4(), time=NOW, job_invocation_id=uuid4(), command_id=uuid4(), actor="user:ann",
        reason=Refusal.NO_HOSTS, detail="no host of that name",
    )  # fmt: skip
    stores.say(refused)
    outcome = stores.read.outcome(refused.command_id)
    assert outcome is not None
    assert (outcome.decision, outcome.reason, outcome.detail) == ("refused", "no_hosts", "no host of that name")
    assert stores.read.outcome(uuid4()) is None


def test_news_is_kept_until_it_is_acknowledged_and_told_once(stores: Stores, story: Story) -> None:
    folded = stores.take(story.lines())
    assert [one.model.split(".")[2] for one in folded.news] == ["started", "ended"]
    assert stores.folding.pending_news() == list(folded.news)
    stores.folding.forget_news([one.id for one in folded.news])
    assert stores.folding.pending_news() == []
    assert stores.take(story.lines()).news == ()


def test_news_of_long_ago_is_not_told(stores: Stores) -> None:
    old = Story([Part("web1")], began=NOW - timedelta(days=30))
    assert stores.take(old.lines()).news == ()


def test_a_proxy_is_told_silent_once_and_back_once(stores: Stores) -> None:
    boot = uuid4()
    beat = {"agent_id": "a", "agent_boot_id": boot, "proxy": "local", "time": NOW}
    stores.say(KeyEnrolled(id=uuid4(), time=NOW, kid="k", role=Role.AGENT, subject="local", signing_key="ab" * 32))
    assert stores.read.proxies() == {"local"}
    stores.say(AgentStarted(id=uuid4(), journal_id=uuid4(), providers=("ssh",), **beat))
    minute = timedelta(minutes=1)

    def watch(later: timedelta, listening: timedelta = timedelta()) -> list[str]:
        return [one.model for one in stores.folding.watch_proxies(NOW + listening, NOW + later, minute)]

    assert watch(minute / 2) == []
    assert watch(2 * minute, listening=1.5 * minute) == [], "we did not listen long enough to know"
    assert watch(2 * minute) == ["chargehand.proxy.silent"]
    assert watch(3 * minute) == []
    heard = said(Line(Role.AGENT, AgentHeartbeat(id=uuid4(), following=2, **beat), "a"), "local", 5)
    later = Said(heard.topic, 0, 6, Role.AGENT, "local", "a", NOW + 4 * minute, heard.items)
    stores.folding.fold([later], [(heard.topic, 0, 6)], NOW + 4 * minute)
    assert watch(4 * minute) == ["chargehand.proxy.back"]
    assert watch(4.5 * minute) == []
    (agent,) = stores.read.agents()
    assert (agent.following, agent.providers) == (2, ("ssh",))


def test_a_jump_over_messages_is_noticed_and_positions_never_go_back(stores: Stores, story: Story) -> None:
    lines = story.lines()
    topic = said(lines[0], "local", 0).topic
    stores.take(lines[:1], offset=10)
    folded = stores.take(lines[1:2], offset=15)
    assert [(gap.topic, gap.start, gap.end) for gap in folded.gaps] == [(topic, 11, 15)]
    stores.take(lines[:1], offset=3)
    assert stores.store.load_positions()[(topic, 0)] == 16


def test_a_store_keeps_its_name_and_a_new_one_has_another(stores: Stores, tmp_path: Path) -> None:
    assert stores.store.store_id() == stores.store.store_id()
    other = FoldStore(open_database("", tmp_path / "other", is_writer=True))
    assert other.store_id() != stores.store.store_id()
    other.database.close()


def test_a_store_that_reads_everything_again_has_another_name_and_no_positions(stores: Stores, story: Story) -> None:
    lines = story.lines()
    stores.take(lines)
    name, known = stores.store.store_id(), stores.read.job_invocation(story.job_invocation_id)
    stores.store.save_positions({("planning", 0): 9}, {("planning", 0): 9000})
    assert stores.store.load_marks()["planning", 0] == Mark(9, 9000)
    stores.store.read_again()
    assert stores.store.store_id() != name
    assert stores.store.load_marks() == {}
    stores.take(lines)
    assert stores.read.job_invocation(story.job_invocation_id) == known


def test_a_reader_sees_that_something_changed(stores: Stores, story: Story) -> None:
    before = stores.read.database.version()
    assert stores.read.database.version() == before
    stores.take(story.lines()[:4])
    assert stores.read.database.version() != before


def test_a_transaction_that_fails_stores_nothing(stores: Stores, story: Story) -> None:
    stores.take(story.lines()[:4])

    def fail() -> None:
        raise RuntimeError("between two writes")

    with pytest.raises(RuntimeError), stores.store.database.transaction():
        stores.store.save_positions({("x", 0): 7})
        fail()
    assert ("x", 0) not in stores.store.load_positions()


def test_a_read_model_built_anew_finds_the_output_that_was_kept(tmp_path: Path, story: Story) -> None:
    """Read models can be deleted and rebuilt; the store of output is its primary copy."""
    first = Stores("", tmp_path / "reporter")
    first.take(story.lines())
    first.close()
    for name in ("reporter.db", "reporter.db-wal", "reporter.db-shm"):
        (tmp_path / "reporter" / name).unlink(missing_ok=True)
    again = Stores("", tmp_path / "reporter")
    expired = [line for line in story.lines() if line.raw is None]
    again.take(expired)
    task = again.read.job_task(story.task_id(story.parts[0]))
    assert task is not None
    assert (task.streams[Stream.STDOUT].length, task.streams[Stream.STDOUT].complete) == (10, True)
    again.close()


def test_ladders_are_read_back_and_no_order_of_reading_changes_them(stores: Stores) -> None:
    """S62: every attempt with its own steps, output and exit status."""
    part = Part("db1", {Stream.STDERR: b"no\n" * 60}, exits=(1, 1, 0))
    story = Story([part], began=NOW)
    cancel = JobInvocationCancelRequested(
        id=uuid4(), time=NOW, job_invocation_id=story.job_invocation_id, command_id=uuid4(), actor="user:ann",
        job_task_ids=(story.task_id(part),),
    )  # fmt: skip
    lines = [Line(Role.PLANNER, cancel, ""), *story.lines()]
    messages = [said(line, "local", n) for n, line in enumerate(lines)]
    order = random.Random(5)
    mixed = messages + order.sample(messages, 20)
    order.shuffle(mixed)
    for start in range(0, len(mixed), 7):
        stores.folding.fold(mixed[start : start + 7], [], NOW)
    shown = ladder_of(stores, story, part)
    assert [step.kind.value for step in shown.steps] == ["accepted", "planned", "cancel_requested", "verdict"]
    assert [one.exit_status for one in shown.attempts_detail] == [1, 1, 0]
    assert [step.offset for step in shown.attempts_detail[0].steps] == [5, 6, 7, 8, 10, 11]
    output = [step.facts["bytes"] for step in shown.attempts_detail[2].steps if "bytes" in step.facts]
    assert output == [180]
    stores.folding.fold(messages, [], NOW)
    assert ladder_of(stores, story, part) == shown


def ladder_of(stores: Stores, story: Story, part: Part) -> JobTaskDocument:
    history = stores.read.history(story.task_id(part))
    assert history is not None
    return history_document(history).model_copy(update={"position": 0})


def test_a_ladder_is_the_same_in_a_read_model_built_anew(tmp_path: Path) -> None:
    """Also where output stood in the log, which has expired there: the store of output remembers it."""
    part = Part("db1", {Stream.STDOUT: b"line\n" * 60}, exits=(1, 0))
    story = Story([part], began=NOW)
    messages = [said(line, "local", n) for n, line in enumerate(story.lines())]
    first = Stores("", tmp_path / "reporter")
    first.folding.fold(messages, [], NOW)
    shown = ladder_of(first, story, part)
    first.close()
    for name in ("reporter.db", "reporter.db-wal", "reporter.db-shm"):
        (tmp_path / "reporter" / name).unlink(missing_ok=True)
    again = Stores("", tmp_path / "reporter")
    again.folding.fold([message for message in messages if not message.raw], [], NOW)
    assert ladder_of(again, story, part) == shown
    again.close()


def test_a_read_model_from_before_ladders_reads_everything_again(tmp_path: Path, story: Story) -> None:
    connection = open_sqlite(tmp_path / "reporter.db")
    migrate(connection, [sqlite_ddl(step) for step in READ_MODEL_STEPS[:3]])
    connection.execute("insert into positions (topic, partition, next_position) values ('x', 0, 7)")
    connection.execute("insert into store_id values ('before')")
    connection.close()
    stores = Stores("", tmp_path)
    assert stores.store.load_positions() == {}
    assert stores.store.store_id() != "before"
    stores.take(story.lines())
    assert [step.kind.value for step in ladder_of(stores, story, story.parts[0]).steps][-1] == "verdict"
    stores.close()


def test_two_writers_at_once_lose_nothing(postgres: Callable[[], str], tmp_path: Path) -> None:
    """Two instances share an invocation: what is keyed by it goes to one, its output to the other (PostgreSQL only)."""
    url = postgres()
    one, two = Stores(url, tmp_path), Stores(url, tmp_path)
    story = Story([Part(f"h{n}", {Stream.STDOUT: b"line\n" * 40}) for n in range(20)], began=NOW)
    lines = story.lines()
    halves = [[x for x in lines if x.raw is None], [x for x in lines if x.raw is not None]]

    def work(stores: Stores, mine: list[Line]) -> None:
        for start in range(0, len(mine), 5):
            stores.take(mine[start : start + 5])

    threads = [threading.Thread(target=work, args=pair) for pair in zip((one, two), halves, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    invocation = one.read.job_invocation(story.job_invocation_id)
    assert invocation is not None
    assert invocation.counts == {JobTaskStatus.SUCCEEDED: 20}
    for part in story.parts:
        task = one.read.job_task(story.task_id(part))
        assert task is not None
        assert task.streams[Stream.STDOUT].complete
    one.close()
    two.close()


def test_a_reader_before_the_writer_is_told_to_wait(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="reporter makes it"):
        open_database("", tmp_path, is_writer=False)


def test_a_reader_of_a_database_without_tables_is_told_to_wait(postgres: Callable[[], str], tmp_path: Path) -> None:
    url = postgres()
    reader = open_database(url, tmp_path, is_writer=False)
    with pytest.raises(StoreUnavailable, match="reporter makes them"):
        reader.version()
    open_database(url, tmp_path, is_writer=True).close()
    assert reader.version() == 0
    reader.close()
