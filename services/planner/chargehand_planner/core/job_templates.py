"""The aggregate JobTemplate: its versions are its stream, and each version is the whole template.

Owns the decision to save one and what makes a template valid. Reading the body is the renderer's: its analysis comes in as data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from chargehand_schemas.catalog import JobTemplateSaved
from chargehand_schemas.commands import SaveJobTemplate, TemplateInput
from chargehand_schemas.ids import item_id
from chargehand_schemas.reasons import Refusal

from . import effective_users
from .outcomes import Append, Decided, Outcome, Refused
from .words import did_you_mean, listed


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong in a template's body; `line` counts from 1, 0 if no line is to blame."""

    line: int
    message: str


@dataclass(frozen=True, slots=True)
class Analysis:
    """What a body says without being rendered: the inputs it names (with lines), whether it looks at the host, its faults."""

    inputs: tuple[tuple[str, int], ...] = ()
    uses_host: bool = False
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class SaveLookups:
    """What saving needs to know. `present`: the template of the command's id; `namesake`: the id of one of the same name."""

    analysis: Analysis
    present: JobTemplateSaved | None = None
    namesake: UUID | None = None


def decide_save(command: SaveJobTemplate, lookups: SaveLookups, now: datetime) -> Outcome:
    """A new template, or a new version of the one named by its id."""
    refused = (
        _check_identity(command, lookups)
        or effective_users.check_template(command)
        or check(command.name, command.inputs, lookups.analysis)
    )
    if refused is not None:
        return refused
    # The id follows from the command's, so that a command read again gives the same template.
    template_id = command.template_id or item_id("job-template", command.id)
    version = 1 if lookups.present is None else lookups.present.version + 1
    event = JobTemplateSaved(
        id=item_id("job-template-saved", command.id),
        time=now,
        causation_id=command.id,
        traceparent=command.traceparent,
        actor=command.actor,
        template_id=template_id,
        version=version,
        name=command.name,
        job_category=command.job_category,
        provider_type=command.provider_type,
        body=command.body,
        inputs=command.inputs,
        properties=command.properties,
        effective_user=command.effective_user,
        effective_user_overridable=command.effective_user_overridable,
        effective_user_current_user=command.effective_user_current_user,
        description_format=command.description_format,
    )
    return Decided((Append(template_id, version, event),), {"version": version})


def _check_identity(command: SaveJobTemplate, lookups: SaveLookups) -> Refused | None:
    if command.template_id is not None and lookups.present is None:
        detail = f"there is no template with the id {command.template_id}; leave the id out to create one"
        return Refused(Refusal.NO_SUCH_TEMPLATE, detail)
    if lookups.namesake is not None and lookups.namesake != command.template_id:
        detail = (
            f"there is a template named {command.name!r}; give its id ({lookups.namesake}) to save a new version of it"
        )
        return Refused(Refusal.ALREADY_EXISTS, detail)
    return None


def check(name: str, inputs: Sequence[TemplateInput], analysis: Analysis) -> Refused | None:
    """Whether a template can be used: it can be read, its inputs are well defined, and it uses no other."""
    fault = analysis.fault or _inputs_fault(inputs) or _undefined(inputs, analysis)
    if fault is None:
        return None
    where = f"template {name!r}" + (f", line {fault.line}" if fault.line else "")
    return Refused(Refusal.TEMPLATE_INVALID, f"{where}: {fault.message}")


def _inputs_fault(inputs: Sequence[TemplateInput]) -> Fault | None:
    twice = [name for name, count in Counter(i.name for i in inputs).items() if count > 1]
    if twice:
        return Fault(0, f"input {twice[0]!r} is defined twice; names of inputs are unique in a template")
    readable = [i.name for i in inputs if i.hidden_value and i.default is not None]
    if readable:
        return Fault(
            0, f"input {readable[0]!r} is hidden and has a default, which all could read; leave the default out"
        )
    return None


def _undefined(inputs: Sequence[TemplateInput], analysis: Analysis) -> Fault | None:
    defined = [i.name for i in inputs]
    for name, line in analysis.inputs:
        if name not in defined:
            hint = did_you_mean(name, defined) or f"; defined: {listed(defined) or 'none'}"
            return Fault(line, f"input {name!r} is used and not defined{hint}. Define it, or correct the name")
    return None
