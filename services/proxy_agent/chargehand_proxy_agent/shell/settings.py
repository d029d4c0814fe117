"""Settings of the proxy agent. Owns their names, limits and defaults; the reference page is made from them."""

from __future__ import annotations

import ipaddress
import re
from datetime import timedelta
from pathlib import Path
from typing import Literal

from chargehand_chassis.settings import ServiceSettings
from pydantic import Field, field_validator


class AgentSettings(ServiceSettings):
    """What an agent needs beyond what every service does."""

    proxy: str = Field(
        pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", description="Name of the proxy whose hosts this agent reaches."
    )
    agent_id: str = Field(
        "",
        max_length=128,
        description="Name of this agent among those of its proxy, at its enrolment; empty: the name of its key.",
    )
    enrolment_token_file: Path | None = Field(
        None, description="File with a one-time token: the key is made and enrolled with it at the first start."
    )
    enrol_within: timedelta = Field(timedelta(seconds=60), description="Longest wait for the planner to enrol the key.")
    providers: tuple[str, ...] = Field(
        ("ssh", "simulated"), description="Ways of reaching hosts that are offered here."
    )
    max_connects: int = Field(
        500,
        ge=1,
        le=100_000,
        description="Connections to hosts that are begun at once; one that takes longer than half a second counts no more.",
    )
    max_attempts: int = Field(
        20_000, ge=1, le=1_000_000, description="Attempts in hand at once; beyond it no further command is read."
    )
    allowed_effective_users: tuple[str, ...] = Field(
        ("*",),
        description="Users that scripts may run as on hosts, besides the connecting one: names, or patterns like `app-*`; `*`: any.",
    )
    denied_effective_users: tuple[str, ...] = Field(
        (), description="Users that no script may run as, e.g. root: names or patterns."
    )
    effective_user_method: Literal["sudo", "su", "dzdo", "doas"] = Field(
        "sudo",
        description="How a host becomes the effective user, where its parameter `effective_user_method` does not say.",
    )
    denied_scripts: tuple[str, ...] = Field(
        (), description="Regular expressions; a script in which one is found is not run."
    )
    heartbeat_every: timedelta = Field(
        timedelta(seconds=30), description="Interval of heartbeats and of the list of attempts in hand."
    )
    clock_margin: timedelta = Field(
        timedelta(seconds=5),
        description="How wrong this clock may be, measured by the broker's, before nothing is started.",
    )
    journal_keep: timedelta = Field(
        timedelta(minutes=10),
        description="How long the journal keeps attempts that are over, after their latest start.",
    )
    output_cap_bytes: int = Field(
        64 * 1024 * 1024, ge=1024, description="Output kept of each stream of an attempt: its first and its last half."
    )
    output_window_bytes: int = Field(
        2 * 1024 * 1024, ge=64 * 1024, description="Output of one attempt that may wait for its acknowledgement."
    )
    output_buffer_bytes: int = Field(
        32 * 1024 * 1024, ge=1024 * 1024, description="Output of all attempts that may wait for its acknowledgement."
    )

    default_proxy: str = Field(
        "local",
        pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        description="The proxy of hosts that name none, as the planner has it: whose check-ins are taken.",
    )
    check_in_address: str = Field(
        "",
        description="Address and port (127.0.0.1:8710, [::1]:8710) where hosts check in; empty: nowhere. Beyond loopback only "
        "with a certificate.",
    )
    check_in_certificate_file: Path | None = Field(
        None, description="Certificate of the check-in endpoint, PEM, with its chain; given: TLS is spoken."
    )
    check_in_certificate_key_file: Path | None = Field(
        None, description="The certificate's private key, PEM; empty: it is in the same file."
    )
    check_in_secret_file: Path | None = Field(
        None,
        description="File (mode 0600) with the secret that hosts' check-in keys follow from, the same for all agents of a proxy: "
        "64 hex digits a line, the first is current, those below are still accepted. Empty: made in the data directory.",
    )
    check_in_connections: int = Field(
        256, ge=1, le=16_384, description="Hosts that are answered at once; as many again are told to come again."
    )

    ssh_config_files: tuple[Path, ...] = Field(
        (Path("~/.ssh/config"),), description="OpenSSH client configurations that are honoured; the first match wins."
    )
    ssh_known_hosts_files: tuple[Path, ...] = Field(
        (
            Path("~/.ssh/known_hosts"),
            Path("~/.ssh/known_hosts2"),
            Path("/etc/ssh/ssh_known_hosts"),
            Path("/etc/ssh/ssh_known_hosts2"),
        ),
        description="Files of known host keys, as OpenSSH reads them.",
    )
    ssh_identity_files: tuple[Path, ...] = Field(
        (Path("~/.ssh/id_ed25519"), Path("~/.ssh/id_ecdsa"), Path("~/.ssh/id_rsa")),
        description="Private keys offered where neither the host nor the configuration names one.",
    )
    ssh_agent_socket: Path | None = Field(None, description="Socket of an ssh-agent to ask for keys as well.")
    ssh_connect_timeout: timedelta = Field(
        timedelta(seconds=10), description="Longest wait from the first packet to the end of the login."
    )
    ssh_max_connections: int = Field(2000, ge=1, le=100_000, description="Connections by ssh that are open at once.")
    ssh_allow_memory_filesystem: bool = Field(
        False, description="Let hosts keep attempts on a tmpfs: only where hosts are thrown away."
    )

    @field_validator("check_in_address")
    @classmethod
    def _is_an_address(cls, address: str) -> str:
        if not address:
            return address
        host, _, port = address.rpartition(":")
        try:
            ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
            is_port = port.isascii() and port.isdigit() and int(port) <= 65535
        except ValueError:
            is_port = False
        if not is_port:
            raise ValueError(f"{address!r} is no IP address with a port, like 127.0.0.1:8710 or [::1]:8710")
        return address

    @field_validator("denied_scripts")
    @classmethod
    def _are_patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        return patterns
