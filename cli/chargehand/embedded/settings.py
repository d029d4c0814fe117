"""Settings of the launcher, read from the environment like those of a service. Owns their names and defaults."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from chargehand_chassis.settings import Settings
from pydantic import Field


class LauncherSettings(Settings):
    """How the embedded Kafka is found and how much it may use."""

    kafka_home: Path | None = Field(
        None,
        description="Folder with the jars of Apache Kafka (itself or its libs/), for machines without network; "
        "empty: they are fetched once and kept in the user's cache.",
    )
    kafka_heap_mib: int = Field(256, ge=128, le=65_536, description="Largest heap of the embedded Kafka, in MiB.")
    kafka_ready_within: timedelta = Field(
        timedelta(seconds=120), description="Longest wait for the embedded Kafka to answer, recovery included."
    )
    kafka_stop_within: timedelta = Field(
        timedelta(seconds=10), description="Longest wait for the embedded Kafka's clean stop before it is killed."
    )
