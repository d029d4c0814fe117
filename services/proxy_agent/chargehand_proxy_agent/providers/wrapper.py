"""What is said to the wrapper on a host, and what it answers: program texts out, observations in. Pure: no I/O, no clock.

Owns the conversation with wrapper.sh. One session is one conversation, in two steps: a short opening, which the host answers
with a nonce (so that banners and noisy start-up files are told from answers), its boot id and its uptime; then the order, with
every deadline as an instant on that uptime clock (docs/protocol.md, rule HDL). The script travels as a quoted word inside the
program text: never in argv or environment. What to do about an answer is decided elsewhere.

Answers are lines; an output line is followed by exactly as many raw bytes as it names:
    started EXISTED AGO | o FROM COUNT | e FROM COUNT | omitted o|e FROM TO | alive | never WHY BY | refused WHY DETAIL
    password [terminal], then a prompt if it is a terminal, then asked | barred WORDS
    ended STATUS SIGNAL CAUSE RAN AGO STDOUT STDERR | interrupted STDOUT STDERR DETAIL
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path, PurePosixPath
from signal import Signals
from typing import Literal, cast, get_args

from .details import harmless
from .port import (
    EndCause,
    Ended,
    Interrupted,
    LookOrder,
    NeverStarted,
    NeverStartedWhy,
    Observation,
    Omitted,
    Output,
    Refused,
    RefusedWhy,
    Started,
    StartOrder,
    Stream,
)

DEFAULT_DIRECTORY = ".chargehand/run"
KEPT_FOR = timedelta(days=14)
BECOME_WITHIN = timedelta(seconds=20)
MAX_NOISE_BYTES = 64 * 1024
MAX_LINE_BYTES = 2048
MAX_CHUNK_BYTES = 1024 * 1024
MAX_NUMBER_DIGITS = 18

_TASK = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@$-]{0,63}")
_PATH = re.compile(r"/?[A-Za-z0-9_.+@][A-Za-z0-9_.+@ -]*(/[A-Za-z0-9_.+@][A-Za-z0-9_.+@ -]*)*")
_METHODS = ("sudo", "su", "dzdo", "doas")
# A script that opens these by name would cut off a regular file: it gets pipes (wrapper.sh, run_piped).
_OPENS_BY_NAME = re.compile(r"/dev/(std(out|err)|fd\b)|/proc/[^/\s]+/fd\b")
# Ends what a password was asked with; before it a terminal shows prompts.
_ASKED = b"\nasked\n"
_STREAMS: dict[bytes, Stream] = {b"o": "stdout", b"e": "stderr"}

# The last lines are for bash alone, which would read the rest of its program byte by byte.
_OPENING = """\
locale=${LC_ALL-} has_locale=${LC_ALL+yes}
LC_ALL=C
read -r boot </proc/sys/kernel/random/boot_id
read -r now rest </proc/uptime
printf '\\nchargehand %s %s %s\\n' NONCE "$boot" "$now"
[ -z "${BASH_VERSION-}" ] || {
set +o posix
read -r rest size
read -r -N "$size" text
eval "$text"
}
"""


# --- what is sent --------------------------------------------------------------------------------------------------


def command(job_task_id: str, attempt: int, *, has_terminal: bool = False) -> str:
    """The command of the session. Its argument is what `ps` shows, and how the host knows its own supervisors again.

    A shell that has a terminal takes itself for a person's and prompts: so neither its stdout nor its stderr is one."""
    run = f"/bin/sh -s chargehand {job_task_id}.{attempt}"
    return f"exec /bin/sh -c '{run} 2>/dev/null | cat'" if has_terminal else f"exec {run}"


def opening(nonce: str) -> bytes:
    """The first step: makes the host say who it is since when. `nonce` is hex, and new for every session."""
    return _OPENING.replace("NONCE", nonce).encode("ascii")


@dataclass(frozen=True, slots=True)
class Place:
    """The directory of attempts on a host: `leaf` must be the user's own, `parent` is made if missing."""

    parent: str
    leaf: str


def place_of(lock_path: str, job_task_id: str) -> Place | None:
    """The directory that a lock path means, None if it is no plain path.

    `lock_path` may end in the job task's id, as bindings have it; empty is the default. Relative is to the connecting user's home.
    """
    path = (lock_path or DEFAULT_DIRECTORY).removeprefix("~/").rstrip("/").removesuffix(f"/{job_task_id}")
    if not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        return None
    pure = PurePosixPath(path)
    return Place(str(pure.parent), pure.name)


def fault_of(order: StartOrder | LookOrder) -> str | None:
    """Why an order cannot be given to any host, in words; None if it can."""
    if not _TASK.fullmatch(order.job_task_id) or order.attempt < 1:
        return f"{harmless(order.job_task_id, 80)!r} attempt {order.attempt} cannot name a record"
    if place_of(order.lock_path, order.job_task_id) is None:
        return f"the directory {harmless(order.lock_path, 80)!r} is no plain path"
    if order.effective_user and not _USER.fullmatch(order.effective_user):
        return f"{harmless(order.effective_user, 80)!r} is no user name"
    if order.effective_user_method not in _METHODS:
        return f"unknown method {harmless(order.effective_user_method, 40)!r}: known are {', '.join(_METHODS)}"
    if isinstance(order, StartOrder) and "\0" in order.script + order.filled:
        return "the script holds a NUL character, which no shell can take"
    return None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an order is seen against: the host's clock as of now, and who we are there.

    `uptime` is the host's at the instant the order's durations count from, or earlier, never later; so no deadline
    comes out too late and no boot is taken for an older one. `same_user` tells that the effective user is whom we log in as.
    """

    uptime: timedelta
    same_user: bool = False
    allow_memory_filesystem: bool = False


def has_rebooted(order: StartOrder | LookOrder, around: Surroundings) -> bool:
    """Whether the host booted after the attempt was issued, less the margin (docs/protocol.md, rule BOOT)."""
    return around.uptime < order.issued_ago + order.clock_margin


def start_text(order: StartOrder, around: Surroundings) -> bytes:
    """The second step of a start. The order must have no fault."""
    interpreter, argument = _interpreter(order.script)
    start = around.uptime
    return _text(
        _common(order, around)
        | {
            "script": order.script,
            "filled": order.filled,
            "interpreter": interpreter,
            "argument": argument,
            "not_after": _hundredths(start + order.not_after_in),
            "run_deadline": _hundredths(start + order.run_deadline_in),
            "timeout": _hundredths(order.execution_timeout),
            "earlier": _numbers(order.earlier),
            "unknown": _numbers(order.unknown),
            "pipes": "yes" if _OPENS_BY_NAME.search(order.script) else "",
            "tidy": " ".join(f"{task}.{attempt}" for task, attempt in order.tidy if _TASK.fullmatch(task)),
        }
        | _as_another(order, around, interpreter, argument),
        "start",
    )


def _as_another(order: StartOrder, around: Surroundings, interpreter: str, argument: str) -> dict[str, str]:
    """What a start as another user needs besides; the password is not among it (see `Password`)."""
    if around.same_user or not order.effective_user:
        return {"password": ""}
    told = {
        "mark": f"{order.attempt}/{order.job_task_id}",
        "interpreter": interpreter,
        "argument": argument,
        "grace": _hundredths(order.grace),
        "reap": _stripped(_source("reap.sh")),
    }
    return {
        "password": "yes" if order.effective_user_password else "",
        "patience": str(int(BECOME_WITHIN.total_seconds())),
        "warden": _assigned(told) + _stripped(_source("cages.sh") + _source("warden.sh")) + "\n",
    }


def look_text(order: LookOrder, around: Surroundings) -> bytes:
    """The second step of a look. The order must have no fault."""
    return _text(
        _common(order, around)
        | {
            "rebooted": "yes" if has_rebooted(order, around) else "",
            "old": "yes" if order.issued_ago + order.clock_margin >= KEPT_FOR else "",
            "cancel": "yes" if order.cancel else "",
            "at_out": str(order.offsets.get("stdout", 0)),
            "at_err": str(order.offsets.get("stderr", 0)),
        },
        "look",
    )


def _common(order: StartOrder | LookOrder, around: Surroundings) -> dict[str, str]:
    place = place_of(order.lock_path, order.job_task_id)
    assert place is not None, "an order with a fault is not sent"  # noqa: S101
    return {
        "parent": place.parent,
        "leaf": place.leaf,
        "task": order.job_task_id,
        "attempt": str(order.attempt),
        "user": "" if around.same_user else order.effective_user,
        "method": order.effective_user_method,
        "volatile": "yes" if around.allow_memory_filesystem else "",
        "grace": _hundredths(order.grace),
        "cap": str(order.output_cap_bytes),
        "head": str(order.output_cap_bytes // 2),
        "reap": _reap(),
    }


def _text(variables: dict[str, str], act: Literal["start", "look"]) -> bytes:
    usual, rare = _programs(has_user=bool(variables["user"]))
    if act == "start":
        variables["rare"], program = rare, usual
    else:
        variables["rare"], program = "", usual.partition("\nstart() {\n")[0] + "\n" + rare
    text = f"{_assigned(variables)}{program}\n{act}\n".encode("utf-8", "surrogateescape")
    return b": %d\n%b" % (len(text), text)


def _assigned(variables: dict[str, str]) -> str:
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items())


@cache
def _programs(*, has_user: bool) -> tuple[str, str]:
    """The wrapper, in what every start needs and the rest."""
    usual, _, rare = _source("wrapper.sh").partition("\n# --- rare\n")
    parts = (_source("cages.sh"), rare, _source("users.sh") if has_user else "")
    return _stripped(usual), "\n".join(map(_stripped, parts))


@cache
def _reap() -> str:
    """The part that outlives its connection."""
    return _stripped(_source("reap.sh"))


@cache
def _source(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _stripped(source: str) -> str:
    """A program without what only people need: comments and indentation."""
    lines = (line.strip() for line in source.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("#"))


def _interpreter(script: str) -> tuple[str, str]:
    """Who reads the script: its `#!` line as the kernel takes it, run by name so that noexec does not matter; else sh."""
    first = script.partition("\n")[0]
    program, _, argument = first.removeprefix("#!").strip(" \t").partition(" ")
    if not first.startswith("#!") or not program.startswith("/"):
        return "/bin/sh", ""
    return program, argument.strip(" \t")


def _hundredths(span: timedelta) -> str:
    return str(max(0, span // timedelta(milliseconds=10)))


def _numbers(attempts: object) -> str:
    return " ".join(str(int(attempt)) for attempt in cast("list[int]", attempts))


# --- what is answered ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hello:
    """The host's answer to the opening."""

    boot_id: str
    uptime: timedelta


@dataclass(frozen=True, slots=True)
class LineWanted:
    """The host waits for an empty line: what follows on its terminal is a prompt."""


@dataclass(frozen=True, slots=True)
class PasswordWanted:
    """The host is about to become the effective user, and reads the password from what is sent next: one line."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The host said what the wrapper never says. Nothing after it is read; nothing is concluded from it.

    `is_unsupported`: its hello has no boot id or uptime."""

    detail: str
    is_unsupported: bool = False


@dataclass(frozen=True, slots=True)
class Alive:
    """Nothing new; the wrapper is there."""


Answer = Hello | Alive | LineWanted | PasswordWanted | Unreadable | Observation
_FINAL = (Ended, Interrupted, NeverStarted, Refused, Unreadable)


@dataclass(slots=True)
class _Position:
    """Where a stream stands, and how much of it may still come."""

    at: int
    left: int


class Answers:
    """Reads one session's answers. Memory is bounded by MAX_NOISE_BYTES and MAX_LINE_BYTES, whatever the host sends."""

    def __init__(self, nonce: str) -> None:
        self._marker = f"\nchargehand {nonce} ".encode("ascii")
        self._buffer = bytearray(b"\n")
        self._noise_bytes = 0
        self._hello: Hello | None = None
        self._positions: dict[Stream, _Position] = {}
        self._stream: Stream = "stdout"
        self._missing_bytes = 0
        self._has_started = False
        self._is_asking = False
        self.is_over = False

    @property
    def noise(self) -> str:
        """What was said before the hello, made harmless: the login's own words when there is no shell."""
        return harmless(bytes(self._buffer)) if self._hello is None else ""

    def expect(self, offsets: dict[Stream, int], cap_bytes: int) -> None:
        """An order was sent that wants output from these offsets, and no more than the cap of each stream."""
        self._positions = {
            stream: _Position(at=offsets.get(stream, 0), left=cap_bytes)
            for stream in cast("tuple[Stream, ...]", get_args(Stream))
        }

    def feed(self, data: bytes) -> list[Answer]:
        """Take bytes as they came; give what they complete, in order."""
        answers: list[Answer] = []
        self._buffer += data
        while not self.is_over and (answer := self._next()) is not None:
            answers.append(answer)
            self.is_over = isinstance(answer, _FINAL)
        if self.is_over:
            self._buffer.clear()
        return answers

    def _next(self) -> Answer | None:
        if self._hello is None:
            return self._greet()
        if self._missing_bytes:
            return self._take_output()
        if self._is_asking:
            return self._skip_prompt()
        end = self._buffer.find(b"\n")
        if end < 0:
            return Unreadable("a line without end") if len(self._buffer) > MAX_LINE_BYTES else None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            return self._read(line)
        except (ValueError, IndexError, KeyError):
            return Unreadable(f"not an answer of the wrapper: {harmless(line, 120)}")

    def _greet(self) -> Answer | None:
        start = self._buffer.find(self._marker)
        if start < 0:
            return self._skip_noise()
        end = self._buffer.find(b"\n", start + 1)
        if end < 0:
            return Unreadable("a line without end") if len(self._buffer) - start > MAX_LINE_BYTES else None
        words = bytes(self._buffer[start + len(self._marker) : end]).split()
        del self._buffer[: end + 1]
        if (
            len(words) != 2
            or not re.fullmatch(rb"\d{1,12}\.\d\d", words[1])
            or not re.fullmatch(rb"[0-9a-f-]{8,64}", words[0])
        ):
            return Unreadable(
                "the host has no /proc/uptime and boot_id: chargehand needs Linux with /proc mounted", True
            )
        self._hello = Hello(words[0].decode("ascii"), timedelta(seconds=float(words[1])))
        return self._hello

    def _skip_noise(self) -> Answer | None:
        beyond = len(self._buffer) - max(MAX_LINE_BYTES, len(self._marker))
        if beyond > 0:
            self._noise_bytes += beyond
            del self._buffer[:beyond]
        return Unreadable("the login prints without end") if self._noise_bytes > MAX_NOISE_BYTES else None

    def _skip_prompt(self) -> Answer | None:
        """On a terminal the prompt comes in between. What was sent before it would be thrown away, so it is when to answer."""
        end = self._buffer.find(_ASKED)
        if end >= 0:
            del self._buffer[: end + len(_ASKED)]
            self._is_asking = False
            return self._next()
        beyond = len(self._buffer) - len(_ASKED)
        if beyond > 0:
            self._noise_bytes += beyond
            del self._buffer[:beyond]
            return Unreadable("a prompt without end") if self._noise_bytes > MAX_NOISE_BYTES else PasswordWanted()
        return None

    def _take_output(self) -> Answer | None:
        data = bytes(self._buffer[: self._missing_bytes])
        if not data:
            return None
        del self._buffer[: len(data)]
        self._missing_bytes -= len(data)
        position = self._positions[self._stream]
        offset, position.at = position.at, position.at + len(data)
        return Output(self._stream, offset, data)

    def _read(self, line: bytes) -> Answer | None:
        word, _, rest = line.partition(b" ")
        match word:
            case b"o" | b"e":
                return self._begin_output(_STREAMS[word], rest)
            case b"started":
                return self._started(rest)
            case b"alive":
                return Alive()
            case b"password":
                self._is_asking = True
                return LineWanted() if rest == b"terminal" else PasswordWanted()
            case b"barred":
                return NeverStarted("tombstone", refusal=harmless(rest, MAX_LINE_BYTES))
            case b"omitted":
                return self._omitted(rest)
            case b"ended":
                return self._ended(rest)
            case b"interrupted":
                stdout, stderr, detail = rest.split(b" ", 2)
                return Interrupted(harmless(detail), self._boot_id, self._lengths(stdout, stderr))
            case b"never":
                return _never_started(rest)
            case b"refused":
                return _refused(rest)
            case _:
                raise ValueError

    def _begin_output(self, stream: Stream, rest: bytes) -> Answer | None:
        offset, count = _integers(rest)
        position = self._positions[stream]
        position.left -= count
        if offset != position.at or not 0 < count <= MAX_CHUNK_BYTES:
            raise ValueError
        if position.left < 0:
            return Unreadable(f"more {stream} than the cap allows")
        self._stream, self._missing_bytes = stream, count
        return self._take_output() or (self._next() if self._buffer else None)

    def _omitted(self, rest: bytes) -> Answer:
        letter, _, numbers = rest.partition(b" ")
        stream, (start, end) = _STREAMS[letter], _integers(numbers)
        position = self._positions[stream]
        if start != position.at or end <= start:
            raise ValueError
        position.at = end
        return Omitted(stream, start, end)

    def _started(self, rest: bytes) -> Answer:
        existed, ago = _integers(rest)
        if self._has_started:
            raise ValueError
        self._has_started = True
        return Started(self._boot_id, _span(ago), bool(existed))

    def _ended(self, rest: bytes) -> Answer:
        status, number, cause, ran, ago, stdout, stderr = rest.split(b" ")
        if cause.decode("ascii") not in get_args(EndCause):
            raise ValueError
        return Ended(
            exit_status=None if status == b"-" else _integer(status),
            signal=None if number == b"-" else _signal_name(_integer(number)),
            cause=cast(EndCause, cause.decode("ascii")),
            lengths=self._lengths(stdout, stderr),
            ran_for=_span(_integer(ran)),
            boot_id=self._boot_id,
            ended_ago=None if ago == b"-" else _span(_integer(ago)),
        )

    @property
    def _boot_id(self) -> str:
        return self._hello.boot_id if self._hello else ""

    def _lengths(self, stdout: bytes, stderr: bytes) -> dict[Stream, int]:
        """The lengths told, each no less than what was already sent: a script may have cut its own output short."""
        told: dict[Stream, int] = {"stdout": _integer(stdout), "stderr": _integer(stderr)}
        return {stream: max(length, self._positions[stream].at) for stream, length in told.items()}


def _never_started(rest: bytes) -> NeverStarted:
    why, by = rest.decode("ascii").split(" ")
    if why not in get_args(NeverStartedWhy):
        raise ValueError
    return NeverStarted(cast(NeverStartedWhy, why), None if by == "-" else _integer(by.encode("ascii")))


def _refused(rest: bytes) -> Refused:
    why, _, detail = rest.partition(b" ")
    if why.decode("ascii") not in get_args(RefusedWhy):
        raise ValueError
    return Refused(cast(RefusedWhy, why.decode("ascii")), harmless(detail))


def _integers(words: bytes) -> list[int]:
    first, second = words.split(b" ")
    return [_integer(first), _integer(second)]


def _integer(word: bytes) -> int:
    if not word.isdigit() or len(word) > MAX_NUMBER_DIGITS:
        raise ValueError
    return int(word)


def _span(hundredths: int) -> timedelta:
    return timedelta(milliseconds=10 * hundredths)


def _signal_name(number: int) -> str:
    try:
        return Signals(number).name
    except ValueError:
        return f"SIG{number}"
