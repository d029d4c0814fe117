"""Points between two durable writes at which a test may end the process at once. Owns the hook; nothing decides here."""

from __future__ import annotations

import os

EXIT_CODE = 137


class FaultPoints:
    """Armed with one name from the settings (tests only): the process ends, as by kill -9, when it gets there.

    `name:3` ends it at the third passing.
    """

    def __init__(self, armed: str = "") -> None:
        name, _, count = armed.partition(":")
        self._name = name
        self._left = int(count or "1") if name else 0

    def reach(self, name: str) -> None:
        """End the process if this point is the armed one."""
        if self._left and name == self._name:
            self._left -= 1
            if not self._left:
                os._exit(EXIT_CODE)
