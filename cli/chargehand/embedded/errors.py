"""The one error of the launcher. Owns its shape: what went wrong, why, what to do. Nothing is caught or printed here."""

from __future__ import annotations


class LauncherError(Exception):
    """Kafka could not be started, found or stopped. Each part is one sentence for the person at the terminal."""

    def __init__(self, what: str, *, why: str, do: str) -> None:
        super().__init__(f"{what}\n  why: {why}\n  what to do: {do}")
        self.what = what
        self.why = why
        self.do = do
