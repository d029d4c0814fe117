"""Whether this agent starts an attempt at all: the second fence, after the planner's (docs/explanation/trust.md).

Owns the reasons to release a command on receipt. Signatures were checked before it comes here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from chargehand_schemas.proxy_commands import ProxyCommand, RunProxyCommand
from chargehand_schemas.reasons import ReleaseReason

from .check_in_keys import PLACEHOLDER

if TYPE_CHECKING:
    from .facts import AgentFacts

ANY = "*"


@dataclass(frozen=True, slots=True)
class Policy:
    """What the proxy's owner lets be run here. Effective users are names or patterns with `*`, `?` and `[…]`; what is denied is not
    allowed. Denied scripts are regular expressions, searched in the rendered script."""

    allowed_effective_users: frozenset[str] = frozenset({ANY})
    denied_effective_users: frozenset[str] = frozenset()
    denied_scripts: tuple[str, ...] = ()


class Objection(NamedTuple):
    """Why an attempt is released on receipt."""

    why: ReleaseReason
    detail: str


def is_for(command: ProxyCommand, proxy: str) -> bool:
    """Whether a command in this proxy's topic also names this proxy; else it has no effect."""
    return command.proxy == proxy


def objection(command: RunProxyCommand, now: datetime, facts: AgentFacts) -> Objection | None:
    """The first reason not to start it, None if there is none. The clock comes first: no time is judged by a wrong one."""
    return (
        _clock(facts)
        or _time(command, now)
        or _stopping(facts)
        or _script(command, facts)
        or _provider(command, facts)
        or _journal(command, facts)
        or _users(command.effective_user, facts.policy)
        or _denied(command.script, facts.policy)
    )


def _clock(facts: AgentFacts) -> Objection | None:
    if facts.is_clock_trusted:
        return None
    if facts.clock_offset is None:
        return Objection(ReleaseReason.CLOCK_OFFSET, "this agent's clock was not compared with the broker's yet")
    off, margin = facts.clock_offset.total_seconds(), facts.clock_margin.total_seconds()
    return Objection(
        ReleaseReason.CLOCK_OFFSET, f"this agent's clock is off by {off:+.1f} s, more than {margin:g} s: set it right"
    )


def _time(command: RunProxyCommand, now: datetime) -> Objection | None:
    if now < command.not_after:
        return None
    late = (now - command.not_after).total_seconds()
    return Objection(ReleaseReason.EXPIRED, f"received {late:.1f} s after the latest start")


def _stopping(facts: AgentFacts) -> Objection | None:
    return Objection(ReleaseReason.STOPPING, "this agent is stopping") if facts.is_stopping else None


def _script(command: RunProxyCommand, facts: AgentFacts) -> Objection | None:
    if _digest(command.script) != command.script_digest:
        return Objection(ReleaseReason.NOT_VALID, "the script does not have the digest that was bound")
    if command.sealed:
        names = ", ".join(sorted(command.sealed))[:200]
        return Objection(ReleaseReason.NOT_SUPPORTED, f"this agent cannot fill hidden values in yet ({names})")
    if PLACEHOLDER in command.script and not facts.takes_check_ins:
        detail = f"proxy {facts.proxy} has no check-in endpoint: set CHARGEHAND_CHECK_IN_ADDRESS of its agents"
        return Objection(ReleaseReason.NOT_SUPPORTED, detail)
    return None


def _provider(command: RunProxyCommand, facts: AgentFacts) -> Objection | None:
    if command.provider_type in facts.same_user_only and command.effective_user:
        detail = f"provider {command.provider_type!r} cannot run scripts as another user: leave the user out"
        return Objection(ReleaseReason.NOT_SUPPORTED, detail)
    if command.provider_type in facts.providers:
        return None
    offered = ", ".join(sorted(facts.providers)) or "none"
    return Objection(ReleaseReason.NOT_SUPPORTED, f"no provider {command.provider_type!r} here; offered: {offered}")


def _journal(command: RunProxyCommand, facts: AgentFacts) -> Objection | None:
    """docs/protocol.md, rule SOLO: without a lock on the host, only what this journal must know if it was ever here."""
    if facts.has_host_lock(command.provider_type) or facts.is_within_journal(command.issued_at):
        return None
    return Objection(ReleaseReason.JOURNAL, "issued before this agent's journal began; another one may have started it")


def _users(effective_user: str, policy: Policy) -> Objection | None:
    """The connecting user, which is no effective user, needs no leave."""
    if not effective_user:
        return None
    if _is_among(effective_user, policy.allowed_effective_users) and not _is_among(
        effective_user, policy.denied_effective_users
    ):
        return None
    detail = f"this agent's policy does not let scripts run as {effective_user!r}: name a user it allows, or have it allowed there"
    return Objection(ReleaseReason.POLICY, detail)


def _is_among(user: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(user, pattern) for pattern in patterns)


def _denied(script: str, policy: Policy) -> Objection | None:
    pattern = _denied_by(script, policy.denied_scripts) if policy.denied_scripts else None
    return None if pattern is None else Objection(ReleaseReason.POLICY, f"this agent's policy denies /{pattern}/")


# One invocation's rendering is mostly the same on all its hosts: judged once.
@lru_cache(maxsize=32)
def _digest(script: str) -> str:
    return hashlib.sha256(script.encode()).hexdigest()


@lru_cache(maxsize=32)
def _denied_by(script: str, patterns: tuple[str, ...]) -> str | None:
    return next((pattern for pattern in patterns if re.search(pattern, script)), None)
