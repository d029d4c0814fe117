"""Logging in: from a route to an open connection, or to one closed word and a sentence why there is none.

Owns the options of asyncssh, prepared once per route, and what its exceptions mean. No session and no pool enters here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import cached_property, partial
from typing import Any

import asyncssh

from ..details import harmless
from ..gate import Gate
from ..port import CouldNotConnect
from .client_keys import ClientKeys
from .dialing import Resolver, dial, speaks_ssh, why_of
from .host_keys import HostKeys, Judgement
from .routes import Route
from .settings import SshSettings

# Best first, the defaults after them: post-quantum, then the cheapest; AES-GCM costs the least CPU (docs/adr/0014-asyncssh.md).
_KEX = "^mlkem768x25519-sha256,curve25519-sha256,curve25519-sha256@libssh.org"
_CIPHERS = "^aes256-gcm@openssh.com,aes128-gcm@openssh.com"
_ODD_HANDSHAKES = 16


class Client(asyncssh.SSHClient):
    """Our side of one connection: judges the host's key, and says when the connection is gone. What is known of the host is looked
    up when it begins to speak: many never do."""

    def __init__(self, host_keys: HostKeys, route: Route) -> None:
        self._host_keys, self._route = host_keys, route
        self.on_lost: Callable[[], None] | None = None

    @cached_property
    def judgement(self) -> Judgement:
        """Raises CouldNotConnect (not_valid)."""
        return Judgement(self._host_keys, self._route)

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        return self.judgement.is_trusted(key)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.on_lost is not None:
            self.on_lost()


class Connector:
    """Opens connections. Holds what they share: keys, known hosts, names looked up, the gate to handshakes."""

    def __init__(self, settings: SshSettings) -> None:
        self._settings = settings
        self._host_keys = HostKeys(settings)
        self._client_keys = ClientKeys(settings)
        self._resolver = Resolver()
        patience = settings.handshake_patience
        self._gate = Gate(asyncio.Semaphore(settings.max_handshakes), patience)
        self._odd_gate = Gate(asyncio.Semaphore(_ODD_HANDSHAKES), settings.connect_timeout)
        self._base: asyncssh.SSHClientConnectionOptions | None = None

    async def connect(
        self, route: Route, through: asyncssh.SSHClientConnection | None, make_room: Callable[[], Awaitable[None]]
    ) -> tuple[asyncssh.SSHClientConnection, Client]:
        """`make_room` is awaited when there is somebody to talk to. Raises CouldNotConnect for everything that a host, a network
        or a file can cause."""
        client = Client(self._host_keys, route)
        self._check(route, client)
        try:
            async with asyncio.timeout(self._settings.connect_timeout.total_seconds()) as patience:
                room = partial(_outside_of, patience, make_room)
                return await self._log_in(route, client, through, room), client
        except asyncssh.HostKeyNotVerifiable as error:
            why, detail = client.judgement.refused or ("host_key_changed", f"{route.label}: {harmless(str(error))}")
            raise CouldNotConnect(why, detail) from None
        except asyncssh.PermissionDenied as error:
            raise CouldNotConnect("authentication", f"{route.label}: {harmless(str(error))}") from None
        except TimeoutError:
            within = self._settings.connect_timeout.total_seconds()
            raise CouldNotConnect("timed_out", f"{route.label}: no login within {within:g} s") from None
        except asyncssh.Error as error:
            raise CouldNotConnect("protocol_error", f"{route.label}: {harmless(str(error))}") from None
        except OSError as error:
            raise CouldNotConnect(why_of(error), f"{route.label}: {harmless(str(error))}") from None

    def close(self) -> None:
        self._resolver.close()

    def _check(self, route: Route, client: Client) -> None:
        """Keys that the inventory or a configuration names cannot be used: that is said before anything is tried."""
        if route.host_keys:
            _ = client.judgement
        if route.identity_files:
            self._client_keys.of(route)

    async def _log_in(
        self,
        route: Route,
        client: Client,
        through: asyncssh.SSHClientConnection | None,
        make_room: Callable[[], Awaitable[None]],
    ) -> asyncssh.SSHClientConnection:
        if through is not None or route.proxy_command:
            await make_room()
            async with self._gate.entered():
                return await asyncssh.connect(tunnel=through, **self._options(route, client))
        sock = await dial(await self._resolver.resolve(route.address, route.port))
        try:
            if not await speaks_ssh(sock):
                async with self._odd_gate.entered():
                    await make_room()
                    return await asyncssh.connect(sock=sock, **self._options(route, client))
            await make_room()
            async with self._gate.entered():
                return await asyncssh.connect(sock=sock, **self._options(route, client))
        except BaseException:
            sock.close()
            raise

    def _options(self, route: Route, client: Client) -> dict[str, Any]:
        """What asyncssh is given for one connection: it makes its options of these, which is a fifth of the cost of connecting."""
        if self._base is None:
            self._base = _prepare(self._settings)
        known = client.judgement.as_known_hosts()
        return {
            "options": self._base,
            "config": None,
            "host": route.address,
            "port": route.port,
            "username": route.user,
            "client_factory": lambda: client,
            "client_keys": list(self._client_keys.of(route)),
            "known_hosts": lambda _host, _address, _port: known,
            "host_key_alias": client.judgement.known.name,
            "proxy_command": route.proxy_command or None,
        }


async def _outside_of(patience: asyncio.Timeout, make_room: Callable[[], Awaitable[None]]) -> None:
    """Waiting for room of our own is not the host's time."""
    loop = asyncio.get_running_loop()
    left = (patience.when() or loop.time()) - loop.time()
    patience.reschedule(None)
    await make_room()
    patience.reschedule(loop.time() + left)


def _prepare(settings: SshSettings) -> asyncssh.SSHClientConnectionOptions:
    """What all connections have in common. The algorithms are named one by one: asyncssh would match the patterns again for
    every connection."""
    agent = settings.agent_socket
    preferred = asyncssh.SSHClientConnectionOptions(
        config=None, client_keys=None, agent_path=None, known_hosts=b"", kex_algs=_KEX, encryption_algs=_CIPHERS
    )
    return asyncssh.SSHClientConnectionOptions(
        config=None,
        kex_algs=[name.decode() for name in preferred.kex_algs],
        encryption_algs=[name.decode() for name in preferred.encryption_algs],
        compression_algs=None,
        preferred_auth="publickey",
        public_key_auth=True,
        password_auth=False,
        kbdint_auth=False,
        host_based_auth=False,
        gss_kex=False,
        gss_auth=False,
        agent_path=str(agent.expanduser()) if agent else None,
        agent_forwarding=False,
        x11_forwarding=False,
        x509_trusted_certs=None,
        client_keys=None,
        known_hosts=b"",
        connect_timeout=None,
        login_timeout=0,
        keepalive_interval=0,
        send_env=None,
        env=None,
        encoding=None,
        command=None,
        request_pty=False,
        client_version="chargehand",
    )
