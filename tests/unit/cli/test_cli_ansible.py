"""What `ansible-inventory --list` printed: hosts, groups, variables; data only."""

import json
from typing import Any

import pytest
from chargehand.inventory.ansible import explain, parse_listing
from chargehand.inventory.hosts import Inventory


def parse(hostvars: dict[str, Any], **groups: Any) -> Inventory:
    return parse_listing(json.dumps({"_meta": {"hostvars": hostvars}, **groups}).encode(), "hosts")


def test_connection_variables_become_fields_and_simple_ones_parameters() -> None:
    inventory = parse(
        {
            "web1": {
                "ansible_host": "10.0.0.1",
                "ansible_port": 2222,
                "ansible_user": "deploy",
                "ansible_ssh_private_key_file": "~/.ssh/id",
                "http_port": 80,
                "ssd": True,
                "role": "front",
            }
        }
    )
    (host,) = inventory.hosts
    assert (host.address, host.port, host.user, host.identity_file) == ("10.0.0.1", 2222, "deploy", "~/.ssh/id")
    assert host.parameters == {"http_port": "80", "ssd": "true", "role": "front"}


def test_passwords_and_other_settings_of_ansible_are_not_taken_over() -> None:
    (host,) = parse({"web1": {"ansible_password": "secret", "ansible_become_pass": "secret", "x": "1"}}).hosts
    assert host.parameters == {"x": "1"}
    assert "secret" not in host.model_dump_json()


def test_groups_are_those_of_the_host_and_all_above_them() -> None:
    inventory = parse(
        {},
        all={"children": ["prod", "ungrouped"]},
        prod={"children": ["web"]},
        web={"hosts": ["web1"]},
        ungrouped={"hosts": ["lone"]},
    )
    assert {host.name: host.groups for host in inventory.hosts} == {"web1": ("prod", "web"), "lone": ()}


def test_groups_in_a_circle_end() -> None:
    inventory = parse({}, a={"children": ["b"], "hosts": ["h"]}, b={"children": ["a"]})
    assert inventory.hosts[0].groups == ("a", "b")


def test_a_template_stays_text_and_is_never_rendered() -> None:
    (host,) = parse({"web1": {"motd": "{{ lookup('pipe', 'id') }}"}}).hosts
    assert host.parameters == {"motd": "{{ lookup('pipe', 'id') }}"}


def test_a_template_where_an_address_is_wanted_is_a_problem() -> None:
    inventory = parse({"web1": {"ansible_host": "{{ ip }}"}})
    assert str(inventory.problems[0]) == (
        "hosts: host 'web1': ansible_host is a template, and templates in an inventory are not evaluated"
    )


def test_what_is_no_simple_value_is_left_out_with_a_note() -> None:
    inventory = parse({"a": {"disks": [1], "pw": {"__ansible_vault": "$ANSIBLE_VAULT;…"}}, "b": {"disks": [2]}})
    assert [host.parameters for host in inventory.hosts] == [{}, {}]
    assert inventory.notes == (
        "variable 'disks' of 2 hosts is left out: no simple value, or too long",
        "variable 'pw' of 1 host is left out: no simple value, or too long",
    )


def test_text_that_ansible_marks_as_unsafe_is_text() -> None:
    (host,) = parse({"a": {"x": {"__ansible_unsafe": "{{ y }}"}}}).hosts
    assert host.parameters == {"x": "{{ y }}"}


@pytest.mark.parametrize("document", [b"", b"[]", b"not json", b"{}", b'{"_meta": {"hostvars": {}}}', b"[" * 100_000])
def test_what_is_no_listing_is_a_problem(document: bytes) -> None:
    inventory = parse_listing(document, "hosts")
    assert not inventory.hosts
    assert inventory.problems[0].file == "hosts"


def test_file_and_line_are_taken_from_what_ansible_says() -> None:
    errors = (
        "[WARNING]: Failed to parse inventory with 'auto' plugin: YAML parsing failed.\n\n<<< caused by >>>\n\n"
        "YAML parsing failed: Mapping values are not allowed in this context.\nOrigin: /tmp/hosts.yml:4:19\n"
    )
    assert str(explain(errors, "hosts.yml")) == (
        "/tmp/hosts.yml:4: YAML parsing failed: Mapping values are not allowed in this context."
    )


def test_without_a_line_its_warnings_are_given() -> None:
    assert "no such plugin" in explain("[ERROR]: no such plugin\n", "hosts").what
    assert explain("", "hosts").what.endswith("it does not say why")
