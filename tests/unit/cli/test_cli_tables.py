"""CSV and JSON lines: the columns, parameters, and what is wrong by file and line."""

import json

import pytest
from chargehand.inventory.hosts import Inventory
from chargehand.inventory.tables import parse_csv, parse_json_lines

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ1c3kgYmVlcyBtYWtlIGhvbmV5IGFsbCBkYXkg"


def problems(inventory: Inventory) -> list[str]:
    assert not inventory.hosts
    return [str(problem) for problem in inventory.problems]


def test_every_column_of_a_csv_becomes_what_it_says_and_any_other_a_parameter() -> None:
    text = (
        "name,address,port,user,identity_file,host_key,proxy,groups,rack\n"
        f'web1,10.0.0.1,2222,deploy,~/.ssh/id,{KEY},north,"web;prod",r 12\n'
        "web2,,,,,,,,\n"
    )
    first, second = parse_csv(text, "hosts.csv").hosts
    assert (first.name, first.address, first.port, first.user) == ("web1", "10.0.0.1", 2222, "deploy")
    assert (first.identity_file, first.host_keys, first.proxy) == ("~/.ssh/id", (KEY,), "north")
    assert (first.groups, first.parameters) == (("web", "prod"), {"rack": "r 12"})
    assert second.model_dump(exclude_defaults=True) == {"name": "web2"}


def test_a_quoted_cell_over_several_lines_does_not_shift_the_line_of_the_next_problem() -> None:
    text = 'name,note\nweb1,"one\ntwo\nthree"\nweb2,x\n-bad,x\n'
    assert problems(parse_csv(text, "f"))[0].startswith("f:6: name '-bad' cannot be taken")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "f: empty"),
        ("address\n10.0.0.1\n", "f:1: no column `name`"),
        ("name,name\n", "f:1: column 'name' stands twice"),
        ("name,\n", "f:1: a column without a name"),
        ("name,port\nweb1,99999\n", "f:2: port '99999' cannot be taken"),
        ("name,port\nweb1,ssh\n", "f:2: port 'ssh' cannot be taken"),
        ("name\nweb1\nweb 2\n", "f:3: name 'web 2' cannot be taken"),
        ("name,address\nweb1\n", "f:2: 1 cells, the heading has 2"),
        ("name,address\n,10.0.0.1\n", "f:2: no name"),
        ("name,identity_file\nweb1,-oProxyCommand=x\n", "f:2: identity_file"),
        ("name,proxy\nweb1,North\n", "f:2: proxy 'North' cannot be taken"),
        ('name\n"web1\n', "f:2: not CSV"),
    ],
)
def test_what_is_wrong_in_a_csv_is_said_with_its_line(text: str, wanted: str) -> None:
    assert problems(parse_csv(text, "f"))[0].startswith(wanted)


def test_a_name_that_stands_twice_names_both_lines() -> None:
    assert problems(parse_csv("name\nweb1\nweb2\nweb1\n", "f")) == ["f:4: host 'web1' stands already at f:2"]


def test_all_that_is_wrong_is_reported_at_once_and_nothing_imported() -> None:
    found = problems(parse_csv("name,port\nok,22\nweb1,0\nweb2,70000\nbad name,22\n", "f"))
    assert [line.split(":")[1] for line in found] == ["3", "4", "5"]


def test_json_lines_take_lists_and_keep_other_values_as_text() -> None:
    row = {
        "name": "web1",
        "port": 22,
        "groups": ["a", "b"],
        "host_key": KEY,
        "cpus": 8,
        "ssd": True,
        "tags": {"x": [1]},
    }
    (host,) = parse_json_lines(json.dumps(row) + "\n\n", "f").hosts
    assert (host.port, host.groups, host.host_keys) == (22, ("a", "b"), (KEY,))
    assert host.parameters == {"cpus": "8", "ssd": "true", "tags": '{"x":[1]}'}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"name":"a"}\n{"name":\n', "f:2: not JSON"),
        ('["a"]\n', "f:1: not a JSON object"),
        ('{"name":"a","name":"b"}\n', "f:1: not JSON: a name stands twice"),
        ('{"name":"a","x":NaN}\n', "f:1: not JSON: NaN"),
        ('{"name":"a"}\n{"name":"a"}\n', "f:2: host 'a' stands already at f:1"),
        ('{"address":"10.0.0.1"}\n', "f:1: no name"),
        ("[" * 100_000 + "\n", "f:1: not JSON"),
        ("", "f: empty"),
    ],
)
def test_what_is_wrong_in_json_lines_is_said_with_its_line(text: str, wanted: str) -> None:
    assert problems(parse_json_lines(text, "f"))[0].startswith(wanted)


def test_a_line_separator_within_a_json_string_is_no_line_end() -> None:
    (host,) = parse_json_lines('{"name":"a","note":"x\u2028y"}\n', "f").hosts
    assert host.parameters == {"note": "x\u2028y"}


def test_defaults_fill_what_the_file_leaves_open() -> None:
    inventory = parse_csv("name,proxy\na,north\nb,\n", "f").with_defaults(proxy="south", accept_new=True)
    assert [(host.proxy, host.accept_new) for host in inventory.hosts] == [("north", True), ("south", True)]
