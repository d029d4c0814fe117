"""`python -m mutants`: plant each mutant in a process of its own, and run seeds until a promise breaks.

Owns the processes and the table of what was found. One mutant: `python -m mutants --only NAME`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence

from .bugs import BUGS
from .planting import Mutant, plant
from .rules import RULES

MUTANTS = {mutant.name: mutant for mutant in (*RULES, *BUGS)}


def hunt(mutant: Mutant, seeds: int) -> int:
    """In this process: the number of seeds until it is found, 0 if it is not. A run that raises is found too."""
    plant(mutant)
    from chargehand.simulation import FAULTS, draw, run

    for seed in range(mutant.first_seed, mutant.first_seed + seeds):
        try:
            broken = run(draw(seed, None, mutant.faults or tuple(FAULTS))).broken
            is_found = any(mutant.breaks in ("", promise.promise) for promise in broken)
        except Exception as error:  # noqa: BLE001 (whatever a mutant does to the program, it shows)
            print(f"seed {seed}: {type(error).__name__}: {error}", file=sys.stderr)
            is_found = True
        if is_found:
            return seed - mutant.first_seed + 1
    return 0


def hunt_apart(name: str, seeds: int) -> int:
    """`hunt` in a process of its own."""
    command = [sys.executable, "-m", "mutants", "--only", name, "--seeds", str(seeds), "--here"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3600, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    return int(done.stdout.strip().splitlines()[-1])


def main(arguments: Sequence[str]) -> int:
    """Exit status 0: at least 95 % were found."""
    parser = argparse.ArgumentParser(prog="mutants", description=__doc__)
    parser.add_argument("--only", choices=sorted(MUTANTS))
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.here:
        print(hunt(MUTANTS[asked.only], asked.seeds))
        return 0
    names = [asked.only] if asked.only else list(MUTANTS)
    found = sum(_told(name, asked.seeds) for name in names)
    print(f"mutants {len(names)} found {found} of_seeds {asked.seeds}")
    return 0 if found >= 0.95 * len(names) else 1


def _told(name: str, seeds: int) -> bool:
    began = time.monotonic()
    count = hunt_apart(name, seeds)
    word = f"found at seed {MUTANTS[name].first_seed + count - 1}" if count else f"NOT FOUND in {seeds} seeds"
    print(f"{name:26} {word:26} {time.monotonic() - began:6.1f} s  {MUTANTS[name].what}", flush=True)
    return bool(count)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
