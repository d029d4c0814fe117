"""What an installation begins with: the planner's own key, the keys and the administrator that the settings name, templates.

Owns reading those files. What is there already is left alone, whatever became of it since.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from chargehand_chassis.errors import FatalFailure
from chargehand_chassis.keys import OwnKeys, public_document, writer_of
from chargehand_schemas.keyring import Writer
from chargehand_schemas.reasons import Role
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from ..core import keys, seeds, users
from .seeded_texts import seeded_texts
from .settings import PlannerSettings
from .store import Change, Conflict, PlannerStore


class _Administrator(BaseModel):
    model_config = ConfigDict(frozen=True)

    login: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}$")
    token_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    expires_at: AwareDatetime


def record_first_facts(store: PlannerStore, settings: PlannerSettings, own_keys: OwnKeys, now: datetime) -> None:
    """Record what is new of all that. FatalFailure for a file that cannot be read."""
    templates = store.templates()
    known = {key.kid for key in store.all_keys()}
    own = writer_of(public_document(own_keys, Role.PLANNER, "planner"))
    appends = [
        *seeds.seeds(templates.keys(), templates.values(), now, seeded_texts()),
        *keys.trust([own, *_trusted(settings.trusted_keys_file)], known, now),
        *_administrator(store, settings.bootstrap_admin_file, now),
    ]
    try:
        store.record(Change(appends=appends, moment=now))
    except Conflict:
        record_first_facts(store, settings, own_keys, now)  # another planner began at the same time


def _administrator(store: PlannerStore, path: Path | None, now: datetime) -> list[Any]:
    if path is None:
        return []
    try:
        admin = _Administrator.model_validate(_json(path))
    except ValidationError as error:
        raise FatalFailure(f"{path}: needs login, token_sha256 and expires_at: {error.errors()[0]['msg']}") from error
    lookups = store.user_lookups(admin.login, token_sha256=admin.token_sha256)
    return list(users.bootstrap(admin.login, admin.token_sha256, admin.expires_at, lookups, now))


def _trusted(path: Path | None) -> list[Writer]:
    if path is None:
        return []
    try:
        return [writer_of(document) for document in _json(path)]
    except (KeyError, ValueError, TypeError) as error:
        raise FatalFailure(f"{path}: no list of public keys ({error})") from error


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FatalFailure(f"{path}: cannot be read as JSON ({error})") from error
