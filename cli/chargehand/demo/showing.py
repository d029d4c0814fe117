"""Telling the demonstration's story against a running installation: register, run, watch, sum up, and what to try next.

Owns the order and the words. Starting and stopping is not here.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chargehand_schemas.api import JobInvocationDocument, JobInvocationRequest
from chargehand_schemas.commands import Targeting
from chargehand_schemas.properties import ExecutionOverrides

from ..commands.watching import print_summary
from ..options import Asked
from ..terminal.live import view_on
from ..terminal.progress import Progress
from .story import COMMAND, CONCURRENCY, DESCRIPTION, SIMULATED, hosts, next_commands

_LINES = 6


@dataclass(frozen=True, slots=True)
class Shown:
    """How it went: seconds from the beginning of the command to the first verdict, and the job at its end."""

    first_verdict_s: float
    invocation: JobInvocationDocument


def tell(
    asked: Asked, real: Sequence[Mapping[str, Any]], proxy: str, began: float, is_over: Callable[[], bool]
) -> Shown | None:
    """The story. None if `is_over` before its end. `began`: when the command was given, on the monotonic clock."""
    asked.screen.say(f"{len(real)} ssh hosts (real shells of this account) and {SIMULATED} simulated ones")
    records = hosts(real, proxy)
    asked.client.register_hosts(records)
    request = JobInvocationRequest(
        targeting=Targeting(all=True),
        inputs={"command": COMMAND},
        description=DESCRIPTION,
        overrides=ExecutionOverrides(concurrency=CONCURRENCY),
        expect_hosts=len(records),
    )
    accepted = asked.client.invoke(request)
    asked.screen.say(f"job {accepted.job_invocation_id}: {DESCRIPTION}, {CONCURRENCY} hosts at a time")
    first_verdict_s = 0.0
    progress = Progress()
    with view_on(asked.screen) as view:
        for change in asked.client.watch(str(accepted.job_invocation_id)):
            if is_over():
                return None
            view.show(progress, progress.take(change))
            if progress.ended and not first_verdict_s:
                first_verdict_s = time.monotonic() - began
    invocation = asked.client.job_invocation(str(accepted.job_invocation_id))
    print_summary(asked, invocation, lines=_LINES, is_raw=False)
    return Shown(first_verdict_s, invocation)


def what_next(data: Path, login_url: str, is_staying: bool) -> str:
    """The link, five commands that work on this data, and how it ends."""
    width = max(len(command) for command, _ in next_commands(_program()))
    lines = ["", f"The page, logged in by this link once: {login_url}", ""]
    if is_staying:
        lines += ["In a second terminal:", f"  export CHARGEHAND_DATA={data}"]
    else:
        lines += [f"With `chargehand demo` in a terminal it stays, and these work (CHARGEHAND_DATA={data}):"]
    lines += [f"  {command:<{width}}   # {what}" for command, what in next_commands(_program())]
    return "\n".join([*lines, "", "Ctrl-C ends it and removes everything." if is_staying else ""])


def read_hosts(path: Path) -> list[dict[str, Any]]:
    """What the demonstration's hosts say of themselves; empty as long as they do not listen."""
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return rows
    except (OSError, ValueError):
        return []


def _program() -> str:
    """How this program is called from a shell here."""
    return "chargehand" if shutil.which("chargehand") else f"{sys.executable} -m chargehand"
