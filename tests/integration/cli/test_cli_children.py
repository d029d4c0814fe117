"""One supervised child, real processes: readiness, restarts, stopping, logs."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from chargehand.embedded.processes import mark_of
from chargehand.up import child as child_module
from chargehand.up.child import Child, Program
from chargehand.up.logs import last_lines, last_words, turn_over
from chargehand.up.ports import any_free

SERVE = """
import os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"ready")
    def log_message(self, *a): pass
print("serving", os.environ["CHARGEHAND_HEALTH_PORT"], flush=True)
HTTPServer(("127.0.0.1", int(os.environ["CHARGEHAND_HEALTH_PORT"])), Answer).serve_forever()
"""
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
)
WITHIN_S = 20.0


class Told:
    """What the supervisor was told."""

    def __init__(self) -> None:
        self.grave: list[str] = []
        self.all: list[str] = []
        self.changed = asyncio.Event()

    def __call__(self, text: str, is_grave: bool) -> None:
        self.all.append(text)
        if is_grave:
            self.grave.append(text)
        self.changed.set()

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not is_so():
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def kept_running(code: str, log: Path, told: Told, *, has_health: bool = False) -> AsyncIterator[Child]:
    environment = {name: os.environ[name] for name in ("PATH", "CHARGEHAND_TEST_SESSION") if name in os.environ}
    port = any_free(1)[0] if has_health else 0
    program = Program("example", (sys.executable, "-c", code), environment, log, health_port=port)
    child = Child(program, told, told.changed.set)
    child.start()
    try:
        yield child
    finally:
        await child.stop()


async def test_a_child_is_ready_when_it_says_so(tmp_path: Path) -> None:
    told = Told()
    async with kept_running(SERVE, tmp_path / "log", told, has_health=True) as child:
        async with asyncio.timeout(WITHIN_S):
            await child.ready.wait()
        state = child.state
        assert state is not None
        assert state.mark.is_running()
        assert state.health.startswith("http://127.0.0.1:")
    assert not state.mark.is_running()
    assert last_lines(tmp_path / "log")[0].startswith("serving")


async def test_a_child_that_is_killed_is_started_again(tmp_path: Path) -> None:
    told = Told()
    async with kept_running(SERVE, tmp_path / "log", told, has_health=True) as child:
        async with asyncio.timeout(WITHIN_S):
            await child.ready.wait()
            first = child.state
            assert first is not None
            os.kill(first.pid, signal.SIGKILL)
            await told.until(lambda: child.state is not None and child.state.pid != first.pid)
            await child.ready.wait()
        assert told.all == ["example was ended by signal 9; it is started again in 0.2 s"]
        assert told.grave == []


async def test_a_child_that_keeps_ending_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    told = Told()
    async with kept_running("print('no such table'); raise SystemExit(3)", tmp_path / "log", told):
        await told.until(lambda: bool(told.grave))
    assert "ended with status 3" in told.grave[0]
    assert "no such table" in told.grave[0]
    assert str(tmp_path / "log") in told.grave[0]


async def test_a_child_that_needs_a_person_is_not_started_again(tmp_path: Path) -> None:
    told = Told()
    async with kept_running("print('bad setting'); raise SystemExit(78)", tmp_path / "log", told) as child:
        async with asyncio.timeout(WITHIN_S):
            await child.gave_up.wait()
        assert "It is not started again." in told.grave[0]
        assert child.state is None


async def test_a_child_that_does_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "STOP_WITHIN_S", 0.3)
    told = Told()
    async with kept_running(STUBBORN, tmp_path / "log", told) as child:
        await told.until(lambda: child.state is not None)
        state = child.state
        async with asyncio.timeout(WITHIN_S):
            while "deaf" not in "".join(last_lines(tmp_path / "log")):  # noqa: ASYNC110 (another process writes it)
                await asyncio.sleep(0.02)
    assert state is not None
    assert not state.mark.is_running()
    assert told.grave == ["example did not stop within 0.3 s and is killed"]


async def test_a_port_that_was_taken_meanwhile_is_changed_for_another(tmp_path: Path) -> None:
    told = Told()
    port = any_free(1)[0]
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", port)
    environment = {"PATH": os.environ["PATH"]}
    child = Child(
        Program("example", (sys.executable, "-c", SERVE), environment, tmp_path / "log", health_port=port), told
    )
    child.start()
    try:
        async with asyncio.timeout(WITHIN_S):
            await child.ready.wait()
        assert child.state is not None
        assert not child.state.health.endswith(f":{port}")
    finally:
        await child.stop()
        server.close()
        await server.wait_closed()


def test_a_large_log_is_turned_over_and_its_writer_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for round_ in range(5):
        with path.open("a") as writer:
            writer.write(f"round {round_}\n" * 20)
            writer.flush()
            assert turn_over(path, max_bytes=100)
            writer.write("after\n")
        assert path.read_text() == "after\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "log.1", "log.2", "log.3"]
    assert "round 4" in (tmp_path / "log.1").read_text()
    assert not turn_over(path, max_bytes=100)


def test_of_a_log_what_went_wrong_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    records = [
        {
            "event": "service_failed",
            "level": "error",
            "errors": ["ValueError('x')"],
            "exception": "long",
            "instance": "1",
        },
        {"event": "started", "level": "info"},
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records * 3) + "Segmentation fault\n")
    assert last_words(path) == ["service_failed: ValueError('x')", "Segmentation fault"]
    assert last_words(tmp_path / "none") == []


def test_a_process_is_known_by_when_it_began() -> None:
    mark = mark_of(os.getpid())
    assert mark is not None
    assert mark.is_running()
    assert not type(mark)(mark.pid, "another beginning").is_running()
