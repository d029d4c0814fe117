"""Values for a template's inputs: who gave what, what is missing, what stays hidden.

Owns those rules. Sealed values pass through unread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from chargehand_schemas.commands import InvokeJob, TemplateInput
from chargehand_schemas.ids import item_id
from chargehand_schemas.reasons import Refusal

from .outcomes import Refused
from .words import did_you_mean, listed


@dataclass(frozen=True, slots=True)
class Inputs:
    """`values` in clear; `sealed` to the planner's vault key (base64)."""

    values: Mapping[str, str] = field(default_factory=dict)
    sealed: Mapping[str, str] = field(default_factory=dict)


def resolve(command: InvokeJob, template: str, defined: Sequence[TemplateInput]) -> Inputs | Refused:
    """The inputs an invocation runs with, defaults filled in. An optional one without a value renders as nothing."""
    refused = (
        _unknown(command, template, defined) or _in_clear(command, defined) or _missing(command, template, defined)
    )
    if refused is not None:
        return refused
    defaults = {i.name: i.default or "" for i in defined if i.name not in command.sealed_inputs and not i.hidden_value}
    return Inputs({**defaults, **command.inputs}, dict(command.sealed_inputs))


def placeholder(job_invocation_id: UUID, name: str) -> str:
    """What stands in a script for a hidden value: the same on every host of the invocation, and in no other one."""
    return f"__CHARGEHAND_SECRET_{item_id('secret', job_invocation_id, name).hex}__"


def _unknown(command: InvokeJob, template: str, defined: Sequence[TemplateInput]) -> Refused | None:
    names = [i.name for i in defined]
    for name in (*command.inputs, *command.sealed_inputs):
        if name not in names:
            hint = did_you_mean(name, names) or f"; it has: {listed(names) or 'none'}"
            return Refused(Refusal.INPUT_UNKNOWN, f"template {template!r} has no input {name!r}{hint}")
    return None


def _in_clear(command: InvokeJob, defined: Sequence[TemplateInput]) -> Refused | None:
    both = sorted(command.inputs.keys() & command.sealed_inputs.keys())
    if both:
        return Refused(Refusal.MALFORMED, f"input {both[0]!r} is given twice, in clear and sealed; give it once")
    for one in defined:
        if one.hidden_value and one.name in command.inputs:
            detail = (
                f"input {one.name!r} is hidden and came in clear, so it has been seen: change it, then send it sealed"
            )
            return Refused(Refusal.MALFORMED, detail)
    return None


def _missing(command: InvokeJob, template: str, defined: Sequence[TemplateInput]) -> Refused | None:
    given = command.inputs.keys() | command.sealed_inputs.keys()
    missing = [i.name for i in defined if i.required and i.default is None and i.name not in given]
    if not missing:
        return None
    return Refused(Refusal.INPUT_MISSING, f"template {template!r} needs a value for input {listed(missing)}")
