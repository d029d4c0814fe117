"""A single-node Apache Kafka as a child process: started once for a folder, found again, stopped cleanly.

Owns the broker's life; its folder is `folder.py`. Nothing about topics or jobs enters here.

Whose broker it is. On Linux the kernel kills it when the process that started it is gone, however that ended, so nothing
stays behind; the next start recovers the data (4 s). Elsewhere it lives on, and the next start adopts it. A broker whose
starter lives is found and used by a second start, and left alone by that one's `stop`.

Which accounts. Everything on this machine that talks to it belongs to whoever may read the folder, and what each service may
*say* is decided by its signature (docs/explanation/trust.md), so one account with all rights, `chargehand`, serves them all. Further ones
can be made with the folder (`accounts`), without any right: Kafka's storage tool makes them before a broker runs.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from chargehand_chassis.settings import read_settings

from .configuration import BROKER, DATA, LOGGING, format_arguments, java_options, server_properties
from .errors import LauncherError
from .folder import BrokerFolder, Installation, Running
from .jars import kafka_jars
from .java import Java, find_java
from .ports import Ports, choose_ports
from .processes import BoundProcess, end, mark_of, own_mark
from .settings import LauncherSettings

OWNER = "chargehand"
"""The account that may do everything."""

_FORMAT_WITHIN = timedelta(seconds=60)
_PORT_TRIES = 3
_LOOK_AGAIN_S = 0.02
_SMALLEST_HEAP_MIB = 128
# Nothing of our own environment goes on to Java: neither secrets nor options that change what was measured.
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}


@dataclass(frozen=True)
class KafkaAddress:
    """Where the broker is and as whom to come: SASL_PLAINTEXT on loopback with SCRAM-SHA-256."""

    bootstrap: str
    username: str
    password_file: Path


class EmbeddedKafka:
    """The broker of one folder. `start` and `stop` block: from a coroutine call them in a thread."""

    def __init__(
        self,
        directory: Path,
        *,
        heap_mib: int | None = None,
        report: Callable[[str], None] = lambda _: None,
        accounts: Sequence[str] = (),
    ) -> None:
        """`directory` is the broker's own (made when missing). `heap_mib`: its largest heap, default by the settings.
        `report` is told, a line at a time, what takes long or is not as before: fetching and its size, a changed port.
        `accounts`: names of further accounts, made with the folder."""
        self._folder = BrokerFolder(directory.absolute())
        self._settings = read_settings(LauncherSettings)
        self._heap_mib = heap_mib or self._settings.kafka_heap_mib
        self._report = report
        self._accounts = (OWNER, *accounts)
        self._process: BoundProcess | None = None
        self._running: Running | None = None
        self._is_mine = False

    @property
    def pid(self) -> int | None:
        """The broker's process, once it was started or found."""
        return self._running.broker.pid if self._running else None

    def is_alive(self) -> bool:
        """Whether the broker that was started or found still runs."""
        return self._running is not None and self._running.broker.is_running()

    def start(self) -> KafkaAddress:
        """Start the broker, or find the one that runs in this folder, and return when it works: its admin answers and one
        message went through a group. LauncherError when it cannot be had."""
        self._folder.make()
        with self._folder.only_starter(self._report):
            if not self._found():
                self._start_anew()
        return self.address()

    def stop(self) -> None:
        """Stop the broker cleanly, if it is ours: started by this object, or adopted. Another's is left alone."""
        if not self._is_mine or self._running is None:
            return
        if self._process is not None:
            self._process.stop(self._settings.kafka_stop_within)
        else:
            end(self._running.broker, self._settings.kafka_stop_within)
        self._folder.forget_running()
        self._process, self._is_mine = None, False

    def address(self, account: str = OWNER) -> KafkaAddress:
        """Where the started or found broker is, and as whom to come. LauncherError before the first start."""
        if self._running is None:
            raise LauncherError(
                "Kafka has no address yet.", why="it was neither started nor found.", do="call start() first."
            )
        return KafkaAddress(f"127.0.0.1:{self._running.ports.broker}", account, self._folder.password_file(account))

    # -- whose it is

    def _found(self) -> bool:
        """Whether a broker runs here already, and works. One that ends while we look, as one whose starter was killed a
        moment ago does, was not found."""
        running = self._folder.running()
        if running is None or not running.broker.is_running():
            return False
        self._take_over(running)
        try:
            self._await_ready()
        except LauncherError:
            if self.is_alive():
                raise
            return False
        return True

    def _take_over(self, found: Running) -> None:
        is_ours_already = self._is_mine and self._running == found
        if is_ours_already:
            return
        self._process, self._is_mine = None, not found.starter.is_running()
        self._running = self._sign(found) if self._is_mine else found

    def _sign(self, running: Running) -> Running:
        """Enter ourselves as who answers for this broker."""
        signed = Running(running.broker, own_mark(), running.ports)
        self._folder.save_running(signed)
        return signed

    # -- starting

    def _start_anew(self) -> None:
        java, jars = find_java(), kafka_jars(self._report)
        smallest = min(_SMALLEST_HEAP_MIB, self._heap_mib)
        self._folder.clear_scratch()
        self._folder.write("log4j2.properties", LOGGING)
        self._folder.write(
            "java.options", java_options(jars, smallest_heap_mib=smallest, largest_heap_mib=self._heap_mib)
        )
        installation = self._folder.installation() or Installation(new_cluster_id(), choose_ports())
        if not self._folder.is_formatted():
            self._format(java, installation)
        self._folder.password(OWNER)  # without it no start can be seen to succeed, so none is begun
        self._run_on_free_ports(java, installation)

    def _configure(self, name: str, ports: Ports, data: str) -> None:
        properties = server_properties(
            port=ports.broker,
            controller_port=ports.controller,
            owner=OWNER,
            broker_password=self._folder.make_password(BROKER),
            data=data,
        )
        self._folder.write(name, properties)

    def _format(self, java: Java, installation: Installation) -> None:
        forming = self._folder.begin_format()
        self._configure("format.properties", installation.ports, forming)
        passwords = {account: self._folder.make_password(account) for account in self._accounts}
        arguments = format_arguments(installation.cluster_id, "format.properties", passwords)
        self._folder.write("format.arguments", arguments)
        try:
            exit_status = self._spawn(java, "kafka.tools.StorageTool", "@format.arguments").wait(_FORMAT_WITHIN)
        finally:
            self._folder.remove("format.arguments")
            self._folder.remove("format.properties")
        if exit_status != 0:
            raise LauncherError(
                "Kafka could not format its data directory.",
                why=self._folder.last_words(),
                do=f"see whether {self._folder.root} can be written and has room (Java: {java.command}, {java.major}).",
            )
        self._folder.save_installation(installation)
        self._folder.finish_format(forming)

    def _run_on_free_ports(self, java: Java, installation: Installation) -> None:
        ports = installation.ports
        for _ in range(_PORT_TRIES):
            ports = self._usable(ports)
            self._folder.save_installation(Installation(installation.cluster_id, ports))
            if self._run(java, ports):
                return
        raise LauncherError(
            "Kafka found no free port.",
            why=f"{_PORT_TRIES} times in a row someone else took the chosen ports of 127.0.0.1 first.",
            do="try again.",
        )

    def _usable(self, ports: Ports) -> Ports:
        if ports.are_free():
            return ports
        chosen = choose_ports()
        self._report(f"port {ports.broker} or {ports.controller} is taken; Kafka now listens on {chosen.broker}")
        return chosen

    def _run(self, java: Java, ports: Ports) -> bool:
        """Start it and wait until it works; False when someone else took a port first."""
        self._configure("server.properties", ports, DATA)
        self._process = self._spawn(java, "kafka.Kafka", "server.properties")
        broker = mark_of(self._process.pid)
        if broker is None:
            raise self._ended_early()
        self._running, self._is_mine = self._sign(Running(broker, broker, ports)), True
        try:
            self._await_ready()
        except LauncherError as error:
            self.stop()
            if "Address already in use" in error.why:
                return False
            raise
        return True

    def _spawn(self, java: Java, *program: str) -> BoundProcess:
        argv = [str(java.command), "@java.options", *program]
        console = self._folder.console
        try:
            return BoundProcess(argv, directory=self._folder.root, environment=_ENVIRONMENT, output=console)
        except OSError as error:
            raise LauncherError("Java could not be started.", why=str(error), do=f"see {java.command}.") from error

    # -- waiting

    def _await_ready(self) -> None:
        asyncio.run(self._until_ready())

    async def _until_ready(self) -> None:
        # Imported here: aiokafka takes a quarter of a second, and only a start needs it.
        from chargehand_chassis.kafka_ready import kafka_ready

        address = self.address()
        password = self._folder.password(OWNER)
        within = self._settings.kafka_ready_within
        ready = asyncio.create_task(kafka_ready(address.bootstrap, OWNER, password, within=within))
        gone = asyncio.create_task(self._until_gone())
        await asyncio.wait({ready, gone}, return_when=asyncio.FIRST_COMPLETED)
        for task in (ready, gone):
            task.cancel()
        outcome, _ = await asyncio.gather(ready, gone, return_exceptions=True)
        if outcome is not None:
            raise self._not_ready(outcome)

    async def _until_gone(self) -> None:
        # Not awaited as a child of the loop: a found broker is somebody else's child.
        while self.is_alive():  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_AGAIN_S)

    def _not_ready(self, failure: BaseException) -> LauncherError:
        if isinstance(failure, asyncio.CancelledError):
            return self._ended_early()
        return LauncherError(
            "Kafka does not work.",
            why=str(failure),
            do=f"see {self._folder.log}; its process is {self.pid}: end it and start again.",
        )

    def _ended_early(self) -> LauncherError:
        return LauncherError(
            "Kafka ended while it started.", why=self._folder.last_words(), do=f"see {self._folder.log}."
        )


def new_cluster_id() -> str:
    """22 characters as Kafka makes them: 16 random bytes, the first of which becomes no dash, which would be an option."""
    first, rest = secrets.randbelow(0xF8), secrets.token_bytes(15)
    return urlsafe_b64encode(bytes([first]) + rest).decode().rstrip("=")
