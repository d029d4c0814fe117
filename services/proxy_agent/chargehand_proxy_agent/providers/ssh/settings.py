"""What an operator may set of the ssh provider, as plain values. Owns names, units and defaults; where they come from is the agent's.

Nothing here is ever taken from a job, a template or an inventory.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

_DOT_SSH = Path("~/.ssh")


@dataclass(frozen=True, slots=True)
class SshSettings:
    """Settings of one SshProvider. Paths may begin with `~`; files that are not there are as if empty.

    - `data_dir`: the agent's own directory; keys trusted on first use are kept in its file `accepted_host_keys`.
    - `config_files`: OpenSSH client configurations, first match wins. Read of them: HostName, Port, User, IdentityFile,
      CertificateFile, ProxyJump, ProxyCommand, HostKeyAlias.
    - `known_hosts_files`: as OpenSSH reads them, all of them.
    - `identity_files`: private keys offered where neither host nor configuration names one.
    - `agent_socket`: an ssh-agent to ask for keys as well; none unless given.
    - `connect_timeout`: from the first packet to the end of the login.
    - `answer_timeout`: how long an open connection may take to open a session and say hello, and later between two signs of
      life (the wrapper gives one every 10 s).
    - `max_connections`: open at once; beyond it idle ones are closed, oldest first, and then one waits. A host that has not said a
      word yet does not count.
    - `max_sessions`: at once on one connection (OpenSSH's server takes 10 unless told otherwise).
    - `max_handshakes`: at once; a peer that keeps us waiting stops counting after `handshake_patience`, so that hosts which
      never answer do not hold up those that do.
    - `idle_time`: how long a connection nobody uses stays open.
    - `allow_memory_filesystem`: let attempts be kept on a tmpfs. For hosts that are thrown away; else a reboot forgets them.
    """

    data_dir: Path
    config_files: tuple[Path, ...] = (_DOT_SSH / "config",)
    known_hosts_files: tuple[Path, ...] = (
        _DOT_SSH / "known_hosts",
        _DOT_SSH / "known_hosts2",
        Path("/etc/ssh/ssh_known_hosts"),
        Path("/etc/ssh/ssh_known_hosts2"),
    )
    identity_files: tuple[Path, ...] = (_DOT_SSH / "id_ed25519", _DOT_SSH / "id_ecdsa", _DOT_SSH / "id_rsa")
    agent_socket: Path | None = None
    connect_timeout: timedelta = timedelta(seconds=10)
    answer_timeout: timedelta = timedelta(seconds=45)
    max_connections: int = 2000
    max_sessions: int = 8
    max_handshakes: int = 128
    handshake_patience: timedelta = timedelta(milliseconds=250)
    idle_time: timedelta = timedelta(minutes=5)
    allow_memory_filesystem: bool = False
