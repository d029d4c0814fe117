"""The gateway's process: HTTP for people and programs over what the reporter remembers, commands out to the planner.

Owns starting and stopping it. Reads go on while Kafka is away; commands are answered with 503 until it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from chargehand_chassis.errors import FatalFailure
from chargehand_chassis.kafka import Publisher
from chargehand_chassis.keys import load_keys, load_pinned_planner
from chargehand_chassis.runner import Context, run_service
from sse_starlette.sse import AppStatus

from ...core.access import Door
from ..settings import GatewaySettings
from .commands import Commands
from .gateway import Gateway
from .people import People
from .routes import RouteTable
from .sessions import Sessions
from .table import ROUTES

__all__ = ["main", "make_gateway", "run"]

_OPEN_STREAMS_END_WITHIN_S = 3
_LOOK_EVERY_S = 2.0
_LOOK_SOON_S = 0.1
_CONNECT_AGAIN_S = 1.0
_DATE_EVERY_S = 1.0


def main() -> int:
    """Run the gateway until it is told to stop; the exit status."""
    return run_service("gateway", GatewaySettings, run)


def make_gateway(settings: GatewaySettings, installation: str) -> Gateway:
    """The application. FatalFailure if a route declares no right."""
    scheme = "https" if settings.tls_certificate_file or settings.trust_forwarded_proto else "http"
    door = Door(frozenset(host.lower() for host in settings.public_hosts), scheme)
    people = People(Sessions(settings.data), f"chargehand-{installation}")
    return Gateway(settings, door, people, RouteTable(ROUTES), installation)


async def run(context: Context[GatewaySettings]) -> None:
    """Serve until stopping."""
    settings = context.settings
    keys = load_keys(settings.key_file)
    planner = load_pinned_planner(settings.planner_key_file)
    gateway = make_gateway(settings, planner.kid[:8])
    publisher = Publisher(settings, keys, f"gateway/{settings.instance}")
    gateway.commands = Commands(publisher, gateway.changes, planner.sealing_key)
    listener = _listen(settings)
    server = _Server(_configuration(settings, gateway))
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_connect(context, gateway, publisher)),
                group.create_task(_look(context, gateway)),
                group.create_task(_stop(context, gateway, server)),
                group.create_task(_announce(context, server, listener)),
            ]
            await server.serve([listener])
            for task in tasks:
                task.cancel()
    finally:
        await publisher.stop()
        gateway.close()


def _listen(settings: GatewaySettings) -> socket.socket:
    """The listening socket. FatalFailure if somebody else has the address."""
    family = socket.AF_INET6 if ":" in settings.http_host else socket.AF_INET
    try:
        return socket.create_server((settings.http_host, settings.http_port), family=family, backlog=1024)
    except OSError as error:
        address = f"{settings.http_host}:{settings.http_port}"
        raise FatalFailure(f"{address} cannot be opened: {error}; choose another with CHARGEHAND_HTTP_PORT") from error


class _Server(uvicorn.Server):
    """uvicorn without its own signals, which the runner has; `is_open` once it listens. It ends when told to, and wakes once a
    second for the date in its answers, where uvicorn looks ten times a second whether it is to end."""

    def __init__(self, configuration: uvicorn.Config) -> None:
        super().__init__(configuration)
        self.is_open = asyncio.Event()
        self._is_to_end = asyncio.Event()

    def end(self) -> None:
        """Take no more requests, and let `serve` return."""
        self.should_exit = True
        self._is_to_end.set()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DATE_EVERY_S):
                    await self._is_to_end.wait()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.is_open.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _configuration(settings: GatewaySettings, gateway: Gateway) -> uvicorn.Config:
    return uvicorn.Config(
        gateway,
        host=settings.http_host,
        port=settings.http_port,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_OPEN_STREAMS_END_WITHIN_S,
        ssl_certfile=settings.tls_certificate_file,
        ssl_keyfile=settings.tls_key_file,
    )


async def _connect(context: Context[GatewaySettings], gateway: Gateway, publisher: Publisher) -> None:
    """Come to Kafka, however long it takes: pages can be read meanwhile."""
    while True:
        try:
            await publisher.start()
        except Exception as error:  # noqa: BLE001 (whatever a broker that is not there causes: logged, tried again)
            context.log.warning("kafka_unreachable", why=repr(error), again_in_s=_CONNECT_AGAIN_S)
            await asyncio.sleep(_CONNECT_AGAIN_S)
        else:
            gateway.is_connected = lambda: True
            return


async def _look(context: Context[GatewaySettings], gateway: Gateway) -> None:
    """Say whether a request can be answered."""
    while True:
        why = await gateway.why_not_ready()
        if why or not context.health.is_ready:
            context.health.set_ready(not why, why)
        await asyncio.sleep(_LOOK_SOON_S if why else _LOOK_EVERY_S)


async def _stop(context: Context[GatewaySettings], gateway: Gateway, server: _Server) -> None:
    """End open streams first, so that their clients know where to go on, then take no more requests."""
    await context.stopping.wait()
    AppStatus.should_exit = True
    gateway.stop()
    server.end()


async def _announce(context: Context[GatewaySettings], server: _Server, listener: socket.socket) -> None:
    """Say where it listens, once it does."""
    await server.is_open.wait()
    port = listener.getsockname()[1]
    context.log.info("gateway_listening", host=context.settings.http_host, port=port)
    file = context.settings.http_port_file
    if file is not None:
        part = file.with_suffix(".part")
        part.write_text(str(port), encoding="ascii")
        part.replace(file)
