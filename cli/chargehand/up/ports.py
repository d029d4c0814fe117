"""Free ports of the loopback interface. Owns choosing; whoever binds may still be too late, and is then started elsewhere."""

from __future__ import annotations

import random
import socket

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


def first_free(wanted: int) -> int:
    """This port or the next free one; any free port if a hundred are taken."""
    for port in range(wanted, min(wanted + _TRIED, 65_536)):
        if is_free(port):
            return port
    return any_free(1)[0]


def any_free(count: int) -> list[int]:
    """So many different free ports."""
    found: list[int] = []
    for port in random.sample(_INNER, len(_INNER)):
        if len(found) == count:
            break
        if is_free(port):
            found.append(port)
    return found
