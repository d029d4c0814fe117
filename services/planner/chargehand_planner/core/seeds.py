"""Templates that every installation begins with.

Owns which there are and what they ask for; longer texts come in as data. One that somebody saved since is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from uuid import UUID

from chargehand_schemas.catalog import JobTemplateSaved
from chargehand_schemas.commands import TemplateInput
from chargehand_schemas.ids import item_id
from chargehand_schemas.properties import ExecutionProperties

from .outcomes import Append
from .rights import PLANNER_ACTOR

RUN_COMMAND = "Run Command"
INSTALL_CHECK_IN = "Install check-in"
REMOVE_CHECK_IN = "Remove check-in"

_COMMAND = '{{ input("command") }}'
_NO_TEXTS: Mapping[str, str] = {}


def seeds(
    known: Collection[UUID], names: Collection[str], now: datetime, texts: Mapping[str, str] = _NO_TEXTS
) -> tuple[Append, ...]:
    """Those templates whose id and name are not there yet. `texts`: bodies by the name of their template, of those that have a
    longer one; without its text a template is not made."""
    bodies = {RUN_COMMAND: _COMMAND, **texts}
    ids = {name: item_id("seeded-template", name) for name in _SEEDS if name in bodies}
    missing = [name for name, template_id in ids.items() if template_id not in known and name not in names]
    return tuple(Append(ids[name], 1, _SEEDS[name](name, bodies[name], now)) for name in missing)


def _run_command(name: str, body: str, now: datetime) -> JobTemplateSaved:
    return _saved(
        name,
        now,
        "Commands",
        body,
        "Run %{command}",
        TemplateInput(name="command", required=True, description="The command to run on the host."),
    )


def _install_check_in(name: str, body: str, now: datetime) -> JobTemplateSaved:
    return _saved(
        name,
        now,
        "Check-in",
        body,
        "Install check-in at %{address}",
        TemplateInput(
            name="address",
            required=True,
            description="Where the host's proxy takes check-ins, as the host reaches it: https://proxy.example.org:8710.",
        ),
        TemplateInput(name="interval", default="30", description="Minutes from one check-in to the next, 1 to 1440."),
        TemplateInput(
            name="spread",
            default="120",
            description="Seconds over which hosts that start all at once are spread; 0: they come as they start.",
        ),
        TemplateInput(
            name="ca_file",
            default="",
            description="File on the host with the authority of the endpoint's certificate; empty: the host's own authorities.",
        ),
    )


def _remove_check_in(name: str, body: str, now: datetime) -> JobTemplateSaved:
    return _saved(name, now, "Check-in", body, "Remove check-in")


_SEEDS: dict[str, Callable[[str, str, datetime], JobTemplateSaved]] = {
    RUN_COMMAND: _run_command,
    INSTALL_CHECK_IN: _install_check_in,
    REMOVE_CHECK_IN: _remove_check_in,
}


def _saved(
    name: str, now: datetime, category: str, body: str, description: str, *inputs: TemplateInput
) -> JobTemplateSaved:
    template_id = item_id("seeded-template", name)
    return JobTemplateSaved(
        id=item_id("seeded", template_id),
        time=now,
        actor=PLANNER_ACTOR,
        template_id=template_id,
        version=1,
        name=name,
        job_category=category,
        provider_type="ssh",
        body=body,
        inputs=inputs,
        properties=ExecutionProperties(),
        description_format=description,
    )
