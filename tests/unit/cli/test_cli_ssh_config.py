"""ssh configurations: which names are hosts, and whose value counts (ssh_config(5))."""

from collections.abc import Sequence
from fnmatch import fnmatch

import pytest
from chargehand.inventory.hosts import Inventory
from chargehand.inventory.ssh_config import matches, parse_ssh_config


class Texts:
    """Files that are nowhere but in a test."""

    def __init__(self, texts: dict[str, str]) -> None:
        self._texts = texts

    def included(self, pattern: str) -> Sequence[str]:
        return sorted(path for path in self._texts if fnmatch(path, pattern))

    def read(self, path: str) -> str:
        if path not in self._texts:
            raise FileNotFoundError(path)
        return self._texts[path]


def read(text: str, **others: str) -> Inventory:
    return parse_ssh_config(
        "config", Texts({"config": text, **{f"conf.d/{name}": text for name, text in others.items()}})
    )


def fields(inventory: Inventory, name: str) -> dict[str, object]:
    assert not inventory.problems
    (host,) = [host for host in inventory.hosts if host.name == name]
    return host.model_dump(exclude_defaults=True, exclude={"name"})


def test_concrete_names_are_hosts_and_patterns_are_not() -> None:
    inventory = read("Host web1 web2 *.example.com !web3 db?\n  User deploy\nHost *\n  Port 22\n")
    assert [host.name for host in inventory.hosts] == ["web1", "web2"]


def test_the_first_value_counts() -> None:
    text = "Host web1\n  User first\nHost web*\n  User second\n  Port 2222\nHost *\n  Port 22\n"
    assert fields(read(text), "web1") == {"user": "first", "port": 2222}


def test_values_before_any_host_count_for_all_and_first() -> None:
    assert fields(read("User root\nHost web1\n  User deploy\n"), "web1") == {"user": "root"}


def test_a_negated_pattern_takes_the_name_out() -> None:
    text = "Host web1 web2\nHost web* !web2\n  User deploy\n"
    assert fields(read(text), "web1") == {"user": "deploy"}
    assert fields(read(text), "web2") == {}


@pytest.mark.parametrize(
    "line", ["HostName=%h.example.com", 'hostname "%h.example.com"', "HOSTNAME = %h.example.com # no"]
)
def test_keywords_quotes_and_the_sign_between_are_as_ssh_reads_them(line: str) -> None:
    assert fields(read(f"Host web1\n\t{line}\n"), "web1") == {"address": "web1.example.com"}


def test_an_identity_file_with_a_blank_is_one_path() -> None:
    assert fields(read('Host a\n  IdentityFile "~/my keys/id"\n'), "a") == {"identity_file": "~/my keys/id"}


def test_includes_are_read_by_glob_in_order_and_under_the_host_they_stand_in() -> None:
    inventory = read(
        "Include conf.d/*\nHost web1\n  Include conf.d/under\n  User late\n",
        a="Host web1\n  User early\n",
        b="Host web2\n",
        under="Port 2222\n",
    )
    assert fields(inventory, "web1") == {"user": "early", "port": 2222}
    assert fields(inventory, "web2") == {"port": 2222}  # conf.d/* includes `under` also where no Host stands above


def test_after_an_include_the_host_above_it_counts_again() -> None:
    inventory = read("Host web1\n  Include conf.d/a\n  User deploy\n", a="Host other\n  User other\n")
    assert fields(inventory, "web1") == {"user": "deploy"}


def test_files_that_include_each_other_are_reported_with_the_circle() -> None:
    inventory = read("Include conf.d/a\n", a="Include config\n")
    assert [str(problem) for problem in inventory.problems] == [
        "config: includes itself: config includes conf.d/a includes config"
    ]
    assert not inventory.hosts


def test_match_is_left_out_with_a_note() -> None:
    inventory = read(
        "Host web1\n  User deploy\nMatch exec true\n  User evil\n  Include conf.d/a\nHost web2\n  User two\n",
        a="Host x\n",
    )
    assert [host.name for host in inventory.hosts] == ["web1", "web2"]
    assert fields(inventory, "web2") == {"user": "two"}
    assert inventory.notes == ("config:3: what stands under `Match` is left out; the proxy's own ssh honours it",)


@pytest.mark.parametrize("line", ["ProxyJump bastion", "ProxyCommand nc %h %p"])
def test_a_host_behind_a_jump_keeps_its_alias_and_leaves_the_rest_to_the_proxys_ssh(line: str) -> None:
    inventory = read(f"Host inner\n  HostName 10.0.0.5\n  User deploy\n  {line}\n")
    assert fields(inventory, "inner") == {}
    assert "inner: proxy" in inventory.notes[0]


def test_no_jump_at_all_is_no_jump() -> None:
    assert fields(read("Host a\n  ProxyJump none\n  Port 23\n"), "a") == {"port": 23}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Host a\n  Port 99999\n", "config:1: port '99999' cannot be taken"),
        ('Host a\n  HostName "open\n', "config:2: not a line of ssh_config"),
        ("Host *\n  User x\n", "config: no concrete name"),
        ("", "config: no concrete name"),
        ("{ no config }\n", "config:1: not a line of ssh_config"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, wanted: str) -> None:
    assert str(read(text).problems[0]).startswith(wanted)


def test_a_bracket_in_a_pattern_is_an_ordinary_character() -> None:
    assert matches("web[1]", ("web[1]",))
    assert not matches("web1", ("web[1]",))


def test_ten_thousand_hosts_are_read_in_a_moment() -> None:
    text = (
        "".join(f"Host h{n}\n  HostName 10.0.{n // 250}.{n % 250}\n  User u\n" for n in range(10_000))
        + "Host *\n  Port 22\n"
    )
    assert len(read(text).hosts) == 10_000
