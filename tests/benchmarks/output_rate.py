"""Output of ten hosts at once, in the hands of readers through HTTP: megabytes a second, live and read again.

Owns the readers: one connection for each host, in a thread of its own, that asks to follow and checks every byte by its digest. Live, the
clock runs from invoking the job to the last byte of the last host; read again, from the first request. Hosts are simulated: what ssh
costs is not in it. A megabyte is 1,000,000 bytes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from http.client import OK, HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import httpx
from benchmarks.figures import Figure, at_least
from benchmarks.place import Place, Size, WrongResult
from benchmarks.usage import Services, Spent, spending
from chargehand_proxy_agent.providers.simulated_scripts import Piece, rendered
from support.installation import Installation
from support.waiting import wait_until

_HOSTS = 10
_BYTES_A_HOST = {Size.SHORT: 1_000_000, Size.SMALL: 32_000_000, Size.FULL: 60_000_000}
_LEAST_RATE = 60
_READ_BYTES = 1024 * 1024
_LISTED_WITHIN = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class _Run:
    megabytes: float
    live_s: float
    again_s: float
    live: Spent
    reader_cpu_s: float


def measure(place: Place) -> list[Figure]:
    """Rates of both ways of reading, and what a megabyte costs each service."""
    size_bytes = _BYTES_A_HOST[place.size]
    with place.installation() as installation:
        installation.import_simulated(_HOSTS, prefix="loud", **{"sim.output_bytes": str(size_bytes)})
        runs = [_run(installation, size_bytes) for _ in range(place.size.runs)]
    services = [
        Figure(f"live: CPU of {name}", "ms/MB", tuple(1000 * run.live.cpu_s[name] / run.megabytes for run in runs))
        for name in runs[0].live.cpu_s
    ]
    return [
        Figure("live", "MB/s", tuple(run.megabytes / run.live_s for run in runs), at_least(_LEAST_RATE)),
        *services,
        Figure("live: CPU of the readers", "ms/MB", tuple(1000 * run.reader_cpu_s / run.megabytes for run in runs)),
        Figure("read again", "MB/s", tuple(run.megabytes / run.again_s for run in runs)),
    ]


def _run(installation: Installation, size_bytes: int) -> _Run:
    digest = hashlib.sha256(rendered(Piece(0.0, "stdout", filler_bytes=size_bytes), "", "")).digest()
    with spending(Services(installation)) as spent:
        cpu_s, began = time.process_time(), time.perf_counter()
        job_tasks = _invoke(installation)
        _read_all(installation, job_tasks, digest)
        live_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_s
    began = time.perf_counter()
    _read_all(installation, job_tasks, digest)
    return _Run(_HOSTS * size_bytes / 1e6, live_s, time.perf_counter() - began, spent, cpu_s)


def _invoke(installation: Installation) -> list[str]:
    """Start the job; the ids of its job tasks, as soon as they are known."""
    names = [f"loud{n:05d}" for n in range(1, _HOSTS + 1)]
    body = {"targeting": {"host_names": names}, "inputs": {"command": "true"}}
    with installation.http() as http:
        answer = http.post("/job-invocations", json=body)
        if answer.status_code != 201:
            raise WrongResult(f"not invoked: {answer.status_code} {answer.text}")
        path = f"{answer.headers['location']}/job-tasks"
        found: list[dict[str, Any]] = []
        wait_until(_all_listed(http, path, found), within=_LISTED_WITHIN)
    return [row["job_task_id"] for row in found]


def _all_listed(http: httpx.Client, path: str, found: list[dict[str, Any]]) -> Callable[[], bool]:
    def is_so() -> bool:
        found[:] = http.get(path).json()["items"]
        return len(found) == _HOSTS

    return is_so


def _read_all(installation: Installation, job_tasks: list[str], digest: bytes) -> None:
    with installation.http() as http:
        server, token = urlsplit(str(http.base_url)), http.headers["authorization"]
    with ThreadPoolExecutor(_HOSTS) as threads:
        for found in threads.map(lambda job_task: _read(server.netloc, token, job_task), job_tasks):
            if found != digest:
                raise WrongResult("output that was read is not what the hosts print")


def _read(netloc: str, token: str, job_task: str) -> bytes:
    """The digest of one host's output, read to its end."""
    digest = hashlib.sha256()
    for data in _pieces(netloc, token, f"/job-tasks/{job_task}/output?stream=stdout&follow=true"):
        digest.update(data)
    return digest.digest()


def _pieces(netloc: str, token: str, path: str) -> Iterator[bytes]:
    connection = HTTPConnection(netloc, timeout=60)
    try:
        connection.request("GET", path, headers={"Authorization": token})
        answer = connection.getresponse()
        if answer.status != OK:
            raise WrongResult(f"{path}: {answer.status}")
        while data := answer.read1(_READ_BYTES):
            yield data
    finally:
        connection.close()
