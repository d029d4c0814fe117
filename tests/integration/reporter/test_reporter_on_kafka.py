"""The reporter as a process on a real Kafka: what all writers said is read back, kills lose and double nothing
(S5, S63, S64; docs/protocol.md, rules RANGE, OUTORD, LATE)."""

import asyncio
import hashlib
import random
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from chargehand_chassis.kafka import Received, TopicFollower, connection, read_record
from chargehand_chassis.keys import public_document, writer_of
from chargehand_reporter.shell.store.database import StoreUnavailable, open_database
from chargehand_reporter.shell.store.output_store import OutputReader
from chargehand_reporter.shell.store.read_store import ReadStore
from chargehand_schemas.accumulated import AccumulatedProgressReport
from chargehand_schemas.dead_letters import DeadLetter
from chargehand_schemas.keyring import Keyring
from chargehand_schemas.notifications import JobInvocationEndedNotification
from chargehand_schemas.reasons import DeadLetterReason, JobInvocationStatus, JobTaskStatus, Role, Stream
from chargehand_schemas.topics import (
    ACCUMULATED_PROGRESS_REPORTS,
    DEAD_LETTERS,
    DISPATCH_EVENTS,
    EXECUTION_EVENTS,
    NOTIFICATIONS,
)
from support.kafka import running_kafka
from support.reporting import Installation, in_batches, scratch, until
from support.story import Line, Part, Story

pytestmark = pytest.mark.asyncio(loop_scope="module")


class System:
    """An installation with a running reporter, and eyes on its store."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.process = installation.start_reporter()
        self._read: ReadStore | None = None

    async def start(self, **more: str) -> None:
        """A new process, and wait until it reads."""
        log = self.installation.directory / "reporter.log"
        before = log.read_text().count("reporter_started")
        self.process = self.installation.start_reporter(**more)
        await until(lambda: log.read_text().count("reporter_started") > before)

    @property
    def read(self) -> ReadStore:
        if self._read is None:
            directory = self.installation.directory / "reporter"
            self._read = ReadStore(open_database("", directory, is_writer=False))
        return self._read

    def status(self, story: Story) -> JobInvocationStatus | None:
        try:
            invocation = self.read.job_invocation(story.job_invocation_id)
        except StoreUnavailable:
            return None
        return None if invocation is None else invocation.status

    async def ended(self, story: Story) -> None:
        """Wait for its end and for all output of all of its hosts."""
        await until(lambda: self.process.poll() is None and self.status(story) in ENDS, within_s=60)
        await until(lambda: all(self.is_complete(story, part) for part in story.parts))

    def is_complete(self, story: Story, part: Part) -> bool:
        task = self.read.job_task(story.task_id(part))
        return task is not None and bool(task.streams) and all(view.complete for view in task.streams.values())

    def output(self, story: Story, part: Part, stream: Stream) -> bytes:
        reader = OutputReader(self.read.database)
        found = reader.find((story.task_id(part), len(part.exits), "local", stream))
        if found is None:
            return b""
        data = b""
        while piece := reader.read(found[0], len(data), found[1].stored, 1 << 20):
            data += piece
        return data


ENDS = (JobInvocationStatus.SUCCEEDED, JobInvocationStatus.FAILED)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system() -> AsyncIterator[System]:
    with running_kafka() as broker, scratch() as directory:
        installation = Installation(broker.address, Path(directory) / "installation")
        await installation.open()
        found = System(installation)
        yield found
        await installation.close()


async def everything(system: System, topic: str, is_enough: Any) -> list[Received]:
    """All verified messages of a topic from its beginning, read until it is enough."""
    installation = system.installation
    keyring = Keyring()
    for name, role in (("planner", Role.PLANNER), ("reporter", Role.REPORTER), ("dispatcher", Role.DISPATCHER)):
        keyring.pin(writer_of(public_document(installation.keys[name], role, name)))
    follower = TopicFollower(installation.settings, [topic])
    await follower.start()
    found: list[Received] = []
    try:
        async with asyncio.timeout(30):
            while not is_enough(found):
                for records in (await follower.getmany(timeout_ms=200)).values():
                    messages = [read_record(record, keyring) for record in records]
                    found += [message for message in messages if isinstance(message, Received)]
    finally:
        await follower.stop()
    return found


def some_story(hosts: int = 20, size: int = 500) -> Story:
    data = random.Random(hosts)
    parts = [
        Part(
            f"web{n:02}",
            {Stream.STDOUT: data.randbytes(size), Stream.STDERR: b"\n" * (n % 7)},
            (1,) if n % 5 == 4 else (0,),
        )
        for n in range(hosts)
    ]
    return Story(parts, chunk_bytes=100, began=datetime.now(UTC))


async def test_what_all_writers_said_is_read_back(system: System) -> None:
    story = some_story()
    for batch in in_batches(story.lines(), 40):
        await system.installation.tell(batch)
    await system.ended(story)
    invocation = system.read.job_invocation(story.job_invocation_id)
    assert invocation is not None
    assert invocation.counts == {JobTaskStatus.SUCCEEDED: 16, JobTaskStatus.FAILED: 4}
    for part in story.parts:
        for stream in Stream:
            assert system.output(story, part, stream) == part.output[stream]


async def test_the_present_state_of_each_job_task_stands_on_its_topic_alone_in_its_message(system: System) -> None:
    story = some_story(hosts=3, size=5000)
    await system.installation.tell(story.lines())
    await system.ended(story)
    wanted = {story.task_id(part): part for part in story.parts}

    def latest(messages: list[Received]) -> dict[UUID, AccumulatedProgressReport]:
        items = [item for m in messages for item in m.items if isinstance(item, AccumulatedProgressReport)]
        return {item.job_task_id: item for item in items if item.job_task_id in wanted}

    def is_enough(messages: list[Received]) -> bool:
        found = latest(messages).values()
        return len(found) == 3 and all(
            r.status.is_verdict and all(s.complete for s in r.streams.values()) for r in found
        )

    messages = await everything(system, ACCUMULATED_PROGRESS_REPORTS.name, is_enough)
    assert all(len(message.items) == 1 and message.key == str(message.items[0].job_task_id) for message in messages)  # type: ignore[attr-defined]
    for job_task_id, report in latest(messages).items():
        data = wanted[job_task_id].output[Stream.STDOUT]
        assert report.streams[Stream.STDOUT].tail == data[-2048:]
        assert report.streams[Stream.STDOUT].digest == hashlib.sha256(data).hexdigest()


async def test_the_end_of_an_invocation_is_news(system: System) -> None:
    story = some_story(hosts=5)
    await system.installation.tell(story.lines())

    def endings(messages: list[Received]) -> list[JobInvocationEndedNotification]:
        items = [item for m in messages for item in m.items if isinstance(item, JobInvocationEndedNotification)]
        return [item for item in items if item.job_invocation_id == story.job_invocation_id]

    messages = await everything(system, NOTIFICATIONS.name, endings)
    (news,) = {item.id: item for item in endings(messages)}.values()
    assert (news.counts, [failed.host for failed in news.failed_hosts]) == ({"succeeded": 4, "failed": 1}, ["web04"])


async def test_a_message_that_cannot_be_believed_has_no_effect_and_stops_nothing(system: System) -> None:
    installation = system.installation
    story = some_story(hosts=1)
    part = story.parts[0]
    producer = AIOKafkaProducer(**connection(installation.settings), max_request_size=6 << 20)
    await producer.start()
    await producer.send_and_wait(DISPATCH_EVENTS.name, b"\xff\x00 no JSON", key=b"k", partition=0)
    await producer.send_and_wait(EXECUTION_EVENTS.name, None, key=b"k", partition=0)
    await producer.stop()
    lines = story.lines()
    forged = [Line(Role.AGENT, line.item, line.key, line.raw) for line in lines if line.raw is not None]
    await installation.tell([line for line in lines if line.raw is None])
    await installation.tell(forged, proxy="other")
    await installation.tell([line for line in lines if line.raw is not None])
    await system.ended(story)
    assert system.output(story, part, Stream.STDOUT) == part.output[Stream.STDOUT]

    def reasons(messages: list[Received]) -> set[DeadLetterReason]:
        return {item.reason for m in messages for item in m.items if isinstance(item, DeadLetter)}

    wanted = {DeadLetterReason.UNREADABLE, DeadLetterReason.SUBJECT_NOT_ALLOWED}
    assert reasons(await everything(system, DEAD_LETTERS.name, lambda found: wanted <= reasons(found))) == wanted


async def test_kill_9_in_mid_stream_loses_and_doubles_nothing(system: System) -> None:
    """Three kills while 3 MB stream in; afterwards every byte is there once, every count right."""
    installation = system.installation
    story = Story(
        [Part(f"big{n}", {Stream.STDOUT: random.Random(n).randbytes(500_000)}) for n in range(6)],
        chunk_bytes=9_000,
        began=datetime.now(UTC),
    )
    batches = in_batches(story.lines(), 25)
    kill_at = {len(batches) // 4, len(batches) // 2, 3 * len(batches) // 4}
    for number, batch in enumerate(batches):
        await installation.tell(batch)
        if number in kill_at:
            system.process.send_signal(signal.SIGKILL)
            system.process.wait()
            system.process = installation.start_reporter()
    await system.ended(story)
    invocation = system.read.job_invocation(story.job_invocation_id)
    assert invocation is not None
    assert invocation.counts == {JobTaskStatus.SUCCEEDED: 6}
    for part in story.parts:
        assert system.output(story, part, Stream.STDOUT) == part.output[Stream.STDOUT]


@pytest.mark.parametrize("point", ["reporter.folded:2", "reporter.published:2"])
async def test_a_death_between_two_writes_loses_nothing(system: System, point: str) -> None:
    installation = system.installation
    assert installation.stop(system.process) == 0
    await system.start(FAULT_POINT=point)
    story = some_story(hosts=4)
    for batch in in_batches(story.lines(), 10):
        await installation.tell(batch)
    await until(lambda: system.process.poll() == 137)
    await system.start()
    await system.ended(story)
    for part in story.parts:
        assert system.output(story, part, Stream.STDOUT) == part.output[Stream.STDOUT]


async def test_a_read_model_that_was_deleted_is_built_anew_with_its_output(system: System) -> None:
    installation = system.installation
    story = some_story(hosts=3)
    await installation.tell(story.lines())
    await system.ended(story)
    assert installation.stop(system.process) == 0
    system.read.database.close()
    system._read = None
    for file in (installation.directory / "reporter").glob("reporter.db*"):
        file.unlink()
    await system.start()
    await system.ended(story)
    assert system.output(story, story.parts[0], Stream.STDOUT) == story.parts[0].output[Stream.STDOUT]


async def test_it_stops_cleanly_and_goes_on_where_it_was(system: System) -> None:
    installation = system.installation
    assert installation.stop(system.process) == 0
    story = some_story(hosts=2)
    await installation.tell(story.lines())
    await system.start()
    await system.ended(story)


async def test_the_same_story_goes_to_postgresql(system: System, postgres: Any, tmp_path: Path) -> None:
    """Only settings differ: another reporter of the same installation, with its own store."""
    url = postgres()
    more = {"STORE_URL": url, "DATA": str(tmp_path / "reporter"), "INSTANCE": "pg"}
    process = system.installation.start_reporter(**more)
    story = some_story(hosts=5)
    await system.installation.tell(story.lines())

    def has_ended() -> bool:
        assert process.poll() is None, system.installation.log("reporter")
        try:
            database = open_database(url, tmp_path, is_writer=False)
            found = ReadStore(database).job_invocation(story.job_invocation_id)
        except Exception:  # noqa: BLE001 (the schema is not there yet)
            return False
        database.close()
        return found is not None and found.status in ENDS

    await until(has_ended, within_s=60)
    assert system.installation.stop(process) == 0


async def test_two_instances_share_the_partitions_and_one_takes_over(
    system: System, postgres: Any, tmp_path: Path
) -> None:
    url = postgres()
    processes = [
        system.installation.start_reporter(STORE_URL=url, DATA=str(tmp_path / name), INSTANCE=name)
        for name in ("a", "b")
    ]
    story = some_story(hosts=8)
    lines = story.lines()
    await system.installation.tell(lines[: len(lines) // 2])
    await until(lambda: _is_known(url, tmp_path, story), within_s=60)
    processes[0].kill()
    processes[0].wait()
    await system.installation.tell(lines[len(lines) // 2 :])
    await until(lambda: _is_known(url, tmp_path, story, must_end=True), within_s=60)
    assert system.installation.stop(processes[1]) == 0


def _is_known(url: str, directory: Path, story: Story, *, must_end: bool = False) -> bool:
    try:
        database = open_database(url, directory, is_writer=False)
        found = ReadStore(database).job_invocation(story.job_invocation_id)
        tasks = [ReadStore(database).job_task(story.task_id(part)) for part in story.parts]
    except Exception:  # noqa: BLE001 (the schema is not there yet)
        return False
    database.close()
    if not must_end:
        return found is not None
    is_whole = all(
        task is not None and task.streams and all(v.complete for v in task.streams.values()) for task in tasks
    )
    return found is not None and found.status in ENDS and is_whole


async def test_agents_are_heard_and_keys_known_only_a_moment_are_believed(system: System) -> None:
    """A proxy that enrols now and speaks at once is believed: the keyring is caught up with before a key is unknown."""
    from chargehand_schemas.proxies import AgentStarted

    installation = system.installation
    installation.make_keys("agent-new")
    started = AgentStarted(
        id=uuid4(), time=datetime.now(UTC), agent_id="agent-new", agent_boot_id=uuid4(), proxy="new", journal_id=uuid4(),
        providers=("ssh",),
    )  # fmt: skip
    await installation.voice("agent-new")
    await installation.enrol("agent-new", Role.AGENT, "new")
    await installation.say("agent-new", started, by="agent-new")
    await until(lambda: any(agent.agent_id == "agent-new" for agent in system.read.agents()))
    assert "new" in system.read.proxies()
