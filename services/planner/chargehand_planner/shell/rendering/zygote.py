"""The process that rendering workers are forked from: started once, without environment and network, it holds Jinja2 loaded.

Owns isolation and limits of workers, and their loop. A fork costs 2 ms, so a worker that was ended is no loss.
Run as `python -I -m chargehand_planner.shell.rendering.zygote FD`, FD being a socket to the planner.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn

from chargehand_planner.shell.rendering.frames import FrameReader, Kind, frame, json_frame
from chargehand_planner.shell.rendering.sandbox import RenderFault, Sandbox, Script, analyse

MEMORY_BYTES = 192 * 1024 * 1024
CPU_LIMIT_S = 0.5
"""For one host's script. The planner's own clock ends what sleeps instead."""

SLOW_NICENESS = 10
NOBODY = 65534

FORK, KILL, SLOW = b"f", b"k", b"s"
PID = struct.Struct(">cI")

_NEW_NET, _NEW_USER = 0x40000000, 0x10000000
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38


def main(control: socket.socket) -> None:
    """Fork a worker for each socket that comes; end or slow down one when asked. Returns when the planner is gone."""
    os.chdir("/")
    os.umask(0o077)
    _warm_up()
    control.send(b"isolated" if _leave_network() else b"network")
    ended = _ended_children()
    children: set[int] = set()
    while True:
        ready, _, _ = select.select([control, ended], [], [])
        if ended in ready:
            ended.recv(4096)
            _reap(children)
        if control in ready and not _obey(control, children):
            return


_SAMPLE = """{% for g in host.groups|sort %}{{ loop.index }}{{ g|quote }}{{ "\\n" }}{% endfor %}
{{ host|tojson }}{{ input("x")|urlencode|truncate(9)|indent }}{{ host.nothing }}"""


def _warm_up() -> None:
    """Load what rendering loads when first used: workers may open no files."""
    environment = Sandbox()
    analyse(environment, _SAMPLE)
    with contextlib.suppress(RenderFault):
        Script(environment, _SAMPLE).render({"x": "é"}, {"groups": ["b", "a"]})


def _ended_children() -> socket.socket:
    """A socket that has something to read whenever a child has ended."""
    ended, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.detach())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return ended


def _obey(control: socket.socket, children: set[int]) -> bool:
    message: bytes
    message, descriptors, _, _ = socket.recv_fds(control, 16, 1)
    if message == FORK and descriptors:
        children.add(_fork(control, descriptors[0]))
    elif len(message) == PID.size:
        order, pid = PID.unpack(message)
        _order(order, pid, children)
    return bool(message)


def _leave_network() -> bool:
    """Whether this process and its children are without network from now on."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return any(libc.unshare(spaces) == 0 for spaces in (_NEW_NET, _NEW_USER | _NEW_NET))


def _reap(children: set[int]) -> None:
    for pid in list(children):
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                continue
        children.discard(pid)


def _order(order: bytes, pid: int, children: set[int]) -> None:
    # Only a child that was not reaped yet is meant: its number cannot have been given to another process.
    if pid not in children:
        return
    if order == KILL:
        os.kill(pid, signal.SIGKILL)
    elif order == SLOW:
        os.setpriority(os.PRIO_PROCESS, pid, SLOW_NICENESS)


def _fork(control: socket.socket, descriptor: int) -> int:
    pid = os.fork()
    if pid == 0:
        signal.set_wakeup_fd(-1)
        control.close()
        _work(descriptor)
    os.close(descriptor)
    control.send(PID.pack(FORK, pid))
    return pid


def _work(descriptor: int) -> NoReturn:
    """A worker's whole life; whatever happens, it does not come back to the zygote's loop."""
    try:
        _confine(descriptor)
        _serve(socket.socket(fileno=descriptor))
    finally:
        os._exit(0)


def _confine(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    # Nothing of the zygote's is left open: neither its socket to the planner nor its ends of pipes.
    os.closerange(3, descriptor)
    os.closerange(descriptor + 1, 1024)
    for limit, value in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 8),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(limit, (value, value))
    if os.geteuid() == 0:
        _become_nobody()
    # After the change of user, which clears it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _become_nobody() -> None:
    """Root is not bound by a limit of processes, and reads every file."""
    with contextlib.suppress(OSError):  # in a user namespace without that user
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)


def _serve(planner: socket.socket) -> None:
    frames, press = FrameReader(), _Press()
    while data := planner.recv(1 << 20):
        for _, request in frames.feed(data):
            for answer in press.answers(json.loads(request)):
                # Each at once: when this process is ended, the planner knows by which host.
                planner.sendall(answer)


class _Press:
    """Answers requests, and keeps what it compiled."""

    def __init__(self) -> None:
        self._environment = Sandbox()
        self._scripts: dict[str, Script] = {}

    def answers(self, request: dict[str, Any]) -> Iterator[bytes]:
        if "hosts" not in request:
            yield _limited(partial(self._analysis, request["body"]))
            return
        for host in request["hosts"]:
            yield _limited(partial(self._script, request, host))

    def _analysis(self, body: str) -> bytes:
        return json_frame(Kind.ANALYSIS, analyse(self._environment, body))

    def _script(self, request: dict[str, Any], host: dict[str, Any] | None) -> bytes:
        body = request["body"]
        script = self._scripts.get(body)
        if script is None:
            script = self._scripts[body] = Script(self._environment, body)
        return frame(Kind.SCRIPT, script.render(request["inputs"], host).encode())


def _limited(work: Callable[[], bytes]) -> bytes:
    """One answer under a limit of CPU time; the default action of the timer's signal ends the process."""
    _renew_backstop()
    signal.setitimer(signal.ITIMER_PROF, CPU_LIMIT_S)
    try:
        return work()
    except RenderFault as fault:
        return json_frame(Kind.FAULT, [fault.line, fault.message])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _renew_backstop() -> None:
    """The kernel's own limit, in case the timer was disarmed: whole seconds, counted from what was used so far."""
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    resource.setrlimit(resource.RLIMIT_CPU, (int(used + 2), resource.getrlimit(resource.RLIMIT_CPU)[1]))


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
