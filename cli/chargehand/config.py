"""Where each setting of the command line comes from: flag, environment, context, default, in this order.

Owns the contexts file and the order. Settings of the command line are read from the environment here and nowhere else.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

from .errors import CommandError, ExitStatus

DEFAULT_PORT = 8757
NAMES = ("context", "server", "data", "token_file", "output", "color")
OUTPUTS = ("table", "json", "jsonl")
COLORS = ("auto", "always", "never")
_DEFAULTS = {"context": "", "server": "", "token_file": "", "output": "table", "color": "auto"}
_CONTEXT_KEYS = frozenset(NAMES) - {"context"}


class Rank(IntEnum):
    """Who wins: the lowest."""

    FLAG = 0
    ENVIRONMENT = 1
    CONTEXT = 2
    DEFAULT = 3


@dataclass(frozen=True, slots=True)
class Setting:
    """A value and who said so, e.g. `CHARGEHAND_DATA in the environment`."""

    name: str
    value: str
    rank: Rank
    origin: str


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, each with its origin."""

    rows: Mapping[str, Setting]

    def __getitem__(self, name: str) -> str:
        return self.rows[name].value

    def rank(self, name: str) -> Rank:
        return self.rows[name].rank

    @property
    def data(self) -> Path:
        """The data directory of the `up` that is meant."""
        return Path(self["data"]).expanduser().absolute()


@dataclass(frozen=True, slots=True)
class Server:
    """The server a command talks to, its token ("" if none is known) and who said so. The token is in no repr."""

    url: str
    origin: str
    token: str = field(default="", repr=False)
    token_origin: str = ""


def config_file(environment: Mapping[str, str]) -> Path:
    """`$XDG_CONFIG_HOME/chargehand/config.toml`."""
    base = environment.get("XDG_CONFIG_HOME", "")
    return (Path(base) if base.startswith("/") else Path("~/.config").expanduser()) / "chargehand" / "config.toml"


def default_data(environment: Mapping[str, str]) -> Path:
    """`$XDG_DATA_HOME/chargehand`."""
    base = environment.get("XDG_DATA_HOME", "")
    return (Path(base) if base.startswith("/") else Path("~/.local/share").expanduser()) / "chargehand"


def resolve(flags: Mapping[str, str | None], environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings in force. CommandError if the contexts file is not readable, or names what does not exist."""
    path = config_file(environment)
    document = _read_config(path)
    chosen = _first(_candidates("context", flags, environment), "current" in document, document, path)
    context = _context(document, chosen, path)
    where = f"context {chosen.value!r} in {path}"
    rows = {"context": chosen}
    for name in NAMES[1:]:
        default = str(default_data(environment)) if name == "data" else _DEFAULTS[name]
        found = _candidates(name, flags, environment)
        if name in context:
            found.append(Setting(name, str(context[name]), Rank.CONTEXT, where))
        rows[name] = (found or [Setting(name, default, Rank.DEFAULT, "default")])[0]
    _check_word(rows["output"], OUTPUTS)
    _check_word(rows["color"], COLORS)
    return Settings(rows)


def find_server(settings: Settings, environment: Mapping[str, str] = os.environ) -> Server:
    """The server that was asked for, or else that of the data directory. CommandError (3) if nothing runs there."""
    server = settings.rows["server"]
    if server.value and server.rank <= settings.rank("data"):
        token, origin = _token(settings, environment)
        return Server(_checked_url(server), server.origin, token, origin)
    return _local_server(settings, environment)


def _local_server(settings: Settings, environment: Mapping[str, str]) -> Server:
    data = settings.rows["data"]
    path = settings.data / "client.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        url, token = str(document["server"]), str(document["token"])
    except FileNotFoundError:
        raise CommandError(
            "there is no Chargehand to talk to.",
            why=f"no server was named, and {settings.data} (from {data.origin}) has never been started.",
            do="start one with `chargehand up`, or name one with --server URL.",
            status=ExitStatus.UNREACHABLE,
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, error) from error
    given, origin = _token(settings, environment)
    return Server(url, f"{path} ({data.origin})", given or token, origin or str(path))


def _token(settings: Settings, environment: Mapping[str, str]) -> tuple[str, str]:
    """A token is never a flag: arguments can be read by every account of the machine."""
    if environment.get("CHARGEHAND_TOKEN"):
        return environment["CHARGEHAND_TOKEN"], "CHARGEHAND_TOKEN in the environment"
    row = settings.rows["token_file"]
    if not row.value:
        return "", ""
    path = Path(row.value).expanduser()
    try:
        return path.read_text(encoding="utf-8").strip(), f"{path} ({row.origin})"
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _candidates(name: str, flags: Mapping[str, str | None], environment: Mapping[str, str]) -> list[Setting]:
    found = []
    flag, variable = flags.get(name), f"CHARGEHAND_{name.upper()}"
    if flag is not None:
        found.append(Setting(name, flag, Rank.FLAG, f"--{name.replace('_', '-')}"))
    if environment.get(variable):
        found.append(Setting(name, environment[variable], Rank.ENVIRONMENT, f"{variable} in the environment"))
    return found


def _first(found: list[Setting], has_current: bool, document: Mapping[str, Any], path: Path) -> Setting:
    if not found and has_current:
        return Setting("context", str(document["current"]), Rank.CONTEXT, f"`current` in {path}")
    return (found or [Setting("context", "", Rank.DEFAULT, "default")])[0]


def _context(document: Mapping[str, Any], chosen: Setting, path: Path) -> Mapping[str, Any]:
    contexts = document.get("contexts", {})
    if not chosen.value:
        return {}
    if not isinstance(contexts, dict) or not isinstance(contexts.get(chosen.value), dict):
        raise CommandError(
            f"there is no context {chosen.value!r}.",
            why=f"{chosen.origin} names it, and {path} has {_listed(contexts)}.",
            do=f"add a table [contexts.{chosen.value}] there, or name another with --context.",
        )
    unknown = set(contexts[chosen.value]) - _CONTEXT_KEYS
    if unknown:
        raise CommandError(
            f"the context {chosen.value!r} in {path} cannot be read.",
            why=f"it has {_listed(unknown)}, which {'is no setting' if len(unknown) == 1 else 'are no settings'}.",
            do=f"a context may hold {_listed(_CONTEXT_KEYS)}.",
        )
    found: Mapping[str, Any] = contexts[chosen.value]
    return found


def _listed(names: Any) -> str:
    return ", ".join(sorted(map(str, names))) or "none"


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _check_word(setting: Setting, words: tuple[str, ...]) -> None:
    if setting.value not in words:
        raise CommandError(
            f"{setting.name} cannot be {setting.value!r}.",
            why=f"{setting.origin} says so.",
            do=f"use one of {', '.join(words)}.",
        )


def _checked_url(setting: Setting) -> str:
    if not setting.value.startswith(("http://", "https://")):
        raise CommandError(
            f"{setting.value!r} is no server.",
            why=f"{setting.origin} names it, and it does not begin with http:// or https://.",
            do="write it like https://chargehand.example.com or http://127.0.0.1:8757.",
        )
    return setting.value.rstrip("/")


def _unreadable(path: Path, error: Exception) -> CommandError:
    return CommandError(f"{path} cannot be read.", why=str(error), do="mend the file, or move it away.")
