"""The secret that hosts' check-in keys are derived from: a file of the agent's, made at the first start.

Owns reading and making the file. Agents of one proxy have the same file (docs/how-to/check-in.md); it never leaves them.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from chargehand_chassis.errors import FatalFailure

from ..core.check_in_keys import SECRET_BYTES, read_secrets
from .settings import AgentSettings


def own_secrets(settings: AgentSettings) -> tuple[bytes, ...]:
    """The secrets, the current one first; none if there is no check-in endpoint. FatalFailure for a file that cannot be used."""
    if not settings.check_in_address:
        return ()
    given = settings.check_in_secret_file
    path = given or settings.data / "check-in-secret"
    if given is None and not path.exists():
        _make(path)
    return _load(path)


def _make(path: Path) -> None:
    """Whole or not at all: a part of a secret would be taken for one."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(SECRET_BYTES) + "\n")
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


def _load(path: Path) -> tuple[bytes, ...]:
    name = "CHARGEHAND_CHECK_IN_SECRET_FILE"
    try:
        mode = path.stat().st_mode & 0o077
        if mode:
            raise FatalFailure(f"{name} {path}: others may read it; chmod 600 it, or make a new one")
        found = read_secrets(path.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise FatalFailure(f"{name} {path}: {error}; make one: openssl rand -hex 32 >FILE; chmod 600 FILE") from error
    if isinstance(found, str):
        raise FatalFailure(f"{name} {path}: {found}; make one: openssl rand -hex 32")
    return found
