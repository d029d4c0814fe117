"""Scripts as other users on OpenSSH's own server: sudo, su, dzdo and doas as they are, with users of the test's own."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from chargehand_proxy_agent.providers.port import Interrupted, NeverStarted, Output
from chargehand_proxy_agent.providers.ssh import SshProvider
from support.own_etc import NoOwnEtc, OwnEtc, own_etc
from support.ssh_targets import provider_for, target_of
from support.sshd import NoSshd, SshdFleet
from support.visits import allowed, follow, look, look_order, outcome, start, start_order
from support.waiting import wait_until

OPS_PASSWORD = "canary-of-ops-8842"
DEPLOY_PASSWORD = "canary-of-deploy-7731"
SUDOERS = """
Defaults secure_path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
Defaults lecture=always
{ops} ALL=(free) NOPASSWD: ALL
{ops} ALL=(deploy) PASSWD: ALL
Defaults>tied requiretty
{ops} ALL=(tied) NOPASSWD: ALL
"""


@pytest.fixture(scope="module")
def etc(hosts_directory: Path, host_user: str) -> Iterator[OwnEtc]:
    try:
        with own_etc(hosts_directory) as made:
            made.write("sudoers", SUDOERS.format(ops=host_user))
            made.write("doas.conf", f"permit nopass {host_user} as free\npermit {host_user} as deploy\n")
            made.set_password(host_user, OPS_PASSWORD)
            made.link("dzdo", "sudo")
            for name in ("free", "tied", "other"):
                made.add_user(name)
            for name in ("deploy", "gone", "stale"):
                made.add_user(name, password=DEPLOY_PASSWORD)
            made.add_user("shellless", password=DEPLOY_PASSWORD, shell="/usr/sbin/nologin")  # noqa: S604 (a login shell)
            made.run("chage", "-E", "2020-01-01", "gone")
            made.run("chage", "-d", "0", "stale")
            yield made
    except NoOwnEtc as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def fleet(etc: OwnEtc, hosts_directory: Path, host_user: str) -> Iterator[SshdFleet]:
    try:
        fleet = SshdFleet(1, scratch=hosts_directory, user=host_user, via=etc.via)
    except NoSshd as error:
        pytest.skip(str(error))
    with contextlib.closing(fleet):
        yield fleet


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[SshProvider]:
    provider = provider_for(tmp_path)
    yield provider
    await provider.close()


WAYS = {
    "sudo": {"effective_user": "free"},
    "sudo with a password": {"effective_user": "deploy", "effective_user_password": OPS_PASSWORD},
    "su": {"effective_user": "deploy", "effective_user_method": "su", "effective_user_password": DEPLOY_PASSWORD},
    "dzdo": {"effective_user": "deploy", "effective_user_method": "dzdo", "effective_user_password": OPS_PASSWORD},
    "doas": {"effective_user": "free", "effective_user_method": "doas"},
    "doas with a password": {
        "effective_user": "deploy", "effective_user_method": "doas", "effective_user_password": OPS_PASSWORD,
    },
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
async def test_a_script_runs_as_another_user(fleet: SshdFleet, provider: SshProvider, way: str) -> None:
    connection = await provider.open(target_of(fleet.hosts[0]))
    order = start_order("id -un; pwd; cat; echo err >&2; exit 3", **WAYS[way])
    observations = await start(connection, order)
    seen = outcome(observations)
    user = WAYS[way]["effective_user"]
    assert (seen.stdout.split()[0].decode(), seen.stderr, seen.exit_status) == (user, b"err\n", 3)
    assert seen.stdout.split()[1].decode().endswith(f"/home/{user}")


REFUSALS = {
    "wrong password for sudo": ({"effective_user": "deploy", "effective_user_password": "wrong-canary"}, "wrong password: sudo"),
    "none given for sudo": ({"effective_user": "deploy"}, "sudo wants the password of the connecting user and none was given"),
    "not in sudoers, and not asked": ({"effective_user": "other"}, "none was given"),
    "not in sudoers": (
        {"effective_user": "other", "effective_user_password": OPS_PASSWORD}, "sudo does not let the connecting user run /bin/sh",
    ),
    "requiretty": ({"effective_user": "tied"}, "requiretty"),
    "unknown user": ({"effective_user": "nosuch", "effective_user_password": OPS_PASSWORD}, "no such user on the host"),
    "expired account": (
        {"effective_user": "gone", "effective_user_method": "su", "effective_user_password": DEPLOY_PASSWORD}, "gone has expired",
    ),
    "expired password": (
        {"effective_user": "stale", "effective_user_method": "su", "effective_user_password": DEPLOY_PASSWORD},
        "the password of stale has expired",
    ),
    "wrong password for su": (
        {"effective_user": "deploy", "effective_user_method": "su", "effective_user_password": "wrong-canary"},
        "wrong password: su did not take it as that of deploy",
    ),
    "none given for su": ({"effective_user": "deploy", "effective_user_method": "su"}, "su wants the password of deploy"),
    "wrong password for doas": (
        {"effective_user": "deploy", "effective_user_method": "doas", "effective_user_password": "wrong-canary"}, "wrong password: doas",
    ),
    "none given for doas": ({"effective_user": "deploy", "effective_user_method": "doas"}, "doas wants the password"),
    "not in doas.conf": ({"effective_user": "other", "effective_user_method": "doas"}, "doas does not let the connecting user"),
    "unknown user for doas": ({"effective_user": "nosuch", "effective_user_method": "doas"}, "no such user on the host"),
    "unknown user for su": ({"effective_user": "nosuch", "effective_user_method": "su"}, "no such user on the host"),
    "no shell for su": (
        {"effective_user": "shellless", "effective_user_method": "su", "effective_user_password": DEPLOY_PASSWORD}, "no login shell",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
async def test_why_a_user_cannot_be_had_is_said_in_words(fleet: SshdFleet, provider: SshProvider, case: str) -> None:
    """At once, as a proof of never started, however often it is asked; and the script has not run."""
    changes, words = REFUSALS[case]
    connection = await provider.open(target_of(fleet.hosts[0]))
    order = start_order("echo it", **changes)
    (seen,) = await start(connection, order)
    assert isinstance(seen, NeverStarted) and words in seen.refusal, seen
    assert "canary" not in seen.refusal and "lecture" not in seen.refusal and "trust you" not in seen.refusal
    (again,) = await look(connection, look_order(order))
    assert isinstance(again, NeverStarted) and again.refusal.startswith(f"cannot run as {order.effective_user}: ")


# Who leaves the session, the group, the parent and the terminal, and does not obey TERM.
FAMILY = """
trap '' TERM
setsid sh -c 'trap "" TERM; while :; do sleep 0.2; done' {marker} &
nohup sh -c 'while :; do sleep 0.2; done' {marker} &
(setsid sh -c '(while :; do sleep 0.2; done) & exec sh -c "(while :; do sleep 0.2; done; : {marker}) & exit" {marker}' {marker} &) &
env -i sh -c 'while :; do sleep 0.2; done' {marker} &
echo begun
while :; do sleep 0.2; done
"""


def running(marker: str) -> list[int]:
    """What has the marker in its command line, wherever it went."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(marker in word for word in process.cmdline()):
                found.append(process.pid)
    return found


@pytest.fixture
def marker() -> Iterator[str]:
    word = f"marker-{secrets.token_hex(8)}"
    yield word
    for pid in running(word):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("way", WAYS)
async def test_a_time_limit_ends_all_that_the_other_user_has_started(
    fleet: SshdFleet, provider: SshProvider, way: str, marker: str
) -> None:
    connection = await provider.open(target_of(fleet.hosts[0]))
    limits = {"execution_timeout": timedelta(seconds=1), "grace": timedelta(seconds=0.5)}
    observations = await start(connection, start_order(FAMILY.format(marker=marker), **limits, **WAYS[way]))
    seen = outcome(observations)
    assert seen.stdout == b"begun\n" and seen.ended.cause == "timed_out"
    assert running(marker) == []


@pytest.mark.parametrize("way", WAYS)
async def test_a_cancel_without_the_password_ends_all_of_it(
    fleet: SshdFleet, provider: SshProvider, way: str, marker: str
) -> None:
    """Also when the connection that started it is gone: the warden is there, and needs no password to end what it started."""
    connection = await provider.open(target_of(fleet.hosts[0]))
    order = start_order(FAMILY.format(marker=marker), grace=timedelta(seconds=0.5), **WAYS[way])
    async for observation in connection.start(order, allowed):
        if isinstance(observation, Output):
            wait_until(lambda: len(running(marker)) >= 4, within=timedelta(seconds=20))
            fleet.cut_connections("host1")
    await connection.release()
    other = await provider.open(target_of(fleet.hosts[0]))
    seen = outcome(await look(other, look_order(order, cancel=True)))
    assert seen.ended.cause == "cancelled" and running(marker) == []


@pytest.mark.parametrize("way", WAYS)
async def test_a_cut_connection_changes_nothing_for_the_other_users_script(
    fleet: SshdFleet, provider: SshProvider, way: str
) -> None:
    connection = await provider.open(target_of(fleet.hosts[0]))
    order = start_order("echo one; sleep 1; echo two; exit 5", **WAYS[way])
    async for observation in connection.start(order, allowed):
        if isinstance(observation, Output):
            fleet.cut_connections("host1")
    await connection.release()
    whole = await follow(await provider.open(target_of(fleet.hosts[0])), order)
    assert (whole.stdout, whole.exit_status) == (b"one\ntwo\n", 5)


async def test_what_a_successful_job_leaves_running_runs_on(
    fleet: SshdFleet, provider: SshProvider, marker: str
) -> None:
    """As after a login by ssh: a daemon is meant to stay."""
    connection = await provider.open(target_of(fleet.hosts[0]))
    script = f"setsid sh -c 'while :; do sleep 0.2; done' {marker} >/dev/null 2>&1 & echo begun"
    seen = outcome(await start(connection, start_order(script, **WAYS["sudo"])))
    assert seen.exit_status == 0 and len(running(marker)) == 1


async def test_a_warden_that_was_ended_leaves_the_truth_unknown_and_nothing_running(
    fleet: SshdFleet, provider: SshProvider, marker: str
) -> None:
    connection = await provider.open(target_of(fleet.hosts[0]))
    script = f"sh -c 'while :; do sleep 0.2; done' {marker} & kill -9 $PPID; echo begun; wait"
    observations = await start(connection, start_order(script, **WAYS["sudo"]))
    assert isinstance(observations[-1], Interrupted) and "gone" in observations[-1].detail
    assert running(marker) == []


@pytest.fixture(scope="module")
def roots(etc: OwnEtc, hosts_directory: Path) -> Iterator[SshdFleet]:
    """A host whose connecting user is root, as many have it."""
    with contextlib.closing(SshdFleet(1, scratch=hosts_directory, user="root", prefix="root", via=etc.via)) as fleet:
        yield fleet


@pytest.mark.parametrize("method", ["sudo", "su", "doas"])
async def test_root_needs_no_password_and_gives_none(
    roots: SshdFleet, provider: SshProvider, etc: OwnEtc, method: str
) -> None:
    etc.write("sudoers", SUDOERS.format(ops="root"))
    etc.write("doas.conf", "permit nopass root\n")
    connection = await provider.open(target_of(roots.hosts[0]))
    order = start_order(
        "id -un", effective_user="deploy", effective_user_method=method, effective_user_password="not-needed-at-all"
    )
    assert outcome(await start(connection, order)).stdout == b"deploy\n"
