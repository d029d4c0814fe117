"""`chargehand repair SERVICE`: one store with its settings in the environment, while Kafka runs and the service does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from chargehand.embedded.kafka import KafkaAddress
from chargehand_chassis.clock import now
from chargehand_chassis.kafka import Mark, PartitionReader, Publisher, ensure_topics, partition_of
from chargehand_chassis.keys import generate_keys, public_document
from chargehand_chassis.settings import KafkaSettings
from chargehand_reporter.shell.service import group_of
from chargehand_reporter.shell.store.database import open_database
from chargehand_reporter.shell.store.fold_store import FoldStore
from chargehand_schemas.batches import Outgoing
from chargehand_schemas.planning import JobInvocationCancelRequested
from chargehand_schemas.reasons import Role
from chargehand_schemas.topics import PLANNING_EVENTS

Repair = Callable[..., "tuple[int, Any, str]"]


@pytest.fixture
def settings(kafka: KafkaAddress) -> KafkaSettings:
    return KafkaSettings(
        kafka_bootstrap=kafka.bootstrap, kafka_username=kafka.username, kafka_password_file=kafka.password_file
    )


@pytest.fixture
def repair(settings: KafkaSettings, tmp_path: Path) -> Repair:
    """Its exit status, its document, and what it said."""
    keys = generate_keys(tmp_path / "keys.json")
    (tmp_path / "planner.pub.json").write_text(json.dumps(public_document(keys, Role.PLANNER, "planner")))
    variables = {
        "DATA": str(tmp_path / "data"),
        "KEY_FILE": str(tmp_path / "keys.json"),
        "PLANNER_KEY_FILE": str(tmp_path / "planner.pub.json"),
        "KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
        "KAFKA_USERNAME": settings.kafka_username,
        "KAFKA_PASSWORD_FILE": str(settings.kafka_password_file),
    }

    def run(*options: str) -> tuple[int, Any, str]:
        done = subprocess.run(
            [sys.executable, "-m", "chargehand", "repair", "reporter", "--output", "json", *options],
            env={**os.environ, **{f"CHARGEHAND_{name}": value for name, value in variables.items()}},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr

    return run


async def test_one_store_is_looked_at_and_mended(repair: Repair, settings: KafkaSettings, tmp_path: Path) -> None:
    await ensure_topics(settings)
    publisher = Publisher(settings, generate_keys(tmp_path / "other.json"), "test/1")
    await publisher.start()
    event = JobInvocationCancelRequested(
        id=uuid4(), time=now(), job_invocation_id=uuid4(), command_id=uuid4(), actor="user:ada"
    )
    await publisher.publish([Outgoing(PLANNING_EVENTS.name, str(event.job_invocation_id), event)])
    await publisher.stop()
    number = partition_of(str(event.job_invocation_id), settings.partitions)
    end, append_ms = publisher.ends[PLANNING_EVENTS.name, number]
    store = FoldStore(open_database("", tmp_path / "data", is_writer=True))
    place = (PLANNING_EVENTS.name, number)
    store.save_positions({place: end}, {place: append_ms})
    assert repair()[:2] == (0, {"findings": [], "done": []})

    store.save_positions({place: end + 7}, {place: append_ms + 1})
    status, document, _ = repair()
    (found,) = document["findings"]
    assert (status, found["service"], found["partition"]) == (1, "reporter", number)
    assert (found["position"], found["held"], found["missing"]) == (end + 7, end, 7)
    assert store.load_marks() == {place: Mark(end + 7, append_ms + 1)}
    assert repair("--yes")[1]["done"] == [{"service": "reporter", "what": "every log is read from its beginning"}]
    assert store.load_marks() == {}
    store.database.close()


async def test_a_service_that_runs_is_left_alone(repair: Repair, settings: KafkaSettings, tmp_path: Path) -> None:
    await ensure_topics(settings)
    store = FoldStore(open_database("", tmp_path / "data", is_writer=True))
    reader = PartitionReader(settings, [PLANNING_EVENTS.name], group=group_of(store))
    store.database.close()
    await reader.start()
    try:
        status, document, said = repair("--yes")
        assert (status, document) == (2, None)
        assert "a reporter runs" in said
    finally:
        await reader.stop()
