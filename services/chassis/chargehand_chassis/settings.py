"""Settings every service has. Each service subclasses this once; the reference page is generated from the fields.

Owns reading them from the environment (prefix CHARGEHAND_). No process reads the environment elsewhere.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from .durations import parse_duration
from .errors import FatalFailure

_PREFIX = "CHARGEHAND_"


class Settings(BaseSettings):
    """Read from the environment, and nowhere else. Durations are written as on the command line, or in ISO 8601."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="ignore")

    @field_validator("*", mode="before")
    @classmethod
    def _read_duration(cls, value: Any, info: ValidationInfo) -> Any:
        is_duration = info.field_name is not None and cls.model_fields[info.field_name].annotation is timedelta
        if not (is_duration and isinstance(value, str)):
            return value
        found = parse_duration(value)
        if found is None and not value.startswith("P"):
            raise ValueError("not a duration: write 30s, 5m or 1h30m")
        return value if found is None else found


S = TypeVar("S", bound=Settings)


class WrongSettings(FatalFailure):
    """What the environment says is not what a program can work with. The text names each variable, and none of their values: one
    may hold a password."""


def read_settings(kind: type[S]) -> S:
    """The settings of the environment. WrongSettings names all that is wrong with them."""
    try:
        return kind()
    except ValidationError as error:
        wrong = [_told(kind, found["loc"], found["type"], found["msg"]) for found in error.errors(include_input=False)]
        raise WrongSettings("; ".join(wrong)) from None


def _told(kind: type[Settings], place: tuple[int | str, ...], what: str, words: str) -> str:
    name = str(place[0]) if place else ""
    variable = f"{_PREFIX}{name.upper()}"
    if what == "missing":
        return f"{variable} is not set ({(kind.model_fields[name].description or '').rstrip('.')})"
    return f"{variable}: {words.removeprefix('Value error, ').rstrip('.')}"


class KafkaSettings(Settings):
    """How to reach Kafka."""

    kafka_bootstrap: str = Field("127.0.0.1:9092", description="Kafka brokers, host:port, separated by commas.")
    kafka_username: str = Field("", description="SCRAM-SHA-256 user; empty: no authentication.")
    kafka_password_file: Path | None = Field(
        None, description="File with the SCRAM password, readable by its owner only."
    )
    kafka_ca_file: Path | None = Field(None, description="Certificate authority of the brokers; given: TLS is used.")
    publish_timeout: timedelta = Field(timedelta(seconds=60), description="How long an acknowledgement is waited for.")
    session_timeout: timedelta = Field(
        timedelta(seconds=6), description="An instance not heard by Kafka for so long loses its partitions."
    )
    partitions: int = Field(4, ge=1, le=1000, description="Partitions of each topic when it is made; checked at start.")
    replication_factor: int = Field(1, ge=1, le=7, description="Copies of each topic when it is made.")


class ServiceSettings(KafkaSettings):
    """What every service needs besides."""

    data: Path = Field(description="This process's own directory (made with mode 0700).")
    instance: str = Field("1", pattern=r"^[A-Za-z0-9_-]{1,64}$", description="Name of this instance among its like.")
    key_file: Path = Field(description="This service's own keys (mode 0600).")
    planner_key_file: Path = Field(description="Public keys of the planner, which everything else is trusted by.")
    store_url: str = Field("", description="postgresql://… of the store; empty: SQLite in the data directory.")
    health_host: str = Field("127.0.0.1", description="Address of health and metrics; loopback unless asked otherwise.")
    health_port: int = Field(0, ge=0, le=65535, description="Port of /healthz, /readyz and /metrics; 0: none.")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="Least level that is logged.")
    log_format: str = Field("json", pattern="^(json|console)$", description="JSON lines, or text for people.")
    stall_after: timedelta = Field(
        timedelta(seconds=60), description="A consumer without progress for so long ends the process."
    )
    stop_within: timedelta = Field(timedelta(seconds=10), description="Longest wait for a clean stop.")
    fault_point: str = Field("", description="Tests only: name of a point at which the process ends at once.")
    parent_pid: int = Field(0, ge=0, description="Stop when this process, the supervisor, is gone; 0: never.")
