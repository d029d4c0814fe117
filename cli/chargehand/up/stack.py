"""Kafka and all services of one data directory, as one thing that starts, is ready, and stops.

Owns the order, the state file and the log of the supervisor. One process is one child's; settings are in `programs`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from chargehand_chassis.settings import KafkaSettings

from ..embedded.errors import LauncherError
from ..embedded.kafka import EmbeddedKafka, KafkaAddress
from ..embedded.processes import end, mark_of, own_mark
from ..errors import CommandError, ExitStatus
from .child import STOP_WITHIN_S, Child, Late, Program
from .credentials import make_keys, make_token
from .layout import LOCAL_PROXY, DataDirectory
from .logs import last_words, open_log, turn_over
from .ports import LOOPBACK, PortClaim
from .programs import kafka_environment, service_programs
from .state import ChildState, Lock, UpState, forget_state, load_state, save_state

READY_WITHIN_S = 120.0
_LOOK_AFTER_KAFKA_S = 1.0
_LOOK_AFTER_LOGS_S = 30.0

T = TypeVar("T")
Report = Callable[[str], None]


class Stack:
    """One `up`. `report` is given lines for the person at the terminal."""

    def __init__(self, data: DataDirectory, wanted_port: int, report: Report) -> None:
        self._data = data
        self._wanted_port = wanted_port
        self._report = report
        self._lock = Lock(data.lock)
        self._claim: PortClaim | None = None
        self._kafka = EmbeddedKafka(data.kafka, report=self._note)
        self._children: list[Child] = []
        self._status = "starting"
        self._server = ""
        self._address: KafkaAddress | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._has_topics = asyncio.Event()
        self._kafka_starting: asyncio.Future[KafkaAddress] | None = None
        self.is_first = False

    @property
    def server(self) -> str:
        """Where the page is."""
        return self._server

    @property
    def kafka(self) -> KafkaAddress:
        """Where Kafka is, once started."""
        if self._address is None:
            raise RuntimeError("not started")
        return self._address

    async def start(self) -> None:
        """Start everything; returns when everything answers. CommandError if it cannot be had; then nothing is left."""
        self.is_first = self._data.make()
        self._take_lock()
        try:
            await self._start()
        except LauncherError as error:
            await self.stop()
            raise CommandError(error.what, why=error.why, do=error.do, status=ExitStatus.UNREACHABLE) from error
        except BaseException:
            await self.stop()
            raise

    async def add(self, program: Program) -> None:
        """One more child beside the services; returns when it is ready. CommandError if it is not."""
        child = self._child(program)
        child.start()
        await self._until_ready([child])

    async def stop(self) -> None:
        """Stop the services together, then Kafka; nothing that was started is left."""
        self._status = "stopping"
        if self._server:
            self._save()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(child.stop() for child in self._children), *self._tasks, return_exceptions=True)
        if self._kafka_starting is not None:
            await asyncio.wait({self._kafka_starting}, timeout=STOP_WITHIN_S)
        await asyncio.to_thread(self._kafka.stop)
        forget_state(self._data)
        if self._claim is not None:
            self._claim.release()
        self._lock.release()
        self._log("stopped")

    # --- starting ---

    def _take_lock(self) -> None:
        if self._lock.take():
            return
        state = load_state(self._data)
        raise CommandError(
            f"{self._data.root} is in use.",
            why=f"process {state.pid if state else '(unknown)'} is running it"
            + (f" at {state.server}." if state and state.server else "."),
            do=f"use it as it is, end it with `chargehand down --data {self._data.root}`, or name another directory.",
        )

    async def _start(self) -> None:
        await asyncio.to_thread(end_left_behind, self._data, self._note)
        self._log(f"starting, process {os.getpid()}")
        make_keys(self._data)
        self._claim = PortClaim(self._wanted_port)
        port = self._claim.port
        if port != self._wanted_port:
            self._note(f"port {self._wanted_port} is taken; the page is on port {port}")
        self._server = f"http://{LOOPBACK}:{port}"
        make_token(self._data, self._server)
        self._save()
        for program in service_programs(self._data, port):
            self._child(program, self._late_settings).start()
        await self._start_kafka()
        await self._make_topics(self.kafka)
        self._has_topics.set()
        self._tasks = [
            asyncio.create_task(self._keep_kafka(), name="keeps Kafka running"),
            asyncio.create_task(self._keep_logs(), name="turns logs over"),
        ]
        await self._until_ready(self._children)
        self._status = "ready"
        self._save()
        self._log(f"ready at {self._server}")

    async def _start_kafka(self) -> None:
        """In a thread that nobody waits for at exit: fetching may hang, and Kafka ends with this process in any case."""
        self._kafka_starting = in_daemon_thread(self._kafka.start)
        self._address = await asyncio.shield(self._kafka_starting)
        self._save()

    async def _make_topics(self, address: KafkaAddress) -> None:
        from chargehand_chassis.kafka import ensure_topics

        settings = KafkaSettings(
            kafka_bootstrap=address.bootstrap,
            kafka_username=address.username,
            kafka_password_file=address.password_file,
        )
        await ensure_topics(settings, [LOCAL_PROXY])

    async def _late_settings(self) -> dict[str, str]:
        """Where Kafka is: known when it runs. Services are started before that, and import meanwhile."""
        await self._has_topics.wait()
        return kafka_environment(self.kafka)

    def _child(self, program: Program, late: Late | None = None) -> Child:
        child = Child(program, self._tell, self._save, late)
        self._children.append(child)
        return child

    async def _until_ready(self, children: Sequence[Child]) -> None:
        waiting = {asyncio.create_task(_ready_or_not(child)): child for child in children}
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                for task in asyncio.as_completed(list(waiting)):
                    await task
        except TimeoutError:
            slow = [child for child in children if not child.ready.is_set()]
            raise _did_not_start(slow[0].program, f"is not ready after {READY_WITHIN_S:g} s") from None
        finally:
            for task in waiting:
                task.cancel()

    # --- while it runs ---

    async def _keep_kafka(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_AFTER_KAFKA_S)
            if self._kafka.is_alive():
                continue
            self._note("Kafka ended; it is started again on its data")
            try:
                await self._start_kafka()
            except LauncherError as error:
                self._note(f"{error.what} {error.why}")
                await asyncio.sleep(READY_WITHIN_S / 12)

    async def _keep_logs(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_AFTER_LOGS_S)
            for path in (*(child.program.log for child in self._children), self._data.log_of("up")):
                turn_over(path)

    def _save(self) -> None:
        """A disk that is full keeps nobody from being started again: the state is written with the next change."""
        mark = own_mark()
        document = self._kafka_document()
        state = UpState(mark.pid, mark.began, self._status, self._server, document, tuple(self._states()))
        try:
            save_state(self._data, state)
        except OSError as error:
            self._report(f"{self._data.state} cannot be written: {error}")

    def _states(self) -> list[ChildState]:
        states = [
            child.state or ChildState(child.program.name, 0, "", child.program.address) for child in self._children
        ]
        broker = mark_of(self._kafka.pid) if self._kafka.pid else None
        address = self._address.bootstrap if self._address else ""
        kafka = ChildState("kafka", broker.pid if broker else 0, broker.began if broker else "", address)
        return [kafka, *states]

    def _kafka_document(self) -> dict[str, str]:
        if self._address is None:
            return {}
        return {
            "bootstrap": self._address.bootstrap,
            "username": self._address.username,
            "password_file": str(self._address.password_file),
        }

    def _tell(self, text: str, is_grave: bool) -> None:
        self._log(text)
        if is_grave:
            self._report(text)

    def _note(self, text: str) -> None:
        self._tell(text, True)

    def _log(self, text: str) -> None:
        path = self._data.log_of("up")
        with contextlib.suppress(OSError), os.fdopen(open_log(path), "a", encoding="utf-8") as file:
            file.write(f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {text}\n")


async def _ready_or_not(child: Child) -> None:
    waiting = [asyncio.create_task(child.ready.wait()), asyncio.create_task(child.gave_up.wait())]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
    if not child.ready.is_set():
        raise _did_not_start(child.program, "cannot start")


def _did_not_start(program: Program, what: str) -> CommandError:
    lines = [" ".join(line.split()) for line in last_words(program.log)]
    return CommandError(
        f"{program.name} {what}.",
        why=" | ".join(lines)[:600] if lines else "its log does not say why.",
        do=f"see {program.log}.",
        status=ExitStatus.UNREACHABLE,
    )


def in_daemon_thread(function: Callable[[], T]) -> asyncio.Future[T]:
    """The result of a blocking call; an abandoned call does not keep the process alive."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: Exception | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def call() -> None:
        try:
            outcome: tuple[T | None, Exception | None] = (function(), None)
        except Exception as error:  # noqa: BLE001 (handed to who waits for it)
            outcome = (None, error)
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=call, daemon=True).start()
    return future


def end_left_behind(data: DataDirectory, report: Report) -> int:
    """End what a supervisor that was killed has left running; how many there were."""
    state = load_state(data)
    left = [child for child in state.left_behind() if child.name != "kafka"] if state else []
    for child in left:
        report(f"{child.name} (process {child.pid}) was left running by an earlier `up`; it is ended first")
    _end_together(left)
    return len(left)


def _end_together(children: Sequence[ChildState]) -> None:
    from concurrent.futures import ThreadPoolExecutor
    from datetime import timedelta

    with ThreadPoolExecutor(max(1, len(children))) as threads:
        list(threads.map(lambda child: end(child.mark, timedelta(seconds=STOP_WITHIN_S)), children))


def end_everything_left(data: DataDirectory, report: Report) -> int:
    """The same for `down`, Kafka included, when no supervisor is there."""
    count = end_left_behind(data, report)
    state = load_state(data)
    kafka = [child for child in state.left_behind()] if state else []
    _end_together(kafka)
    forget_state(data)
    return count + len(kafka)
