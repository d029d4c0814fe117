"""The ssh hosts of the tests: real OpenSSH, key only, each with its address, home and key; cut, switched off, reinstalled."""

import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from support.fixtures import MakesFleets
from support.processes import HOST_VARIABLE, SESSION_VARIABLE, marked
from support.sshd import SshdFleet, SshHost
from support.waiting import wait_until

SOON = timedelta(seconds=10)


def ssh(fleet: SshdFleet, host: SshHost, command: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ssh_command(fleet, host, command, *options), capture_output=True, text=True, timeout=20, check=False
    )


def ssh_command(fleet: SshdFleet, host: SshHost, command: str, *options: str) -> list[str]:
    known_hosts = host.identity_file.parent / "known_hosts"
    known_hosts.write_text(fleet.known_hosts())
    settings = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": str(known_hosts),
        "IdentitiesOnly": "yes",
        "ConnectTimeout": "5",
        "KexAlgorithms": "curve25519-sha256",
    }
    arguments = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
    target = f"{host.user}@{host.address}"
    login = ["-i", str(host.identity_file), "-p", str(host.port), *options]
    return ["ssh", "-F", "none", *arguments, *login, target, command]


def test_each_host_has_its_own_address_home_and_key(sshd_fleet: MakesFleets) -> None:
    fleet = sshd_fleet(3, prefix="web")
    assert [host.name for host in fleet.hosts] == ["web1", "web2", "web3"]
    for field in ("address", "home", "host_key"):
        assert len({getattr(host, field) for host in fleet.hosts}) == 3
    for host in fleet.hosts:
        answer = ssh(fleet, host, f'echo "$HOME ${HOST_VARIABLE}"; whoami; echo mine > "$HOME/file"; exit 7')
        assert answer.stdout.split() == [str(host.home), host.name, host.user]
        assert answer.returncode == 7
        assert (host.home / "file").read_text() == "mine\n"


def test_one_server_plays_many_hosts_where_many_are_wanted(sshd_fleet: MakesFleets) -> None:
    fleet = sshd_fleet(20, per_sshd=16)
    assert len({host.address for host in fleet.hosts}) == 20
    assert len({host.host_key for host in fleet.hosts}) == 2
    last = fleet.hosts[-1]
    assert ssh(fleet, last, 'echo "$HOME"').stdout.strip() == str(last.home)


def test_only_the_key_opens(sshd_fleet: MakesFleets, tmp_path: Path) -> None:
    fleet = sshd_fleet(1)
    (host,) = fleet.hosts
    (tmp_path / "other").write_text("")
    answer = ssh(fleet, host, "true", "-o", "IdentityFile=none", "-o", "PubkeyAuthentication=no")
    assert answer.returncode == 255
    assert "Permission denied (publickey)" in answer.stderr


def test_a_cut_connection_ends_the_client_and_not_the_job(sshd_fleet: MakesFleets) -> None:
    fleet = sshd_fleet(2)
    cut, other = fleet.hosts
    job = "setsid sh -c 'echo $$ > $HOME/pid; exec sleep 600' > /dev/null 2>&1 < /dev/null & cat"
    with (
        subprocess.Popen(ssh_command(fleet, cut, job), stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as client,
        subprocess.Popen(ssh_command(fleet, other, "cat"), stdin=subprocess.PIPE) as untouched,
    ):
        wait_until(lambda: (cut.home / "pid").exists() and (cut.home / "pid").read_text() != "", within=SOON)
        fleet.cut_connections(cut.name)
        assert client.wait(timeout=10) == 255
        assert untouched.poll() is None
        running = [process.pid for process in marked(HOST_VARIABLE, cut.name)]
        assert int((cut.home / "pid").read_text()) in running
        assert untouched.stdin is not None
        untouched.stdin.close()
    assert ssh(fleet, cut, "true").returncode == 0


def test_a_host_without_power_runs_nothing_and_comes_back_as_it_was(sshd_fleet: MakesFleets) -> None:
    fleet = sshd_fleet(1, prefix="dark")
    (host,) = fleet.hosts
    ssh(fleet, host, "setsid sleep 600 > /dev/null 2>&1 < /dev/null &")
    assert list(marked(HOST_VARIABLE, host.name))
    fleet.power_off(host.name)
    assert not list(marked(HOST_VARIABLE, host.name))
    assert "Connection refused" in ssh(fleet, host, "true").stderr
    fleet.power_on(host.name)
    assert fleet.hosts == [host]
    assert ssh(fleet, host, "true").returncode == 0


def test_a_changed_host_key_is_seen_by_a_client(sshd_fleet: MakesFleets) -> None:
    fleet = sshd_fleet(1)
    (before,) = fleet.hosts
    old = before.known_hosts_line()
    fleet.change_host_key(before.name)
    (after,) = fleet.hosts
    assert (after.address, after.port) == (before.address, before.port)
    assert after.known_hosts_line() != old
    (before.identity_file.parent / "old").write_text(old)
    answer = ssh(fleet, after, "true", "-o", "HostKeyAlias=none")
    assert "Host key verification failed" in answer.stderr
    assert ssh(fleet, after, "true").returncode == 0


def test_an_inventory_row_says_all_that_a_login_needs(sshd_fleet: MakesFleets) -> None:
    (host,) = sshd_fleet(1).hosts
    row = host.inventory_row()
    assert set(row) == {"name", "address", "port", "user", "identity_file", "host_key"}
    assert row["host_key"].startswith("ssh-ed25519 AAAA")
    assert Path(row["identity_file"]).stat().st_mode & 0o777 == 0o600


def test_what_runs_on_hosts_is_known_as_ours(sshd_fleet: MakesFleets, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = sshd_fleet(1)
    (host,) = fleet.hosts
    assert ssh(fleet, host, f'test -n "${SESSION_VARIABLE}"').returncode == 0
    ssh(fleet, host, "setsid sleep 600 > /dev/null 2>&1 < /dev/null &")
    fleet.close()
    assert not list(marked(HOST_VARIABLE, host.name))
    assert not host.home.exists()
