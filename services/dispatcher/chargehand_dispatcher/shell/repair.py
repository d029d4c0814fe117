"""The dispatcher's part of `chargehand repair`: positions that go back to where the log is whole, events that are said again.

Owns what its store can do (docs/adr/0023); the service publishes, at its next start, what is put into the outbox here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from uuid import uuid4

from chargehand_chassis.errors import FatalFailure
from chargehand_chassis.kafka import Cut, KeyringFollower, Received, TopicFollower, TopicPartition, find_cuts
from chargehand_chassis.keys import load_pinned_planner
from chargehand_chassis.repair import LOST_BEGINNING, Finding
from chargehand_chassis.settings import KafkaSettings
from chargehand_schemas.base import Item
from chargehand_schemas.dispatch import JobTaskEnded
from chargehand_schemas.topics import DISPATCH_EVENTS, EXECUTION_EVENTS, PLANNING_EVENTS

from ..core.invocation import Invocation
from ..core.job_task import State
from ..core.repair import between, lost_verdicts, say_again, with_lost_word
from .database import open_database
from .rows import (
    INVOCATION_COLUMNS,
    JOB_TASK_COLUMNS,
    OUTBOX_COLUMNS,
    OutboxRow,
    at_us,
    invocation_of,
    job_task_of,
    job_task_row,
    outbox_row_of,
    outbox_rows,
    outbox_values,
)
from .settings import DispatcherSettings
from .store import GROUP, DispatcherStore, read_marks

NAME = "dispatcher"
_SHOWN = 20

_GOES_BACK = "goes back to {held}: the planner says again what stood there, and what this store has of it already changes nothing"
_LOST_FACTS = (
    "goes back to {held}: what agents said there and this store has taken stays true; every attempt whose acceptance may have "
    "been lost is asked for on its host before anything is concluded"
)
_SAYS_AGAIN = "says again, in order and under the same ids, {items} events of {rows} messages that it keeps"
_SAYS_STATES = "; and, as those do not reach back so far, what it knows of every job and job task here"
_LOST_TIMES = "what agents told of attempts there (times, lengths, digests) is not in the log any more"


class DispatcherRepair:
    """Opens the store of the settings, and brings it to the present schema."""

    def __init__(self, settings: DispatcherSettings) -> None:
        self.settings: KafkaSettings = settings
        self.group = GROUP
        self._planner_key_file = settings.planner_key_file
        self._database = open_database(settings.store_url, settings.data)
        DispatcherStore(self._database)

    def close(self) -> None:
        self._database.close()

    async def find(self) -> list[Finding]:
        """Each partition's positions and own log against the logs."""
        marks = {
            TopicPartition(topic, number): mark
            for number in self._partitions()
            for topic, mark in read_marks(self._database, number).items()
            if topic in (PLANNING_EVENTS.name, EXECUTION_EVENTS.name, DISPATCH_EVENTS.name)
        }
        return [await self._finding(cut) for cut in await find_cuts(self.settings, marks)]

    def _partitions(self) -> list[int]:
        return [row[0] for row in self._database.execute("select partition from partition_owner order by partition")]

    async def _finding(self, cut: Cut) -> Finding:
        if cut.is_below:
            return Finding(NAME, cut, "", (LOST_BEGINNING,))
        if cut.topic == PLANNING_EVENTS.name:
            return Finding(NAME, cut, _GOES_BACK.format(held=cut.held))
        if cut.topic == EXECUTION_EVENTS.name:
            return Finding(NAME, cut, _LOST_FACTS.format(held=cut.held), (_LOST_TIMES,))
        rows = self._beyond(cut.partition, cut.held)
        does = _SAYS_AGAIN.format(items=sum(len(row.items) for row in rows), rows=len(rows))
        if self._reaches_back(cut):
            return Finding(NAME, cut, does)
        return Finding(NAME, cut, does + _SAYS_STATES, tuple(await self._gone(cut, rows)))

    def _beyond(self, partition: int, held: int) -> list[OutboxRow]:
        """What was published beyond an offset and is kept."""
        return self._kept("partition = ? and next_offset > ?", partition, held)

    def _kept(self, where: str, *values: int) -> list[OutboxRow]:
        question = f"select {', '.join(OUTBOX_COLUMNS)} from outbox where {where} order by number"  # noqa: S608 (our own words)
        return [outbox_row_of(row) for row in self._database.execute(question, values)]

    def _reaches_back(self, cut: Cut) -> bool:
        """Whether everything that was said after the cut is kept."""
        question = "select 1 from partition_owner where partition = ? and kept_from <= ?"
        return bool(self._database.execute(question, (cut.partition, cut.held)))

    async def _gone(self, cut: Cut, kept: Iterable[OutboxRow]) -> list[str]:
        """The verdicts that nobody can say again, by job."""
        ended = [item for row in kept for item in row.items if isinstance(item, JobTaskEnded)]
        again = (item for one in self._invocations(cut.partition) for item in self._say_again(one))
        ended += [item for item in again if isinstance(item, JobTaskEnded)]
        ended += await self._verdicts_in_log(cut)
        known = Counter({item.job_task_id: item.job_invocation_id for item in ended}.values())
        lost = lost_verdicts(self._invocations(cut.partition), known)
        more = [f"and of {len(lost) - _SHOWN} more jobs"] if len(lost) > _SHOWN else []
        return [*map(str, lost[:_SHOWN]), *more]

    async def _verdicts_in_log(self, cut: Cut) -> list[JobTaskEnded]:
        found: list[JobTaskEnded] = []
        place = TopicPartition(cut.topic, cut.partition)
        keyring = KeyringFollower(self.settings, load_pinned_planner(self._planner_key_file))
        follower = TopicFollower(self.settings, [cut.topic], {place: cut.begin})
        await keyring.start()
        await follower.start()
        try:
            while not await follower.has_reached({place: cut.held}):
                for message in await keyring.read_all((await follower.getmany()).get(place, [])):
                    if isinstance(message, Received):
                        found += [item for item in message.items if isinstance(item, JobTaskEnded)]
        finally:
            await follower.stop()
            await keyring.stop()
        return found

    def _invocations(self, partition: int) -> list[Invocation]:
        question = f"select {', '.join(INVOCATION_COLUMNS)} from invocation where partition = ?"  # noqa: S608
        return [invocation_of(row) for row in self._database.execute(question, (partition,))]

    def _say_again(self, invocation: Invocation) -> list[Item]:
        question = f"select {', '.join(JOB_TASK_COLUMNS)} from job_task where job_invocation_id = ?"  # noqa: S608
        rows = self._database.execute(question, (invocation.job_invocation_id.bytes,))
        return say_again(invocation, map(job_task_of, rows), at_us(self._database.now_us()))

    # --- mending

    async def mend(self, findings: Sequence[Finding]) -> list[str]:
        """One transaction; whoever runs still loses its partitions by it."""
        cuts = [finding.cut for finding in findings if finding.service == NAME]
        if any(cut.is_below for cut in cuts):
            raise FatalFailure("the beginning of a log that was not read is missing: nothing was mended")
        with self._database.transaction():
            self._database.execute("update partition_owner set owner = ?", (str(uuid4()),))
            said = [self._mend(cut) for cut in cuts]
            return [*said, f"{self._ask_for_all()} attempts in flight are asked for on their hosts"]

    def _mend(self, cut: Cut) -> str:
        if cut.topic != DISPATCH_EVENTS.name:
            self._database.execute(
                "update inbox set next_offset = ?, append_ms = 0 where partition = ? and topic = ?",
                (cut.held, cut.partition, cut.topic),
            )
            return f"{cut.place} goes on at {cut.held}"
        rows = self._beyond(cut.partition, cut.held)
        states = [] if self._reaches_back(cut) else self._put_states(cut.partition, cut.held)
        self._database.execute(
            "update outbox set next_offset = null where partition = ? and next_offset > ?", (cut.partition, cut.held)
        )
        self._database.execute(
            "update partition_owner set own_log_offset = ?, own_log_ms = 0 where partition = ?",
            (cut.held, cut.partition),
        )
        return (
            f"{cut.place}: {sum(len(row.items) for row in (*states, *rows))} events are said again from {cut.held} on"
        )

    def _put_states(self, partition: int, held: int) -> list[OutboxRow]:
        """What is known of every invocation and job task, where something is missing in what is kept: after what is kept from before
        the gap (a predecessor's), and before what is kept from after it and what was never published."""
        question = "select kept_from from partition_owner where partition = ?"
        kept_from = self._database.execute(question, (partition,))[0][0]
        before = self._kept("partition = ? and next_offset > ? and next_offset <= ?", partition, held, kept_from)
        after = self._kept("partition = ? and (next_offset > ? or next_offset is null)", partition, kept_from)
        again = [item for one in self._invocations(partition) for item in self._say_again(one)]
        items = between(_items(before), again, _items(after))
        at = self._database.now_us()
        count = len(outbox_rows(partition, items, at, 0))
        rows = outbox_rows(partition, items, at, self._make_room(partition, kept_from, count))
        self._database.put("outbox", OUTBOX_COLUMNS, ("partition", "number"), [outbox_values(row) for row in rows])
        return rows

    def _make_room(self, partition: int, kept_from: int, count: int) -> int:
        """The first of so many numbers between what is kept from before and from after an offset."""
        numbers = "select min(number), max(number) from outbox where partition = ? and"
        is_after = "(next_offset > ? or next_offset is null)"
        first_after = self._database.execute(f"{numbers} {is_after}", (partition, kept_from))[0][0]
        first, last = self._database.execute(f"{numbers} next_offset <= ?", (partition, kept_from))[0]
        if first is None:
            return (1 if first_after is None else int(first_after)) - count
        down = last - first + 1 + count
        change = f"update outbox set number = number - {int(down)} where partition = ? and next_offset <= ?"  # noqa: S608 (a number)
        self._database.execute(change, (partition, kept_from))
        return int(last + 1 if first_after is None else first_after) - count

    def _ask_for_all(self) -> int:
        """Of every partition: also what nobody had read yet may be lost."""
        states = (State.DUE.value, State.ACCEPTED.value)
        question = f"select {', '.join(JOB_TASK_COLUMNS)} from job_task where state in (?, ?)"  # noqa: S608
        rows = self._database.execute(question, states)
        now = at_us(self._database.now_us())
        changed = [job_task_row(with_lost_word(job_task_of(row)), row[1], now) for row in rows]
        self._database.put("job_task", JOB_TASK_COLUMNS, ("job_task_id",), changed)
        return len(changed)


def _items(rows: Iterable[OutboxRow]) -> list[Item]:
    return [item for row in rows for item in row.items]
