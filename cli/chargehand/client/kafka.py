"""Chargehand over Kafka, as an enrolled program: signed commands out, verified events and notifications in.

Owns waiting for what became of a command. Who the program may speak for was said when it was enrolled; what a command means is
the planner's. The vocabulary is that of `client.http`.

    async with KafkaClient(kafka, key_file=Path("nightly.json"), planner_key_file=Path("planner.pub.json")) as client:
        accepted = await client.invoke(targeting=Targeting(host_names=("web1",)), inputs={"command": "uptime"})
        ended = await client.wait(accepted.job_invocation_id)
"""

from __future__ import annotations

import asyncio
import base64
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar
from uuid import UUID

from chargehand_chassis.clock import now
from chargehand_chassis.errors import ChargehandError, PublishFailed
from chargehand_chassis.kafka import KeyringFollower, Publisher, Received, Rejected, TopicFollower, TopicPartition
from chargehand_chassis.keys import OwnKeys, enrolment_keys, generate_keys, load_keys, load_pinned_planner, seal
from chargehand_chassis.settings import KafkaSettings
from chargehand_schemas.base import Item
from chargehand_schemas.batches import Outgoing
from chargehand_schemas.catalog import CommandDecided, KeyEnrolled
from chargehand_schemas.commands import (
    CancelJobInvocation,
    EditJobInvocation,
    EnrolKey,
    InvokeJob,
    SaveJobTemplate,
    Targeting,
    TemplateInput,
)
from chargehand_schemas.dispatch import JobInvocationEnded
from chargehand_schemas.ids import item_id, new_id
from chargehand_schemas.keyring import Writer
from chargehand_schemas.planning import (
    CancelRefused,
    EditRefused,
    JobInvocationAccepted,
    JobInvocationCancelRequested,
    JobInvocationEdited,
    JobInvocationRefused,
)
from chargehand_schemas.progress import ProgressReport
from chargehand_schemas.properties import ExecutionOverrides, ExecutionProperties
from chargehand_schemas.topics import CATALOG_EVENTS, COMMANDS, DISPATCH_EVENTS, NOTIFICATIONS, PLANNING_EVENTS

from .errors import ClientError, NotFound, Pending, Refused, Unreachable

T = TypeVar("T")

Start = Literal["beginning", "end"] | Mapping[TopicPartition, int]
"""Where to begin to read: all that stands, only what comes from now on, or an offset for each partition."""

_FOLLOWED = (PLANNING_EVENTS, DISPATCH_EVENTS, CATALOG_EVENTS, NOTIFICATIONS)
_DECIDED_WITHIN = timedelta(seconds=30)
_REMEMBERED_ENDS = 10_000


@dataclass(frozen=True, slots=True)
class Event:
    """One fact, verified: who wrote it, where it stands, and for output its bytes."""

    topic: str
    partition: int
    offset: int
    append_time: datetime
    type: str
    source: str
    writer: Writer
    item: Item
    data: bytes = b""


class KafkaClient:
    """An enrolled program. Use it as an async context manager; it follows what became of its commands from its start on.

    Raises Unreachable, Refused and Pending.
    """

    def __init__(
        self, kafka: KafkaSettings, *, key_file: Path, planner_key_file: Path, actor: str | None = None
    ) -> None:
        """`key_file`: its own keys, enrolled by `enrol`. `actor`: whom it speaks for (`user:LOGIN`); default: itself."""
        self._kafka = kafka
        self._keys = load_keys(key_file)
        self._planner = load_pinned_planner(planner_key_file)
        self._keyring = KeyringFollower(kafka, self._planner)
        self._actor = actor
        self._publisher = Publisher(kafka, self._keys, f"program/{self._keys.kid}")
        self._decisions: dict[UUID, asyncio.Future[Any]] = {}
        self._ends: OrderedDict[UUID, asyncio.Future[JobInvocationEnded]] = OrderedDict()
        self._following: asyncio.Task[None] | None = None
        self._follower = TopicFollower(kafka, [topic.name for topic in _FOLLOWED], "end")
        self._joined: dict[TopicPartition, int] = {}

    async def __aenter__(self) -> KafkaClient:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Connect. Unreachable if the brokers are not there, NotFound if the key is not enrolled."""
        with _translated():
            await self._keyring.start()
            await self._publisher.start()
            await self._follower.start()
            for partition in self._follower.partitions:
                self._joined[partition] = await self._follower.position(partition)
        writer = self._keyring.keyring.find(self._keys.kid)
        if writer is None or writer.is_revoked:
            await self.stop()
            raise NotFound(
                "key_not_enrolled", f"key {self._keys.kid} is not enrolled, or revoked: use `enrol` with a token"
            )
        self._actor = self._actor or f"service:{writer.subject}"
        self._following = asyncio.create_task(self._follow(), name="follows decisions")

    async def stop(self) -> None:
        """Send what is buffered and disconnect."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait({self._following})
        await self._follower.stop()
        await self._publisher.stop()
        await self._keyring.stop()

    @staticmethod
    async def enrol(
        kafka: KafkaSettings,
        token: str,
        *,
        key_file: Path,
        planner_key_file: Path,
        within: timedelta = _DECIDED_WITHIN,
    ) -> str:
        """Use a one-time token: make keys in `key_file` (kept if it is there) and have them enrolled. The name they speak under.

        Refused(token_invalid) if the token was used, is too old or unknown; Pending if there is no answer within the time.
        """
        keys = _own_keys(key_file)
        keyring = KeyringFollower(kafka, load_pinned_planner(planner_key_file))
        with _translated():
            await keyring.start()
        try:
            known = keyring.keyring.find(keys.kid)
            return known.subject if known else await _enrol(kafka, enrolment_keys(token), keys, keyring, within)
        finally:
            await keyring.stop()

    # --- commands ---

    async def invoke(
        self,
        template: str = "Run Command",
        *,
        targeting: Targeting,
        inputs: Mapping[str, str] | None = None,
        hidden_inputs: Mapping[str, str] | None = None,
        overrides: ExecutionOverrides | None = None,
        effective_user: str = "",
        effective_user_password: str = "",
        description: str = "",
        start_at: datetime | None = None,
        start_before: datetime | None = None,
        expect_hosts: int | None = None,
        job_invocation_id: UUID | None = None,
        within: timedelta = _DECIDED_WITHIN,
    ) -> JobInvocationAccepted:
        """Invoke a job; returns when the planner accepted it. Refused says why not; Pending if that takes longer than `within`.

        With the same `job_invocation_id` it is the same job, however often it is asked for.
        """
        chosen = job_invocation_id or new_id()
        command = InvokeJob(
            id=item_id("invoke", chosen),
            time=now(),
            actor=self._spoken_for(),
            job_invocation_id=chosen,
            template=template,
            targeting=targeting,
            inputs=dict(inputs or {}),
            sealed_inputs={name: self._sealed(value) for name, value in (hidden_inputs or {}).items()},
            overrides=overrides or ExecutionOverrides(),
            effective_user=effective_user,
            sealed_effective_user_password=self._sealed(effective_user_password) if effective_user_password else "",
            description=description,
            start_at=start_at,
            start_before=start_before,
            expect_hosts=expect_hosts,
        )
        self._ends.setdefault(chosen, asyncio.get_running_loop().create_future())
        decision = await self._decided(command, str(chosen), within)
        if isinstance(decision, JobInvocationRefused):
            self._ends.pop(chosen, None)
            raise Refused(decision.reason.value, decision.detail)
        accepted: JobInvocationAccepted = decision
        return accepted

    async def cancel(
        self, job_invocation_id: UUID, host_ids: Iterable[UUID] = (), *, within: timedelta = _DECIDED_WITHIN
    ) -> JobInvocationCancelRequested:
        """Cancel a job, or its job tasks on some hosts. Refused(already_ended) if there is nothing left to cancel."""
        command = CancelJobInvocation(
            id=new_id(),
            time=now(),
            actor=self._spoken_for(),
            job_invocation_id=job_invocation_id,
            host_ids=tuple(host_ids),
        )
        decision = await self._decided(command, str(job_invocation_id), within)
        if isinstance(decision, CancelRefused):
            raise Refused(decision.reason.value, decision.detail)
        requested: JobInvocationCancelRequested = decision
        return requested

    async def edit(
        self, job_invocation_id: UUID, *, concurrency: int | None, within: timedelta = _DECIDED_WITHIN
    ) -> JobInvocationEdited:
        """Change the concurrency limit of a job that goes on; None: none of its own. Refused(already_ended) if it is over."""
        command = EditJobInvocation(
            id=new_id(),
            time=now(),
            actor=self._spoken_for(),
            job_invocation_id=job_invocation_id,
            concurrency=concurrency,
        )
        decision = await self._decided(command, str(job_invocation_id), within)
        if isinstance(decision, EditRefused):
            raise Refused(decision.reason.value, decision.detail)
        edited: JobInvocationEdited = decision
        return edited

    async def save_template(
        self,
        name: str,
        body: str,
        *,
        template_id: UUID | None = None,
        inputs: Iterable[TemplateInput] = (),
        properties: ExecutionProperties | None = None,
        provider_type: str = "ssh",
        description_format: str = "",
        within: timedelta = _DECIDED_WITHIN,
    ) -> CommandDecided:
        """Make a template, or with its `template_id` a new version of it. Refused says what is wrong with it."""
        command = SaveJobTemplate(
            id=new_id(),
            time=now(),
            actor=self._spoken_for(),
            template_id=template_id,
            name=name,
            body=body,
            inputs=tuple(inputs),
            properties=properties or ExecutionProperties(),
            provider_type=provider_type,
            description_format=description_format,
        )
        decided: CommandDecided = await self._decided(command, str(template_id or command.id), within)
        return decided

    async def wait(self, job_invocation_id: UUID, *, within: timedelta | None = None) -> JobInvocationEnded:
        """The end of a job that was invoked, or ends, after this client started. Pending if it takes longer than `within`."""
        future = self._ends.setdefault(job_invocation_id, asyncio.get_running_loop().create_future())
        return await _awaited(future, within, f"job {job_invocation_id} has not ended")

    # --- events ---

    async def notifications(self, start: Start | None = None) -> AsyncGenerator[Event, None]:
        """What people and programs are told: jobs started, ended, refused; proxies silent and back. By default all since
        this client was started, so that nothing of a job it invokes is missed."""
        async with aclosing(self.events([NOTIFICATIONS.name], start or self._joined)) as events:
            async for event in events:
                yield event

    async def events(self, topics: Iterable[str], start: Start = "end") -> AsyncGenerator[Event, None]:
        """Verified facts of these topics, for ever. What has no valid signature is left out."""
        async with aclosing(read_topics(self._kafka, self._keyring, topics, start)) as messages:
            async for message in messages:
                if isinstance(message, Received):
                    for event in events_of(message):
                        yield event

    # --- inside ---

    def _spoken_for(self) -> str:
        if self._actor is None:
            raise ClientError("not_started", "use it as `async with KafkaClient(…) as client`")
        return self._actor

    def _sealed(self, value: str) -> str:
        return base64.b64encode(seal(self._planner.sealing_key, value.encode())).decode()

    async def _decided(self, command: Item, key: str, within: timedelta) -> Any:
        future = self._decisions.setdefault(command.id, asyncio.get_running_loop().create_future())
        try:
            with _translated():
                await self._publisher.publish([Outgoing(COMMANDS.name, key, command)])
            return await _awaited(future, within, f"command {command.id} is published and not decided")
        finally:
            self._decisions.pop(command.id, None)

    async def _follow(self) -> None:
        try:
            async for record in self._follower.records():
                message = await self._keyring.read(record)
                for item in message.items if isinstance(message, Received) else ():
                    self._take(item)
        except Exception as error:  # noqa: BLE001 (handed to everyone who waits)
            self._fail(Unreachable("unreachable", f"reading what was decided has ended: {error}"))

    def _take(self, item: Item) -> None:
        match item:
            case (
                JobInvocationAccepted()
                | JobInvocationRefused()
                | JobInvocationCancelRequested()
                | CancelRefused()
                | JobInvocationEdited()
                | EditRefused()
            ):
                _settle(self._decisions.get(item.command_id), item)
            case CommandDecided() if item.decision == "refused":
                error = Refused(item.reason.value if item.reason else "refused", item.detail)
                _settle(self._decisions.get(item.command_id), error)
            case CommandDecided():
                _settle(self._decisions.get(item.command_id), item)
            case JobInvocationEnded():
                self._remember_end(item)
            case _:
                pass

    def _remember_end(self, item: JobInvocationEnded) -> None:
        future = self._ends.setdefault(item.job_invocation_id, asyncio.get_running_loop().create_future())
        _settle(future, item)
        while len(self._ends) > _REMEMBERED_ENDS and next(iter(self._ends.values())).done():
            self._ends.popitem(last=False)

    def _fail(self, error: ClientError) -> None:
        for future in (*self._decisions.values(), *self._ends.values()):
            _settle(future, error)


async def _enrol(
    kafka: KafkaSettings, token_keys: OwnKeys, keys: OwnKeys, keyring: KeyringFollower, within: timedelta
) -> str:
    follower = TopicFollower(kafka, [CATALOG_EVENTS.name], "end")
    publisher = Publisher(kafka, token_keys, f"enrolee/{token_keys.kid}")
    try:
        with _translated():
            await follower.start()
            await publisher.start()
            command = _enrolment(token_keys, keys)
            await publisher.publish([Outgoing(COMMANDS.name, token_keys.kid, command)])
            async with asyncio.timeout(within.total_seconds()):
                return await _enrolled(follower, keyring, keys.kid, command.id)
    except TimeoutError as error:
        raise Pending("pending", f"key {keys.kid} is not enrolled yet") from error
    finally:
        await publisher.stop()
        await follower.stop()


def _own_keys(key_file: Path) -> OwnKeys:
    return load_keys(key_file) if key_file.exists() else generate_keys(key_file)


def _enrolment(token_keys: OwnKeys, keys: OwnKeys) -> EnrolKey:
    return EnrolKey(
        id=item_id("enrol", token_keys.kid, keys.kid),
        time=now(),
        token_kid=token_keys.kid,
        signing_key=keys.signing_public.hex(),
        sealing_key=keys.sealing_public.hex(),
    )


async def _enrolled(follower: TopicFollower, keyring: KeyringFollower, kid: str, command_id: UUID) -> str:
    async for record in follower.records():
        message = await keyring.read(record)
        for item in message.items if isinstance(message, Received) else ():
            if isinstance(item, KeyEnrolled) and item.kid == kid:
                return item.subject
            if isinstance(item, CommandDecided) and item.command_id == command_id and item.decision == "refused":
                raise Refused(item.reason.value if item.reason else "refused", item.detail)
    raise Unreachable("unreachable", "the catalog cannot be read any more")


async def read_topics(
    kafka: KafkaSettings, keyring: KeyringFollower, topics: Iterable[str], start: Start, *, is_endless: bool = True
) -> AsyncGenerator[Received | Rejected, None]:
    """Messages of these topics, verified or with the reason why they have no effect; for ever, or to the present end."""
    follower = TopicFollower(kafka, topics, start)
    try:
        with _translated():
            await follower.start()
        ends = {} if is_endless else await follower.end_offsets()
        while is_endless or not await follower.has_reached(ends):
            for records in (await follower.getmany()).values():
                for record in records:
                    yield await keyring.read(record)
    finally:
        await follower.stop()


def events_of(message: Received) -> Iterable[Event]:
    """The facts in one message, each with its own bytes."""
    position = 0
    for item in message.items:
        length = item.length if isinstance(item, ProgressReport) else 0
        yield Event(
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
            append_time=message.append_time,
            type=message.type.name,
            source=message.source,
            writer=message.writer,
            item=item,
            data=message.raw[position : position + length],
        )
        position += length


class _translated:
    """Errors of the chassis as those of a client."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, PublishFailed):
            raise Unreachable("publish_failed", str(error)) from error
        if isinstance(error, (ChargehandError, OSError)) and not isinstance(error, TimeoutError):
            raise Unreachable("unreachable", str(error)) from error
        if error is not None and type(error).__module__.startswith("aiokafka"):
            raise Unreachable("unreachable", f"Kafka: {error}") from error


async def _awaited(future: asyncio.Future[T], within: timedelta | None, what: str) -> T:
    try:
        async with asyncio.timeout(None if within is None else within.total_seconds()):
            return await asyncio.shield(future)
    except TimeoutError as error:
        raise Pending("pending", f"{what} yet") from error


def _settle(future: asyncio.Future[Any] | None, outcome: Any) -> None:
    if future is None or future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
        future.exception()  # seen: whoever waits gets it, and nobody has to
    else:
        future.set_result(outcome)
