"""Whether a broker really works: it lets us in, its admin answers, and one message goes through a consumer group.

Owns that check and its one topic. It knows nothing of how the broker was started, and of our own topics.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterable, Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.conn import create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    KafkaError,
    NoError,
    SaslAuthenticationFailed,
    TopicAlreadyExistsError,
    UnsupportedSaslMechanismError,
    for_code,
)

from .errors import FatalFailure, TransientFailure

CHECK_TOPIC = "chargehand-launcher-check"
"""Topic of the check message; outside our own prefix, so that no list of our topics has it."""

_TRY_AGAIN_S = 0.05
_ONE_TRY_MS = 10_000
_REFUSALS = (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)


class CredentialsRefused(FatalFailure):
    """The broker is there and does not let these credentials in."""


async def kafka_ready(bootstrap: str, username: str, password: str, *, within: timedelta) -> None:
    """Return when the broker at `bootstrap` (one host:port) works for this SCRAM-SHA-256 user; an empty user name: without
    authentication. CredentialsRefused at once if it does not let them in; TransientFailure, with what was missing, if it
    does not work `within` this time."""
    arguments = _arguments(bootstrap, username, password)
    missing = "it did not answer"
    try:
        async with asyncio.timeout(within.total_seconds()):
            while True:
                try:
                    with _quiet_client():
                        return await _check(arguments)
                except _REFUSALS as error:
                    raise CredentialsRefused(f"Kafka at {bootstrap} does not let {username or 'anyone'} in") from error
                except (KafkaError, OSError, TimeoutError) as error:
                    missing = str(error) or type(error).__name__
                await asyncio.sleep(_TRY_AGAIN_S)
    except TimeoutError:
        raise TransientFailure(f"Kafka at {bootstrap} was not ready within {within}: {missing}") from None


@contextlib.contextmanager
def _quiet_client() -> Iterator[None]:
    # What the client logs as errors here (no coordinator yet) is what is being waited for.
    logger = logging.getLogger("aiokafka")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _arguments(bootstrap: str, username: str, password: str) -> dict[str, Any]:
    if not username:
        return {"bootstrap_servers": bootstrap, "security_protocol": "PLAINTEXT"}
    return {
        "bootstrap_servers": bootstrap,
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-256",
        "sasl_plain_username": username,
        "sasl_plain_password": password,
    }


async def _check(arguments: dict[str, Any]) -> None:
    # A bare connection first: the clients hide why they were refused, and log an error for each try while it starts.
    await _connect(dict(arguments))
    await _make_topic(arguments)
    await _send_through_group(arguments)


async def _connect(arguments: dict[str, Any]) -> None:
    host, _, port = arguments.pop("bootstrap_servers").rpartition(":")
    connection = await create_conn(host, int(port), request_timeout_ms=_ONE_TRY_MS, **arguments)
    connection.close()


async def _make_topic(arguments: dict[str, Any]) -> None:
    admin = AIOKafkaAdminClient(request_timeout_ms=_ONE_TRY_MS, **arguments)
    await admin.start()
    try:
        if CHECK_TOPIC not in await admin.list_topics():
            configuration = {"retention.ms": "3600000", "segment.bytes": "1048576"}
            answer = await admin.create_topics([NewTopic(CHECK_TOPIC, 1, 1, topic_configs=configuration)])
            _raise_first(error for _, error, *_ in answer.topic_errors)
    finally:
        await admin.close()


def _raise_first(codes: Iterable[int]) -> None:
    # A broker that only just started answers that it has no replica to give.
    for error in map(for_code, codes):
        if error not in (NoError, TopicAlreadyExistsError):
            raise error


async def _send_through_group(arguments: dict[str, Any]) -> None:
    check = uuid4()
    # A group of its own for each check: members of one that was cut short would be waited for. Without a committed offset
    # Kafka forgets it soon.
    group = f"{CHECK_TOPIC}-{check}"
    producer = AIOKafkaProducer(acks="all", retry_backoff_ms=20, request_timeout_ms=_ONE_TRY_MS, **arguments)
    consumer = AIOKafkaConsumer(
        CHECK_TOPIC,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        retry_backoff_ms=20,
        session_timeout_ms=3_000,
        heartbeat_interval_ms=1_000,
        request_timeout_ms=_ONE_TRY_MS,
        **arguments,
    )
    async with contextlib.AsyncExitStack() as stack:
        for client in (producer, consumer):
            await _start(client, stack)
        await _within_one_try(producer.send_and_wait(CHECK_TOPIC, check.bytes))
        await _within_one_try(_read_until(consumer, check.bytes))


async def _start(client: AIOKafkaProducer | AIOKafkaConsumer, stack: contextlib.AsyncExitStack) -> None:
    stack.push_async_callback(client.stop)
    await client.start()


async def _read_until(consumer: AIOKafkaConsumer, sent: bytes) -> None:
    async for record in consumer:
        if record.value == sent:
            return


async def _within_one_try(awaitable: Coroutine[Any, Any, object]) -> None:
    async with asyncio.timeout(_ONE_TRY_MS / 1000):
        await awaitable
