"""`down`: end the supervisor, which ends all else; or what a killed one has left. Owns who is asked, and how long."""

from __future__ import annotations

import os
import signal
import time

from ..errors import CommandError, ExitStatus
from .layout import DataDirectory
from .stack import end_everything_left
from .state import UpState, load_state

STOPPED_WITHIN_S = 45.0
_LOOK_AGAIN_S = 0.05


def stop_everything(data: DataDirectory) -> str:
    """What was done, in words. CommandError if it does not stop."""
    state = load_state(data)
    if state is not None and state.is_running():
        _stop(state)
        return f"stopped (process {state.pid})"
    left = end_everything_left(data, lambda _: None) if state is not None else 0
    if left:
        return f"it was not running; {left} processes that a killed `up` had left were ended"
    return f"nothing runs on {data.root}"


def _stop(state: UpState) -> None:
    os.kill(state.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOPPED_WITHIN_S
    while state.is_running():
        if time.monotonic() > deadline:
            raise CommandError(
                f"process {state.pid} does not stop.",
                why=f"it was asked to {STOPPED_WITHIN_S:g} s ago.",
                do=f"see what holds it up; `kill -9 {state.pid}` and a new `up` lose nothing.",
                status=ExitStatus.NOT_SUCCEEDED,
            )
        time.sleep(_LOOK_AGAIN_S)
