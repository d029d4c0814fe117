"""The keys we log in with, read once and again when their files change. Owns that; choosing which to offer is the route's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import asyncssh

from ..details import harmless
from ..port import CouldNotConnect
from .files import FileCache
from .routes import Route
from .settings import SshSettings

KeyPairs = tuple[asyncssh.SSHKeyPair, ...]


class ClientKeys:
    """Key pairs by the files they come from. Keys with a passphrase cannot be used: an ssh-agent can hold them."""

    def __init__(self, settings: SshSettings) -> None:
        self._defaults = tuple(settings.identity_files)
        self._read: dict[tuple[tuple[Path, ...], tuple[Path, ...]], FileCache[KeyPairs]] = {}

    def of(self, route: Route) -> KeyPairs:
        """Raises CouldNotConnect (authentication) when a key that was named for this host cannot be used."""
        identities = route.identity_files or self._defaults
        key = (identities, route.certificate_files)
        cache = self._read.get(key)
        if cache is None:
            watched = (*identities, *(_certificate_of(path) for path in identities), *route.certificate_files)
            cache = self._read[key] = FileCache(
                watched, lambda there: _load(identities, route.certificate_files, there)
            )
        pairs = cache.get()
        if not pairs and route.identity_files:
            names = ", ".join(map(str, route.identity_files))
            raise CouldNotConnect(
                "authentication", f"no usable private key in {harmless(names)} (missing, or with a passphrase?)"
            )
        return pairs


def _load(identities: Sequence[Path], certificates: Sequence[Path], there: Sequence[Path]) -> KeyPairs:
    pairs: list[asyncssh.SSHKeyPair] = []
    for path in identities:
        if path.expanduser() in there:
            pairs += _load_one(path.expanduser(), [str(file) for file in certificates if file in there])
    return tuple(pairs)


def _load_one(path: Path, certificates: list[str]) -> Sequence[asyncssh.SSHKeyPair]:
    """A key, with its certificate `PATH-cert.pub` if it has one. One that needs a passphrase, or is none, is passed over."""
    try:
        return asyncssh.load_keypairs([str(path)], certlist=certificates)
    except (OSError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError):
        return ()


def _certificate_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-cert.pub")
