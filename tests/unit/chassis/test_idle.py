"""What an idle process does not do: wake up to ask the broker again, or to look whether its health server is to close."""

from __future__ import annotations

import socket
import threading
import urllib.request
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from aiokafka.consumer.fetcher import Fetcher as KafkaFetcher
from chargehand_chassis.health import Health
from chargehand_chassis.kafka.patience import LONGEST_S, SHORTEST_S, Patience


@dataclass
class Fetcher:
    """What Patience sets, as aiokafka has it."""

    _fetch_max_wait_ms: int = 500
    _fetcher_timeout: float = 0.2


@dataclass
class Consumer:
    _fetcher: Fetcher = field(default_factory=Fetcher)


@dataclass
class Clock:
    moment_s: float = 1000.0

    def __call__(self) -> float:
        return self.moment_s


def patience(clock: Clock) -> tuple[Patience, Fetcher]:
    consumer = Consumer()
    return Patience(cast(Any, consumer), clock), consumer._fetcher


def test_a_fetch_waits_longer_the_longer_nothing_came_and_never_beyond_its_limit() -> None:
    clock = Clock()
    patient, fetcher = patience(clock)
    waits = []
    for moment_s in (1000.0, 1000.4, 1002.0, 1600.0):
        clock.moment_s = moment_s
        patient.looked(False)
        waits.append(fetcher._fetch_max_wait_ms)
    assert waits == [1000 * SHORTEST_S, 200, 1000, 1000 * LONGEST_S]
    assert fetcher._fetcher_timeout > LONGEST_S, "the fetcher is woken by its fetch alone"


def test_aiokafka_has_what_is_set() -> None:
    """A field of another name would be set in vain, in silence."""
    fields = set(KafkaFetcher.__init__.__code__.co_names)
    assert {"_fetch_max_wait_ms", "_fetcher_timeout"} <= fields


def test_one_record_makes_fetches_short_again() -> None:
    clock = Clock()
    patient, fetcher = patience(clock)
    clock.moment_s += 600
    patient.looked(False)
    patient.looked(True)
    assert (patient.wait_s, fetcher._fetch_max_wait_ms) == (SHORTEST_S, 1000 * SHORTEST_S)


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_health_answers_until_it_is_closed_and_leaves_neither_port_nor_thread(port: int) -> None:
    health = Health()
    health.serve("127.0.0.1", port)
    health.set_ready(True)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
        assert answer.status == 200
    health.close()
    health.close()
    assert "health" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)
