"""The distant network and its odd machines are what they say: slow, standing still, broken, silent; of another boot and clock."""

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from support.distant_hosts import DistantHosts
from support.odd_machines import NoOddMachine, OddHost
from support.sshd import SshHost

HOUR = timedelta(hours=1)
ROUND_TRIP = timedelta(milliseconds=100)


def ssh(distant: DistantHosts, host: SshHost, command: str, *, within_s: float = 20) -> str:
    """What a command on a host prints, by OpenSSH's own client in the site; empty if it cannot be reached."""
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    argv = ["ssh", "-F", "none", *options, "-i", str(host.identity_file), "-p", str(host.port)]
    argv += [f"{host.user}@{host.address}", command]
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run(
            distant.site.command(argv),
            capture_output=True,
            text=True,
            timeout=within_s,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        return done.stdout.strip()
    return ""


@pytest.fixture
def host(distant: DistantHosts) -> Iterator[SshHost]:
    """The last of 300, which are one sshd."""
    yield distant.shown(distant.fleet(300, "wide"))[-1]


def test_every_host_has_its_own_home_and_the_last_is_reached(distant: DistantHosts, host: SshHost) -> None:
    assert ssh(distant, host, "echo $HOME; echo hello > ~/there; cat ~/there").split() == [str(host.home), "hello"]
    assert (host.home / "there").read_text() == "hello\n"


def test_a_round_trip_takes_as_long_as_told(distant: DistantHosts, host: SshHost) -> None:
    distant.relay.delay(ROUND_TRIP)
    try:
        began = time.monotonic()
        assert ssh(distant, host, "echo hello") == "hello"
        assert time.monotonic() - began > 4 * ROUND_TRIP.total_seconds(), "a login is more than four round trips"
    finally:
        distant.relay.delay(timedelta(0))


def test_a_pause_holds_everything_and_loses_nothing(distant: DistantHosts, host: SshHost) -> None:
    with distant.relay.paused(host):
        assert ssh(distant, host, "echo hello", within_s=1) == ""
    assert ssh(distant, host, "echo hello") == "hello"


def test_a_cut_comes_after_so_many_bytes(distant: DistantHosts, host: SshHost) -> None:
    whole = 300_000
    command = f"head -c {whole} /dev/zero | tr '\\0' x"
    with distant.relay.cutting(host, every_bytes=100_000):
        assert 0 < len(ssh(distant, host, command)) < whole
    assert len(ssh(distant, host, command)) == whole


def test_a_black_hole_does_not_even_answer_a_syn(distant: DistantHosts, host: SshHost) -> None:
    (hole,) = distant.black_holes(1, host)
    began = time.monotonic()
    assert ssh(distant, hole, "echo hello", within_s=1) == ""
    assert time.monotonic() - began >= 1, "nobody has said no either"
    with distant.gone(host):
        assert ssh(distant, host, "echo hello", within_s=1) == ""
    assert ssh(distant, host, "echo hello") == "hello"


def test_an_odd_machine_has_its_own_boot_uptime_and_clock(distant: DistantHosts, tmp_path: Path) -> None:
    young, behind = timedelta(seconds=10), -HOUR
    try:
        odd = OddHost(distant, "odd", tmp_path, uptime=young, clock_off=behind)
    except NoOddMachine as error:
        pytest.skip(str(error))
    look = "cat /proc/sys/kernel/random/boot_id; cut -d' ' -f1 /proc/uptime; date +%s"
    boot_id, uptime, clock = ssh(distant, odd.host, look).split()
    assert boot_id == odd.boot_id.value
    assert young.total_seconds() - 1 <= float(uptime) < 60
    assert abs(float(clock) - time.time() + HOUR.total_seconds()) < 30
    odd.power_off()
    odd.power_on()
    assert ssh(distant, odd.host, look).split()[0] == odd.boot_id.value != boot_id


async def test_many_connections_at_once_are_carried(distant: DistantHosts, host: SshHost) -> None:
    script = "import socket,sys\nfor n in range(200): print(socket.create_connection((sys.argv[1], int(sys.argv[2]))).recv(4))"
    argv = distant.site.command(["/usr/bin/env", "python3", "-c", script, host.address, str(host.port)])
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    assert said.split() == [b"b'SSH-'"] * 200
