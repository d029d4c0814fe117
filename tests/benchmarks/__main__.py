"""Measures what docs/benchmarks.md tells: `python -m benchmarks [--only NAME] [--size small|full]`.

Owns the list of benchmarks and the printing. What is measured, and how, is each module's own.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from benchmarks import (
    black_holes,
    dispatcher_load,
    dispatcher_waiting,
    fleet,
    idle,
    latency,
    machine,
    many_hosts,
    output_rate,
    ssh_provider,
    start_up,
    tarpits,
    wrapper_cost,
)
from benchmarks.figures import Figure, table
from benchmarks.place import Place, Size, WrongResult
from support.netns import NoNamespaces
from support.postgres import NoPostgres
from support.processes import SESSION_VARIABLE, kill, ours
from support.sshd import NoSshd
from support.users import throw_away_user

Measure = Callable[[Place], list[Figure]]

# Many hosts first: it runs a job on all hosts there are, also where one installation is shared.
BENCHMARKS: Mapping[str, Measure] = {
    "many-hosts": many_hosts.measure,
    "latency": latency.measure,
    "fleet": fleet.measure,
    "wrapper-cost": wrapper_cost.measure,
    "ssh-provider": ssh_provider.measure,
    "tarpits": tarpits.measure,
    "black-holes": black_holes.measure,
    "output-rate": output_rate.measure,
    "dispatcher-load": dispatcher_load.measure,
    "dispatcher-waiting": dispatcher_waiting.measure,
    "idle": idle.measure,
    "start-up": start_up.measure,
}


def main() -> int:
    """Measure and print tables of figures. A figure that misses what is wanted is told so; 1 only for a wrong result."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=main.__doc__)
    parser.add_argument("--only", choices=sorted(BENCHMARKS), help="this one alone")
    parser.add_argument("--size", type=Size, choices=list(Size), default=Size.SMALL, metavar="short|small|full")
    chosen = parser.parse_args()
    os.environ.setdefault(SESSION_VARIABLE, secrets.token_hex(8))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(f"{machine.describe()}\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="chargehand-bench-") as directory:
        scratch = Path(directory)
        scratch.chmod(0o711)
        try:
            with host_user(scratch) as user:
                names = [chosen.only] if chosen.only else list(BENCHMARKS)
                went_well = [_measure(name, Place(chosen.size, scratch, user)) for name in names]
        finally:
            kill(ours())
    return 0 if all(went_well) else 1


@contextlib.contextmanager
def host_user(scratch: Path) -> Iterator[str]:
    """As whom jobs run on real hosts: a user of this run when we are root, else our own."""
    if os.geteuid() != 0:
        yield getpass.getuser()
        return
    with throw_away_user(scratch / "user") as name:
        yield name


def _measure(name: str, place: Place) -> bool:
    """Print what one benchmark found; whether what it measured did what it was to do."""
    began, bystanders = time.monotonic(), machine.Bystanders()
    print(f"## {name}\n", flush=True)
    try:
        figures = BENCHMARKS[name](place)
    except (NoSshd, NoNamespaces, NoPostgres, WrongResult) as error:
        print(f"Not measured: {error}\n", flush=True)
        return not isinstance(error, WrongResult)
    minutes = (time.monotonic() - began) / 60
    others = f"others took at most {bystanders.percent():.0f} % of all cores"
    print(f"{minutes:.1f} minutes; {others}\n\n{table(figures)}\n", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
