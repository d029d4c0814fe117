"""Who a host is: nothing is said to one that cannot prove it. The provider against OpenSSH's own server."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncssh
import pytest
from chargehand_proxy_agent.providers.port import CouldNotConnect, CouldNotConnectWhy, Target
from chargehand_proxy_agent.providers.ssh import SshProvider
from support.fixtures import MakesFleets
from support.hostile_ssh import keep_order, lying_host
from support.ssh_targets import provider_for, target_of
from support.sshd import SshdFleet, SshHost
from support.visits import outcome, start, start_order


@pytest.fixture
def fleet(sshd_fleet: MakesFleets) -> SshdFleet:
    return sshd_fleet(1)


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Callable[..., SshProvider]]:
    """Makes providers of one agent: they share its data directory."""
    made: list[SshProvider] = []

    def make_one(**changes: object) -> SshProvider:
        made.append(provider_for(tmp_path / "agent", **changes))
        return made[-1]

    yield make_one
    for provider in made:
        await provider.close()


async def why_not(provider: SshProvider, target: Target) -> CouldNotConnectWhy:
    with pytest.raises(CouldNotConnect) as refusal:
        await provider.open(target)
    assert refusal.value.detail.isprintable()
    return refusal.value.why


async def runs(provider: SshProvider, target: Target) -> bool:
    connection = await provider.open(target)
    seen = outcome(await start(connection, start_order("echo it")))
    await connection.release()
    return seen.stdout == b"it\n"


def hashed(host: SshHost) -> str:
    """A line as OpenSSH writes it with HashKnownHosts."""
    salt = os.urandom(20)
    digest = hmac.new(salt, f"[{host.address}]:{host.port}".encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()} {host.host_key}\n"


async def test_a_key_of_the_inventory_is_trusted_and_another_is_not(
    fleet: SshdFleet, make: Callable[..., SshProvider]
) -> None:
    host, provider = fleet.hosts[0], make()
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    assert await why_not(provider, target_of(host, host_keys=(other,))) == "host_key_changed"
    assert await runs(provider, target_of(host))


async def test_the_key_of_the_inventory_counts_and_not_that_of_known_hosts(
    fleet: SshdFleet, make: Callable[..., SshProvider], tmp_path: Path
) -> None:
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(fleet.known_hosts())
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    provider = make(known_hosts_files=(known_hosts,))
    assert await why_not(provider, target_of(fleet.hosts[0], host_keys=(other,))) == "host_key_changed"


@pytest.mark.parametrize("write", [SshHost.known_hosts_line, hashed], ids=["plain", "hashed"])
async def test_known_hosts_is_read_as_openssh_reads_it(
    fleet: SshdFleet, make: Callable[..., SshProvider], tmp_path: Path, write: Callable[[SshHost], str]
) -> None:
    known_hosts = tmp_path / "known_hosts"
    provider = make(known_hosts_files=(known_hosts, tmp_path / "not-there"))
    target = target_of(fleet.hosts[0], host_keys=())
    assert await why_not(provider, target) == "host_key_unknown"
    known_hosts.write_text("# a comment\nnonsense\n@unknown-marker x y\n" + write(fleet.hosts[0]))
    assert await runs(provider, target)


async def test_a_revoked_key_is_refused_whoever_else_trusts_it(
    fleet: SshdFleet, make: Callable[..., SshProvider], tmp_path: Path
) -> None:
    host = fleet.hosts[0]
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(f"@revoked * {host.host_key}\n{host.known_hosts_line()}")
    provider = make(known_hosts_files=(known_hosts,))
    for target in (target_of(host), target_of(host, host_keys=()), target_of(host, host_keys=(), accept_new=True)):
        assert await why_not(provider, target) == "host_key_changed"


async def test_a_key_seen_first_is_trusted_only_where_asked_for_and_never_replaced(
    fleet: SshdFleet, make: Callable[..., SshProvider]
) -> None:
    host = fleet.hosts[0]
    target = target_of(host, host_keys=())
    assert await why_not(make(), target) == "host_key_unknown"
    provider = make()
    assert await runs(provider, target_of(host, host_keys=(), accept_new=True))
    assert await runs(make(), target)
    await provider.close()
    fleet.change_host_key("host1")
    for again in (make(), make()):
        assert await why_not(again, target_of(host, host_keys=(), accept_new=True)) == "host_key_changed"


async def test_to_a_host_with_the_wrong_key_not_a_byte_of_the_script_is_sent(
    make: Callable[..., SshProvider], tmp_path: Path
) -> None:
    sent: list[bytes] = []
    async with lying_host(keep_order(sent)) as liar:
        other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
        assert await why_not(make(), liar.target(host_keys=(other,))) == "host_key_changed"
        assert not sent
        assert (await start(await make().open(liar.target()), start_order("echo canary")))[-1]
        assert b"canary" in sent[0]


async def test_an_authority_vouches_for_a_host_by_its_name_and_for_no_other(
    make: Callable[..., SshProvider], tmp_path: Path
) -> None:
    authority, key = asyncssh.generate_private_key("ssh-ed25519"), asyncssh.generate_private_key("ssh-ed25519")
    certificate = authority.generate_host_certificate(key, "it", principals=["web1.example"])
    trusted = f"@cert-authority *.example {authority.export_public_key().decode().strip()}"
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(trusted + "\n")
    sent: list[bytes] = []
    async with lying_host(keep_order(sent), server_host_certs=[certificate], host_key=key) as liar:
        provider = make(known_hosts_files=(known_hosts,))
        assert (await start(await provider.open(liar.target(name="web1.example", host_keys=())), start_order("true")))[
            -1
        ]
        assert await why_not(provider, liar.target(name="web2.example", host_keys=())) == "host_key_changed"
        assert (
            await start(await make().open(liar.target(name="web1.example", host_keys=(trusted,))), start_order("true"))
        )[-1]


@pytest.mark.parametrize(
    "changes",
    [
        {"address": "-oProxyCommand=touch pwned"},
        {"address": "a b"},
        {"address": "$(id)"},
        {"address": "x\n"},
        {"user": "-root"},
        {"user": "root;id"},
        {"user": "a b"},
        {"port": 70000},
        {"identity_file": "-i"},
        {"identity_file": "a\nb"},
        {"host_keys": ("no key at all",)},
        {"name": "`id`", "address": ""},
    ],
)
async def test_what_is_no_address_user_port_path_or_key_is_refused_before_anything_is_tried(
    make: Callable[..., SshProvider], changes: dict[str, object]
) -> None:
    fields: dict[str, object] = {"host_id": "x", "name": "x", "address": "127.0.0.1", "port": 1, "user": "x"}
    assert await why_not(make(), Target(**(fields | changes))) == "not_valid"  # type: ignore[arg-type]


async def test_the_operators_ssh_configuration_is_honoured(
    fleet: SshdFleet, make: Callable[..., SshProvider], tmp_path: Path
) -> None:
    host = fleet.hosts[0]
    known_hosts, config = tmp_path / "known_hosts", tmp_path / "config"
    known_hosts.write_text(fleet.known_hosts())
    included = tmp_path / "more"
    included.write_text(f"Host web*\n  User {host.user}\n  IdentityFile {host.identity_file}\n")
    config.write_text(f"Include {included}\nHost web1\n  HostName {host.address}\n  Port {host.port}\n")
    provider = make(config_files=(config,), known_hosts_files=(known_hosts,))
    assert await runs(provider, Target("x", "web1"))
    config.write_text("Host web1\n  HostName 127.0.0.1\n  Port 1\n")
    assert await why_not(provider, Target("x", "web1")) == "refused"


async def test_a_jump_host_is_gone_over_and_its_connection_shared(
    sshd_fleet: MakesFleets, make: Callable[..., SshProvider], tmp_path: Path
) -> None:
    fleet = sshd_fleet(3)
    jump, *others = fleet.hosts
    known_hosts, config = tmp_path / "known_hosts", tmp_path / "config"
    known_hosts.write_text(fleet.known_hosts())
    config.write_text(
        f"Host jump\n  HostName {jump.address}\n  Port {jump.port}\n"
        f"Host host*\n  ProxyJump jump\nHost *\n  User {jump.user}\n  IdentityFile {jump.identity_file}\n"
    )
    provider = make(config_files=(config,), known_hosts_files=(known_hosts,))
    for host in others:
        assert await runs(provider, target_of(host, host_keys=()))
    assert provider.connections == 3
    assert fleet.log("host1").count("Accepted publickey") == 1
