"""How a job is executed: the properties a template gives, an invocation overrides, and the dispatcher obeys.

Owns their names, limits and defaults (docs/glossary.md) and the one function that merges them.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import Field, StringConstraints

from .base import Model, Seconds
from .reasons import Reason

RETRYABLE = frozenset(
    {Reason.EXIT_STATUS, Reason.COULD_NOT_CONNECT, Reason.TIMED_OUT, Reason.INTERRUPTED, Reason.UNKNOWN}
)
DEFAULT_RETRY_ON = (Reason.COULD_NOT_CONNECT, Reason.EXIT_STATUS)
MAX_DURATION = timedelta(days=366)

_SHARE = r"(100|[0-9]{1,2})(\.[0-9]{1,3})?%"
BatchSize = Annotated[str, StringConstraints(pattern=rf"^([1-9][0-9]{{0,8}}|{_SHARE})$")]
FailureLimit = Annotated[str, StringConstraints(pattern=rf"^([0-9]{{1,9}}|{_SHARE})$")]


class Rolling(Model):
    """Ordered hosts in batches; the next batch only when the previous one succeeded.

    `batches`: sizes as counts or shares of the hosts (`"25%"`), the last one repeated. `failure_limit`: failures (a count
    or a share) above which the rest is not started.
    """

    batches: tuple[BatchSize, ...] = Field(("1",), min_length=1, max_length=64)
    failure_limit: FailureLimit = "0"


class ExecutionProperties(Model):
    """What the dispatcher applies to each job task of one invocation."""

    tries: int = Field(1, ge=1, le=100)
    retry_interval: Seconds = Field(timedelta(seconds=30), ge=timedelta(0), le=MAX_DURATION)
    retry_on: tuple[Reason, ...] = DEFAULT_RETRY_ON
    splay: Seconds = Field(timedelta(0), ge=timedelta(0), le=MAX_DURATION)
    concurrency: int | None = Field(None, ge=1, le=1_000_000)
    time_to_pickup: Seconds = Field(timedelta(hours=24), ge=timedelta(seconds=1), le=MAX_DURATION)
    execution_timeout_interval: Seconds = Field(timedelta(hours=1), ge=timedelta(seconds=1), le=MAX_DURATION)
    not_after: Seconds = Field(timedelta(seconds=30), ge=timedelta(seconds=1), le=timedelta(hours=1))
    grace: Seconds = Field(timedelta(seconds=10), ge=timedelta(0), le=timedelta(hours=1))
    wait_for_check_in: bool = False
    rolling: Rolling | None = None


class ExecutionOverrides(Model):
    """Overrides of one invocation; None leaves the template's value."""

    tries: int | None = Field(None, ge=1, le=100)
    retry_interval: Seconds | None = Field(None, ge=timedelta(0), le=MAX_DURATION)
    splay: Seconds | None = Field(None, ge=timedelta(0), le=MAX_DURATION)
    concurrency: int | None = Field(None, ge=1, le=1_000_000)
    time_to_pickup: Seconds | None = Field(None, ge=timedelta(seconds=1), le=MAX_DURATION)
    execution_timeout_interval: Seconds | None = Field(None, ge=timedelta(seconds=1), le=MAX_DURATION)
    wait_for_check_in: bool | None = None
    rolling: Rolling | None = None

    def applied_to(self, defaults: ExecutionProperties) -> ExecutionProperties:
        """The template's properties with what this invocation overrides."""
        return defaults.model_copy(update={name: value for name, value in self if value is not None})
