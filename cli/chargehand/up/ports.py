"""Free ports of the loopback interface. Owns choosing; whoever binds may still be too late, and is then started elsewhere."""

from __future__ import annotations

import random
import socket
import sys

LOOPBACK = "127.0.0.1"
_TRIED = 100
# Below the ports that kernels give to outgoing connections: one of those would sit there when a service starts again.
_INNER = range(20_000, 30_000)


def is_free(port: int) -> bool:
    """Whether the port could be bound now, a connection of the last minute in TIME_WAIT notwithstanding."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


class PortClaim:
    """A free port for whoever is started later. Two installations that start at once do not choose the same: the claim is a
    name in the kernel's own space (Linux), which goes with the process."""

    def __init__(self, wanted: int) -> None:
        """The wanted port or the next free one; any free port if a hundred are taken."""
        self._held: socket.socket | None = None
        candidates = [*range(wanted, min(wanted + _TRIED, 65_536)), *any_free(_TRIED)]
        self.port = next(port for port in candidates if is_free(port) and self._claim(port))

    def release(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None

    def _claim(self, port: int) -> bool:
        if not sys.platform.startswith("linux"):
            return True
        held = socket.socket(socket.AF_UNIX)
        try:
            held.bind(f"\0chargehand-port-{port}")
        except OSError:
            held.close()
            return False
        self._held = held
        return True


def any_free(count: int) -> list[int]:
    """So many different free ports."""
    found: list[int] = []
    for port in random.sample(_INNER, len(_INNER)):
        if len(found) == count:
            break
        if is_free(port):
            found.append(port)
    return found
