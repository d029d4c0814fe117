"""Where a secret must not be, of a running installation and its hosts: topics, logs, stores, arguments, environments.

Owns reading those places and knowing a secret again in its disguises.
"""

from __future__ import annotations

import base64
import contextlib
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
from aiokafka import AIOKafkaConsumer, TopicPartition
from chargehand_chassis.kafka import connection
from chargehand_schemas.topics import TOPICS

from support.installation import Installation

OWN_FILES = re.compile(r"keys/[a-z-]+\.json|kafka/passwords/[a-z]+|client\.json|kafka/server\.properties")
"""The files whose purpose is to hold a secret; readable by their owner only. Kafka reads its own password from its settings."""


def forms(secret: str) -> list[bytes]:
    """As it is, in base64 from any place of three, and as bytes where it is hexadecimal."""
    raw = secret.encode()
    found = [raw, *(base64.b64encode(raw[shift:])[4:-8] for shift in range(3))]
    if re.fullmatch("[0-9a-f]{64}", secret):
        found.append(bytes.fromhex(secret))
    return found


def in_files(data: Path) -> Iterator[tuple[str, bytes]]:
    """Logs, stores, Kafka's log, whatever else lies in the data directory."""
    for path in data.rglob("*"):
        place = str(path.relative_to(data))
        if path.is_file() and not OWN_FILES.fullmatch(place):
            yield place, path.read_bytes()


def in_processes(pid: int) -> Iterator[tuple[str, bytes]]:
    """Arguments and environments, as anybody of this account can read them."""
    supervisor = psutil.Process(pid)
    for process in (supervisor, *supervisor.children(recursive=True)):
        for name in ("cmdline", "environ"):
            try:
                yield f"{name} of {process.pid}", Path(f"/proc/{process.pid}/{name}").read_bytes()
            except OSError:
                continue


async def in_topics(own: Installation) -> list[tuple[str, bytes]]:
    """Every record of every topic, key, headers and value, not compressed any more."""
    consumer = AIOKafkaConsumer(**connection(own.kafka()), enable_auto_commit=False)
    await consumer.start()
    found = []
    try:
        names = [topic.of("local") if topic.is_per_proxy else topic.name for topic in TOPICS]
        parts = [TopicPartition(name, n) for name in names for n in range(own.kafka().partitions)]
        consumer.assign(parts)
        await consumer.seek_to_beginning(*parts)
        ends = await consumer.end_offsets(parts)
        while any([await consumer.position(part) < end for part, end in ends.items()]):
            for part, records in (await consumer.getmany(timeout_ms=500)).items():
                for record in records:
                    headers = b"".join(value for _, value in record.headers)
                    found.append((str(part), b"|".join([record.key or b"", headers, record.value or b""])))
    finally:
        await consumer.stop()
    return found


def leaks(secrets: dict[str, str], places: list[tuple[str, bytes]]) -> list[str]:
    return sorted(
        f"{name} in {place}"
        for place, content in places
        for name, secret in secrets.items()
        if any(form in content for form in forms(secret))
    )


@contextlib.contextmanager
def watched_processes(secrets: dict[str, str]) -> Iterator[set[str]]:
    """Looks at the arguments and environments of all processes of this machine, over and over; gives what was found there."""
    found: set[str] = set()
    is_over = threading.Event()
    wanted = [form for secret in secrets.values() for form in forms(secret)]
    watcher = threading.Thread(target=_watch, args=(wanted, found, is_over), name="watches processes")
    watcher.start()
    try:
        yield found
    finally:
        is_over.set()
        watcher.join()


def _watch(wanted: list[bytes], found: set[str], is_over: threading.Event) -> None:
    while not is_over.wait(0.1):
        for pid in psutil.pids():
            for name in ("cmdline", "environ"):
                with contextlib.suppress(OSError):
                    content = Path(f"/proc/{pid}/{name}").read_bytes()
                    if any(form in content for form in wanted):
                        found.add(f"{name}: {content[:200]!r}")
