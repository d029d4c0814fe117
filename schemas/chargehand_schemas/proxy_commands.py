"""Messages of the topics `proxy-commands.PROXY`: orders to the agents of one proxy. Key: host_id.

Owns shape only. An order carries all that an agent without a journal needs to look at the host.
"""

from __future__ import annotations

from uuid import UUID

from pydantic import Field

from .base import MAX_SCRIPT_BYTES, AttemptItem, Instant, Seconds
from .commands import HostRecord


class ProxyCommand(AttemptItem):
    """What run, resume and cancel have in common. `lock_path` is fixed per job task at its first binding (rule PIN)."""

    host_id: UUID
    host: HostRecord
    proxy: str
    provider_type: str
    lock_path: str = Field(max_length=512)
    effective_user: str = ""
    issued_at: Instant
    run_deadline: Instant


class RunProxyCommand(ProxyCommand):
    """Start one attempt, not after `not_after`. `script_digest` is the SHA-256 (hex) of `script` in UTF-8.

    `sealed` maps a placeholder in the script to a secret sealed to the proxy's key (base64). Where agents of the proxy have
    different keys, one box for each, separated by spaces: an agent opens the one that is its own.
    `earlier` are fenced by this one (docs/protocol.md, rule FENCE): of `unknown` ones nobody has said how they ended, if they did.
    `sealed_effective_user_password`: the same boxes of the password for becoming the effective user; empty: none was given.
    """

    not_after: Instant
    execution_timeout: Seconds
    grace: Seconds
    script: str = Field(max_length=MAX_SCRIPT_BYTES)
    script_digest: str
    earlier: tuple[int, ...] = ()
    unknown: tuple[int, ...] = ()
    sealed: dict[str, str] = Field(default_factory=dict)
    sealed_effective_user_password: str = ""


class ResumeProxyCommand(ProxyCommand):
    """Look at the host and report what is true of the attempt."""

    asked: int = 1


class CancelProxyCommand(ProxyCommand):
    """End the attempt's process group, or make sure that it never starts; report what is true."""

    grace: Seconds
    asked: int = 1
