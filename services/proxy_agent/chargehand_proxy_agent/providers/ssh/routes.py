"""From a target to a way to it: address, port, user, keys to offer, and the hosts to jump over. Owns the grammar of what an
inventory may say, and the reading of the operator's ssh configuration. Nothing of a target ever becomes an option or an argument.
"""

from __future__ import annotations

import getpass
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncssh.config

from ..details import harmless
from ..port import CouldNotConnect, Target
from .files import FileCache
from .settings import SshSettings

DEFAULT_PORT = 22
MAX_JUMPS = 8
_MAX_CACHED = 50_000
_HOST = re.compile(r"[A-Za-z0-9_:]([A-Za-z0-9_.:%-]{0,252}[A-Za-z0-9_.:])?")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@$-]{0,63}")
_FILE = re.compile(r"[^-\x00-\x1f\x7f][^\x00-\x1f\x7f]{0,1023}")
_JUMP = re.compile(r"(?:([^@]+)@)?(\[[^]]+\]|[^:]+)(?::(\d{1,5}))?")


@dataclass(frozen=True, slots=True)
class Route:
    """A way to a host. Equal routes share connections. `names`: under which its key may be known besides the address."""

    address: str
    port: int
    user: str
    identity_files: tuple[Path, ...] = ()
    certificate_files: tuple[Path, ...] = ()
    names: tuple[str, ...] = ()
    host_keys: tuple[str, ...] = ()
    accept_new: bool = False
    jump: Route | None = None
    proxy_command: str = ""

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.user}@{self.address}:{self.port}"


class Routes:
    """Finds routes; each target's once, until a configuration changes."""

    def __init__(self, settings: SshSettings) -> None:
        self._files = FileCache(settings.config_files, lambda paths: tuple(map(str, paths)))
        self._watched: object = None
        self._known: dict[tuple[object, ...], Route] = {}
        self._login = getpass.getuser()

    def find(self, target: Target) -> Route:
        """Raises CouldNotConnect (not_valid) for what is no address, user, port or path, and for an unreadable configuration."""
        files = self._files.get()
        if self._watched is not files or len(self._known) > _MAX_CACHED:
            self._watched = files
            self._known.clear()
        key = _key(target)
        if key not in self._known:
            self._known[key] = self._make(target, files)
        return self._known[key]

    def _make(self, target: Target, files: Sequence[str]) -> Route:
        _check("name", target.name or target.address, _HOST)
        _check("address", target.address or target.name, _HOST)
        said = self._configured(target.name, files) if target.name else {}
        if target.address and target.address != target.name:
            said = {**self._configured(target.address, files), **said}
        return self._route(said, target, files, MAX_JUMPS)

    def _route(self, said: Mapping[str, object], target: Target, files: Sequence[str], jumps_left: int) -> Route:
        user = target.user or str(said.get("User") or self._login)
        address = target.address or str(said.get("Hostname") or target.name)
        port = target.port or int(str(said.get("Port") or DEFAULT_PORT))
        named = [target.identity_file] if target.identity_file else _texts(said.get("IdentityFile"))
        _check("user", user, _USER)
        _check("address", address, _HOST)
        for path in named:
            _check("identity file", path, _FILE)
        if not 1 <= port <= 65535:
            raise CouldNotConnect("not_valid", f"there is no port {port}")
        alias = said.get("HostKeyAlias")
        return Route(
            address=address,
            port=port,
            user=user,
            identity_files=tuple(Path(path).expanduser() for path in named),
            certificate_files=tuple(Path(path).expanduser() for path in _texts(said.get("CertificateFile"))),
            names=(str(alias),)
            if alias
            else tuple({target.name: None} if target.name and target.name != address else {}),
            host_keys=tuple(target.host_keys),
            accept_new=target.accept_new,
            jump=self._jump(said.get("ProxyJump"), files, jumps_left),
            proxy_command="" if said.get("ProxyJump") else str(said.get("ProxyCommand") or ""),
        )

    def _jump(self, hosts: object, files: Sequence[str], jumps_left: int) -> Route | None:
        """The last of a list of jump hosts, reached over those before it. Its own configuration counts for the first only."""
        if not hosts:
            return None
        if jumps_left == 0:
            raise CouldNotConnect("not_valid", f"more than {MAX_JUMPS} hosts to jump over, one after another")
        *before, last = str(hosts).split(",")
        match = _JUMP.fullmatch(last.strip().removeprefix("ssh://"))
        if match is None:
            raise CouldNotConnect(
                "not_valid", f"the jump host {harmless(last, 80)!r} in the ssh configuration cannot be read"
            )
        user, name, port = match.groups()
        said = dict(self._configured(name.strip("[]"), files))
        if before:
            said["ProxyJump"] = ",".join(before)
        jump = Target(host_id="", name=name.strip("[]"), user=user or "", port=int(port) if port else None)
        return self._route(said, jump, files, jumps_left - 1)

    def _configured(self, host: str, files: Sequence[str]) -> Mapping[str, object]:
        if not files:
            return {}
        try:
            read = asyncssh.config.SSHClientConfig.load(
                None, list(files), False, False, False, self._login, (), host, ()
            )
        except (OSError, ValueError) as error:
            raise CouldNotConnect(
                "not_valid", f"the ssh configuration cannot be read: {harmless(str(error))}"
            ) from error
        return read.get_options(False)


def _key(target: Target) -> tuple[object, ...]:
    """What of a target decides its route."""
    keys = tuple(target.host_keys)
    return target.name, target.address, target.port, target.user, target.identity_file, keys, target.accept_new


def _check(what: str, text: str, grammar: re.Pattern[str]) -> None:
    if not grammar.fullmatch(text):
        raise CouldNotConnect("not_valid", f"{harmless(text, 80)!r} is no {what}")


def _texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []
