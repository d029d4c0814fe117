"""Templates that every installation begins with.

Owns their text. One that somebody saved since is left alone.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from chargehand_schemas.catalog import JobTemplateSaved
from chargehand_schemas.commands import TemplateInput
from chargehand_schemas.ids import item_id
from chargehand_schemas.properties import ExecutionProperties

from .outcomes import Append
from .rights import PLANNER_ACTOR

RUN_COMMAND = "Run Command"


def seeds(known: Collection[UUID], names: Collection[str], now: datetime) -> tuple[Append, ...]:
    """Those templates whose id and name are not there yet."""
    template_id = item_id("seeded-template", RUN_COMMAND)
    if template_id in known or RUN_COMMAND in names:
        return ()
    return (Append(template_id, 1, _run_command(template_id, now)),)


def _run_command(template_id: UUID, now: datetime) -> JobTemplateSaved:
    return JobTemplateSaved(
        id=item_id("seeded", template_id),
        time=now,
        actor=PLANNER_ACTOR,
        template_id=template_id,
        version=1,
        name=RUN_COMMAND,
        job_category="Commands",
        provider_type="ssh",
        body='{{ input("command") }}',
        inputs=(TemplateInput(name="command", required=True, description="The command to run on the host."),),
        properties=ExecutionProperties(),
        description_format="Run %{command}",
    )
