"""The words of a verdict that a time limit has brought about: which limit it was, its value, and what is known besides.

Owns these words. When a limit is over, and what follows, is over.py's and table.py's.
"""

from __future__ import annotations

from datetime import timedelta

from chargehand_schemas.properties import ExecutionProperties

_UNITS = (("d", timedelta(days=1)), ("h", timedelta(hours=1)), ("m", timedelta(minutes=1)))


def ran_too_long(properties: ExecutionProperties) -> str:
    return f"ended after execution_timeout_interval ({spelt(properties.execution_timeout_interval)})"


def not_started(properties: ExecutionProperties, why: str) -> str:
    """`why`: what hindered the last attempt; without it nobody has said anything."""
    limit = f"not started within time_to_pickup ({spelt(properties.time_to_pickup)})"
    return f"{limit}: {why or 'no agent of its proxy has started it'}"


def no_check_in(properties: ExecutionProperties, why: str) -> str:
    limit = f"the host did not check in within time_to_pickup ({spelt(properties.time_to_pickup)})"
    return f"{limit}: {why}" if why else limit


def unknown_end(properties: ExecutionProperties) -> str:
    """The host itself has ended it by then, but nobody can say how."""
    limits = f"execution_timeout_interval ({spelt(properties.execution_timeout_interval)}) and grace ({spelt(properties.grace)})"
    return f"no agent could say what became of it by its deadline, which is its latest start and {limits}"


def spelt(duration: timedelta) -> str:
    """As people write it on the command line: `90s` is `1m30s`."""
    words, rest = "", duration
    for unit, size in _UNITS:
        count, rest = divmod(rest, size)
        words += f"{count}{unit}" if count else ""
    return words + f"{rest.total_seconds():g}s" if rest or not words else words
