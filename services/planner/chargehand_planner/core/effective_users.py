"""As which user an invocation runs on its hosts: what its template says, who invokes it, and what they may say otherwise.

Owns that choice (docs/how-to/run-as-another-user.md). Whether a host lets it be is for the host to say, and whether a proxy does for
its agents.
"""

from __future__ import annotations

from chargehand_schemas.catalog import JobTemplateSaved
from chargehand_schemas.commands import InvokeJob, SaveJobTemplate
from chargehand_schemas.reasons import Refusal

from .outcomes import Refused

PASSWORD = "effective user password"  # noqa: S105 (no password, but where it is kept: no input can be called so)
_PERSON = "user:"


def choose(command: InvokeJob, template: JobTemplateSaved) -> str | Refused:
    """The override where the template lets itself be overridden, else the invoker's login or the template's own; empty: whoever
    connects."""
    user = _chosen(command, template)
    if user == "" and command.sealed_effective_user_password:
        detail = "a password for becoming another user was given, and no user; name one. Nothing was run"
        return Refused(Refusal.MALFORMED, detail)
    return user


def _chosen(command: InvokeJob, template: JobTemplateSaved) -> str | Refused:
    asked = command.effective_user
    if asked and template.effective_user_overridable:
        return asked
    default = _default(command, template)
    if not asked or isinstance(default, Refused) or asked == default:
        return default
    runs_as = repr(default) if default else "whoever connects"
    detail = (
        f"template {template.name!r} always runs as {runs_as}, not as {asked!r}; leave the user out. Nothing was run"
    )
    return Refused(Refusal.NOT_ALLOWED, detail)


def _default(command: InvokeJob, template: JobTemplateSaved) -> str | Refused:
    if not template.effective_user_current_user:
        return template.effective_user
    if command.actor.startswith(_PERSON):
        return command.actor.removeprefix(_PERSON)
    detail = f"template {template.name!r} runs as the person who invokes it, and {command.actor!r} is none; name a user. Nothing was run"
    return Refused(Refusal.NOT_ALLOWED, detail)


def check_template(command: SaveJobTemplate) -> Refused | None:
    """A template names a user or means the invoker, not both."""
    if not (command.effective_user and command.effective_user_current_user):
        return None
    detail = f"template {command.name!r} names the effective user {command.effective_user!r} and the person who invokes it; leave one out"
    return Refused(Refusal.TEMPLATE_INVALID, detail)
