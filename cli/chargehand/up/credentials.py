"""Keys and the administrator's token, made on the first start and kept in the data directory.

Owns which keys there are and the files that hand them on: the public halves to the planner, the token to this machine's
client. No secret is ever an argument or in an environment.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from datetime import UTC, datetime, timedelta

from chargehand_chassis.keys import OwnKeys, generate_keys, load_keys, public_document
from chargehand_schemas.base import as_utc
from chargehand_schemas.reasons import Role

from .layout import LOCAL_PROXY, DataDirectory, write_private

ADMINISTRATOR = "admin"
TOKEN_PREFIX = "cgt_"  # noqa: S105 (how a token begins, no token)
TOKEN_LIFE = timedelta(days=365)
_RENEW_BEFORE = timedelta(days=180)
AGENT = f"agent-{LOCAL_PROXY}"

_OWNERS = {
    "planner": (Role.PLANNER, "planner", ""),
    "dispatcher": (Role.DISPATCHER, "dispatcher", ""),
    "reporter": (Role.REPORTER, "reporter", ""),
    "gateway": (Role.GATEWAY, "gateway", ""),
    AGENT: (Role.AGENT, LOCAL_PROXY, f"{LOCAL_PROXY}-1"),
}
"""The keys of one machine: the name of the file, then role, subject and agent id."""


def make_keys(data: DataDirectory) -> None:
    """Make the keys that are missing, and write down the public halves of all."""
    documents = []
    for name, (role, subject, agent_id) in _OWNERS.items():
        keys = _load_or_generate(data, name)
        documents.append(public_document(keys, role, subject, agent_id))
    write_private(data.planner_key, documents[0])
    write_private(data.trusted_keys, documents)


def _load_or_generate(data: DataDirectory, name: str) -> OwnKeys:
    path = data.key_of(name)
    return load_keys(path) if path.exists() else generate_keys(path)


def make_token(data: DataDirectory, server: str, now: datetime | None = None) -> str:
    """The administrator's token, made anew when it has less than half a year to live; and where the server now is."""
    moment = now or datetime.now(UTC)
    token, expires_at = _present_token(data)
    if not token or expires_at - moment < _RENEW_BEFORE:
        token, expires_at = TOKEN_PREFIX + secrets.token_urlsafe(32), moment + TOKEN_LIFE
    digest = hashlib.sha256(token.encode()).hexdigest()
    write_private(data.admin, {"login": ADMINISTRATOR, "token_sha256": digest, "expires_at": as_utc(expires_at)})
    write_private(data.client, {"server": server, "token": token, "expires_at": as_utc(expires_at)})
    return token


def _present_token(data: DataDirectory) -> tuple[str, datetime]:
    try:
        document = json.loads(data.client.read_text(encoding="utf-8"))
        return str(document["token"]), datetime.fromisoformat(document["expires_at"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", datetime.min.replace(tzinfo=UTC)
