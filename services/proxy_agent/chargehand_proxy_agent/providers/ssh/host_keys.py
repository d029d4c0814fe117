"""Who a host is: which keys it may show, and the judgement of the one it does show.

Owns trust. Keys come from the inventory, else from known_hosts (hashed names, ports, `@cert-authority`, `@revoked`), else from what
was seen first, where that was asked for. A key once known is never replaced by another here: that is for a person to do.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from ..details import harmless
from ..port import CouldNotConnect, CouldNotConnectWhy
from .files import FileCache
from .routes import DEFAULT_PORT, Route
from .settings import SshSettings

ACCEPTED_FILE = "accepted_host_keys"
_CERT_AUTHORITY = "@cert-authority"
_MAX_CACHED = 50_000

Keys = tuple[asyncssh.SSHKey, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a host: keys of its own, authorities that may vouch for it as `name`, and keys never to be taken."""

    name: str
    keys: Keys = ()
    authorities: Keys = ()
    revoked: Keys = ()

    @property
    def is_anything(self) -> bool:
        return bool(self.keys or self.authorities)


class HostKeys:
    """All that is known of hosts' keys."""

    def __init__(self, settings: SshSettings) -> None:
        self._files = FileCache(settings.known_hosts_files, _read_known_hosts)
        self._accepted_path = settings.data_dir.expanduser() / ACCEPTED_FILE
        self._accepted = FileCache([self._accepted_path], _read_known_hosts)
        self._cached_from: object = None
        self._cached: dict[Route, Known] = {}

    def known_of(self, route: Route) -> Known:
        """Raises CouldNotConnect (not_valid) for an unreadable key in the inventory, or an unreadable file."""
        try:
            sources = (self._files.get(), self._accepted.get())
        except OSError as error:
            raise CouldNotConnect("not_valid", f"known hosts cannot be read: {harmless(str(error))}") from error
        if self._cached_from != sources or len(self._cached) > _MAX_CACHED:
            self._cached_from = sources
            self._cached.clear()
        if route not in self._cached:
            self._cached[route] = _look_up(route, *sources)
        return self._cached[route]

    def accept(self, route: Route, key: asyncssh.SSHKey) -> None:
        """Keep a key seen first, before anything is said over the connection. Raises OSError."""
        public = key.export_public_key().decode("ascii").split()
        line = f"{_written(route.address, route.port)} {public[0]} {public[1]}\n"
        self._accepted_path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._accepted_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, line.encode("ascii"))
        finally:
            os.close(descriptor)

    @property
    def accepted_path(self) -> Path:
        """Where the keys seen first are kept, for messages."""
        return self._accepted_path


class Judgement:
    """The judgement of one connection's host key. `refused` says why there is no connection, if that is why."""

    def __init__(self, host_keys: HostKeys, route: Route) -> None:
        self._host_keys, self._route = host_keys, route
        self.known = host_keys.known_of(route)
        self.refused: tuple[CouldNotConnectWhy, str] | None = None

    def as_known_hosts(self) -> tuple[Keys, Keys, Keys, tuple[()], tuple[()], tuple[()], tuple[()]]:
        """For asyncssh: trusted keys, authorities, revoked keys, and nothing of X.509."""
        return self.known.keys, self.known.authorities, self.known.revoked, (), (), (), ()

    def is_trusted(self, key: asyncssh.SSHKey) -> bool:
        """Asked for a key that is not among the known ones and was not revoked."""
        shown = f"{key.get_algorithm()} {key.get_fingerprint()}"
        label = self._route.label
        if self.known.is_anything:
            self.refused = "host_key_changed", f"{label} shows {shown}, which is none of the keys known of it"
        elif not self._route.accept_new:
            self.refused = "host_key_unknown", f"{label} shows {shown}, and no key is known of it"
        else:
            return self._accept(key)
        return False

    def _accept(self, key: asyncssh.SSHKey) -> bool:
        """A key on first use: unless another connection was faster and saw a different one."""
        try:
            now_known = self._host_keys.known_of(self._route)
            if now_known.is_anything:
                self.known = now_known
                return key in now_known.keys or self.is_trusted(key)
            self._host_keys.accept(self._route, key)
        except OSError as error:
            where = self._host_keys.accepted_path
            self.refused = "host_key_unknown", f"a new key cannot be kept in {where}: {harmless(str(error))}"
            return False
        return True


def _look_up(route: Route, files: asyncssh.SSHKnownHosts, accepted: asyncssh.SSHKnownHosts) -> Known:
    port = None if route.port == DEFAULT_PORT else route.port
    names = (route.address, *route.names)
    by_name = {name: _match(files, name, port) for name in names}
    revoked = tuple(key for known in by_name.values() for key in known.revoked)
    if route.host_keys:
        keys, authorities = _of_inventory(route)
        return Known(route.names[0] if route.names else route.address, keys, authorities, revoked)
    for known in (*by_name.values(), _match(accepted, route.address, port)):
        if known.is_anything:
            return Known(known.name, known.keys, known.authorities, revoked)
    return Known(route.address, revoked=revoked)


def _match(known_hosts: asyncssh.SSHKnownHosts, name: str, port: int | None) -> Known:
    keys, authorities, revoked, *_ = known_hosts.match(name, "", port)
    return Known(name, tuple(keys), tuple(authorities), tuple(revoked))


def _of_inventory(route: Route) -> tuple[Keys, Keys]:
    """Keys as the inventory has them: `type base64`, or an authority as `@cert-authority [names] type base64`."""
    keys: list[asyncssh.SSHKey] = []
    authorities: list[asyncssh.SSHKey] = []
    for text in route.host_keys:
        words = text.split()
        is_authority = bool(words) and words[0] == _CERT_AUTHORITY
        found = authorities if is_authority else keys
        found.append(_import(words[1:] if is_authority else words, route))
    return tuple(keys), tuple(authorities)


def _import(words: Sequence[str], route: Route) -> asyncssh.SSHKey:
    """A public key, with the names that may stand before it in a line of known_hosts."""
    for candidate in (words, words[1:]):
        try:
            return asyncssh.import_public_key(" ".join(candidate[:2]))
        except (asyncssh.KeyImportError, ValueError):
            continue
    raise CouldNotConnect("not_valid", f"a host key that the inventory gives for {route.label} cannot be read")


def _read_known_hosts(paths: list[Path]) -> asyncssh.SSHKnownHosts:
    """All lines of all files; like OpenSSH, what cannot be read in them is passed over."""
    known_hosts = asyncssh.SSHKnownHosts()
    for path in paths:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                known_hosts.load(line)
            except ValueError:
                continue
    return known_hosts


def _written(address: str, port: int) -> str:
    return address if port == DEFAULT_PORT else f"[{address}]:{port}"
