"""The services of one machine as programs: what is started, and with which settings in its environment.

Owns the list and the settings. Only what a service needs of our own environment goes on to it; secrets are in files.
"""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Mapping
from typing import Any

from ..embedded.kafka import KafkaAddress
from ..errors import CommandError
from .child import Program
from .credentials import AGENT
from .layout import LOCAL_PROXY, DataDirectory
from .ports import LOOPBACK, any_free

SERVICES = ("planner", "dispatcher", "proxy-agent", "reporter", "gateway")

_PASSED = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "SSH_AUTH_SOCK", "VIRTUAL_ENV", "PYTHONPATH"}
)
_PASSED_PREFIXES = ("LC_", "XDG_", "CHARGEHAND_")
# Settings of this client: a service has no use for them, and one is a secret.
_NOT_PASSED = frozenset(
    f"CHARGEHAND_{name}" for name in ("TOKEN", "TOKEN_FILE", "SERVER", "DATA", "CONTEXT", "OUTPUT", "COLOR")
)


def service_programs(data: DataDirectory, http_port: int, environment: Mapping[str, str] = os.environ) -> list[Program]:
    """Every service of this installation, each with a health port of its own. Where Kafka is they are told late: they are
    started together with it."""
    given = _read_settings(data)
    unknown = sorted(set(given) - set(SERVICES))
    if unknown:
        raise _unreadable(data, f"[{unknown[0]}] is no service; there are {', '.join(SERVICES)}")
    return [
        _program(name, data, http_port, {**inherited(environment), **given.get(name, {})}, port)
        for name, port in zip(SERVICES, any_free(len(SERVICES)), strict=True)
    ]


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """What of our environment is passed on."""
    return {
        name: value
        for name, value in environment.items()
        if name in _PASSED or (name.startswith(_PASSED_PREFIXES) and name not in _NOT_PASSED)
    }


def kafka_environment(kafka: KafkaAddress) -> dict[str, str]:
    """Where Kafka is and as whom to come."""
    return {
        "CHARGEHAND_KAFKA_BOOTSTRAP": kafka.bootstrap,
        "CHARGEHAND_KAFKA_USERNAME": kafka.username,
        "CHARGEHAND_KAFKA_PASSWORD_FILE": str(kafka.password_file),
    }


def _program(name: str, data: DataDirectory, http_port: int, given: Mapping[str, str], health_port: int) -> Program:
    settings = {**_common(data), **_own(name, data, http_port)}
    address = f"http://{LOOPBACK}:{http_port}" if name == "gateway" else ""
    return Program(
        name=name,
        argv=(sys.executable, "-m", "chargehand", "run", name, "--late-settings"),
        environment={"CHARGEHAND_STOP_WITHIN": "PT8S", **given, **{f"CHARGEHAND_{n}": v for n, v in settings.items()}},
        log=data.log_of(name),
        address=address,
        health_port=health_port,
    )


def _common(data: DataDirectory) -> dict[str, str]:
    return {
        "PLANNER_KEY_FILE": str(data.planner_key),
        "PARENT_PID": str(os.getpid()),
    }


def _own(name: str, data: DataDirectory, http_port: int) -> dict[str, str]:
    match name:
        case "planner":
            return {
                "DATA": str(data.root / "planner"),
                "KEY_FILE": str(data.key_of("planner")),
                "TRUSTED_KEYS_FILE": str(data.trusted_keys),
                "BOOTSTRAP_ADMIN_FILE": str(data.admin),
            }
        case "proxy-agent":
            return {
                "DATA": str(data.root / "agents" / LOCAL_PROXY),
                "KEY_FILE": str(data.key_of(AGENT)),
                "PROXY": LOCAL_PROXY,
                "AGENT_ID": f"{LOCAL_PROXY}-1",
            }
        case "gateway":
            return {
                "DATA": str(data.root / "gateway"),
                "KEY_FILE": str(data.key_of("gateway")),
                "HTTP_HOST": LOOPBACK,
                "HTTP_PORT": str(http_port),
            }
        case _:
            return {"DATA": str(data.root / name), "KEY_FILE": str(data.key_of(name))}


def _read_settings(data: DataDirectory) -> dict[str, dict[str, str]]:
    """`settings.toml` of the data directory: a table for each service, with its settings in small letters."""
    try:
        document = tomllib.loads(data.settings.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise _unreadable(data, str(error)) from error
    return {name: _as_environment(data, name, table) for name, table in document.items()}


def _as_environment(data: DataDirectory, name: str, table: Any) -> dict[str, str]:
    if not isinstance(table, dict):
        raise _unreadable(data, f"{name!r} is no table")
    return {f"CHARGEHAND_{key.upper()}": _text(value) for key, value in table.items()}


def _text(value: Any) -> str:
    """As pydantic-settings reads it: lists and tables as JSON."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _unreadable(data: DataDirectory, why: str) -> CommandError:
    return CommandError(f"{data.settings} cannot be read.", why=f"{why}.", do="mend it, or move it away.")
