"""What a script does on a simulated host: which bytes appear when, and how it ends. Pure; the same for the same words.

Owns a few commands of a shell, and the host parameters `sim.…` that make it last, print or fail. It runs nothing.

- `sim.duration_s`: seconds it lasts besides its own sleeps; `sim.output_bytes`: bytes it prints besides, spread over that time;
- `sim.exit_status`: how it ends whatever it does; `sim.fail_share`: share of hosts, by the digest of their name, that fail with 1.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

Stream = Literal["stdout", "stderr"]

FILLER_BLOCK = b"".join(b"%07d simulated output, one line of sixty-four bytes: ........\n" % n for n in range(1024))
PIECES_OVER_TIME = 10
LONGEST_S = 366 * 24 * 3600.0
MOST_FILLER_BYTES = 4 * 1024**3

_HOST = "\x00host\x00"
_UPTIME = "\x00uptime\x00"
_STDERR = "\x00stderr\x00"
_TO_STDERR = re.compile(r"1?>&2")
_OTHER_REDIRECTION = re.compile(r"[0-9]?[<>]{1,2}(&[0-9-]|\s*[\w./-]+)")
_SILENT = frozenset({":", "set", "cd", "export", "trap", "umask", "true", "exec", "test", "[", "sync"})


@dataclass(frozen=True, slots=True)
class Piece:
    """Output that appears `at_s` after the start: text, or `filler_bytes` of lines."""

    at_s: float
    stream: Stream
    text: str = ""
    filler_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What happens on the host, in order, and the end."""

    pieces: tuple[Piece, ...] = ()
    lasts_s: float = 0.0
    exit_status: int = 0


@dataclass(slots=True)
class _Run:
    at_s: float = 0.0
    status: int = 0
    is_over: bool = False
    pieces: list[Piece] = field(default_factory=list)


def behaviour_of(script: str, name: str, parameters: Mapping[str, str]) -> Behaviour:
    """The behaviour of a script on the host of this name."""
    given = tuple(sorted((key, value) for key, value in parameters.items() if key.startswith("sim.")))
    return _behaviour(script, given, is_in_share(name, parameters, "sim.fail_share"))


@lru_cache(maxsize=256)
def _behaviour(script: str, given: tuple[tuple[str, str], ...], is_failing: bool) -> Behaviour:
    run = _Run()
    for joint, words in _commands(script):
        if run.is_over:
            break
        if (joint == "&&" and run.status) or (joint == "||" and not run.status):
            continue
        _do(run, words)
    return _with_parameters(run, dict(given), is_failing)


def _with_parameters(run: _Run, given: dict[str, str], is_failing: bool) -> Behaviour:
    extra_s, filler = number(given, "sim.duration_s"), int(min(number(given, "sim.output_bytes"), MOST_FILLER_BYTES))
    pieces = run.pieces + _filler(run.at_s, extra_s, filler)
    if is_failing:
        pieces.append(Piece(run.at_s + extra_s, "stderr", "simulated failure\n"))
    status = 1 if is_failing else int(number(given, "sim.exit_status", run.status)) & 0xFF
    return Behaviour(tuple(pieces), min(run.at_s + extra_s, LONGEST_S), status)


def _filler(at_s: float, over_s: float, size: int) -> list[Piece]:
    if not size:
        return []
    parts = PIECES_OVER_TIME if over_s else 1
    sizes = [size // parts + (1 if n < size % parts else 0) for n in range(parts)]
    return [Piece(at_s + over_s * n / parts, "stdout", filler_bytes=part) for n, part in enumerate(sizes) if part]


def rendered(piece: Piece, name: str, uptime: str) -> bytes:
    """The bytes of a piece on one host."""
    if piece.filler_bytes:
        whole, rest = divmod(piece.filler_bytes, len(FILLER_BLOCK))
        return FILLER_BLOCK * whole + FILLER_BLOCK[:rest]
    return piece.text.replace(_HOST, name).replace(_UPTIME, uptime).encode()


def length_of(piece: Piece, name: str, uptime: str) -> int:
    return piece.filler_bytes or len(rendered(piece, name, uptime))


def number(parameters: Mapping[str, str], key: str, default: float = 0.0) -> float:
    """A parameter as a number that is not negative; the default if it is none."""
    try:
        value = float(parameters[key])
    except (KeyError, ValueError):
        return default
    return min(max(value, 0.0), 1e12)


def is_in_share(name: str, parameters: Mapping[str, str], key: str) -> bool:
    """Whether the host is one of the share of all that the parameter names: by the digest of its name, so it is repeatable."""
    share = number(parameters, key)
    if not share:
        return False
    digest = hashlib.sha256(f"{key}\x1f{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share


# --- a few commands -------------------------------------------------------------------------------------------------------


def _commands(script: str) -> list[tuple[str, list[str]]]:
    """The commands of a script, each with what joins it to the one before."""
    marked = _OTHER_REDIRECTION.sub(" ", _TO_STDERR.sub(f" {_STDERR} ", script))
    lexer = shlex.shlex(marked, posix=True, punctuation_chars=";&|\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\r", True, "#"
    commands: list[tuple[str, list[str]]] = []
    joint = ";"
    words: list[str] = []
    try:
        for word in lexer:
            if word and not word.strip(";&|\n"):
                commands.append((joint, words))
                joint, words = (word.strip("\n") or ";"), []
            else:
                words.append(word)
    except ValueError:
        words = ["echo", "simulated: a quotation is not closed"]
    return [(joint, words) for joint, words in [*commands, (joint, words)] if words]


def _do(run: _Run, words: list[str]) -> None:
    stream: Stream = "stderr" if _STDERR in words else "stdout"
    name, *arguments = [word for word in words if word != _STDERR] or [":"]
    run.status = 0
    match name:
        case "sleep":
            run.at_s = min(run.at_s + number({"n": arguments[0] if arguments else ""}, "n"), LONGEST_S)
        case "exit":
            run.status, run.is_over = int(number({"n": arguments[0] if arguments else "0"}, "n")) & 0xFF, True
        case "false":
            run.status = 1
        case _ if name in _SILENT or "=" in name:
            pass
        case _:
            run.pieces.append(Piece(run.at_s, stream, _said(name, arguments)))


def _said(name: str, arguments: list[str]) -> str:
    match name:
        case "echo":
            return _expanded(" ".join(arguments)) + "\n"
        case "printf":
            return _expanded(arguments[0] if arguments else "").replace("\\n", "\n")
        case "hostname":
            return _HOST + "\n"
        case "uptime":
            return _UPTIME + "\n"
        case "uname":
            return f"Linux {_HOST} 6.1.0-simulated x86_64 GNU/Linux\n" if arguments else "Linux\n"
        case "whoami":
            return "root\n"
        case "id":
            return "uid=0(root) gid=0(root) groups=0(root)\n"
        case "seq":
            count = int(min(number({"n": arguments[-1] if arguments else ""}, "n"), 100_000))
            return "".join(f"{n}\n" for n in range(1, count + 1))
        case _:
            return f"simulated: {' '.join([name, *arguments])}\n"


def _expanded(text: str) -> str:
    for form in ("$(hostname)", "${HOSTNAME}", "$HOSTNAME", "`hostname`"):
        text = text.replace(form, _HOST)
    return text
