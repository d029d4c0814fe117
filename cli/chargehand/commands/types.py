"""What people write on a command line for durations, instants and inputs. Owns their forms."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click
from chargehand_chassis.durations import parse_duration


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


class Limit(click.ParamType):
    """A whole number from 1 on, or a word for "none of its own". Gives the number, or 0 for the word."""

    name = "N"

    def __init__(self, word: str) -> None:
        self.word = word

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if value == self.word:
            return 0
        if not (value.isascii() and value.isdigit() and 1 <= int(value) <= 1_000_000):
            self.fail(f"{value!r} is neither a number from 1 to 1000000 nor {self.word!r}", param, ctx)
        return int(value)


class Batches(click.ParamType):
    """`1,5,25%`: sizes of batches, as counts or shares; the last one is repeated. Gives them as a tuple of texts."""

    name = "SIZE,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        from chargehand_schemas.properties import Rolling
        from pydantic import ValidationError

        if isinstance(value, tuple):
            return value
        sizes = tuple(part.strip() for part in value.split(","))
        try:
            return Rolling(batches=sizes).batches
        except ValidationError:
            self.fail(f"{value!r} are no batches: write sizes like 1,5,25%", param, ctx)


class Share(click.ParamType):
    """A number, or a share like `10%`. Gives the text."""

    name = "N|%"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from chargehand_schemas.properties import Rolling
        from pydantic import ValidationError

        try:
            return Rolling(failure_limit=value).failure_limit
        except ValidationError:
            self.fail(f"{value!r} is neither a number nor a share like 10%", param, ctx)


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


class SecretFile(click.ParamType):
    """A file, or `-` for standard input. Gives its only line."""

    name = "FILE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            text = sys.stdin.read() if value == "-" else Path(value).expanduser().read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            self.fail(f"{value}: {error}", param, ctx)
        line = text.removesuffix("\n").removesuffix("\r")
        if not line or not line.isprintable():
            self.fail(f"{value}: a password is one line that is not empty", param, ctx)
        return line
