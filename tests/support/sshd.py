"""Real OpenSSH servers as fleets of hosts on loopback: each host has its address, its home, its key; logins by key only.

Owns their configuration and their life. One sshd may play up to 16 hosts (it listens on no more addresses), or any number in a
namespace of theirs, where it listens on all addresses; they then share a host key and a fate. Where a test needs a host's own, each
has a process of its own, and that is the default.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path

import asyncssh
import psutil
from chargehand.embedded.ports import choose_ports
from chargehand.embedded.processes import BoundProcess

from support.daemons import find_program, start_daemon
from support.processes import FLEET_VARIABLE, HOST_VARIABLE, SESSION_VARIABLE, kill, marked
from support.users import give_home
from support.waiting import wait_until

MOST_PER_SSHD = 16
_NETWORK = ipaddress.ip_network("127.16.0.0/16")
_BLOCK = 1024
_START_WITHIN = timedelta(seconds=30)
_STOP_WITHIN = timedelta(seconds=5)
_SESSION_NAMES = ("sshd", "sshd-session", "sshd-auth")

_SERVER = """\
Port {port}
{listen}
HostKey {directory}/host_key
AuthorizedKeysFile {authorized_keys}
AuthenticationMethods publickey
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PermitUserRC no
PermitRootLogin {root}
AllowUsers {user}
UseDNS no
PrintMotd no
PidFile none
MaxStartups 1000
MaxSessions 100
Subsystem sftp internal-sftp
{newer}
"""
_HOST = """\
Match LocalAddress {address}
    SetEnv HOME={home} {variables}
"""


class NoSshd(Exception):
    """This machine has no sshd, or it does not start; the text says which."""


@dataclass(frozen=True)
class SshHost:
    """What an inventory says of a host, and where its home lies here. `host_key` is type and key, as in known_hosts."""

    name: str
    address: str
    port: int
    user: str
    identity_file: Path
    host_key: str
    home: Path

    def inventory_row(self) -> dict[str, str]:
        """The columns of an inventory file."""
        columns = ("name", "address", "port", "user", "identity_file", "host_key")
        return {column: str(getattr(self, column)) for column in columns}

    def known_hosts_line(self) -> str:
        return f"[{self.address}]:{self.port} {self.host_key}\n"


@dataclass(frozen=True)
class _Common:
    """What the hosts of a fleet share."""

    fleet: str
    directory: Path
    port: int
    user: str
    via: tuple[str, ...]
    variables: Mapping[str, str]
    is_wide: bool

    @property
    def identity_file(self) -> Path:
        return self.directory / "identity"


def _name_of(process: psutil.Process) -> str:
    """Empty if it is gone by now."""
    try:
        return str(process.name())
    except psutil.NoSuchProcess:
        return ""


class _Server:
    """One sshd and the hosts it plays (name → address)."""

    def __init__(self, common: _Common, addresses: dict[str, str]) -> None:
        self.addresses = addresses
        self._common = common
        self._directory = common.directory / f"sshd-{next(iter(addresses))}"
        self._directory.mkdir(mode=0o700)
        self._process: BoundProcess | None = None
        for name in addresses:
            give_home(self.home(name), common.user)
        self.host_key = self.draw_host_key()

    def home(self, name: str) -> Path:
        return self._common.directory / name

    def draw_host_key(self) -> str:
        self.host_key = _make_key(self._directory / "host_key")
        return self.host_key

    def start(self) -> None:
        """Start it; `await_listening` says when it takes connections."""
        configuration = self._directory / "sshd_config"
        configuration.write_text(self._configuration(), encoding="utf-8")
        command = [*self._common.via, _sshd(), "-D", "-e", "-f", str(configuration)]
        self._process = start_daemon(command, directory=self._directory, output=self.log)

    def await_listening(self) -> None:
        wait_until(self._listens_or_ended, within=_START_WITHIN)
        if not self._listens():
            raise NoSshd(f"sshd ended: {self.log.read_text(encoding='utf-8', errors='replace')[-400:]}")

    def stop(self) -> None:
        """Listener and connections are gone at once; what runs on the hosts is not touched."""
        if self._process is not None:
            self.cut_connections()
            self._process.stop(_STOP_WITHIN)

    def cut_connections(self) -> None:
        kill(process for process in self._descendants() if _name_of(process) in _SESSION_NAMES)

    @property
    def log(self) -> Path:
        return self._directory / "log"

    def _descendants(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self._process.pid).children(recursive=True) if self._process else []
        except psutil.NoSuchProcess:
            return []

    def _configuration(self) -> str:
        common = self._common
        server = _SERVER.format(
            port=common.port,
            listen="\n".join(f"ListenAddress {address}" for address in self._listening()),
            directory=self._directory,
            authorized_keys=common.directory / "authorized_keys",
            user=common.user,
            root="prohibit-password" if common.user == "root" else "no",
            newer="PerSourcePenalties no" if _version() >= (9, 8) else "",
        )
        return server + "".join(self._host_section(name) for name in self.addresses)

    def _listening(self) -> list[str]:
        return ["0.0.0.0"] if self._common.is_wide else list(self.addresses.values())  # noqa: S104 (of its namespace)

    def _host_section(self, name: str) -> str:
        variables = {
            HOST_VARIABLE: name,
            FLEET_VARIABLE: self._common.fleet,
            SESSION_VARIABLE: os.environ.get(SESSION_VARIABLE, ""),
            **self._common.variables,
        }
        pairs = " ".join(f"{variable}={value}" for variable, value in variables.items())
        return _HOST.format(address=self.addresses[name], home=self.home(name), variables=pairs)

    def _listens(self) -> bool:
        said = self.log.read_text(encoding="utf-8", errors="replace").count("Server listening on")
        return said == len(self._listening())

    def _listens_or_ended(self) -> bool:
        return self._listens() or self._process is None or self._process.exit_status() is not None


class SshdFleet:
    """Hosts that run until `close`. Jobs on them run as `user`, who must be able to pass through `scratch`."""

    def __init__(
        self,
        count: int,
        *,
        scratch: Path,
        user: str,
        prefix: str = "host",
        per_sshd: int = 1,
        addresses: Sequence[str] = (),
        via: Sequence[str] = (),
        variables: Mapping[str, str] = {},
        is_wide: bool = False,
    ) -> None:
        """`addresses`: instead of ones on 127.16.0.0/16; `via`: a command by which sshd is run (into a namespace);
        `variables`: set in every session; `is_wide`: one sshd for all, on every address of its namespace. NoSshd when there is none.
        """
        directory = Path(tempfile.mkdtemp(prefix="fleet-", dir=scratch))
        directory.chmod(0o711)
        port = choose_ports().broker
        self._common = _Common(secrets.token_hex(8), directory, port, user, tuple(via), variables, is_wide)
        self._servers: dict[str, _Server] = {}
        _authorize(self._common)
        names = [f"{prefix}{number}" for number in range(1, count + 1)]
        try:
            most = count if is_wide else min(per_sshd, MOST_PER_SSHD)
            self._start(names, addresses or _loopback_addresses(count), most)
        except BaseException:
            self.close()
            raise

    @property
    def hosts(self) -> list[SshHost]:
        """All hosts, in order, as they are now."""
        return [self.host(name) for name in self._servers]

    def host(self, name: str) -> SshHost:
        server, common = self._servers[name], self._common
        return SshHost(
            name=name,
            address=server.addresses[name],
            port=common.port,
            user=common.user,
            identity_file=common.identity_file,
            host_key=server.host_key,
            home=server.home(name),
        )

    def known_hosts(self) -> str:
        """The lines of a known_hosts file for all of them."""
        return "".join(host.known_hosts_line() for host in self.hosts)

    def power_off(self, name: str) -> None:
        """The host is gone at once: its sshd, its connections, and whatever ran on it (and on those that share its sshd)."""
        server = self._servers[name]
        # All stand still before the first of them dies: none may see another's end, and write it down.
        frozen = self._freeze(server)
        server.stop()
        kill(frozen | self._freeze(server))

    def _freeze(self, server: _Server) -> set[psutil.Process]:
        """Stop every process on its hosts, those too that are begun meanwhile."""
        frozen: set[psutil.Process] = set()
        while awake := self._of_hosts(server) - frozen:
            for process in awake:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.suspend()
            frozen |= awake
        return frozen

    def _of_hosts(self, server: _Server) -> set[psutil.Process]:
        of_hosts = {process for host in server.addresses for process in marked(HOST_VARIABLE, host)}
        return of_hosts & set(self._of_fleet())

    def power_on(self, name: str) -> None:
        """Start it again: the same address, key and home."""
        self._servers[name].start()
        self._servers[name].await_listening()

    def cut_connections(self, name: str) -> None:
        """End every connection to the host, as a broken network would; what runs there runs on."""
        self._servers[name].cut_connections()

    def change_host_key(self, name: str) -> None:
        """As after a reinstallation, or with somebody in between."""
        self._servers[name].stop()
        self._servers[name].draw_host_key()
        self.power_on(name)

    def log(self, name: str) -> str:
        """What the host's sshd has said."""
        return self._servers[name].log.read_text(encoding="utf-8", errors="replace")

    def close(self) -> None:
        """Switch everything off and remove it."""
        for server in self._distinct_servers():
            server.stop()
        kill(self._of_fleet())
        shutil.rmtree(self._common.directory, ignore_errors=True)

    def _start(self, names: list[str], addresses: Sequence[str], per_sshd: int) -> None:
        for first in range(0, len(names), per_sshd):
            chunk = slice(first, first + per_sshd)
            server = _Server(self._common, dict(zip(names[chunk], addresses[chunk], strict=True)))
            self._servers |= dict.fromkeys(server.addresses, server)
            server.start()
        for server in self._distinct_servers():
            server.await_listening()

    def _distinct_servers(self) -> list[_Server]:
        return list(dict.fromkeys(self._servers.values()))

    def _of_fleet(self) -> Iterable[psutil.Process]:
        return list(marked(FLEET_VARIABLE, self._common.fleet))


def _authorize(common: _Common) -> None:
    authorized_keys = common.directory / "authorized_keys"
    authorized_keys.write_text(f"{_make_key(common.identity_file)} test\n", encoding="ascii")
    authorized_keys.chmod(0o644)


def _make_key(path: Path) -> str:
    """Write a new private key; its public half as type and key."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    path.touch(mode=0o600)
    path.write_bytes(key.export_private_key())
    kind, public, *_ = key.export_public_key().decode("ascii").split()
    return f"{kind} {public}"


def _loopback_addresses(count: int) -> list[str]:
    """Addresses of a block at random: another run on this machine most probably has another block (and another port)."""
    start = secrets.randbelow(_NETWORK.num_addresses // _BLOCK) * _BLOCK + 1
    return [str(_NETWORK[(start + number) % _NETWORK.num_addresses]) for number in range(count)]


def _sshd() -> str:
    program = find_program("sshd")
    if program is None:
        raise NoSshd("no sshd on this machine: install OpenSSH's server (Debian: openssh-server)")
    if os.geteuid() == 0:
        # Debian's service makes it when it starts; where there is no service, nobody has.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    return program


@cache
def _version() -> tuple[int, int]:
    """OpenSSH's version; older ones name it only in their complaint about -V."""
    answer = subprocess.run([_sshd(), "-V"], capture_output=True, text=True, check=False)
    match = re.search(r"OpenSSH_(\d+)\.(\d+)", answer.stderr + answer.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)
