"""The store as the planner's shell uses it: reading facts, writing one change in one transaction, handing out what to publish.

Owns the queries. It decides nothing; every method blocks, so the shell calls it in threads.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

from chargehand_chassis.clock import now
from chargehand_chassis.kafka import Mark
from chargehand_schemas.base import Item, as_utc
from chargehand_schemas.catalog import JobTemplateSaved
from chargehand_schemas.commands import HostRecord, Targeting
from chargehand_schemas.dispatch import AttemptDue
from chargehand_schemas.planning import JobTasksPlanned
from chargehand_schemas.reasons import Role
from eventsourcing.persistence import Tracking

from ...core.bindings import Binding, Proxy
from ...core.hosts import Host
from ...core.job_invocations import HOST_ID_BYTES, JobInvocation
from ...core.keys import Key
from ...core.outcomes import Append
from ...core.plans import PlannedHost
from ...core.rights import Principal
from ...core.routing import routed
from ...core.targeting import Inventory
from ...core.users import UserLookups
from ...core.words import SHOWN
from . import reading
from .engines import LEASE, SCHEMA, Engine, PostgresEngine, Row, SQLiteEngine, Transaction
from .records import Change, Due, Position, Sending
from .stored_events import append_of, encode
from .writing import check_owner, position_name, write

FILE_NAME = "planner.sqlite"
NOTIFICATIONS_AT_ONCE = 200
OUTBOX_AT_ONCE = 50
REMEMBERED_ROWS = 100
NEAR_NAMES = 200


KEEP_SENDINGS = 200
KEEP_SENT_FOR = timedelta(minutes=1)
"""How much of what was published is kept, in records of a partition and by age: a log that a crash of its machine has cut is
given it again (docs/adr/0023). Events are kept for ever."""

_MARK = """
    insert into marks (partition_name, next_offset, append_ms) values (?, ?, ?)
    on conflict (partition_name) do update set next_offset = excluded.next_offset, append_ms = excluded.append_ms
    where marks.next_offset < excluded.next_offset
"""
_SENDING = """
    insert into sendings (partition_name, next_offset, notification_id, outbox_id, sent_at)
    select ?, ?, position, coalesce((select max(id) from outbox where is_sent = 1), 0), ? from relay where id = 1
    on conflict (partition_name, next_offset) do nothing
"""
_FORGET_SENDINGS = """
    delete from sendings where partition_name = ? and next_offset <
    (select max(next_offset) from sendings where partition_name = ? and next_offset <= ? and sent_at < ?)
"""
_FORGET_SENT = """
    delete from outbox where is_sent = 1 and id <= (select coalesce(max(outbox_id), 0) from sendings where sent_at < ?)
"""
_ENDED = "job_invocation_id in (select job_invocation_id from invocations where is_ended = 1)"
_FORGET_BINDINGS = f"delete from bindings where bound_at < ? and {_ENDED}"  # noqa: S608 (our own text)
_FORGET_SCRIPTS = f"delete from scripts where rendered_at < ? and {_ENDED}"  # noqa: S608 (our own text)


def open_store(directory: Path, url: str = "", schema: str = SCHEMA, *, lease: timedelta = LEASE) -> PlannerStore:
    """SQLite in the directory, or PostgreSQL at the URL, brought to the present schema. `lease`: a relay that stands still for so
    long is another's.

    FatalFailure if the schema is newer than this program, or `eventsourcing` is set up to miss events; TransientFailure if
    it cannot be opened now."""
    return PlannerStore(PostgresEngine(url, schema, lease) if url else SQLiteEngine(directory / FILE_NAME))


class PlannerStore:
    """Queries and changes. Safe to use from several threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.is_shared = engine.is_shared
        self._unread: dict[int, list[Item]] = {}
        self._unread_lock = threading.Lock()

    def close(self) -> None:
        self._engine.close()

    # Ownership and positions

    def take(self, partitions: Sequence[Position]) -> tuple[dict[Position, int], dict[Position, str]]:
        """Become the owner of these partitions: their positions and the tokens that prove it. Earlier owners are fenced off."""
        tokens = {partition: secrets.token_hex(8) for partition in partitions}

        def after(transaction: Transaction) -> None:
            transaction.many(
                """
                insert into owners (partition_name, epoch, token) values (?, 1, ?)
                on conflict (partition_name) do update set epoch = owners.epoch + 1, token = excluded.token
                """,
                [(position_name(partition), token) for partition, token in tokens.items()],
            )

        self._engine.write([], [], _nothing, after)
        return self.positions(partitions), tokens

    def positions(self, partitions: Sequence[Position]) -> dict[Position, int]:
        """The offsets to go on from, of those that have one."""
        found = {partition: self._position(partition) for partition in partitions}
        return {partition: offset for partition, offset in found.items() if offset is not None}

    def heard(self, partitions: Sequence[Position]) -> dict[Position, Mark]:
        """The same with the broker's time of the message before each, where it is known."""
        names = {position_name(partition): partition for partition in partitions}
        with self._engine.read() as tx:
            rows = tx.rows(
                "select partition_name, next_offset, append_ms from heard where partition_name {in}", tx.as_list(names)
            )
        times = {(names[row["partition_name"]], row["next_offset"]): row["append_ms"] for row in rows}
        found = self.positions(partitions)
        return {one: Mark(found.get(one, 0), times.get((one, found.get(one, 0)), 0)) for one in partitions}

    def _position(self, partition: Position) -> int | None:
        return self._engine.recorder.max_tracking_id(position_name(partition))

    # One transaction

    def record(self, change: Change) -> None:
        """Write all of it or nothing. Conflict: a place was taken, read again; Fenced: a partition is another's."""
        trackings = [Tracking(position_name(partition), offset) for partition, offset in change.positions.items()]

        def before(transaction: Transaction) -> None:
            check_owner(transaction, change.tokens)

        written: dict[int, list[Item]] = {}

        def after(transaction: Transaction) -> None:
            written.clear()
            written.update(write(transaction, change))

        self._engine.write(encode(change.appends), trackings, before, after)
        self._remember(written)

    def _remember(self, written: Mapping[int, list[Item]]) -> None:
        """Rows of the outbox that need not be parsed when they are read back, which is a third of the relay's work."""
        with self._unread_lock:
            self._unread |= written
            while len(self._unread) > REMEMBERED_ROWS:
                del self._unread[next(iter(self._unread))]

    def _items(self, row: Row) -> Sequence[Item]:
        with self._unread_lock:
            items = self._unread.get(row["id"])
        return reading.items(row) if items is None else items

    # Hosts

    def hosts_by_name(self, names: Iterable[str]) -> dict[str, Host]:
        """Hosts that are in the inventory."""
        with self._engine.read() as tx:
            rows = tx.rows(
                "select host_id, version, is_removed, document from hosts where is_removed = 0 and name {in}",
                tx.as_list(names),
            )
        found = map(reading.host, rows)
        return {host.record.name: host for host in found}

    def hosts_by_id(self, host_ids: Iterable[UUID]) -> dict[UUID, Host]:
        """Hosts, also removed ones."""
        with self._engine.read() as tx:
            return reading.hosts(tx, host_ids)

    def host_record(self, host_id: UUID, version: int) -> HostRecord | None:
        """A host as it was assigned in that version."""
        for append in self._stream(host_id, version - 1, version):
            record: HostRecord | None = getattr(append.event, "host", None)
            return record
        return None

    def inventory(self, targeting: Targeting) -> Inventory:
        """What the targeting asks for, as it is now; for unknown names also names near them."""
        with self._engine.read() as tx:
            named = reading.ids_by_name(tx, targeting.host_names)
            present = reading.present(tx, targeting.host_ids)
            everyone = reading.everyone(tx) if targeting.all else ()
            unknown = [name for name in targeting.host_names if name not in named][:SHOWN]
            near = {name: reading.near(tx, name) for name in unknown}
        return Inventory(named, present, everyone, near)

    # Templates

    def template(self, name_or_id: str) -> JobTemplateSaved | None:
        """The newest version of a template, by name or id."""
        with self._engine.read() as tx:
            rows = tx.rows(
                "select document from templates where name = ? or template_id = ? order by name = ? desc",
                name_or_id, name_or_id.lower(), name_or_id,
            )  # fmt: skip
        return JobTemplateSaved.model_validate_json(rows[0]["document"]) if rows else None

    def template_version(self, template_id: UUID, version: int) -> JobTemplateSaved | None:
        """A template as it was in that version; versions never change."""
        for append in self._stream(template_id, version - 1, version):
            if isinstance(append.event, JobTemplateSaved):
                return append.event
        return None

    def templates(self) -> dict[UUID, str]:
        """Names by id."""
        with self._engine.read() as tx:
            return {UUID(row["template_id"]): row["name"] for row in tx.rows("select template_id, name from templates")}

    # Invocations

    def invocation(self, job_invocation_id: UUID) -> JobInvocation | None:
        return self.invocations([job_invocation_id]).get(job_invocation_id)

    def invocations(self, ids: Iterable[UUID]) -> dict[UUID, JobInvocation]:
        with self._engine.read() as tx:
            rows = tx.rows("select state from invocations where job_invocation_id {in}", tx.as_list(map(str, ids)))
        found = (reading.invocation(row["state"]) for row in rows)
        return {invocation.job_invocation_id: invocation for invocation in found}

    def targeted(self, job_invocation_id: UUID) -> tuple[UUID, ...]:
        """The hosts an invocation is for, in their order."""
        with self._engine.read() as tx:
            rows = tx.rows("select host_ids from invocations where job_invocation_id = ?", str(job_invocation_id))
        packed = bytes(rows[0]["host_ids"] or b"") if rows else b""
        return tuple(
            UUID(bytes=packed[start : start + HOST_ID_BYTES]) for start in range(0, len(packed), HOST_ID_BYTES)
        )

    def planned_hosts(self, job_invocation_id: UUID, default_proxy: str) -> list[PlannedHost]:
        """The targeted hosts as they are now, removed ones included: each job task comes to a verdict of its own."""
        host_ids = self.targeted(job_invocation_id)
        found: dict[str, PlannedHost] = {}
        with self._engine.read() as tx:
            for some in reading.chunks(host_ids, 5000):
                rows = tx.rows("select host_id, name, proxy from hosts where host_id {in}", tx.as_list(map(str, some)))
                for row in rows:
                    proxy = row["proxy"] or default_proxy
                    found[row["host_id"]] = PlannedHost(UUID(row["host_id"]), row["name"], proxy)
        return [found[str(host_id)] for host_id in host_ids]

    def plan_chunks(self, job_invocation_id: UUID, numbers: Collection[int]) -> list[JobTasksPlanned]:
        """Chunks of a plan as they were stored; no numbers: all of them."""
        events = (append.event for append in self._stream(job_invocation_id, None, None))
        chunks = [event for event in events if isinstance(event, JobTasksPlanned)]
        return [chunk for chunk in chunks if not numbers or chunk.chunk in numbers]

    def sealed_inputs(self, ids: Iterable[UUID]) -> dict[UUID, dict[str, str]]:
        """Hidden values by invocation and name, sealed to the vault key (base64)."""
        with self._engine.read() as tx:
            rows = tx.rows(
                "select job_invocation_id, name, sealed from sealed_inputs where job_invocation_id {in}",
                tx.as_list(map(str, ids)),
            )
        found: dict[UUID, dict[str, str]] = {}
        for row in rows:
            found.setdefault(UUID(row["job_invocation_id"]), {})[row["name"]] = row["sealed"]
        return found

    # People and keys

    def principals(self, actors: Iterable[str]) -> dict[str, Principal]:
        """Those of the actors that exist: people by login, programs by the keys of their name."""
        with self._engine.read() as tx:
            return {
                actor: principal for actor in set(actors) if (principal := reading.principal(tx, actor)) is not None
            }

    def user_lookups(self, login: str = "", token_id: UUID | None = None, token_sha256: str = "") -> UserLookups:
        with self._engine.read() as tx:
            token = reading.token(tx, token_id) if token_id else None
            digests = tx.rows("select token_id, token_sha256 from tokens where token_sha256 = ?", token_sha256)
            administrators = tx.rows("select login from users where is_disabled = 0")
            return UserLookups(
                person=reading.person(tx, login),
                token=token,
                token_owner=reading.person(tx, token.login) if token else None,
                administrators=frozenset(row["login"] for row in administrators),
                known_digests={row["token_sha256"]: UUID(row["token_id"]) for row in digests},
            )

    def key(self, kid: str) -> Key | None:
        with self._engine.read() as tx:
            rows = tx.rows(f"{reading.KEYS} where kid = ?", kid)
        return reading.key(rows[0]) if rows else None

    def all_keys(self) -> list[Key]:
        """All keys and enrolment tokens."""
        with self._engine.read() as tx:
            return [reading.key(row) for row in tx.rows(f"{reading.KEYS} order by kid")]

    def agents_of(self, proxy: str) -> list[Key]:
        """The living keys of a proxy's agents."""
        with self._engine.read() as tx:
            rows = tx.rows(f"{reading.KEYS} where role = ? and subject = ?", Role.AGENT.value, proxy)
        return [key for key in map(reading.key, rows) if key.is_alive]

    def proxies(self) -> dict[str, Proxy]:
        """Proxies that ever had an agent, whether they have one now, and what its agents offer."""
        with self._engine.read() as tx:
            agents = tx.rows("select subject, is_revoked from keys where role = ?", Role.AGENT.value)
            offers = tx.rows("select proxy, providers from offers")
        offered: dict[str, set[str]] = {}
        for row in offers:
            offered.setdefault(row["proxy"], set()).update(json.loads(row["providers"]))
        alive = {row["subject"] for row in agents if not row["is_revoked"]}
        names = {row["subject"] for row in agents}
        return {name: Proxy(name, name in alive, frozenset(offered.get(name, ()))) for name in names}

    # Commands and bindings

    def handled(self, command_ids: Iterable[UUID]) -> set[UUID]:
        """Those that were decided before."""
        with self._engine.read() as tx:
            rows = tx.rows("select command_id from handled where command_id {in}", tx.as_list(map(str, command_ids)))
        return {UUID(row["command_id"]) for row in rows}

    def bindings(self, job_task_ids: Iterable[UUID]) -> dict[UUID, list[Binding]]:
        """What was decided so far for the attempts of these job tasks."""
        with self._engine.read() as tx:
            rows = tx.rows("select * from bindings where job_task_id {in}", tx.as_list(map(str, job_task_ids)))
        found: dict[UUID, list[Binding]] = {}
        for binding in map(reading.binding, rows):
            found.setdefault(binding.job_task_id, []).append(binding)
        return found

    def parked(self, partitions: Iterable[Position]) -> list[Due]:
        """Attempts that were waiting for a slow rendering."""
        names = {position_name(partition): partition for partition in partitions}
        with self._engine.read() as tx:
            rows = tx.rows("select partition_name, document from parked where partition_name {in}", tx.as_list(names))
        return [Due(AttemptDue.model_validate_json(row["document"]), names[row["partition_name"]]) for row in rows]

    def parked_attempts(self, job_task_ids: Iterable[UUID]) -> set[tuple[UUID, int]]:
        with self._engine.read() as tx:
            rows = tx.rows(
                "select job_task_id, attempt from parked where job_task_id {in}", tx.as_list(map(str, job_task_ids))
            )
        return {(UUID(row["job_task_id"]), row["attempt"]) for row in rows}

    def host_reports(self, host_ids: Iterable[UUID]) -> dict[tuple[UUID, str], str]:
        """What was last observed, by host and kind, as JSON."""
        with self._engine.read() as tx:
            rows = tx.rows(
                "select host_id, kind, document from host_reports where host_id {in}", tx.as_list(map(str, host_ids))
            )
        return {(UUID(row["host_id"]), row["kind"]): row["document"] for row in rows}

    def forget(self, before: datetime) -> int:
        """Drop bindings of ended invocations, older than any log or backup that could repeat them (docs/protocol.md, KEEP)."""
        dropped = 0

        def after(transaction: Transaction) -> None:
            nonlocal dropped
            moment = as_utc(before)
            dropped = transaction.run(_FORGET_BINDINGS, moment)
            dropped += transaction.run(_FORGET_SCRIPTS, moment)

        self._engine.write([], [], _nothing, after)
        return dropped

    # Publishing

    def take_relay_lock(self) -> bool:
        """Whether this process is the one that publishes."""
        return self._engine.take_relay_lock()

    def keep_relay_lock(self) -> None:
        """Show that this process goes on, if it is the one that publishes."""
        self._engine.keep_relay_lock()

    def wait_for_commit(self, timeout: timedelta) -> bool:
        """Whether another process committed within this time; at once False when there can be none."""
        return self._engine.wait_for_commit(timeout.total_seconds())

    def next_sending(self) -> Sending:
        """What to publish next. The binder's items come after every event that was stored before them."""
        with self._engine.read() as tx:
            # Read first: whatever these follow from is committed, and found below.
            rows = tx.rows(
                "select id, type, document from outbox where is_sent = 0 order by id limit ?", OUTBOX_AT_ONCE
            )
            position = int(tx.rows("select position from relay where id = 1")[0]["position"])
        notifications = self._engine.recorder.select_notifications(
            position, NOTIFICATIONS_AT_ONCE, inclusive_of_start=False
        )
        outgoing = [message for n in notifications if (message := reading.outgoing(n.topic, n.state)) is not None]
        if len(notifications) == NOTIFICATIONS_AT_ONCE:
            rows = []
        for row in rows:
            outgoing += [message for item in self._items(row) if (message := routed(item)) is not None]
        last = notifications[-1].id if notifications else None
        return Sending(outgoing, last, [row["id"] for row in rows])

    def note_sent(
        self, sending: Sending, ends: Mapping[Position, Mark] | None = None, moment: datetime | None = None
    ) -> None:
        """It was acknowledged; `ends` are the places after the last messages of this planner, where they went on."""
        at = moment or now()
        before = as_utc(at - KEEP_SENT_FOR)

        def after(transaction: Transaction) -> None:
            if sending.notification_id is not None:
                position = sending.notification_id
                transaction.run("update relay set position = ? where id = 1 and position < ?", position, position)
            transaction.many("update outbox set is_sent = 1 where id = ?", [(row_id,) for row_id in sending.outbox_ids])
            named = [(position_name(partition), *mark) for partition, mark in (ends or {}).items()]
            transaction.many(_MARK, named)
            transaction.many(_SENDING, [(name, end, as_utc(at)) for name, end, _ in named])
            transaction.many(_FORGET_SENDINGS, [(name, name, end - KEEP_SENDINGS, before) for name, end, _ in named])
            transaction.run(_FORGET_SENT, before)

        self._engine.write([], [], _nothing, after)
        with self._unread_lock:
            for row_id in sending.outbox_ids:
                self._unread.pop(row_id, None)

    def marks(self, partitions: Iterable[Position]) -> dict[Position, Mark]:
        """How far this planner's own messages are known to stand in the log, of partitions where they do."""
        names = {position_name(partition): partition for partition in partitions}
        with self._engine.read() as tx:
            rows = tx.rows(
                "select partition_name, next_offset, append_ms from marks where partition_name {in}", tx.as_list(names)
            )
        return {names[row["partition_name"]]: Mark(row["next_offset"], row["append_ms"]) for row in rows}

    def unpublished_ids(self) -> set[UUID]:
        """The items that were not acknowledged yet, as far as this store knows."""
        with self._engine.read() as tx:
            position = int(tx.rows("select position from relay where id = 1")[0]["position"])
            rows = tx.rows("select id, type, document from outbox where is_sent = 0")
        ids = {item.id for row in rows for item in reading.items(row)}
        recorder = self._engine.recorder
        while some := recorder.select_notifications(position, NOTIFICATIONS_AT_ONCE, inclusive_of_start=False):
            ids |= {out.item.id for n in some if (out := reading.outgoing(n.topic, n.state)) is not None}
            position = some[-1].id
        return ids

    def unpublished(self) -> int:
        """How many rows wait to be published."""
        with self._engine.read() as tx:
            position = int(tx.rows("select position from relay where id = 1")[0]["position"])
            waiting = int(tx.rows("select count(*) as n from outbox where is_sent = 0")[0]["n"])
        return max(0, int(self._engine.recorder.max_notification_id() or 0) - position) + waiting

    def version_of(self, stream: UUID) -> int:
        """The version of the last event of a stream; 0: it has none."""
        return max((append.version for append in self._stream(stream, None, None)), default=0)

    def _stream(self, stream: UUID, gt: int | None, lte: int | None) -> Iterator[Append]:
        yield from map(append_of, self._engine.recorder.select_events(stream, gt=gt, lte=lte))


def _nothing(transaction: Transaction) -> None:
    """No check."""
