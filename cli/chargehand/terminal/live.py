"""Drawing a job in flight: a bar that moves on a terminal, plain lines elsewhere, nothing for programs.

Owns the drawing. What is said is in `progress`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from chargehand_schemas.reasons import JobTaskStatus

from .progress import Progress

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

    from .screen import Screen

_LINE_EVERY_S = 5.0
_BAR_WIDTH = 30


class View(Protocol):
    """Where a job in flight is shown."""

    def show(self, progress: Progress, lines: Iterable[str]) -> None: ...


class Silent:
    """For programs: they read the document at the end."""

    def show(self, progress: Progress, lines: Iterable[str]) -> None:
        """Nothing."""


class PlainLines:
    """For pipes and logs: hosts as they fail, and every five seconds the counts if they changed."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._said = ""
        self._said_at = time.monotonic()

    def show(self, progress: Progress, lines: Iterable[str]) -> None:
        for line in lines:
            self._screen.say(line)
        moment = time.monotonic()
        if moment - self._said_at >= _LINE_EVERY_S and progress.line() != self._said:
            self._said, self._said_at = progress.line(), moment
            self._screen.say(self._said)


class MovingBar:
    """For terminals."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, progress: Progress, lines: Iterable[str]) -> None:
        from rich.text import Text

        for line in lines:
            self._live.console.print(Text(f"✘ {line}", style="red"))
        self._live.update(_bar(progress))


@contextmanager
def view_on(screen: Screen) -> Iterator[View]:
    """The view that fits the screen, until the job has ended."""
    if not screen.is_table:
        yield Silent()
    elif not screen.is_live:
        yield PlainLines(screen)
    else:
        from rich.live import Live

        with Live(console=screen.console(sys.stderr), transient=True, refresh_per_second=8) as live:
            yield MovingBar(live)


def _bar(progress: Progress) -> Text:
    from rich.text import Text

    text = Text()
    left = _BAR_WIDTH
    parts = (
        (progress.count(JobTaskStatus.SUCCEEDED), "green", "━"),
        (progress.count(JobTaskStatus.FAILED), "red", "━"),
        (progress.count(JobTaskStatus.CANCELLED), "yellow", "━"),
        (progress.active, "cyan", "─"),
    )
    for count, style, mark in parts:
        width = min(left, -(-count * _BAR_WIDTH // max(1, progress.total)))
        text.append(mark * width, style)
        left -= width
    text.append("·" * left, "dim")
    return text.append(f" {progress.line()}" if progress.invocation else " waiting for the plan")
