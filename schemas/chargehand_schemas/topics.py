"""The topics as values: who writes, who reads, how they are partitioned and kept. Docs, ACLs and creation come from this list.

Owns the list. What a message of a topic looks like is in its own module and in registry.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from .reasons import Role

PREFIX = "chargehand"
FOREVER_MS = -1
WEEK_MS = 7 * 24 * 3600 * 1000


class PartitionGroup(StrEnum):
    """Topics of one group share one partition count, so that one key has one partition number in all of them."""

    INVOCATION = "invocation"
    JOB_TASK = "job_task"
    HOST = "host"
    ENTITY = "entity"


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. `keyed_by` in words; `retention_ms` -1 is for ever. A per-proxy topic is a family: `of(proxy)` names one."""

    base: str
    keyed_by: str
    writers: frozenset[Role]
    readers: tuple[str, ...]
    group: PartitionGroup
    retention_ms: int = FOREVER_MS
    is_compacted: bool = False
    is_per_proxy: bool = False
    version: int = 1
    name: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"{PREFIX}.{self.base}.v{self.version}")

    def of(self, proxy: str) -> str:
        """The topic of one proxy: `chargehand.proxy-commands.PROXY.v1`."""
        return f"{PREFIX}.{self.base}.{proxy}.v{self.version}"

    @property
    def config(self) -> dict[str, str]:
        """Topic settings of Kafka. Times are the broker's: ages and clock offsets are measured by them."""
        return {
            "retention.ms": str(self.retention_ms),
            "cleanup.policy": "compact" if self.is_compacted else "delete",
            "message.timestamp.type": "LogAppendTime",
        }


def _topic(
    base: str, keyed_by: str, writers: tuple[Role, ...], readers: tuple[str, ...], group: PartitionGroup, **more: object
) -> Topic:
    return Topic(base, keyed_by, frozenset(writers), readers, group, **more)  # type: ignore[arg-type]


COMMANDS = _topic(
    "commands", "the id of what they are about", (Role.GATEWAY, Role.SERVICE_ACCOUNT, Role.ENROLEE), ("planner",),
    PartitionGroup.ENTITY,
)  # fmt: skip
CATALOG_EVENTS = _topic("catalog-events", "entity id", (Role.PLANNER,), ("everyone",), PartitionGroup.ENTITY)
PLANNING_EVENTS = _topic(
    "planning-events", "job_invocation_id", (Role.PLANNER,), ("dispatcher", "reporter"), PartitionGroup.INVOCATION
)
DISPATCH_EVENTS = _topic(
    "dispatch-events", "job_invocation_id", (Role.DISPATCHER,), ("planner", "reporter"), PartitionGroup.INVOCATION
)
EXECUTION_EVENTS = _topic(
    "execution-events", "job_invocation_id", (Role.AGENT,), ("dispatcher", "reporter"), PartitionGroup.INVOCATION
)
PROXY_COMMANDS = _topic(
    "proxy-commands", "host_id", (Role.PLANNER,), ("that proxy's agents",), PartitionGroup.HOST,
    retention_ms=WEEK_MS, is_per_proxy=True,
)  # fmt: skip
PROGRESS_REPORTS = _topic(
    "progress-reports", "job_task_id", (Role.AGENT,), ("reporter",), PartitionGroup.JOB_TASK, retention_ms=WEEK_MS
)
ACCUMULATED_PROGRESS_REPORTS = _topic(
    "accumulated-progress-reports", "job_task_id", (Role.REPORTER,), ("clients",), PartitionGroup.JOB_TASK,
    is_compacted=True,
)  # fmt: skip
HOST_EVENTS = _topic(
    "host-events", "host_id and kind (of what a host says, with the proxy)", (Role.AGENT,),
    ("planner", "dispatcher", "reporter"), PartitionGroup.ENTITY,
    is_compacted=True,
)  # fmt: skip
PROXY_EVENTS = _topic(
    "proxy-events", "agent id", (Role.AGENT,), ("dispatcher", "planner", "reporter"), PartitionGroup.ENTITY,
    retention_ms=WEEK_MS,
)  # fmt: skip
NOTIFICATIONS = _topic("notifications", "subject id", (Role.REPORTER,), ("anyone",), PartitionGroup.ENTITY)
DEAD_LETTERS = _topic(
    "dead-letters", "the original key",
    (Role.PLANNER, Role.DISPATCHER, Role.AGENT, Role.REPORTER, Role.GATEWAY), ("operators",), PartitionGroup.ENTITY,
)  # fmt: skip

TOPICS: tuple[Topic, ...] = (
    COMMANDS,
    CATALOG_EVENTS,
    PLANNING_EVENTS,
    DISPATCH_EVENTS,
    EXECUTION_EVENTS,
    PROXY_COMMANDS,
    PROGRESS_REPORTS,
    ACCUMULATED_PROGRESS_REPORTS,
    HOST_EVENTS,
    PROXY_EVENTS,
    NOTIFICATIONS,
    DEAD_LETTERS,
)


def topic_named(name: str) -> Topic | None:
    """The topic a Kafka topic name belongs to (per-proxy topics to their family); None if it is none of ours."""
    for topic in TOPICS:
        if name == topic.name and not topic.is_per_proxy:
            return topic
        if topic.is_per_proxy and _is_member(name, topic):
            return topic
    return None


def proxy_of(name: str) -> str | None:
    """The proxy of a per-proxy topic name; None for any other."""
    head, tail = f"{PREFIX}.{PROXY_COMMANDS.base}.", f".v{PROXY_COMMANDS.version}"
    return name[len(head) : -len(tail)] if _is_member(name, PROXY_COMMANDS) else None


def _is_member(name: str, topic: Topic) -> bool:
    return name.startswith(f"{PREFIX}.{topic.base}.") and name.endswith(f".v{topic.version}") and name.count(".") == 3
