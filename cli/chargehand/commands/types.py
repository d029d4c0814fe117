"""What people write on a command line for durations, instants and inputs. Owns their forms."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])")
_UNIT_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}


class Duration(click.ParamType):
    """`30s`, `5m`, `1h30m`, `2d`; a bare number is seconds. Gives a timedelta."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        found = parse_duration(value)
        if found is None:
            self.fail(f"{value!r} is no duration: write it like 30s, 5m or 1h30m", param, ctx)
        return found


class Moment(click.ParamType):
    """`2026-11-24T18:00`, with or without a zone (else the local one), or `+10m` from now. Gives an aware datetime."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        if value.startswith("+"):
            later = parse_duration(value[1:])
            if later is not None:
                return datetime.now().astimezone() + later
        try:
            return datetime.fromisoformat(value).astimezone()
        except ValueError:
            self.fail(f"{value!r} is no time: write it like 2026-11-24T18:00 or +10m", param, ctx)


class NameAndValue(click.ParamType):
    """`NAME=VALUE`. Gives the pair."""

    name = "NAME=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, sign, text = value.partition("=")
        if not sign or not name:
            self.fail(f"{value!r} is not of the form NAME=VALUE", param, ctx)
        return name, text


class NameAndSecret(NameAndValue):
    """`NAME=FILE`, or `NAME=-` to be asked. Gives the name and what is in the file, without its last newline."""

    name = "NAME=FILE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, place = super().convert(value, param, ctx)
        if place == "-":
            return name, click.prompt(name, hide_input=True, err=True)
        try:
            return name, Path(place).expanduser().read_text(encoding="utf-8").removesuffix("\n")
        except (OSError, ValueError) as error:
            self.fail(f"{place}: {error}", param, ctx)


def parse_duration(text: str) -> timedelta | None:
    """A timedelta; None if it is no duration."""
    if re.fullmatch(r"\d+(?:\.\d+)?", text):
        return timedelta(seconds=float(text))
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return timedelta(seconds=sum(float(number) * _UNIT_S[unit] for number, unit in parts))
