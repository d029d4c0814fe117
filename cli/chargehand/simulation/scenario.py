"""What a run is made of: invocations, hosts and faults, drawn from a seed and a list of kinds of faults.

Owns the chances. A scenario is data: it can be shortened and run again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from random import Random

from chargehand_schemas.properties import RETRYABLE, ExecutionProperties, Rolling
from chargehand_schemas.reasons import Reason

FAULTS: dict[str, str] = {
    "slow": "messages take up to two seconds for a while",
    "lag": "one reader of one partition stands still for a while: topics are reordered among each other",
    "repeat": "an old record is appended again",
    "crash": "a process is killed between two of its effects, and started again",
    "stop": "a process stands still, for longer than its session at times, and goes on",
    "outage": "the broker is away",
    "clock": "an agent's clock steps, within the margin or far beyond it",
    "cut": "the connections to a host break, or it cannot be reached for a while",
    "reboot": "a host reboots",
    "disk": "the disk of a host or of an agent's journal is full for a while",
    "journal": "an agent loses its journal",
    "restore": "the dispatcher's store is restored from an older backup",
    "cancel": "an invocation or some of its hosts are cancelled",
    "retention": "a service is away, and the beginning of a log is deleted before it was read",
    "tail": "the machine of the broker crashes, logs lose their last records, and the stores are repaired",
    "edit": "the concurrency limit of an invocation or of the proxy is changed while it runs",
}
"""Kinds of faults, in words."""

WITHOUT_LOCK = 0.12
MOST_OF_A_PROFILE = 6
"""So few kinds of faults are a profile: each of them happens, and often."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What befalls whom: `target` counts processes or hosts, `size` is a duration in seconds, or a number of steps. `extra`
    chooses among variants: the time itself, or the next moment that matters after it."""

    at_s: float
    kind: str
    target: int
    size: float
    extra: float = 0.0

    def __str__(self) -> str:
        return f"{self.at_s:.3f} {self.kind} target={self.target} size={self.size:.3f} extra={self.extra:.3f}"


@dataclass(frozen=True, slots=True)
class Planned:
    """One invocation: on hosts [first, first + hosts), from `at_s` on."""

    at_s: float
    first: int
    hosts: int
    properties: ExecutionProperties


@dataclass(frozen=True, slots=True)
class Scenario:
    """A whole run."""

    seed: int
    hosts: int
    agents: int
    dispatchers: int
    invocations: tuple[Planned, ...]
    faults: tuple[Fault, ...] = ()
    longest_job_s: float = 30.0
    planners: int = 1
    has_host_lock: bool = True

    def __str__(self) -> str:
        faults = "\n".join(f"  {fault}" for fault in self.faults)
        return (
            f"seed {self.seed}: {self.hosts} hosts, {self.agents} agents, {self.dispatchers} dispatchers, {self.planners} planners, "
            f"{'' if self.has_host_lock else 'no lock on hosts, '}{len(self.invocations)} invocations, {len(self.faults)} faults\n{faults}"
        )


def draw(seed: int, hosts: int | None = None, faults: Collection[str] = tuple(FAULTS)) -> Scenario:
    """The scenario of a seed. `hosts` None: a few, as chance has it. No `faults`: one plain invocation of all hosts."""
    unknown = sorted(set(faults) - FAULTS.keys())
    if unknown:
        raise ValueError(f"no such kind of fault: {', '.join(unknown)}; known: {', '.join(FAULTS)}")
    random = Random(f"scenario {seed}")  # noqa: S311 (chance that is to be repeated)
    count = hosts if hosts is not None else random.randint(2, 8)
    if not faults:
        plain = Planned(0.0, 0, count, ExecutionProperties())
        return Scenario(seed, count, 1, 1, (plain,), (), 5.0)
    invocations = tuple(_invocation(random, count) for _ in range(random.choice((1, 1, 2))))
    is_profile = len(faults) <= MOST_OF_A_PROFILE
    kinds = [kind for kind in FAULTS if kind in faults and (is_profile or random.random() < _SELDOM.get(kind, 0.6))]
    if "restore" in kinds and "tail" in kinds:
        # Two copies of the truth lost at once: nobody promises anything then.
        kinds.remove("tail")
    drawn = [_fault(random, kind) for kind in kinds for _ in range(random.randint(1, 6 if is_profile else 4))]
    agents = random.choice((1, 2))
    has_host_lock = Random(f"lock {seed}").random() >= WITHOUT_LOCK  # noqa: S311 (as above)
    return Scenario(
        seed,
        count,
        # One journal per proxy (rule SOLO).
        agents if has_host_lock else 1,
        random.choice((1, 2)),
        invocations,
        tuple(sorted(drawn, key=lambda fault: fault.at_s)),
        random.choice((3.0, 30.0, 90.0)),
        random.choice((1, 2)),
        has_host_lock,
    )


def _invocation(random: Random, count: int) -> Planned:
    size = random.randint(1, count)
    first = random.randint(0, count - size)
    rolling = Rolling(batches=("1", "50%"), failure_limit="50%") if random.random() < 0.15 else None
    properties = ExecutionProperties(
        tries=random.choice((1, 1, 2, 3)),
        retry_interval=timedelta(seconds=random.choice((0, 5, 20, 600))),
        retry_on=_retry_on(random),
        splay=timedelta(seconds=random.choice((0, 0, 15))),
        concurrency=random.choice((None, 1, 2, 4)),
        time_to_pickup=timedelta(seconds=random.choice((60, 300, 3600))),
        execution_timeout_interval=timedelta(seconds=random.choice((5, 40, 120))),
        wait_for_check_in=random.random() < 0.3,
        rolling=rolling,
    )
    return Planned(random.choice((0.0, 0.0, 10.0)), first, size, properties)


def _retry_on(random: Random) -> Sequence[Reason]:
    if random.random() < 0.5:
        return (Reason.COULD_NOT_CONNECT, Reason.EXIT_STATUS)
    return tuple(sorted(RETRYABLE))


_SELDOM = {"retention": 0.05, "tail": 0.3}
"""Kinds that end a run early, or stop everything for a while."""

_SIZES: dict[str, Sequence[float]] = {
    "slow": (5, 40),
    "lag": (5, 30, 90),
    "repeat": (0,),
    "crash": (0, 1, 2, 3, 5, 8),
    "stop": (2, 15, 45, 90),
    "outage": (3, 20, 60),
    "clock": (-3, 3, -60, 20, 60),
    "cut": (0, 5, 60, 200, 1e9),
    "reboot": (2, 20, 120),
    "disk": (5, 40),
    "journal": (0,),
    "restore": (5, 30),
    "cancel": (0, 1),
    "edit": (0, 1, 2, 3, 6),
    "retention": (5, 40),
    "tail": (0.05, 0.5, 3, 20),
}


def _fault(random: Random, kind: str) -> Fault:
    at_s = random.choice((random.uniform(0, 2), random.uniform(0, 20), random.uniform(0, 60), random.uniform(0, 200)))
    return Fault(at_s, kind, random.randrange(1000), random.choice(_SIZES[kind]), random.random())
