"""What HTTP asks of the read model. Every list is paged by an index; no question costs more the more hosts there are.

Owns the queries of readers. Who may ask is decided before, how it is shown after.
"""
# ruff: noqa: S608 (the names in these statements are constants, the values are bound)

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from uuid import UUID

from chargehand_schemas.api import OutputGroup
from chargehand_schemas.ids import job_task_id
from chargehand_schemas.reasons import INVOCATION_ENDS, JobInvocationStatus, JobTaskStatus, Reason, Stream
from pydantic_core import from_json

from ...core.catalog import Host, Observation, Token
from ...core.cursors import read_cursor, write_cursor
from ...core.documents import output_group
from ...core.invocation import JobInvocation
from ...core.job_task import JobTask
from ...core.ladder import NO_ATTEMPT
from ...core.output import StreamState
from ...core.proxies import Agent, ProxySize
from ...core.read_model import CommandOutcome, User
from ...core.steps import Attempt, JobTaskHistory
from . import mapping
from .database import Database, Row, in_slices
from .output_store import OutputReader

T = TypeVar("T")

MAX_NAMES = 1000


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """Some rows of a list, how many there are in all, and the cursor of what follows."""

    rows: list[T]
    total: int
    next: str | None


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which job tasks of an invocation. `host` is a name, or a pattern with `*`; `group` the id of an output group (hex)."""

    status: JobTaskStatus | None = None
    reason: Reason | None = None
    host: str = ""
    group: str = ""


class ReadStore:
    """Questions to one connection."""

    def __init__(self, database: Database) -> None:
        self.database = database

    # --- invocations ------------------------------------------------------------------------------------------------

    def job_invocation(self, job_invocation_id: UUID) -> JobInvocation | None:
        rows = self._select(
            mapping.JOB_INVOCATION, "job_invocations where job_invocation_id = ?", job_invocation_id.bytes
        )
        return mapping.job_invocation_of(rows[0]) if rows else None

    def job_invocations(self, status: JobInvocationStatus | None, limit: int, after: str) -> Found[JobInvocation]:
        """Newest first. ValueError if `after` is no cursor."""
        where, values = _where(("status = ?", status and status.value))
        total = self._count("job_invocations", where, values)
        if after:
            created_at, last = read_cursor(after, (int, str))
            more, later = _where(("(created_at, job_invocation_id) < (?, ?)", (created_at, bytes.fromhex(str(last)))))
            where, values = _both(where, more), [*values, *later]
        rows = self._select(
            mapping.JOB_INVOCATION,
            f"job_invocations{where} order by created_at desc, job_invocation_id desc limit ?",
            *values,
            limit + 1,
        )
        return _found(
            list(map(mapping.job_invocation_of, rows)), rows, total, limit, lambda row: (row[1], row[0].hex())
        )

    def last_job_invocation_id(self) -> UUID | None:
        rows = self._select(
            "job_invocation_id", "job_invocations order by created_at desc, job_invocation_id desc limit 1"
        )
        return UUID(bytes=rows[0][0]) if rows else None

    def ids_between(self, table: str, key: str, low: bytes, high: bytes) -> list[UUID]:
        """At most two ids, enough to see whether a prefix is unique."""
        rows = self._select(key, f"{table} where {key} between ? and ? limit 2", low, high)
        return [UUID(bytes=row[0]) for row in rows]

    def running_job_invocations(self) -> int:
        ends = [status.value for status in INVOCATION_ENDS]
        going = [status.value for status in JobInvocationStatus if status.value not in ends]
        return self._count("job_invocations", f" where status in ({','.join('?' * len(going))})", going)

    # --- job tasks --------------------------------------------------------------------------------------------------

    def job_task(self, job_task_id: UUID) -> JobTask | None:
        rows = self._select(mapping.JOB_TASK, "job_tasks where job_task_id = ?", job_task_id.bytes)
        return mapping.job_task_of(rows[0]) if rows else None

    def job_tasks(self, invocation: JobInvocation, wanted: TaskFilter, limit: int, after: str) -> Found[JobTask]:
        """By host name. ValueError if `after` is no cursor."""
        where, values = _where(
            ("job_invocation_id = ?", invocation.job_invocation_id.bytes),
            ("status = ?", wanted.status and wanted.status.value),
            ("reason = ?", wanted.reason and wanted.reason.value),
            ("group_id = ?", bytes.fromhex(wanted.group) if wanted.group else None),
            *_named("host_name", wanted.host),
        )
        total = self._total_tasks(invocation, wanted, where, values)
        if after:
            name, last = read_cursor(after, (str, str))
            where = f"{where} and (host_name, job_task_id) > (?, ?)"
            values = [*values, name, bytes.fromhex(str(last))]
        rows = self._select(
            mapping.JOB_TASK, f"job_tasks{where} order by host_name, job_task_id limit ?", *values, limit + 1
        )
        return _found(list(map(mapping.job_task_of, rows)), rows, total, limit, lambda row: (row[3], row[0].hex()))

    def _total_tasks(self, invocation: JobInvocation, wanted: TaskFilter, where: str, values: Sequence[Any]) -> int:
        """From the counts that are kept, wherever they answer it."""
        if not wanted.host and not wanted.group:
            if wanted.status is None and wanted.reason is None:
                return sum(invocation.counts.values())
            if wanted.reason is None and wanted.status is not None:
                return invocation.counts.get(wanted.status, 0)
            if wanted.status is None and wanted.reason is not None:
                return invocation.reasons.get(wanted.reason, 0)
        return self._count("job_tasks", where, values)

    def ordered_job_tasks(self, job_invocation_id: UUID) -> list[JobTask]:
        """All job tasks of an invocation in the order of its plan."""
        rows = self._select(
            mapping.JOB_TASK,
            "job_tasks where job_invocation_id = ? order by ordinal, job_task_id",
            job_invocation_id.bytes,
        )
        return list(map(mapping.job_task_of, rows))

    def targets(self, job_invocation_id: UUID) -> list[Host]:
        """The hosts of an invocation that is not planned yet, in their order, as they are now."""
        rows = self._select("host_ids", "targets where job_invocation_id = ? order by chunk", job_invocation_id.bytes)
        packed = b"".join(bytes(row[0]) for row in rows)
        ids = [packed[start : start + 16] for start in range(0, len(packed), 16)]
        found: dict[bytes, Host] = {}
        for text, values in in_slices((one,) for one in ids):
            for row in self._select(mapping.HOST, f"hosts where host_id in ({text})", *values):
                found[bytes(row[0])] = mapping.host_of(row)
        return [found[one] for one in ids if one in found]

    def job_tasks_of_hosts(self, job_invocation_id: UUID, host_ids: Iterable[UUID]) -> list[JobTask]:
        """Those of some hosts, as far as they are planned."""
        ids = [job_task_id(job_invocation_id, host_id) for host_id in host_ids]
        return [task for one in ids if (task := self.job_task(one)) is not None]

    def job_tasks_after(self, job_invocation_id: UUID, position: int, limit: int) -> list[JobTask]:
        """Job tasks that changed after a position, in the order of their last changes."""
        rows = self._select(
            mapping.JOB_TASK,
            "job_tasks where job_invocation_id = ? and position > ? order by position limit ?",
            job_invocation_id.bytes,
            position,
            limit,
        )
        return list(map(mapping.job_task_of, rows))

    def history(self, job_task_id: UUID, limit: int = 1000) -> JobTaskHistory | None:
        """A job task with its latest attempts, what the proxies that were asked said of them, and its ladder."""
        task = self.job_task(job_task_id)
        invocation = self.job_invocation(task.job_invocation_id) if task is not None else None
        if task is None or invocation is None:
            return None
        rows = self._select(
            "attempt, proxy, facts", "attempts where job_task_id = ? and attempt <> ? order by attempt desc, proxy limit ?",
            job_task_id.bytes, NO_ATTEMPT, limit,
        )  # fmt: skip
        cancels = self.attempt(job_task_id, NO_ATTEMPT)
        return JobTaskHistory(
            task, invocation, self._attempts(job_task_id, rows), cancels.decision.steps if cancels else ""
        )

    def _attempts(self, job_task_id: UUID, rows: list[Row]) -> list[Attempt]:
        decisions = {row[0]: mapping.decision_of(row[2]) for row in rows if not row[1]}
        reports = {(row[0], row[1]): mapping.report_of(row[2]) for row in rows if row[1]}
        streams: dict[tuple[int, str], dict[Stream, StreamState]] = defaultdict(dict)
        for key, state in OutputReader(self.database).of_job_task(job_task_id).items():
            streams[key[1], key[2]][key[3]] = state
        return [
            Attempt(n, decided, reports.get((n, decided.proxy)), streams.get((n, decided.proxy), {}))
            for n, decided in sorted(decisions.items())
        ]

    def attempt(self, job_task_id: UUID, attempt: int) -> Attempt | None:
        """One attempt, without its streams."""
        rows = self._select(
            "proxy, facts", "attempts where job_task_id = ? and attempt = ?", job_task_id.bytes, attempt
        )
        facts: dict[str, str] = {row[0]: row[1] for row in rows}
        if "" not in facts:
            return None
        decision = mapping.decision_of(facts[""])
        told = facts.get(decision.proxy) if decision.proxy else None
        return Attempt(attempt, decision, None if told is None else mapping.report_of(told))

    def groups(self, job_invocation_id: UUID, limit: int, names: int = MAX_NAMES) -> list[OutputGroup]:
        """Groups of equal ends, failures first, then the largest."""
        rows = self._select(
            "group_id, status, reason, exit_status, digests, lengths, count",
            "output_groups where job_invocation_id = ? order by ordinal, count desc, group_id limit ?",
            job_invocation_id.bytes,
            limit,
        )
        return [group for row in rows if (group := self._group(job_invocation_id, row, names)) is not None]

    def _group(self, job_invocation_id: UUID, row: Row, names: int) -> OutputGroup | None:
        members = self._select(
            "host_name, job_task_id, detail",
            "job_tasks where job_invocation_id = ? and group_id = ? order by host_name limit ?",
            job_invocation_id.bytes,
            row[0],
            names,
        )
        if not members:
            return None
        values = {
            "status": row[1],
            "reason": row[2],
            "exit_status": row[3],
            "digests": from_json(row[4]),
            "lengths": from_json(row[5]),
            "count": row[6],
        }
        return output_group(values, [member[0] for member in members], UUID(bytes=members[0][1]), members[0][2])

    # --- hosts, proxies, people -------------------------------------------------------------------------------------

    def host(self, host_id: UUID) -> Host | None:
        rows = self._select(mapping.HOST, "hosts where host_id = ? and is_removed = 0", host_id.bytes)
        return mapping.host_of(rows[0]) if rows else None

    def host_named(self, name: str) -> Host | None:
        rows = self._select(mapping.HOST, "hosts where is_removed = 0 and name = ? limit 1", name)
        return mapping.host_of(rows[0]) if rows else None

    def hosts(self, name: str, limit: int, after: str) -> Found[Host]:
        """By name; those whose name contains `name`, or fits it where it has a `*`. ValueError if `after` is no cursor."""
        pattern = name if "*" in name or not name else f"*{name}*"
        where, values = _where(("is_removed = ?", 0), *_named("name", pattern))
        total = self._count("hosts", where, values)
        if after:
            last_name, last = read_cursor(after, (str, str))
            where = f"{where} and (name, host_id) > (?, ?)"
            values = [*values, last_name, bytes.fromhex(str(last))]
        rows = self._select(mapping.HOST, f"hosts{where} order by name, host_id limit ?", *values, limit + 1)
        return _found(list(map(mapping.host_of, rows)), rows, total, limit, lambda row: (row[2], row[0].hex()))

    def observations(self, host_ids: Sequence[UUID]) -> dict[UUID, list[Observation]]:
        found: dict[UUID, list[Observation]] = {host_id: [] for host_id in host_ids}
        if host_ids:
            places = ",".join("?" * len(host_ids))
            ids = [host_id.bytes for host_id in host_ids]
            for row in self._select(mapping.OBSERVATION, f"observations where host_id in ({places})", *ids):
                one = mapping.observation_of(row)
                found[one.host_id].append(one)
        return found

    def count_hosts(self) -> int:
        return self._count("hosts", " where is_removed = ?", [0])

    def agents(self) -> list[Agent]:
        return list(map(mapping.agent_of, self._select(mapping.AGENT, "agents")))

    def proxies(self) -> set[str]:
        """Proxies with a living agent key."""
        return {
            row[0] for row in self._select("distinct proxy", "agent_keys where is_revoked = ? and proxy <> ?", 0, "")
        }

    def proxy_sizes(self) -> dict[str, ProxySize]:
        """What people assigned to proxies, by name."""
        return {
            size.proxy: size for size in map(mapping.proxy_size_of, self._select(mapping.PROXY_SIZE, "proxy_sizes"))
        }

    def token(self, digest: str) -> Token | None:
        """The access token with this SHA-256 (hex)."""
        rows = self._select(mapping.TOKEN, "tokens where token_sha256 = ?", digest)
        return mapping.token_of(rows[0]) if rows else None

    def user(self, login: str) -> User | None:
        rows = self._select(mapping.USER, "users where login = ?", login)
        return mapping.user_of(rows[0]) if rows else None

    def outcome(self, command_id: UUID) -> CommandOutcome | None:
        rows = self._select(mapping.COMMAND_OUTCOME, "command_outcomes where command_id = ?", command_id.bytes)
        return mapping.command_outcome_of(rows[0]) if rows else None

    def messages_read(self, topic: str) -> int:
        """How many messages of a topic were read so far."""
        rows = self._select("coalesce(sum(next_position), 0)", "positions where topic = ?", topic)
        return int(rows[0][0])

    def _select(self, columns: str, rest: str, *values: Any) -> list[Row]:
        return self.database.query(f"select {columns} from {rest}", values)

    def _count(self, table: str, where: str, values: Sequence[Any]) -> int:
        return int(self.database.query(f"select count(*) from {table}{where}", values)[0][0])


def _where(*terms: tuple[str, Any]) -> tuple[str, list[Any]]:
    """The terms that have a value, joined by and; a tuple gives several values."""
    given = [(text, value if isinstance(value, tuple) else (value,)) for text, value in terms if value is not None]
    if not given:
        return "", []
    return " where " + " and ".join(text for text, _ in given), [v for _, values in given for v in values]


def _both(first: str, second: str) -> str:
    return first + second.replace(" where ", " and ", 1) if first else second


def _named(column: str, name: str) -> list[tuple[str, Any]]:
    if not name:
        return []
    if "*" not in name:
        return [(f"{column} = ?", name)]
    escaped = name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return [(f"{column} like ? escape '\\'", escaped.replace("*", "%"))]


def _found(items: list[T], rows: list[Row], total: int, limit: int, place: Any) -> Found[T]:
    if len(items) <= limit:
        return Found(items, total, None)
    return Found(items[:limit], total, write_cursor(*place(rows[limit - 1])))
