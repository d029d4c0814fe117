"""Settings of the planner. Owns their names, limits and defaults; the reference page is made from them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from chargehand_chassis.settings import ServiceSettings
from pydantic import Field


class PlannerSettings(ServiceSettings):
    """What the planner needs beyond what every service does."""

    trusted_keys_file: Path | None = Field(
        None, description="JSON list of public keys that are enrolled at start if they are not known yet."
    )
    bootstrap_admin_file: Path | None = Field(
        None,
        description="JSON with login, token_sha256 and expires_at of the first administrator, made at start if new.",
    )
    default_proxy: str = Field(
        "local", pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", description="The proxy of hosts that name none."
    )
    command_max_age: timedelta = Field(
        timedelta(minutes=5),
        description="Commands of programs that reach Kafka longer than this after they were written have no effect.",
    )
    keep_bindings: timedelta = Field(
        timedelta(days=15), description="How long the binder remembers attempts of ended invocations; at least 14 days."
    )
    store_schema: str = Field(
        "planner", pattern=r"^[a-z][a-z0-9_]{0,62}$", description="PostgreSQL schema of the store."
    )
