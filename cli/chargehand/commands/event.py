"""`event tail`: facts as they stand in Kafka, verified. Owns its columns; reading is the client's."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ..errors import CommandError, ExitStatus
from ..help import Command
from ..options import Asked, common_options
from ..terminal.escapes import visible

if TYPE_CHECKING:
    from chargehand_chassis.kafka import Received, Rejected
    from chargehand_chassis.settings import KafkaSettings

_HOW = "start one with `chargehand up`, or set CHARGEHAND_KAFKA_BOOTSTRAP and CHARGEHAND_PLANNER_KEY_FILE."


@click.command(cls=Command)
@click.argument("topics", nargs=-1)
@click.option(
    "--from", "start", type=click.Choice(["beginning", "end"]), default="end", show_default=True, help="Where to begin."
)
@click.option("--follow/--no-follow", default=True, help="Go on as more is written, or stop at the present end.")
@click.option("--job", "job_invocation_id", metavar="ID", help="Only what is about this job (a beginning of its id).")
@click.option("--type", "type_", metavar="WORD", help="Only types with this in their name, like attempt.ended.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Stop after so many.")
@common_options
def tail(
    asked: Asked,
    topics: Sequence[str],
    start: Literal["beginning", "end"],
    follow: bool,
    job_invocation_id: str | None,
    type_: str | None,
    limit: int | None,
) -> int:
    """Follow events as they are written, each verified; without TOPICS, all topics of facts.

    A topic may be written short: planning-events, dispatch-events, execution-events, notifications, dead-letters …
    """
    kafka, planner_key_file = _kafka_of(asked)
    wanted = _Wanted(job_invocation_id or "", type_ or "", limit)
    try:
        asyncio.run(_tail(asked, kafka, planner_key_file, _names(topics), start, follow, wanted))
    except KeyboardInterrupt:
        return ExitStatus.INTERRUPTED
    return ExitStatus.SUCCEEDED


class _Wanted:
    """Which facts are shown, and how many."""

    def __init__(self, job_invocation_id: str, type_: str, limit: int | None) -> None:
        self._job, self._type, self._left = job_invocation_id, type_, limit

    def has(self, document: dict[str, Any]) -> bool:
        is_of_job = not self._job or str(document["item"].get("job_invocation_id", "")).startswith(self._job)
        return is_of_job and self._type in document["type"]

    def take(self) -> bool:
        """Count one more; whether that was the last."""
        self._left = None if self._left is None else self._left - 1
        return self._left == 0


async def _tail(
    asked: Asked,
    kafka: KafkaSettings,
    planner_key_file: Path,
    topics: Sequence[str],
    start: Literal["beginning", "end"],
    follow: bool,
    wanted: _Wanted,
) -> None:
    from contextlib import aclosing

    from chargehand_chassis.errors import ChargehandError
    from chargehand_chassis.kafka import KeyringFollower
    from chargehand_chassis.keys import load_pinned_planner

    from ..client.errors import ClientError
    from ..client.kafka import read_topics

    try:
        keyring = KeyringFollower(kafka, load_pinned_planner(planner_key_file))
        await keyring.start()
        try:
            async with aclosing(read_topics(kafka, keyring, topics, start, is_endless=follow)) as messages:
                async for message in messages:
                    if _show(asked, message, wanted):
                        return
        finally:
            await keyring.stop()
    except (ClientError, ChargehandError, OSError) as error:
        raise CommandError(
            "Kafka cannot be read.", why=str(error) or repr(error), do=_HOW, status=ExitStatus.UNREACHABLE
        ) from error


def _show(asked: Asked, message: Received | Rejected, wanted: _Wanted) -> bool:
    """Print what is wanted of one message; whether it was the last."""
    for document in _documents(message):
        if wanted.has(document):
            _print(asked, document)
            if wanted.take():
                return True
    return False


def _documents(message: Received | Rejected) -> list[dict[str, Any]]:
    from chargehand_chassis.kafka import Rejected

    from ..client.kafka import events_of

    place = {"topic": message.topic, "partition": message.partition, "offset": message.offset}
    if isinstance(message, Rejected):
        return [{**place, "type": f"(no effect) {message.reason.value}", "item": {"detail": message.detail}}]
    return [
        {
            **place,
            "append_time": event.append_time.isoformat(),
            "type": event.type,
            "source": event.source,
            "kid": event.writer.kid,
            "item": event.item.model_dump(mode="json", exclude_defaults=True),
        }
        for event in events_of(message)
    ]


def _print(asked: Asked, document: dict[str, Any]) -> None:
    if asked.screen.output == "json":
        asked.screen.json(document)
    elif asked.screen.output == "jsonl":
        asked.screen.json_lines([document])
    else:
        moment = document.get("append_time", "")[11:23]
        item = {name: value for name, value in document["item"].items() if name not in ("id", "time")}
        text = json.dumps(item, ensure_ascii=False, separators=(",", ":"))
        asked.screen.print(f"{moment} {visible(document['type'].removeprefix('chargehand.'))} {visible(text)}")


def _names(topics: Sequence[str]) -> list[str]:
    """Whole names of topics; without any, all that have a fixed name."""
    from chargehand_schemas.topics import TOPICS, topic_named

    short = {topic.base: topic.name for topic in TOPICS if not topic.is_per_proxy}
    found = [short.get(name, name) for name in topics] or list(short.values())
    for name in found:
        if topic_named(name) is None:
            raise CommandError(
                f"there is no topic {name!r}.", why="it is none of ours.", do=f"there are {', '.join(short)}."
            )
    return found


def _kafka_of(asked: Asked) -> tuple[KafkaSettings, Path]:
    """Kafka and the planner's key: of the environment if it names them, else of the `up` that is meant."""
    from chargehand_chassis.settings import KafkaSettings, read_settings

    from ..up.layout import DataDirectory
    from ..up.state import load_state

    planner_key_file = os.environ.get("CHARGEHAND_PLANNER_KEY_FILE")
    if os.environ.get("CHARGEHAND_KAFKA_BOOTSTRAP") and planner_key_file:
        return read_settings(KafkaSettings), Path(planner_key_file)
    data = DataDirectory(asked.settings.data)
    state = load_state(data)
    if state is None or not state.kafka:
        raise CommandError(
            "there is no Kafka to read.",
            why=f"nothing runs on {data.root}.",
            do=_HOW,
            status=ExitStatus.UNREACHABLE,
        )
    return kafka_settings(state.kafka), data.planner_key


def kafka_settings(document: dict[str, str]) -> KafkaSettings:
    """Settings from the `kafka` part of up.json."""
    from chargehand_chassis.settings import KafkaSettings

    return KafkaSettings(
        kafka_bootstrap=document["bootstrap"],
        kafka_username=document["username"],
        kafka_password_file=Path(document["password_file"]),
    )
