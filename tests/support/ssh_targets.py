"""Test hosts as the ssh provider's targets, and a provider that knows nothing but what the test tells it."""

from __future__ import annotations

from pathlib import Path

from chargehand_proxy_agent.providers.port import Target
from chargehand_proxy_agent.providers.ssh import SshProvider, SshSettings

from support.sshd import SshHost


def target_of(host: SshHost, **changes: object) -> Target:
    """The host as an inventory with its key would name it."""
    fields: dict[str, object] = {
        "host_id": host.name,
        "name": host.name,
        "address": host.address,
        "port": host.port,
        "user": host.user,
        "identity_file": str(host.identity_file),
        "host_keys": (host.host_key,),
    }
    return Target(**(fields | changes))  # type: ignore[arg-type]


def settings_for(data_dir: Path, **changes: object) -> SshSettings:
    """Settings that take nothing from the machine the test runs on."""
    fields: dict[str, object] = {
        "data_dir": data_dir,
        "config_files": (),
        "known_hosts_files": (),
        "identity_files": (),
        "allow_memory_filesystem": True,
    }
    return SshSettings(**(fields | changes))  # type: ignore[arg-type]


def provider_for(data_dir: Path, **changes: object) -> SshProvider:
    return SshProvider(settings_for(data_dir, **changes))
