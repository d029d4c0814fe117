"""Settings of the dispatcher. Owns their names and defaults."""

from __future__ import annotations

from datetime import timedelta

from chargehand_chassis.settings import ServiceSettings
from pydantic import Field


class DispatcherSettings(ServiceSettings):
    """What the dispatcher needs besides what every service needs."""

    clock_margin: timedelta = Field(
        timedelta(seconds=5), description="How far clocks may differ; waited after deadlines."
    )
    ask_after: timedelta = Field(
        timedelta(seconds=60), description="An accepted attempt without a word for so long is asked for."
    )
    ask_again: timedelta = Field(timedelta(seconds=30), description="Questions and cancels are repeated so often.")
    readable_for: timedelta = Field(
        timedelta(seconds=30), description="After its deadline an attempt is given up when asked for in vain so long."
    )
    chunk_missing_after: timedelta = Field(
        timedelta(seconds=60), description="A part of a plan that is missing so long is asked for, then given up."
    )
    proxy_concurrency: int = Field(
        500, ge=1, description="Attempts at once on one proxy, if the proxy has no limit of its own."
    )
    agent_silent_after: timedelta = Field(
        timedelta(seconds=20), description="What an agent holds that is silent for so long is asked for."
    )
    press_after: timedelta = Field(
        timedelta(seconds=3), description="No slot is given while the oldest unpublished message is older."
    )
