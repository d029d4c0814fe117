"""The two loopback ports of a broker: chosen once, kept in its folder. Owns the choice; nothing listens here."""

from __future__ import annotations

import secrets
import socket
from dataclasses import dataclass

# Below the range that systems give to outgoing connections (Linux from 32768, others from 49152). A port out of that range can
# be taken by any client while the broker restarts, even by one that tries to reach the broker: it then connects to itself.
_FIRST, _LAST = 20_000, 32_000
_TRIES = 200


@dataclass(frozen=True)
class Ports:
    """Where clients come in, and where the controller listens."""

    broker: int
    controller: int

    def are_free(self) -> bool:
        return is_free(self.broker) and is_free(self.controller)


def choose_ports() -> Ports:
    """Two different free ports of 127.0.0.1, at random. OSError when there are none."""
    span = _LAST - _FIRST
    for _ in range(_TRIES):
        first = _FIRST + secrets.randbelow(span)
        ports = Ports(first, _FIRST + secrets.randbelow(span))
        if ports.broker != ports.controller and ports.are_free():
            return ports
    raise OSError(f"no free port of 127.0.0.1 between {_FIRST} and {_LAST}")


def is_free(port: int) -> bool:
    """Whether a server could listen there now. Connections of an earlier one that are still closing do not count, as
    they do not for Kafka."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
