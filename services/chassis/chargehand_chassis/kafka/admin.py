"""Making the topics and waiting for them: partition counts are fixed when a topic is made and checked at every start.

Owns creation from the list in schemas. Who calls it: the planner, and `up` before anything else starts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError, for_code
from chargehand_schemas.topics import PROXY_COMMANDS, TOPICS, Topic

from ..errors import FatalFailure, TransientFailure
from ..settings import KafkaSettings
from .connection import connection

_READY_WITHIN_S = 60.0
_MEMBERS = 5  # of a group's description: error, group, state, kind, protocol, members


async def ensure_topics(settings: KafkaSettings, proxies: Iterable[str] = ()) -> None:
    """Make what is missing (with the topics of these proxies), and wait until every partition has a leader."""
    wanted = {topic.name: topic for topic in TOPICS if not topic.is_per_proxy}
    wanted |= {PROXY_COMMANDS.of(proxy): PROXY_COMMANDS for proxy in proxies}
    async with _admin(settings) as admin:
        present = set(await admin.list_topics())
        missing = [_new(name, topic, settings) for name, topic in wanted.items() if name not in present]
        if missing:
            _check_errors(await admin.create_topics(missing))
        await _wait(admin, {name: settings.partitions for name in wanted})


async def topics_ready(settings: KafkaSettings, topics: Iterable[str] = ()) -> None:
    """Wait until these topics (default: all but the proxies') are there with leaders. FatalFailure if their partition
    counts differ from the settings: keys would move, and with them the order of everything."""
    names = list(topics) or [topic.name for topic in TOPICS if not topic.is_per_proxy]
    async with _admin(settings) as admin:
        await _wait(admin, {name: settings.partitions for name in names})


async def group_members(settings: KafkaSettings, group: str) -> int:
    """How many members a consumer group has; one that was killed counts until its session is over."""
    async with _admin(settings) as admin:
        answers = await admin.describe_consumer_groups([group])
    return sum(len(described[_MEMBERS]) for answer in answers for described in answer.groups)


@asynccontextmanager
async def _admin(settings: KafkaSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**connection(settings))
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


def _new(name: str, topic: Topic, settings: KafkaSettings) -> NewTopic:
    return NewTopic(name, settings.partitions, settings.replication_factor, topic_configs=topic.config)


def _check_errors(response: object) -> None:
    for row in getattr(response, "topic_errors", ()):
        error = for_code(row[1])
        if row[1] and error is not TopicAlreadyExistsError:
            raise TransientFailure(f"topic {row[0]} could not be made: {error.__name__}")


async def _wait(admin: AIOKafkaAdminClient, wanted: dict[str, int]) -> None:
    deadline = asyncio.get_running_loop().time() + _READY_WITHIN_S
    missing = list(wanted)
    while asyncio.get_running_loop().time() < deadline:
        found = {row["topic"]: row["partitions"] for row in await admin.describe_topics(list(wanted))}
        missing = [name for name in wanted if not _has_leaders(found.get(name, []))]
        if not missing:
            _check_counts({name: len(found[name]) for name in wanted}, wanted)
            return
        await asyncio.sleep(0.05)
    raise TransientFailure(f"topics without leaders after {_READY_WITHIN_S:g} s: {', '.join(missing)}")


def _has_leaders(partitions: list[dict[str, int]]) -> bool:
    return bool(partitions) and all(row["leader"] >= 0 for row in partitions)


def _check_counts(found: dict[str, int], wanted: dict[str, int]) -> None:
    for name, count in wanted.items():
        if found[name] != count:
            raise FatalFailure(
                f"topic {name} has {found[name]} partitions, the settings say {count}: set CHARGEHAND_PARTITIONS to "
                f"{found[name]}; partitions of a topic in use cannot be changed"
            )
