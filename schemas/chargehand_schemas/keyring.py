"""The keyring: whose key is whose, and what a key may say. A fold over catalog events; pure, no cryptography.

Owns the rules of docs/explanation/trust.md that can be judged from the keyring alone. What an item is about is judged by its reader.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from .base import Item
from .catalog import EnrolmentTokenIssued, EnrolmentTokenUsed, KeyEnrolled, KeyRevoked
from .reasons import Role


@dataclass(frozen=True, slots=True)
class Writer:
    """Who a key belongs to. `subject`: the proxy of an agent, the name of a service or account."""

    kid: str
    role: Role
    subject: str
    signing_key: bytes
    sealing_key: bytes = b""
    agent_id: str = ""
    actors: tuple[str, ...] = ()
    expires_at: datetime | None = None
    is_revoked: bool = False


class Keyring:
    """Keys known so far. Mutable, but only through `fold` and `pin`."""

    def __init__(self) -> None:
        self._writers: dict[str, Writer] = {}

    def pin(self, writer: Writer) -> None:
        """Trust a key from the settings: the planner's."""
        self._writers[writer.kid] = writer

    def find(self, kid: str) -> Writer | None:
        return self._writers.get(kid)

    def fold(self, event: Item) -> None:
        """Take in one catalog event; others than those about keys change nothing. A pinned key is not replaced."""
        match event:
            case KeyEnrolled():
                self._writers.setdefault(event.kid, _writer(event))
            case KeyRevoked() | EnrolmentTokenUsed():
                self._revoke(event.kid)
            case EnrolmentTokenIssued():
                self._writers.setdefault(event.kid, _enrolee(event))
            case _:
                pass

    def _revoke(self, kid: str) -> None:
        writer = self._writers.get(kid)
        if writer is not None:
            self._writers[kid] = replace(writer, is_revoked=True)

    def sealing_key_of_proxy(self, proxy: str) -> bytes | None:
        """A living sealing key of a proxy's agents (agents of one name share it)."""
        for writer in self._writers.values():
            if writer.role is Role.AGENT and writer.subject == proxy and not writer.is_revoked and writer.sealing_key:
                return writer.sealing_key
        return None

    def agents_of(self, proxy: str) -> tuple[Writer, ...]:
        """The enrolled, unrevoked agents of a proxy (rule ONE counts them)."""
        return tuple(
            w for w in self._writers.values() if w.role is Role.AGENT and w.subject == proxy and not w.is_revoked
        )

    def proxies(self) -> tuple[str, ...]:
        """Names of proxies with a living agent key, sorted."""
        return tuple(sorted({w.subject for w in self._writers.values() if w.role is Role.AGENT and not w.is_revoked}))


def _writer(event: KeyEnrolled) -> Writer:
    return Writer(
        kid=event.kid,
        role=event.role,
        subject=event.subject,
        signing_key=bytes.fromhex(event.signing_key),
        sealing_key=bytes.fromhex(event.sealing_key),
        agent_id=event.agent_id,
        actors=event.actors,
    )


def _enrolee(event: EnrolmentTokenIssued) -> Writer:
    return Writer(
        kid=event.kid,
        role=Role.ENROLEE,
        subject=event.subject,
        signing_key=bytes.fromhex(event.token_key),
        expires_at=event.expires_at,
    )
