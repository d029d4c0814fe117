"""/healthz, /readyz and /metrics of a process, in a thread of their own and without a web framework.

Owns the three answers. Readiness is set by the service.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import TCPServer
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from .errors import NEEDS_A_PERSON, FatalFailure
from .metrics import METRICS, REGISTRY

_CLOSED_WITHIN_S = 5.0
_StartResponse = Callable[..., Any]


class Health:
    """What the process says of itself; safe to set from any thread."""

    def __init__(self) -> None:
        self._is_ready = False
        self._why = "starting"
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._metrics = make_wsgi_app(REGISTRY)

    def set_ready(self, is_ready: bool, why: str = "", *, needs_a_person: bool = False) -> None:
        """Ready, or not and why; and whether waiting does not help."""
        self._is_ready, self._why = is_ready, f"{NEEDS_A_PERSON}{why}" if needs_a_person else why
        METRICS.ready.set(1 if is_ready else 0)

    @property
    def is_ready(self) -> bool:
        return self._is_ready

    def serve(self, host: str, port: int) -> None:
        """Answer on host:port until `close`. FatalFailure if the port is taken. Port 0: do not."""
        if not port:
            return
        try:
            self._server = make_server(host, port, self._answer, _Server, _Quiet)
        except OSError as error:
            raise FatalFailure(f"health address {host}:{port} cannot be opened: {error}") from error
        self._thread = threading.Thread(target=_serve, args=(self._server,), name="health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        server, self._server = self._server, None
        if server is None or self._thread is None:
            return
        server.is_closing = True
        with contextlib.suppress(OSError):  # its thread waits for requests alone: it gets one
            socket.create_connection(server.address, _CLOSED_WITHIN_S).close()
        self._thread.join(_CLOSED_WITHIN_S)
        server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: _StartResponse) -> Iterable[bytes]:
        match environ.get("PATH_INFO"):
            case "/metrics":
                return self._metrics(environ, start_response)  # type: ignore[no-any-return]
            case "/healthz":
                return _text(start_response, "200 OK", "alive")
            case "/readyz" if self._is_ready:
                return _text(start_response, "200 OK", "ready")
            case "/readyz":
                return _text(start_response, "503 Service Unavailable", f"not ready: {self._why}")
            case _:
                return _text(start_response, "404 Not Found", "there are /healthz, /readyz and /metrics")


class _Server(WSGIServer):
    is_closing = False

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.socket.getsockname()[:2]
        return str(host), int(port)

    def server_bind(self) -> None:
        """Without asking the network for our own name, as the library would: nobody is told it, and it may take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.address
        self.setup_environ()


def _serve(server: _Server) -> None:
    """Sleeps until there is a request: an idle process is not woken for this."""
    while not server.is_closing:
        server.handle_request()


def _text(start_response: _StartResponse, status: str, body: str) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")])
    return [body.encode() + b"\n"]


class _Quiet(WSGIRequestHandler):
    timeout = 5

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: requests of a monitor are no news."""
