"""parallel-ssh as a peer, where somebody has it: CHARGEHAND_BENCH_PARALLEL_SSH names a Python that can import `pssh`.

Owns its program, which runs in that Python and imports nothing of ours. It does not verify host keys; that is its default. It is not
among the libraries that `make` installs: without the variable it is not measured.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

VARIABLE = "CHARGEHAND_BENCH_PARALLEL_SSH"


def interpreter() -> str | None:
    """The Python that has it; None if none is named."""
    return os.environ.get(VARIABLE)


def run(python: str, hosts: Sequence[dict[str, str]], command: str, at_once: int) -> tuple[float, float]:
    """Run a command on all hosts: seconds from the first connection to the last output, and of processor time of the whole.

    `hosts` as an inventory names them. CalledProcessError unless it succeeded on each.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    order = json.dumps({"hosts": hosts, "command": command, "at_once": at_once})
    done = subprocess.run([python, str(Path(__file__))], input=order, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return float(done.stdout), cpu_s


def main() -> None:
    """In the other Python: the order as JSON on stdin, the seconds it took on stdout."""
    order: dict[str, Any] = json.load(sys.stdin)
    clients: Any = importlib.import_module("pssh.clients")
    first = order["hosts"][0]
    began = time.perf_counter()
    client = clients.ParallelSSHClient(
        [host["address"] for host in order["hosts"]],
        user=first["user"],
        port=int(first["port"]),
        pkey=first["identity_file"],
        pool_size=order["at_once"],
        allow_agent=False,
        identity_auth=False,
    )
    outputs = client.run_command(order["command"])
    client.join()
    succeeded = sum(1 for output in outputs if list(output.stdout) and output.exit_code == 0)
    took_s = time.perf_counter() - began
    if succeeded != len(order["hosts"]):
        sys.exit(f"{succeeded} of {len(order['hosts'])} succeeded")
    print(took_s)


if __name__ == "__main__":
    main()
