"""What the wrapper itself costs a host: processor time of one attempt under it, beside a bare `sh -c` of the same command.

Owns the conversation, held as the ssh provider holds it with sshd's child, and the bookkeeping of processes: they are counted in a
process of their own (`python -m benchmarks.wrapper_cost TIMES HOME`), which inherits what the wrapper leaves behind and buries it, so
that nothing escapes.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import secrets
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

from benchmarks.figures import Figure, at_most
from benchmarks.place import Place, Size, WrongResult, own_process
from chargehand_proxy_agent.providers.port import Ended, StartOrder
from chargehand_proxy_agent.providers.wrapper import Answer, Answers, Hello, Surroundings, command, opening, start_text

_TIMES = {Size.SHORT: 5, Size.SMALL: 200, Size.FULL: 500}
_IN_TURN = 10
_MOST_MS = 6
_SCRIPT = "echo hello"
_PRINTED = b"hello\n"
_PR_SET_CHILD_SUBREAPER = 36


def measure(place: Place) -> list[Figure]:
    """Milliseconds with the wrapper, without, and the difference."""
    shell = Path(os.path.realpath("/bin/sh")).name
    runs = [_run(place) for _ in range(place.size.runs)]
    wrapped, bare = (tuple(run[which] for run in runs) for which in ("wrapped", "bare"))
    own = tuple(a - b for a, b in zip(wrapped, bare, strict=True))
    return [
        Figure(f"`{_SCRIPT}` under the wrapper ({shell})", "ms CPU", wrapped),
        Figure(f"`sh -c '{_SCRIPT}'` ({shell})", "ms CPU", bare),
        Figure("the wrapper's own", "ms CPU", own, at_most(_MOST_MS)),
    ]


def _run(place: Place) -> dict[str, float]:
    with place.directory() as home:
        with own_process("benchmarks.wrapper_cost", str(_TIMES[place.size]), str(home)) as process:
            said, _ = process.communicate()
        if process.returncode != 0:
            raise WrongResult(f"counting ended with status {process.returncode}")
    found: dict[str, float] = json.loads(said)
    return found


# --- in the process that counts -------------------------------------------------------------------------------------------


def _count(times: int, home: Path) -> dict[str, float]:
    """Milliseconds of each, run in turns."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
    spent_s = {"wrapped": 0.0, "bare": 0.0}
    for done in range(0, times, _IN_TURN):
        count = min(_IN_TURN, times - done)
        spent_s["wrapped"] += sum(_cpu_s(lambda: _wrapped(environment)) for _ in range(count))
        spent_s["bare"] += sum(_cpu_s(lambda: _bare(environment)) for _ in range(count))
    return {name: 1000 * value / times for name, value in spent_s.items()}


def _cpu_s(act: Callable[[], None]) -> float:
    """Of all processes that it starts, those included that outlive their parents."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    act()
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _bare(environment: dict[str, str]) -> None:
    argv = ("/bin/sh", "-c", _SCRIPT)
    done = subprocess.run(argv, env=environment, cwd=environment["HOME"], capture_output=True, check=True)
    if done.stdout != _PRINTED:
        raise WrongResult(f"{done.stdout!r}")


def _wrapped(environment: dict[str, str]) -> None:
    """One attempt from the opening to its end."""
    order = StartOrder(job_task_id=str(uuid.uuid4()), attempt=1, lock_path="", script=_SCRIPT)
    process = subprocess.Popen(
        ("/bin/sh", "-c", command(order.job_task_id, order.attempt)),
        env=environment, cwd=environment["HOME"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
    )  # fmt: skip
    with process:
        _converse(process, order)


def _converse(process: subprocess.Popen[bytes], order: StartOrder) -> None:
    assert process.stdin is not None and process.stdout is not None
    nonce = secrets.token_hex(16)
    answers, seen = Answers(nonce), list[Answer]()
    process.stdin.write(opening(nonce))
    while not answers.is_over and (data := process.stdout.read(65536)):
        for answer in answers.feed(data):
            seen.append(answer)
            if isinstance(answer, Hello):
                answers.expect({}, order.output_cap_bytes)
                process.stdin.write(start_text(order, Surroundings(answer.uptime, allow_memory_filesystem=True)))
    match seen:
        case [*_, Ended(exit_status=0, lengths={"stdout": length})] if length == len(_PRINTED):
            return
        case _:
            raise WrongResult(f"the wrapper said {seen}")


if __name__ == "__main__":
    print(json.dumps(_count(int(sys.argv[1]), Path(sys.argv[2]))))
