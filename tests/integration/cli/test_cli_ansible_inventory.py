"""ansible-inventory as a process: what it reads becomes hosts, what it cannot read is named, and it is held to limits."""

import os
from datetime import timedelta
from pathlib import Path

import pytest
from chargehand.inventory import reading
from chargehand.inventory.hosts import Inventory
from chargehand.inventory.reading import detect, read_inventory

INI = """
[web]
web[01:03] ansible_port=2222 http_port=80
[db]
db1 ansible_host=10.0.0.9 ansible_user=postgres ansible_password=secret
[prod:children]
web
db
[prod:vars]
env=prod
"""


@pytest.fixture
def real() -> None:
    if reading._find_command() is None:
        pytest.skip("ansible-inventory is not installed: uv pip install ansible-core")


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in the place of ansible-inventory, written by the test."""
    program = tmp_path / "bin" / "ansible-inventory"
    program.parent.mkdir()
    program.touch(0o755)
    monkeypatch.setattr(reading, "_find_command", lambda: str(program))
    return program


def problem(inventory: Inventory) -> str:
    assert not inventory.hosts
    (found,) = inventory.problems
    return str(found)


@pytest.mark.usefixtures("real")
def test_what_ansible_reads_is_imported(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text(INI)
    assert detect(str(file)) == "ansible"
    hosts = {host.name: host for host in read_inventory(str(file)).hosts}
    assert sorted(hosts) == ["db1", "web01", "web02", "web03"]
    assert (hosts["web02"].port, hosts["web02"].parameters) == (2222, {"http_port": "80", "env": "prod"})
    assert (hosts["db1"].address, hosts["db1"].user, hosts["db1"].groups) == ("10.0.0.9", "postgres", ("db", "prod"))
    assert "secret" not in hosts["db1"].model_dump_json()


@pytest.mark.usefixtures("real")
def test_a_template_in_an_inventory_is_not_evaluated(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    file = tmp_path / "hosts.yml"
    file.write_text(f"all:\n  hosts:\n    web1:\n      motd: \"{{{{ lookup('pipe', 'touch {witness}') }}}}\"\n")
    (host,) = read_inventory(str(file)).hosts
    assert host.parameters["motd"].startswith("{{ lookup")
    assert not witness.exists()


@pytest.mark.usefixtures("real")
def test_a_mistake_in_yaml_is_named_by_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "hosts.yml"
    file.write_text("all:\n  hosts:\n    web1\n      ansible_host: x\n")
    assert problem(read_inventory(str(file))).startswith(f"{file}:4: YAML parsing failed")


@pytest.mark.usefixtures("real")
def test_what_no_plugin_reads_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "hosts.ini"
    file.write_text("[web\nfoo\n")
    assert "ansible-inventory cannot read it" in problem(read_inventory(str(file)))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert problem(read_inventory(str(tmp_path / "no.yml"))).endswith("No such file or directory")
    assert problem(read_inventory(str(tmp_path / "no.csv"))).endswith("No such file or directory")


def test_without_ansible_the_way_to_get_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_find_command", lambda: None)
    file = tmp_path / "hosts.yml"
    file.write_text("all:\n")
    assert "install ansible-core" in problem(read_inventory(str(file)))


def test_one_that_never_ends_is_ended(stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "ANSIBLE_WITHIN", timedelta(seconds=1))
    stand_in.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nsleep 600\n")
    (tmp_path / "hosts.yml").touch()
    assert "did not end within 1 s" in problem(read_inventory(str(tmp_path / "hosts.yml")))
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_one_that_prints_without_end_is_ended(stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_LISTING_BYTES", 1024 * 1024)
    stand_in.write_text("#!/bin/sh\nexec cat /dev/zero\n")
    (tmp_path / "hosts.yml").touch()
    assert "printed more than 1048576 bytes" in problem(read_inventory(str(tmp_path / "hosts.yml")))


def test_what_it_warns_of_becomes_a_note(stand_in: Path, tmp_path: Path) -> None:
    stand_in.write_text(
        '#!/bin/sh\necho "[WARNING]: old plugin" >&2\necho \'{"_meta": {"hostvars": {"web1": {"x": 1}}}}\'\n'
    )
    (tmp_path / "hosts.yml").touch()
    inventory = read_inventory(str(tmp_path / "hosts.yml"))
    assert [host.name for host in inventory.hosts] == ["web1"]
    assert inventory.notes == ("[WARNING]: old plugin",)


@pytest.mark.parametrize(
    ("name", "text", "format"),
    [
        ("x.csv", "", "csv"),
        ("x.jsonl", "", "jsonl"),
        ("x.ndjson", "", "jsonl"),
        ("x.yaml", "", "ansible"),
        ("config", "# mine\nHost web1\n  Port 22\n", "ssh-config"),
        ("hosts", "[web]\nweb1\n", "ansible"),
        ("hosts", "name,address\nweb1,10.0.0.1\n", "csv"),
        ("hosts", '{"name": "web1"}\n', "jsonl"),
        ("inventory", "#!/usr/bin/env python3\n", "ansible"),
        ("list", "web1\nweb2\n", "ansible"),
    ],
)
def test_the_format_is_seen_by_ending_or_content(tmp_path: Path, name: str, text: str, format: str) -> None:
    (tmp_path / name).write_text(text)
    assert detect(str(tmp_path / name)) == format


def test_an_ssh_configuration_is_read_with_what_it_includes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh" / "conf.d").mkdir(parents=True)
    (tmp_path / ".ssh" / "config").write_text("Include conf.d/*\nHost web1\n  HostName 10.0.0.1\n")
    (tmp_path / ".ssh" / "conf.d" / "a").write_text("Host web2\n  HostName 10.0.0.2\n")
    hosts = read_inventory("~/.ssh/config").hosts
    assert [(host.name, host.address) for host in hosts] == [("web2", "10.0.0.2"), ("web1", "10.0.0.1")]


def test_a_file_that_is_not_utf_8_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "hosts.csv").write_bytes(b"name\nweb1\nw\xe9b\n")
    assert problem(read_inventory(str(tmp_path / "hosts.csv"))) == f"{tmp_path}/hosts.csv:3: not UTF-8: byte 0xe9"
