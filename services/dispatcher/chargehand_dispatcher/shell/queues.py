# ruff: noqa: S608 (what is put into statements are our own names and question marks; values are bound)
"""Queues: which job tasks of an invocation and a proxy wait for a slot, and when the first of them is due.

Owns the table `queue` and what is asked about slots set-wise. Who gets one is decided in core/claims.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from chargehand_dispatcher.core.job_task import JobTask, State

from .database import Database
from .rows import JOB_TASKS, as_us, job_task_of
from .slots import IN_A_SLOT

_ALL = 2**31 - 1
_HELD_BACK_US = 2**53
"""An instant that never comes, in microseconds: of job tasks that a rolling invocation has not let go yet."""
_WAITS = "job_invocation_id = ? and proxy = ? and state = 'waiting'"


class Queues:
    """Used within the transactions of the store. `released`: how many hosts of a rolling invocation were let go; None: all."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def due(self, partitions: Sequence[int], now_us: int) -> list[tuple[UUID, str]]:
        """Invocation and proxy of each in which somebody may be due."""
        marks = ", ".join("?" for _ in partitions)
        question = f"select job_invocation_id, proxy from queue where partition in ({marks}) and next_due <= ?"
        return [(UUID(bytes=one), proxy) for one, proxy in self._database.execute(question, (*partitions, now_us))]

    def held(self, proxies: Sequence[str]) -> tuple[Counter[str], Counter[UUID]]:
        """Slots by proxy and by invocation, counted in rows, over all partitions; where others count too, they wait until this
        transaction is over."""
        if self._database.is_shared:
            self._database.put("proxy_slots", ("proxy",), ("proxy",), [(proxy,) for proxy in proxies])
            marks = ", ".join("?" for _ in proxies)
            lock = f"select proxy from proxy_slots where proxy in ({marks}) order by proxy for update"
            self._database.execute(lock, proxies)
        by_proxy: Counter[str] = Counter()
        of_invocation: Counter[UUID] = Counter()
        columns = "proxy, job_invocation_id"
        question = f"select {columns}, count(*) from job_task where {IN_A_SLOT} group by {columns}"
        for proxy, one, count in self._database.execute(question):
            by_proxy[proxy] += count
            of_invocation[UUID(bytes=one)] += count
        return by_proxy, of_invocation

    def first(self, job_invocation_id: UUID, proxy: str, now_us: int, released: int | None, most: int) -> list[JobTask]:
        """Those of a queue that are due, in the order of claims."""
        question = f"{JOB_TASKS}{_WAITS} and due_at <= ? and ordinal < ? order by due_at, ordinal limit ?"
        values = (job_invocation_id.bytes, proxy, now_us, _ALL if released is None else released, most)
        return [job_task_of(row) for row in self._database.execute(question, values)]

    def look_at_first(self, job_invocation_id: UUID, proxy: str, released: int | None) -> None:
        """Note when the next one of a queue is due. What a rolling invocation holds back waits for no instant: its queues are woken
        when more is let go."""
        key = (job_invocation_id.bytes, proxy)
        rows = self._database.execute(
            f"select due_at from job_task where {_WAITS} and ordinal < ? order by due_at limit 1",
            (*key, _ALL if released is None else released),
        )
        if not rows and released is not None:
            rows = self._database.execute(f"select {_HELD_BACK_US} from job_task where {_WAITS} limit 1", key)
        if rows:
            statement = "update queue set next_due = ? where job_invocation_id = ? and proxy = ?"
            self._database.execute(statement, (rows[0][0], *key))
        else:
            self._database.execute("delete from queue where job_invocation_id = ? and proxy = ?", key)

    def next_due(self, partitions: Sequence[int], *, after_us: int = -1) -> int | None:
        """The first instant, later than that one, at which somebody may be due; None: there is none."""
        marks = ", ".join("?" for _ in partitions)
        question = f"select min(next_due) from queue where partition in ({marks}) and next_due > ? and next_due < ?"
        found: int | None = self._database.execute(question, (*partitions, after_us, _HELD_BACK_US))[0][0]
        return found

    def note(self, changed: Iterable[JobTask], places: Mapping[UUID, int]) -> None:
        """Queues know when their first job task is due, or earlier. `places`: the partition of each invocation."""
        due: dict[tuple[UUID, str], int] = {}
        for job_task in changed:
            if job_task.state is State.WAITING:
                key = (job_task.job_invocation_id, job_task.proxy)
                at = as_us(job_task.due_at)
                due[key] = min(at, due.get(key, at))
        for (one, proxy), at in sorted(due.items()):
            self._database.execute(
                "insert into queue values (?, ?, ?, ?) on conflict (job_invocation_id, proxy) do update set "
                "next_due = excluded.next_due where excluded.next_due < queue.next_due",
                (one.bytes, proxy, places[one], at),
            )

    def wake(self, job_invocation_id: UUID) -> None:
        """Look at them now: more may have been let go."""
        statement = "update queue set next_due = 0 where job_invocation_id = ?"
        self._database.execute(statement, (job_invocation_id.bytes,))

    def forget(self, job_invocation_id: UUID) -> None:
        """Of an invocation that has ended."""
        self._database.execute("delete from queue where job_invocation_id = ?", (job_invocation_id.bytes,))
