"""The description of an invocation that nobody described: from the template's format and the inputs.

Owns the format: `%{input}`, `%{template_name}`, `%{job_category}`; an unknown one is left out, a hidden value is `***`.
"""

from __future__ import annotations

import re

from chargehand_schemas.catalog import JobTemplateSaved

from .inputs import Inputs

MAX_DESCRIPTION = 255

_TOKEN = re.compile(r"%\{([A-Za-z0-9_]{1,64})\}")
_BLANKS = re.compile(r"\s+")


def describe(template: JobTemplateSaved, inputs: Inputs) -> str:
    """One line of at most 255 characters."""
    words = {"template_name": template.name, "job_category": template.job_category, **inputs.values}
    words |= dict.fromkeys(inputs.sealed, "***")
    text = _TOKEN.sub(lambda found: words.get(found[1], ""), template.description_format or _default(inputs))
    line = _BLANKS.sub(" ", text).strip()
    return line if len(line) <= MAX_DESCRIPTION else line[: MAX_DESCRIPTION - 1] + "…"


def _default(inputs: Inputs) -> str:
    given = ", ".join(f"{name}=%{{{name}}}" for name in (*inputs.values, *inputs.sealed))
    return f"%{{template_name}} with {given}" if given else "%{template_name}"
