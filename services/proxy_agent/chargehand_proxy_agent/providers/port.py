"""The port between the agent and its providers: what an agent may ask of a way to reach hosts, and what it is told.

Owns the vocabulary only: targets, orders, observations. No provider's library and no rule about attempts enters here.
The rules behind each observation are docs/protocol.md section 1, "Attempt on the host".
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, Protocol

Stream = Literal["stdout", "stderr"]
EndCause = Literal["exited", "timed_out", "cancelled"]
NeverStartedWhy = Literal["tombstone", "late", "fenced"]
RefusedWhy = Literal[
    "rebooted",  # the host booted after the attempt was issued
    "disk_full",
    "no_shell",  # the login gives no POSIX shell, or one that never answers
    "bad_directory",  # not the user's own, on a tmpfs, read-only, a link in its place
    "effective_user",  # cannot become that user without a password
    "start_not_allowed",  # start_allowed said no
    "not_valid",  # no host could take this order: a NUL in the script, a lock path that is no path
    "unsupported_host",  # no Linux with /proc
]
CouldNotConnectWhy = Literal[
    "not_valid",  # the target's own fields: an address or user that is none
    "resolve",  # no address for the name
    "unreachable",
    "refused",
    "timed_out",
    "host_key_unknown",
    "host_key_changed",
    "authentication",
    "protocol_error",  # connected, and what answered is no usable ssh server
]


@dataclass(frozen=True, slots=True)
class Support:
    """What a provider can do; the agent asks before it promises anything."""

    host_lock: bool
    cancel: bool
    effective_user: bool
    resume: bool
    bulk: bool = False
    structured_results: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """A host as the inventory names it. Empty fields are left to the agent's own ssh_config and defaults."""

    host_id: str
    name: str
    address: str = ""
    port: int | None = None
    user: str = ""
    identity_file: str = ""
    host_keys: tuple[str, ...] = ()
    accept_new: bool = False
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StartOrder:
    """Everything the wrapper needs to take the lock and start one attempt.

    `not_after_in` and `run_deadline_in` are counted from the instant `start` is called on the agent's clock;
    the provider adds them to the host's uptime read on the same connection (docs/protocol.md, rule HDL).
    `issued_ago` is the age of the attempt at that instant (rule BOOT). `earlier` are the earlier attempts to be fenced
    (rule FENCE), `unknown` those of them whose end the dispatcher does not know.
    `start_allowed` is asked after the connection is up and immediately before the wrapper is sent.
    `lock_path` is the job task's directory as bound: its parent holds the records of all attempts; empty is the default.
    `filled` is the script with what must not be kept: if there is one it is run in the script's place, through a descriptor, from
    a file that has no name any more.
    `output_cap_bytes` is for each stream: beyond it the first and the last half are kept.
    `tidy` are attempts (job task, number) whose output is acknowledged: the host need not keep it, only their records.
    """

    job_task_id: str
    attempt: int
    lock_path: str
    script: str
    filled: str = ""
    effective_user: str = ""
    effective_user_method: str = "sudo"
    effective_user_password: str = field(default="", repr=False)
    not_after_in: timedelta = timedelta(seconds=30)
    run_deadline_in: timedelta = timedelta(hours=1)
    execution_timeout: timedelta = timedelta(hours=1)
    grace: timedelta = timedelta(seconds=10)
    issued_ago: timedelta = timedelta(0)
    clock_margin: timedelta = timedelta(seconds=5)
    earlier: Sequence[int] = ()
    unknown: Sequence[int] = ()
    output_cap_bytes: int = 64 * 1024 * 1024
    tidy: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True, slots=True)
class LookOrder:
    """Look at the host for the truth about an attempt; `cancel` ends its process group first.

    `offsets` are the stream positions (bytes) from which output is still wanted.
    """

    job_task_id: str
    attempt: int
    lock_path: str
    issued_ago: timedelta
    clock_margin: timedelta = timedelta(seconds=5)
    cancel: bool = False
    grace: timedelta = timedelta(seconds=10)
    offsets: Mapping[Stream, int] = field(default_factory=dict)
    output_cap_bytes: int = 64 * 1024 * 1024
    effective_user: str = ""
    effective_user_method: str = "sudo"


# --- observations: what was seen on the host, in order -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    """The attempt runs (it was started now, or found running). `uptime` is the host's, `boot_id` its current boot."""

    boot_id: str
    host_started_ago: timedelta
    existed: bool


@dataclass(frozen=True, slots=True)
class Output:
    """Bytes of one stream at their offset, exactly as the host wrote them."""

    stream: Stream
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Omitted:
    """A cap left out bytes [start, end) of a stream."""

    stream: Stream
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The exit record was read, and every byte of output before it was observed.

    Exactly one of `exit_status` and `signal` (as "SIGKILL") is given; neither when nobody was left to wait for the process
    that a cancel ended. `ended_ago` is None when the host has booted since."""

    exit_status: int | None
    signal: str | None
    cause: EndCause
    lengths: Mapping[Stream, int]
    ran_for: timedelta
    boot_id: str
    ended_ago: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Started, and dead without an exit file; or booted since it was issued. `detail` is the proof in words."""

    detail: str
    boot_id: str
    lengths: Mapping[Stream, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NeverStarted:
    """A tombstone holds the attempt's lock: nothing can start it any more. `why`: tombstone, late or fenced.

    `refusal`: the host will not have it, and another attempt would fare no better; in words (docs/adr/0025)."""

    why: NeverStartedWhy
    fenced_by: int | None = None
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """Only of a start: it was not started and the lock left free (rebooted since issue, no shell, disk full, no such user)."""

    why: RefusedWhy
    detail: str


@dataclass(frozen=True, slots=True)
class ConnectionLost:
    """The connection went away, or what came over it could not be read; the truth is on the host, look again.

    `order_sent` is False when it is certain that nothing of the order reached the host: then there is nothing to look for."""

    detail: str
    order_sent: bool = True


Observation = Started | Output | Omitted | Ended | Interrupted | NeverStarted | Refused | ConnectionLost


class CouldNotConnect(Exception):
    """No connection, and so nothing was sent. `why` is one closed word, `detail` is for people (already harmless text)."""

    def __init__(self, why: CouldNotConnectWhy, detail: str) -> None:
        super().__init__(f"{why}: {detail}")
        self.why: CouldNotConnectWhy = why
        self.detail = detail


class HostConnection(Protocol):
    """An open way to one host. Both calls may be used more than once; each iterator ends after a final observation
    (Ended, Interrupted, NeverStarted, Refused, ConnectionLost). An iterator that is closed early stops watching and nothing
    else: what was started runs on."""

    def start(self, order: StartOrder, start_allowed: StartAllowed) -> AsyncIterator[Observation]: ...

    def look(self, order: LookOrder) -> AsyncIterator[Observation]: ...

    async def release(self) -> None:
        """Give the connection back to the pool."""


class StartAllowed(Protocol):
    """Asked with the connection up, immediately before the wrapper is sent (not_after on the agent's clock)."""

    def __call__(self) -> bool: ...


class Provider(Protocol):
    """One way to reach hosts."""

    name: str
    supports: Support

    async def open(self, target: Target) -> HostConnection:
        """Connect (or take an open connection). Raises CouldNotConnect, and only that, for what a host can cause."""

    async def close(self) -> None:
        """Close every connection. Nothing on a host is stopped by it."""
