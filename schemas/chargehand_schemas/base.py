"""What every message has in common: frozen models, items with their own id and time, and the words used in several.

Owns the base classes and shared value types. No message of one topic enters here.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

Seconds = Annotated[timedelta, Field(description="A duration; seconds in JSON.")]
Instant = Annotated[AwareDatetime, Field(description="RFC 3339, UTC, microseconds.")]

MAX_ITEMS_PER_MESSAGE = 500
MAX_MESSAGE_BYTES = 256 * 1024
MAX_SCRIPT_BYTES = 128 * 1024


class Model(BaseModel):
    """A frozen value. Readers ignore fields they do not know (docs: a field may be added with a default)."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        ser_json_timedelta="float",
        ser_json_bytes="base64",
        val_json_bytes="base64",
        allow_inf_nan=False,
    )


class Item(Model):
    """One item of a message: what is deduplicated, by `id`. A message carries 1 to 500 of one type."""

    id: UUID
    time: Instant
    causation_id: UUID | None = Field(None, description="The item that brought this one about.")
    traceparent: str | None = Field(None, description="W3C trace context, passed on unread.")


class InvocationItem(Item):
    """An item about one job invocation."""

    job_invocation_id: UUID


class JobTaskItem(InvocationItem):
    """An item about one job task."""

    job_task_id: UUID


class AttemptItem(JobTaskItem):
    """An item about one attempt: (job_task_id, attempt), attempt counts from 1."""

    attempt: int = Field(ge=1)


def as_utc(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds and a Z, as envelopes and JSON carry it."""
    return moment.astimezone(tz=UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
