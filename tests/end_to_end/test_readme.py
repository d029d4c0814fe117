"""The README's commands, as somebody types them who has read nothing else: from an ssh configuration to a job on that host."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.installation import Installation
from support.sshd import SshdFleet

README = Path(__file__).parents[2] / "README.md"


def commands(heading: str) -> list[list[str]]:
    """The chargehand commands of a section, each as words without its comment."""
    section = README.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = re.findall(r"^\$ chargehand (.*)$", section, flags=re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture
def own(tmp_path: Path, fleet: SshdFleet, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    """Nothing but a home with an ssh configuration for web1, whose key is known."""
    host = fleet.hosts[0]
    home = tmp_path / "home"
    ssh = home / ".ssh"
    ssh.mkdir(parents=True, mode=0o700)
    (ssh / "known_hosts").write_text(host.known_hosts_line())
    (ssh / "config").write_text(
        f"Host web1\n  HostName {host.address}\n  Port {host.port}\n  User {host.user}\n  IdentityFile {host.identity_file}\n"
    )
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    monkeypatch.setenv("HOME", str(home))
    made = Installation(tmp_path / "data")
    yield made
    made.stop()


def test_s3_s23_who_reads_only_the_readme_gets_a_job_onto_their_own_ssh_host(own: Installation) -> None:
    up, on_all, imported, on_one = commands("Use it")
    assert up == ["up"] and on_all[:2] == ["exec", "--all"]
    own.start()
    home = Path(os.environ["HOME"])
    assert own.run(*(word.replace("~", str(home)) for word in imported)).stdout.startswith("1 registered")
    assert "load average" in own.run(*on_one).stdout
    assert "1 succeeded" in own.run(on_all[0], "--yes", *on_all[1:]).stdout
    assert own.banner["login_url"].startswith(own.banner["server"])
    assert own.violations() == []
