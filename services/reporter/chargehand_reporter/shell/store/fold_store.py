"""One transaction of the fold: the touched rows out, the changed rows in, with a position for every change.

Owns which tables a group of messages reads and writes, and the order of locks (invocations, then the position), so that
positions become visible in their order also with several instances on PostgreSQL.
"""

# ruff: noqa: S608 (the names in these statements are constants, the values are bound)

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from secrets import token_hex
from typing import Any, TypeVar
from uuid import UUID

from chargehand_chassis.kafka import Mark
from chargehand_schemas.notifications import FailedHost
from chargehand_schemas.reasons import JobTaskStatus, Stream

from ...core.job_task import AttemptDecision, AttemptReport, JobTask
from ...core.output import Piece, StreamState
from ...core.proxies import Agent
from ...core.read_model import AttemptKey, ReadModel, ReportKey, StreamKey, Wanted
from ...core.rows import Rows
from . import mapping
from .database import Database, Row, in_slices
from .output_store import OutputStore

V = TypeVar("V")

_PUT_INVOCATION = mapping.upsert("job_invocations", mapping.JOB_INVOCATION, 1)
_PUT_TASK = mapping.upsert("job_tasks", mapping.JOB_TASK, 1)
_PUT_ATTEMPT = mapping.upsert("attempts", "job_task_id, attempt, proxy, facts", 3)
_ENTITIES: tuple[tuple[str, str, str, int, Callable[[Any], tuple[Any, ...]]], ...] = (
    ("hosts", "hosts", mapping.HOST, 1, mapping.host_row),
    ("observations", "observations", mapping.OBSERVATION, 2, mapping.observation_row),
    ("agents", "agents", mapping.AGENT, 1, mapping.agent_row),
    ("keys", "agent_keys", mapping.AGENT_KEY, 1, mapping.agent_key_row),
    ("proxy_sizes", "proxy_sizes", mapping.PROXY_SIZE, 1, mapping.proxy_size_row),
    ("users", "users", mapping.USER, 1, mapping.user_row),
    ("tokens", "tokens", mapping.TOKEN, 1, mapping.token_row),
)


@dataclass(frozen=True, slots=True)
class Saved:
    """What a transaction stored: how many bytes of output, and the positions it gave by id."""

    output_bytes: int
    positions: Mapping[UUID, int]


@dataclass(frozen=True, slots=True)
class StoredNews:
    """A notification that waits to be published."""

    id: UUID
    key: str
    model: str
    document: str


class FoldStore:
    """The writer's side of the store. Every method but `load_*` belongs inside `database.transaction()`."""

    def __init__(self, database: Database, *, locks: bool = False) -> None:
        self.database = database
        self.output = OutputStore(database)
        self._locks = locks

    # --- identity and positions -------------------------------------------------------------------------------------

    def store_id(self) -> str:
        """A word that names this store: a store that is made anew reads everything from the beginning."""
        with self.database.transaction():
            rows = self.database.query("select id from store_id")
            if not rows:
                self.database.execute("insert into store_id values (?)", (token_hex(4),))
                rows = self.database.query("select id from store_id")
        return str(rows[0][0])

    def load_positions(self) -> dict[tuple[str, int], int]:
        """The next offset of each partition, as of the last transaction."""
        return {place: mark.next_offset for place, mark in self.load_marks().items()}

    def load_marks(self) -> dict[tuple[str, int], Mark]:
        """The same with the broker's times of the records before them."""
        rows = self.database.query("select topic, partition, next_position, append_ms from positions")
        return {(row[0], row[1]): Mark(*row[2:]) for row in rows}

    def save_positions(
        self, positions: Mapping[tuple[str, int], int], times: Mapping[tuple[str, int], int] = {}
    ) -> None:
        """`times`: the broker's times (ms) of the records before the positions."""
        self.database.execute_many(
            "insert into positions (topic, partition, next_position, append_ms) values (?, ?, ?, ?) "
            "on conflict (topic, partition) do update set next_position = excluded.next_position, "
            "append_ms = excluded.append_ms where excluded.next_position > positions.next_position",
            [(*place, position, times.get(place, 0)) for place, position in positions.items()],
        )

    def read_again(self) -> None:
        """Forget what was read: the next start reads every log from its beginning, which changes nothing that is known."""
        with self.database.transaction():
            self.database.execute("delete from positions")
            self.database.execute("delete from store_id")

    # --- loading ----------------------------------------------------------------------------------------------------

    def load(self, wanted: Wanted) -> ReadModel:
        """The touched rows. With several instances, what belongs to an invocation is theirs one after the other; locks are
        taken in the order of ids, so that two instances cannot wait for each other."""
        if self._locks:
            for job_invocation_id in sorted(wanted.job_invocations):
                number = int.from_bytes(job_invocation_id.bytes[:8], "big", signed=True)
                self.database.execute("select pg_advisory_xact_lock(?)", (number,))
        decisions, reports = self._load_attempts(wanted.attempts)
        return ReadModel(
            job_invocations=Rows(self._load_invocations(wanted)),
            job_tasks=Rows(self._load_tasks(wanted.job_tasks)),
            decisions=Rows(decisions),
            reports=Rows(reports),
            streams=Rows(self._load_streams(wanted, decisions)),
            hosts=self._by_id("hosts", mapping.HOST, wanted.hosts, mapping.host_of),
            observations=self._load_observations(wanted.observations),
            agents=self._by_text("agents", mapping.AGENT, wanted.agents, mapping.agent_of),
            keys=self._by_text("agent_keys", mapping.AGENT_KEY, wanted.keys, mapping.agent_key_of),
            proxy_sizes=self._by_text("proxy_sizes", mapping.PROXY_SIZE, wanted.proxy_sizes, mapping.proxy_size_of),
            users=self._by_text("users", mapping.USER, wanted.users, mapping.user_of),
            tokens=self._by_id("tokens", mapping.TOKEN, wanted.tokens, mapping.token_of),
        )

    def _load_invocations(self, wanted: Wanted) -> dict[UUID, Any]:
        rows = self._rows("job_invocations", mapping.JOB_INVOCATION, "job_invocation_id", wanted.job_invocations)
        return {UUID(bytes=row[0]): mapping.job_invocation_of(row) for row in rows}

    def _load_tasks(self, ids: set[UUID]) -> dict[UUID, JobTask]:
        rows = self._rows("job_tasks", mapping.JOB_TASK, "job_task_id", ids)
        return {UUID(bytes=row[0]): mapping.job_task_of(row) for row in rows}

    def _rows(self, table: str, columns: str, key: str, ids: Iterable[UUID]) -> Iterable[Row]:
        for text, values in in_slices((one,) for one in sorted(i.bytes for i in ids)):
            yield from self.database.query(
                f"select {columns} from {table} where {key} in ({text})",
                values,
            )

    def _load_attempts(
        self, keys: set[AttemptKey]
    ) -> tuple[dict[AttemptKey, AttemptDecision], dict[ReportKey, AttemptReport]]:
        decisions: dict[AttemptKey, AttemptDecision] = {}
        reports: dict[ReportKey, AttemptReport] = {}
        for text, values in in_slices((key[0].bytes, key[1]) for key in sorted(keys)):
            for job_task_id, attempt, proxy, facts in self.database.query(
                f"with wanted (a, b) as (values {text}) select job_task_id, attempt, proxy, facts "
                "from wanted cross join attempts where job_task_id = a and attempt = b",
                values,
            ):
                key = (UUID(bytes=job_task_id), attempt)
                if proxy:
                    reports[(*key, proxy)] = mapping.report_of(facts)
                else:
                    decisions[key] = mapping.decision_of(facts)
        return decisions, reports

    def _load_streams(
        self, wanted: Wanted, decisions: Mapping[AttemptKey, AttemptDecision]
    ) -> dict[StreamKey, StreamState]:
        """Of attempts with output in hand, and of those first seen now: their output may be here from an earlier read model."""
        spoken = {key[:2] for key in wanted.streams}
        return self.output.load(spoken | (wanted.attempts - decisions.keys()))

    def _load_observations(self, keys: set[tuple[UUID, str]]) -> Rows[tuple[UUID, str], Any]:
        found = self._rows("observations", mapping.OBSERVATION, "host_id", {key[0] for key in keys}) if keys else ()
        rows = map(mapping.observation_of, found)
        return Rows({(row.host_id, row.proxy): row for row in rows})

    def _by_id(self, table: str, columns: str, ids: set[UUID], read: Callable[[Row], V]) -> Rows[UUID, V]:
        key = columns.partition(",")[0]
        return Rows({UUID(bytes=row[0]): read(row) for row in self._rows(table, columns, key, ids)})

    def _by_text(self, table: str, columns: str, keys: set[str], read: Callable[[Row], V]) -> Rows[str, V]:
        key, found = columns.partition(",")[0], {}
        for text, values in in_slices((one,) for one in sorted(keys)):
            for row in self.database.query(f"select {columns} from {table} where {key} in ({text})", values):
                found[row[0]] = read(row)
        return Rows(found)

    def load_waiting(self, keys: Iterable[StreamKey]) -> dict[StreamKey, Sequence[Piece]]:
        return self.output.load_waiting(keys)

    def load_tails(self, shown: Iterable[AttemptKey]) -> dict[UUID, dict[Stream, bytes]]:
        """The last bytes of each stream of these attempts."""
        found: dict[UUID, dict[Stream, bytes]] = {}
        for key, state in self.output.load(shown).items():
            found.setdefault(key[0], {})[key[3]] = state.tail
        return found

    def load_agents(self) -> list[Agent]:
        return list(map(mapping.agent_of, self.database.query(f"select {mapping.AGENT} from agents")))

    def failed_hosts(self, job_invocation_id: UUID, at_most: int) -> list[FailedHost]:
        """The first job tasks that did not succeed, by host name."""
        rows = self.database.query(
            "select host_name, reason, exit_status from job_tasks where job_invocation_id = ? and status in (?, ?) "
            "order by host_name limit ?",
            (job_invocation_id.bytes, JobTaskStatus.FAILED.value, JobTaskStatus.CANCELLED.value, at_most),
        )
        return [FailedHost(host=row[0], reason=row[1] or "", exit_status=row[2]) for row in rows]

    # --- saving -----------------------------------------------------------------------------------------------------

    def save(self, model: ReadModel) -> Saved:
        """Store what changed. Job tasks and invocations that changed get the next positions."""
        output_bytes = self.output.save(model.folded)
        if model.disowned:
            self.output.drop(model.disowned)
        self._save_attempts(model)
        self._save_groups(model)
        self._save_entities(model)
        return Saved(output_bytes, self._save_positioned(model))

    def _save_attempts(self, model: ReadModel) -> None:
        dropped = [(key[0].bytes, key[1], key[2]) for key in model.reports.dropped()]
        if dropped:
            self.database.execute_many(
                "delete from attempts where job_task_id = ? and attempt = ? and proxy = ?", dropped
            )
        rows = [(k[0].bytes, k[1], "", mapping.decision_text(v)) for k, v in model.decisions.changed().items()]
        rows += [(k[0].bytes, k[1], k[2], mapping.report_text(v)) for k, v in model.reports.changed().items()]
        if rows:
            self.database.execute_many(_PUT_ATTEMPT, rows)

    def _save_groups(self, model: ReadModel) -> None:
        changes = sorted((place, change) for place, change in model.group_changes.items() if change)
        rows = [
            (place[0].bytes, place[1], *mapping.group_values(model.groups[place[1]]), change)
            for place, change in changes
            if change > 0
        ]
        if rows:
            self.database.execute_many(
                f"insert into output_groups ({mapping.OUTPUT_GROUP}) values (?, ?, ?, ?, ?, ?, ?, ?, ?) "
                "on conflict (job_invocation_id, group_id) do update set count = output_groups.count + excluded.count",
                rows,
            )
        fewer = [(-change, place[0].bytes, place[1]) for place, change in changes if change < 0]
        if fewer:
            self.database.execute_many(
                "update output_groups set count = count - ? where job_invocation_id = ? and group_id = ?", fewer
            )
            self.database.execute_many(
                "delete from output_groups where job_invocation_id = ? and group_id = ? and count <= 0",
                [row[1:] for row in fewer],
            )

    def _save_entities(self, model: ReadModel) -> None:
        if model.targets:
            self.database.execute_many(
                "insert into targets values (?, ?, ?) on conflict (job_invocation_id, chunk) do nothing",
                [
                    (one.bytes, chunk, b"".join(host_id.bytes for host_id in host_ids))
                    for (one, chunk), host_ids in sorted(model.targets.items())
                ],
            )
        for field, table, columns, keys, to_row in _ENTITIES:
            changed = getattr(model, field).changed()
            if changed:
                self.database.execute_many(mapping.upsert(table, columns, keys), [to_row(v) for v in changed.values()])
        if model.outcomes:
            rows = [mapping.command_outcome_row(outcome) for outcome in model.outcomes.values()]
            self.database.execute_many(
                f"insert into command_outcomes ({mapping.COMMAND_OUTCOME}) values (?, ?, ?, ?, ?, ?) "
                "on conflict (command_id) do nothing",
                rows,
            )

    def _save_positioned(self, model: ReadModel) -> dict[UUID, int]:
        tasks, invocations = model.job_tasks.changed(), model.job_invocations.changed()
        position = self._take_positions(len(tasks) + len(invocations))
        positions = {key: position + n for n, key in enumerate([*tasks, *invocations], start=1)}
        if tasks:
            rows = [mapping.job_task_row(t, model.task_groups[key], positions[key]) for key, t in tasks.items()]
            self.database.execute_many(_PUT_TASK, rows)
        if invocations:
            rows = [mapping.job_invocation_row(i, positions[key]) for key, i in invocations.items()]
            self.database.execute_many(_PUT_INVOCATION, rows)
        return positions

    def _take_positions(self, count: int) -> int:
        """The position before the `count` that are taken; the row stays locked until the end of the transaction."""
        if not count:
            return int(self.database.query("select value from meta where name = 'position'")[0][0])
        rows = self.database.query(
            "update meta set value = value + ? where name = 'position' returning value", (count,)
        )
        return int(rows[0][0]) - count

    # --- notifications ----------------------------------------------------------------------------------------------

    def add_news(self, news: Sequence[StoredNews]) -> None:
        """Keep notifications until they are acknowledged."""
        self.database.execute_many(
            "insert into news (id, topic_key, model, document) values (?, ?, ?, ?) on conflict (id) do nothing",
            [(one.id.bytes, one.key, one.model, one.document) for one in news],
        )

    def load_news(self) -> list[StoredNews]:
        rows = self.database.query("select id, topic_key, model, document from news")
        return [StoredNews(UUID(bytes=row[0]), row[1], row[2], row[3]) for row in rows]

    def drop_news(self, ids: Iterable[UUID]) -> None:
        self.database.execute_many("delete from news where id = ?", [(one.bytes,) for one in ids])

    def load_silences(self) -> dict[str, datetime]:
        found: dict[str, datetime] = {}
        for proxy, since in self.database.query("select proxy, silent_since from silences"):
            moment = mapping.instant(since)
            if moment is not None:
                found[proxy] = moment
        return found

    def save_silence(self, proxy: str, since: datetime | None) -> None:
        """Note that a proxy is silent since then; None: it is heard again."""
        self.database.execute("delete from silences where proxy = ?", (proxy,))
        if since is not None:
            self.database.execute(
                "insert into silences (proxy, silent_since) values (?, ?)", (proxy, mapping.micros(since))
            )
