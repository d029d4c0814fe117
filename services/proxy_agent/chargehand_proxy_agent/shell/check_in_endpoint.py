"""The agent's small HTTP endpoint, `POST /check-in` and nothing else. It is off unless the settings give it an address.

Owns connections: how many there are, how long each may take, how much is read of it. h11 reads HTTP; what is answered to an
announcement is in check_ins.py. One request a connection: hosts come seldom, and a connection that stays costs a place.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus

import h11
import structlog
from chargehand_chassis.errors import FatalFailure
from chargehand_chassis.metrics import METRICS

from ..core import check_in as rules
from ..core.check_in import MAX_BODY_BYTES, Answer
from .settings import AgentSettings

PATH = b"/check-in"
MAX_HEAD_BYTES = 8 * 1024
READ_WITHIN_S = 10.0
_LINGER_S = 1.0
_LINGER_BYTES = 256 * 1024
_BUSY_S = 10
_READ_BYTES = 16 * 1024
_BACKLOG = 4096

Announce = Callable[[bytes], Awaitable[Answer]]


class Endpoint:
    """Listens, and gives announcements on. FatalFailure at once if its settings cannot be used."""

    def __init__(self, settings: AgentSettings) -> None:
        self._most = settings.check_in_connections
        self._tls = _tls(settings)
        self._host, self._port = _address(settings)
        self._listener: socket.socket | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._log = structlog.get_logger()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        if self._listener is None:
            return self._host, self._port
        host, port = self._listener.getsockname()[:2]
        return str(host), int(port)

    def open(self) -> None:
        """Listen. FatalFailure if the address cannot be had."""
        try:
            self._listener = _listen(self._host, self._port)
        except OSError as error:
            raise FatalFailure(
                f"CHARGEHAND_CHECK_IN_ADDRESS {self._host}:{self._port} cannot be opened: {error}"
            ) from error
        host, port = self.address
        self._log.info("check_in_endpoint", host=host, port=port, tls=self._tls is not None)

    @asynccontextmanager
    async def listening(self, announce: Announce) -> AsyncIterator[None]:
        """Answer while the body runs; then those being answered are waited for, a moment."""
        self.open()
        accepting = asyncio.create_task(self._accept(announce))
        try:
            yield
        finally:
            accepting.cancel()
            await asyncio.wait({accepting})
            self.close()
            await self._leave()

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _leave(self) -> None:
        if self._serving:
            await asyncio.wait(self._serving, timeout=_LINGER_S)
        for task in self._serving:
            task.cancel()

    async def _accept(self, announce: Announce) -> None:
        """Twice as many connections as are served: those beyond are told to come again, and whoever comes then waits in the
        listener's queue."""
        loop = asyncio.get_running_loop()
        while self._listener is not None:
            while len(self._serving) >= 2 * self._most:
                self._room.clear()
                await self._room.wait()
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                self._log.warning("check_in_not_accepted", error=str(error))
                await asyncio.sleep(_LINGER_S)
                continue
            to = _send_away if len(self._serving) >= self._most else announce
            task = loop.create_task(self._serve(connection, to))
            self._serving.add(task)
            task.add_done_callback(self._served)

    def _served(self, task: asyncio.Task[None]) -> None:
        self._serving.discard(task)
        METRICS.check_in_connections.set(len(self._serving))
        self._room.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("check_in_failed", error=repr(error), exc_info=error)

    async def _serve(self, connection: socket.socket, announce: Announce) -> None:
        METRICS.check_in_connections.set(len(self._serving))
        with suppress(OSError, TimeoutError):
            reader, writer = await self._open(connection)
            try:
                await _converse(reader, writer, announce)
            finally:
                writer.close()

    async def _open(self, connection: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """TLS, if there is any, done within the time a request has."""
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=_READ_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        patience = None if self._tls is None else READ_WITHIN_S
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, connection, ssl=self._tls, ssl_handshake_timeout=patience
            )
        except BaseException:
            connection.close()
            raise
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def _converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, announce: Announce) -> None:
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
    try:
        async with asyncio.timeout(READ_WITHIN_S):
            got = await _read(http, reader, writer)
    except TimeoutError:
        got = Answer(408, f"refused: a request is to be there within {READ_WITHIN_S:g} s")
    except h11.RemoteProtocolError as error:
        got = Answer(error.error_status_hint, f"refused: {error}")
    if got is None:
        return
    answer = await announce(got) if isinstance(got, bytes) else got
    writer.write(_bytes_of(http, answer))
    async with asyncio.timeout(_LINGER_S):
        await writer.drain()
        await _linger(reader, writer)


async def _send_away(body: bytes) -> Answer:
    """What those are told for whom there is no place."""
    return rules.busy(_BUSY_S)


async def _read(
    http: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bytes | Answer | None:
    """The body of an announcement, or what is answered to anything else; None if nobody is there. Raises RemoteProtocolError."""
    body = bytearray()
    while True:
        event = http.next_event()
        match event:
            case h11.NEED_DATA:
                if http.they_are_waiting_for_100_continue:
                    writer.write(http.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
                data = await reader.read(_READ_BYTES)
                http.receive_data(data)
            case h11.Request():
                refused = _objection(event)
                if refused is not None:
                    return refused
            case h11.Data():
                body += event.data
                if len(body) > MAX_BODY_BYTES:
                    return rules.too_large()
            case h11.EndOfMessage():
                return bytes(body)
            case _:
                return None


def _objection(request: h11.Request) -> Answer | None:
    if request.target != PATH:
        return Answer(404, "refused: there is POST /check-in")
    if request.method != b"POST":
        return Answer(405, "refused: there is POST /check-in")
    length = next((value for name, value in request.headers if name == b"content-length"), None)
    if length is not None and int(length) > MAX_BODY_BYTES:
        return rules.too_large()
    return None


def _bytes_of(http: h11.Connection, answer: Answer) -> bytes:
    text = answer.words.encode("utf-8", "replace") + b"\n"
    headers = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(text))),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        ("Connection", "close"),
    ]
    if answer.retry_after_s:
        headers.append(("Retry-After", str(answer.retry_after_s)))
    if answer.status == 405:
        headers.append(("Allow", "POST"))
    if http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return b""
    phrase = HTTPStatus(answer.status).phrase
    head = http.send(h11.Response(status_code=answer.status, headers=headers, reason=phrase.encode()))
    return (head or b"") + (http.send(h11.Data(data=text)) or b"")


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read on for a moment: a connection that is closed on unread data takes its answer away with it."""
    if writer.can_write_eof():
        writer.write_eof()
    left = _LINGER_BYTES
    while left > 0 and (data := await reader.read(_READ_BYTES)):
        left -= len(data)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=_BACKLOG, reuse_port=False)
    listener.setblocking(False)
    return listener


def _address(settings: AgentSettings) -> tuple[str, int]:
    host, _, port = settings.check_in_address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _tls(settings: AgentSettings) -> ssl.SSLContext | None:
    """FatalFailure where the key of a host would cross a network in clear, or the certificate cannot be used."""
    certificate = settings.check_in_certificate_file
    if certificate is None:
        host, _ = _address(settings)
        if not ipaddress.ip_address(host).is_loopback:
            raise FatalFailure(
                f"CHARGEHAND_CHECK_IN_ADDRESS {settings.check_in_address} is not loopback: hosts' keys would cross the network "
                "in clear. Give CHARGEHAND_CHECK_IN_CERTIFICATE_FILE and CHARGEHAND_CHECK_IN_CERTIFICATE_KEY_FILE, or a loopback address"
            )
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, settings.check_in_certificate_key_file)
    except (OSError, ssl.SSLError) as error:
        raise FatalFailure(
            f"CHARGEHAND_CHECK_IN_CERTIFICATE_FILE {certificate} cannot be used with its key: {error}"
        ) from error
    return context
