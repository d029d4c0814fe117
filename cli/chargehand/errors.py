"""Exit statuses and the one error of the command line: what, why, what to do (docs/reference/commands.md).

Owns both. Errors of the client library are its own; `commands` turns them into these.
"""

from __future__ import annotations

from enum import IntEnum


class ExitStatus(IntEnum):
    """What a command ends with. NEEDS_A_PERSON is said by `run` alone, as by every service: a restart does not help."""

    SUCCEEDED = 0
    NOT_SUCCEEDED = 1
    REFUSED = 2
    UNREACHABLE = 3
    LOG_IN = 4
    NEEDS_A_PERSON = 78
    TIMED_OUT = 124
    INTERRUPTED = 130


class CommandError(Exception):
    """A command cannot go on. Three sentences for the person at the terminal, and the exit status."""

    def __init__(self, what: str, *, why: str, do: str, status: ExitStatus = ExitStatus.REFUSED) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.do = do
        self.status = status

    def lines(self) -> tuple[str, str, str]:
        """The three lines."""
        return f"error: {self.what}", f"  why: {self.why}", f"  what to do: {self.do}"
