"""The check-in on a host: installed, run and removed under each shell, against the agent's own endpoint and rules.

What a host has is played by programs in a folder before its PATH: crontab, systemctl, id. Nothing here touches this machine.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import psutil
import pytest
from chargehand.up.ports import any_free
from chargehand_planner.shell.rendering.sandbox import Sandbox, Script
from chargehand_planner.shell.seeded_texts import text_of
from chargehand_proxy_agent.core import check_in as rules
from chargehand_proxy_agent.core.check_in import Announcement, Answer, read_announcement
from chargehand_proxy_agent.core.check_in_keys import filled, key_of
from chargehand_proxy_agent.shell.check_in_endpoint import Endpoint
from chargehand_proxy_agent.shell.settings import AgentSettings
from support.check_in import self_signed
from support.waiting import wait_until
from support.wrapper_host import SHELLS, available_shells

HOST = UUID("6f0d9c53-2f5a-4b53-9d8e-0a1b2c3d4e5f")
SECRET = bytes(range(32))
KEY = key_of(SECRET, HOST)
CRONTAB = """#!/bin/sh
file=$(dirname "$0")/../crontab.txt
case $1 in
-l) exec cat "$file" ;;
-r) exec rm "$file" ;;
-) exec cat >"$file" ;;
*) exec cat "$1" >"$file" ;;
esac
"""
NAPS = """#!/bin/sh
case $1 in
1 | 10 | 40 | 1000) exec /bin/sleep "$1" ;;
esac
echo "$1" >>"$(dirname "$0")/../naps.txt"
"""


@dataclass
class Proxy:
    """An endpoint and what came to it. `next_answers` are given first, whatever comes."""

    port: int
    said: list[Announcement] = field(default_factory=list)
    next_answers: list[Answer] = field(default_factory=list)

    async def announce(self, body: bytes) -> Answer:
        if self.next_answers:
            return self.next_answers.pop(0)
        said = read_announcement(body)
        if isinstance(said, Answer):
            return said
        refused = rules.objection(said, (SECRET,), said.host_id == HOST, "local")
        if refused is not None:
            return refused
        self.said.append(said)
        return rules.accepted(said)


@dataclass
class Machine:
    """A host in a folder of its own: its home, its programs, its shell."""

    root: Path
    shell: tuple[str, ...] = ("sh",)
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("home", "bin"):
            (self.root / name).mkdir()
        self.program("id", "case $1 in\n-u) echo 1000 ;;\n*) echo me ;;\nesac")
        self.program("systemctl", "exit 1")

    def program(self, name: str, text: str) -> None:
        path = self.root / "bin" / name
        path.write_text(text if text.startswith("#!") else f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    @property
    def directory(self) -> Path:
        return self.root / "home" / ".chargehand" / "check-in"

    @property
    def crontab(self) -> str:
        return (self.root / "crontab.txt").read_text()

    async def run(self, *argv: str, text: str = "") -> tuple[int, str]:
        """Status and everything that was printed."""
        script = self.root / "script"
        script.write_text(text)
        process = await asyncio.create_subprocess_exec(
            *(argv or (*self.shell, str(script))),
            env={"HOME": str(self.root / "home"), "PATH": f"{self.root}/bin:{os.environ['PATH']}", **self.variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        said, _ = await asyncio.wait_for(process.communicate(), 60)
        return process.returncode or 0, said.decode(errors="replace")

    async def install(self, address: str, **inputs: str) -> tuple[int, str]:
        return await self.run(text=install_script(address, **inputs))

    async def check_in(self, *arguments: str) -> tuple[int, str]:
        return await self.run(*self.shell, str(self.directory / "check-in.sh"), *arguments)

    def configure(self, **changes: str) -> None:
        """Change lines of check-in.conf."""
        path = self.directory / "check-in.conf"
        lines = [line for line in path.read_text().splitlines() if line.split(" ")[0] not in changes]
        path.write_text("\n".join([*lines, *(f"{name} {value}" for name, value in changes.items())]) + "\n")


def install_script(address: str, **inputs: str) -> str:
    given = {"interval": "30", "spread": "120", "ca_file": "", **inputs, "address": address}
    script = Script(Sandbox(), text_of("install_check_in.sh")).render(given, None)
    return filled(script, (SECRET,), HOST)


def settings(directory: Path, port: int, **more: str) -> AgentSettings:
    return AgentSettings.model_validate(
        {
            "data": directory, "key_file": directory / "k", "planner_key_file": directory / "p", "proxy": "local",
            "check_in_address": f"127.0.0.1:{port}", **more,
        }
    )  # fmt: skip


@pytest.fixture
async def proxy(tmp_path: Path) -> AsyncIterator[Proxy]:
    made = Proxy(any_free(1)[0])
    async with Endpoint(settings(tmp_path, made.port)).listening(made.announce):
        yield made


@pytest.fixture(params=sorted(SHELLS))
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    if request.param not in available_shells():
        pytest.skip(f"no {request.param} on this machine")
    (tmp_path / "machine").mkdir()
    return Machine(tmp_path / "machine", SHELLS[request.param])


@pytest.fixture
def plain(tmp_path: Path) -> Machine:
    """A machine whose shell is whatever sh is here."""
    (tmp_path / "plain").mkdir()
    made = Machine(tmp_path / "plain")
    made.program("crontab", CRONTAB)
    return made


def local(proxy: Proxy) -> str:
    return f"http://127.0.0.1:{proxy.port}"


# --- under each shell


async def test_it_is_installed_checks_in_is_renewed_and_removed_without_root(machine: Machine, proxy: Proxy) -> None:
    machine.program("crontab", CRONTAB)
    (machine.root / "crontab.txt").write_text("5 4 * * * theirs\n")
    status, said = await machine.install("https://a;id")
    assert (status, said) == (1, "check-in: address: 'https://a;id' is no address\n")
    for interval, when in (("30", "*/30 * * * *"), ("120", "0 */2 * * *")):
        status, said = await machine.install(local(proxy), interval=interval)
        assert status == 0, said
        line = f"/bin/sh {machine.directory}/check-in.sh scheduled # chargehand check-in {machine.directory}"
        assert machine.crontab == f"5 4 * * * theirs\n@reboot {line}\n{when} {line}\n"
        assert f"check-in: cron runs it (crontab -l) at boot and by the line: {when}\n" in said
        assert "could not: a systemd timer of this user: no systemd runs for the user" in said
        assert "could not: a hook at boot of the machine: this is not root" in said
        assert "check-in: checked in, " in said
    assert [one.host_id for one in proxy.said] == [HOST, HOST]
    facts = proxy.said[0].facts
    assert {"kernel.release", "kernel.machine", "boot.id", "boot.time", "hostname"} <= facts.keys()
    assert UUID(facts["boot.id"])
    assert proxy.said[0].left_out == 0
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in machine.directory.iterdir()}
    assert modes == {"check-in.sh": 0o700, "check-in.conf": 0o600, "facts": 0o700}
    assert stat.S_IMODE(machine.directory.stat().st_mode) == 0o700
    assert KEY not in said

    remove = text_of("remove_check_in.sh")
    status, said = await machine.run(text=remove)
    assert (status, machine.crontab, machine.directory.exists()) == (0, "5 4 * * * theirs\n", False), said
    status, said = await machine.run(text=remove)
    assert (status, said) == (0, f"check-in: {machine.directory} is not there\n")
    (machine.root / "crontab.txt").unlink()
    assert (await machine.install(local(proxy)))[0] == 0
    assert (await machine.run(text=remove))[0] == 0
    assert not (machine.root / "crontab.txt").exists(), "no empty crontab where there was none"


async def test_facts_are_those_of_executable_files_and_bounded_in_time_and_size(machine: Machine, proxy: Proxy) -> None:
    machine.program("crontab", CRONTAB)
    await machine.install(local(proxy))
    machine.configure(fact_seconds="1")
    facts = machine.directory / "facts"
    for name, text, mode in (
        ("30-own", "echo own.fact=one two; echo 'own.quoted=\"$(id)\"'", 0o700),
        ("40-not-executable", "echo hidden=1", 0o600),
        ("50-hangs", "echo before=1; sleep 1000 & sleep 1000; echo after=1", 0o700),
        ("60-endless", "while :; do echo endless=yes; done", 0o700),
        ("70-hostile", r"printf 'escape=\033]0;x\007\nBAD NAME=1\nbinary=\377\n'; exit 3", 0o700),
    ):
        path = facts / f"{name}.sh"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(mode)
    status, said = await machine.check_in()
    assert status == 0, said
    found = proxy.said[-1].facts
    assert (found["own.fact"], found["own.quoted"]) == ("one two", '"$(id)"')
    assert (found["before"], found["endless"], found["escape"]) == ("1", "yes", "\x1b]0;x\x07")
    assert not found.keys() & {"hidden", "after", "BAD NAME"}
    for name in ("50-hangs", "60-endless", "70-hostile"):
        assert f"check-in: ./facts/{name}.sh did not succeed within 1 s".replace("./facts", "facts") in said
    left = str(machine.directory)
    wait_until(lambda: not [process for process in psutil.process_iter() if left in _command(process)])
    assert {path.name for path in machine.directory.iterdir()} == {"check-in.sh", "check-in.conf", "facts"}
    _, printed = await machine.check_in("facts")
    assert "own.fact=one two" in printed


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()) + process.cwd()
    except psutil.Error:
        return ""


# --- the way to the endpoint


@pytest.mark.parametrize("client", ["curl", "wget", "busybox"])
async def test_the_key_is_in_no_argument_and_no_environment_whatever_brings_it(
    plain: Machine, proxy: Proxy, client: str
) -> None:
    program = shutil.which(client)
    if program is None:
        pytest.skip(f"no {client} on this machine")
    await plain.install(local(proxy))
    plain.configure(client=client)
    name = "wget" if client == "busybox" else client
    applet = "wget" if client == "busybox" else ""
    plain.program(name, f'(echo "$0 $*"; env) >>{plain.root}/seen; exec {program} {applet} "$@"')
    status, said = await plain.check_in()
    assert (status, said) == (0, f"check-in: checked in, {len(proxy.said[-1].facts)} facts\n")
    proxy.next_answers = [Answer(403, "refused: no")]
    status, said = await plain.check_in()
    assert status == 1
    assert "(status 403 from " in said
    if client != "busybox":
        assert "refused: no" in said, "busybox's wget does not show what it was told"
    seen = (plain.root / "seen").read_text()
    assert f"http://127.0.0.1:{proxy.port}/check-in" in seen
    assert KEY not in seen


async def test_who_is_told_to_come_again_does_so_and_who_is_refused_does_not(plain: Machine, proxy: Proxy) -> None:
    await plain.install(local(proxy))
    plain.program("sleep", NAPS)
    proxy.next_answers = [rules.busy(10), rules.unsaid(30)]
    status, said = await plain.check_in()
    assert (status, len(proxy.said)) == (0, 2), said
    naps = [int(line) for line in (plain.root / "naps.txt").read_text().split()]
    assert 10 <= naps[0] <= 20
    assert 30 <= naps[1] <= 60
    proxy.next_answers = [Answer(410, "refused: host is not, or not any more, one of proxy local")]
    status, said = await plain.check_in("scheduled")
    assert (status, proxy.next_answers) == (1, [])
    assert (
        said
        == f"check-in: refused: host is not, or not any more, one of proxy local (status 410 from {local(proxy)}/check-in)\n"
    )
    proxy.next_answers = [rules.busy(10)] * 20
    status, said = await plain.check_in("scheduled")
    assert (status, len(proxy.next_answers)) == (1, 12), "eight times, then the next interval"
    assert "given up until the next time" in said


async def test_hosts_that_start_all_at_once_come_spread_and_each_with_the_same_delay(
    plain: Machine, proxy: Proxy
) -> None:
    """S58: 10,000 check-ins at once after a power failure."""
    await plain.install(local(proxy), spread="600")
    plain.program("sleep", NAPS)
    for _ in range(2):
        assert (await plain.check_in("scheduled"))[0] == 0
    first, again = (int(line) for line in (plain.root / "naps.txt").read_text().split())
    assert first == again < 600
    _, digest = await plain.run("sh", "-c", f"printf %s {HOST} | cksum")
    assert first == int(digest.split()[0]) % 600
    plain.configure(spread="0")
    assert (await plain.check_in("scheduled"))[0] == 0
    assert len((plain.root / "naps.txt").read_text().split()) == 2


async def test_beyond_the_machine_the_key_goes_by_tls_to_a_certificate_that_is_known(
    plain: Machine, tmp_path: Path
) -> None:
    certificate, key = self_signed(tmp_path, "proxy")
    proxy = Proxy(any_free(1)[0])
    more = {"check_in_certificate_file": str(certificate), "check_in_certificate_key_file": str(key)}
    async with Endpoint(settings(tmp_path, proxy.port, **more)).listening(proxy.announce):
        address = f"https://127.0.0.1:{proxy.port}"
        plain.program("sleep", NAPS)
        status, said = await plain.install(address)
        assert (status, proxy.said) == (1, [])
        assert "it is installed, and the first check-in failed: no answer: " in said
        status, said = await plain.install(f"{address}/check-in/", ca_file=str(certificate))
        assert (status, len(proxy.said)) == (0, 1), said
        if shutil.which("wget"):
            plain.configure(client="wget")
            assert (await plain.check_in())[0] == 0
        plain.configure(client="busybox")
        assert (await plain.check_in()) == (
            1,
            "check-in: busybox's wget does not check certificates, and the key is not given to just anybody: install curl\n",
        )
    plain.configure(address=f"http://192.0.2.1:{proxy.port}/check-in", client="curl")
    status, said = await plain.check_in()
    assert (status, "the key does not cross a network in clear" in said) == (1, True)


# --- what it cannot do


@pytest.mark.parametrize(
    ("address", "inputs", "words"),
    [
        ("http://192.0.2.1:8710", {}, "is neither https://HOST:PORT nor on this machine"),
        ("https://a b", {}, "is no address"),
        ("https://x;id", {}, "is no address"),
        ("", {}, "is neither https"),
        ("https://x:1", {"interval": "0"}, "interval: '0' is no number of minutes from 1 to 1440"),
        ("https://x:1", {"interval": "99999999999999999999"}, "is no number of minutes"),
        ("https://x:1", {"interval": "$(id)"}, "interval: '$(id)' is no number"),
        ("https://x:1", {"spread": "-1"}, "spread: '-1' is no number of seconds"),
        ("https://x:1", {"ca_file": "/none"}, "ca_file: /none cannot be read on this host"),
        ("https://x:1", {"ca_file": "ca.pem"}, "is no whole path"),
    ],
)  # fmt: skip
async def test_bad_input_is_refused_before_anything_is_changed(
    plain: Machine, address: str, inputs: dict[str, str], words: str
) -> None:
    status, said = await plain.install(address, **inputs)
    assert (status, words in said) == (1, True), said
    assert list((plain.root / "home").iterdir()) == []


async def test_without_anything_that_would_run_it_the_job_fails_and_says_so(plain: Machine, proxy: Proxy) -> None:
    plain.program("crontab", "echo 'you are not allowed to use this program' >&2; exit 1")
    status, said = await plain.install(local(proxy))
    assert status == 1
    assert "check-in: could not: lines of cron: you are not allowed to use this program\n" in said
    assert said.endswith(
        "check-in: nothing on this host runs it from time to time: have cron or systemd, and install again\n"
    )


async def test_a_script_whose_placeholder_nobody_filled_installs_nothing(plain: Machine) -> None:
    text = install_script("https://x:1").replace(f"{HOST} {KEY}", "__CHARGEHAND_CHECK_IN__")
    status, said = await plain.run(text=text)
    assert (status, "its proxy's agent has no check-in endpoint" in said) == (1, True)


# --- the machine's own


async def test_as_root_a_systemd_timer_runs_it_at_boot_and_from_time_to_time(plain: Machine, proxy: Proxy) -> None:
    """In a mount namespace with an /etc and a /run of its own."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root can give itself another /etc")
    log = plain.root / "systemctl.txt"
    plain.program("id", "echo 0")
    plain.program("systemctl", f'echo "$*" >>{log}')
    script = plain.root / "installer"
    remover = plain.root / "remover"
    script.write_text(install_script(local(proxy), interval="15"))
    remover.write_text(text_of("remove_check_in.sh"))
    inside = f"""
        mount -t tmpfs none /run && mkdir -p /run/systemd/system && cp /etc/os-release {plain.root}/ &&
        mount -t tmpfs none /etc && cp {plain.root}/os-release /etc/ || exit 99
        sh {script} || exit
        ls -l /etc/chargehand/check-in; cat /etc/systemd/system/chargehand-check-in.*
        sh {remover} || exit
        find /etc -type f"""
    status, said = await plain.run("unshare", "--mount", "sh", "-c", inside)
    if status == 99:
        pytest.skip(f"no mount namespace here: {said[-200:]}")
    assert status == 0, said
    assert "a systemd timer runs it at boot and every 15 min: chargehand-check-in.timer" in said
    assert "could not" not in said
    assert "ExecStart=/bin/sh /etc/chargehand/check-in/check-in.sh scheduled\n" in said
    assert "OnBootSec=1s\nOnUnitActiveSec=15min\n" in said
    assert "-rw------- " in said
    assert log.read_text().splitlines() == [
        "daemon-reload", "enable --now chargehand-check-in.timer", " disable --now chargehand-check-in.timer".strip(),
        "daemon-reload",
    ]  # fmt: skip
    assert said.splitlines()[-1] == "/etc/os-release", "nothing of it is left"
    assert len(proxy.said) == 1


async def test_a_user_that_lingers_has_a_systemd_timer_of_its_own(plain: Machine, proxy: Proxy) -> None:
    plain.program("systemctl", "exit 0")
    plain.program("loginctl", "echo Linger=yes")
    status, said = await plain.install(local(proxy))
    assert status == 0, said
    assert "a systemd timer of this user runs it every 30 min" in said
    units = plain.root / "home" / ".config" / "systemd" / "user"
    service = (units / "chargehand-check-in.service").read_text()
    assert f"ExecStart=/bin/sh {plain.directory}/check-in.sh scheduled" in service
    assert not (plain.root / "crontab.txt").exists()
    status, said = await plain.run(text=text_of("remove_check_in.sh"))
    assert (status, list(units.iterdir())) == (0, []), said
