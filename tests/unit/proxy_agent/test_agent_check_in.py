"""What is answered to a host that announces itself, told as values: keys, forms, limits, rates."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from chargehand_proxy_agent.core import check_in
from chargehand_proxy_agent.core.check_in import Announcement, Answer, read_announcement, spend
from chargehand_proxy_agent.core.check_in_keys import PLACEHOLDER, filled, is_key_of, key_of, read_secrets
from chargehand_proxy_agent.core.facts import AgentFacts
from chargehand_proxy_agent.core.own_hosts import OwnHosts
from chargehand_schemas.catalog import HostChanged, HostRegistered, HostRemoved
from chargehand_schemas.commands import HostRecord
from chargehand_schemas.hosts import MAX_FACT_CHARACTERS, MAX_FACTS

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
HOST, OTHER = UUID(int=7), UUID(int=8)
NEW, OLD = bytes(range(32)), bytes(range(32, 64))
KEY = key_of(NEW, HOST)


def body(host: object = HOST, key: str = KEY, facts: str = "", first: str = "chargehand check-in 1") -> bytes:
    return f"{first}\nhost={host}\nkey={key}\n\n{facts}".encode()


def announcement(**more: str) -> Announcement:
    said = read_announcement(body(**more))
    assert isinstance(said, Announcement)
    return said


# --- keys


def test_a_key_is_good_for_one_host_of_one_proxy() -> None:
    assert len(KEY) == 64
    assert is_key_of((NEW,), HOST, KEY)
    assert not is_key_of((NEW,), OTHER, KEY)
    assert not is_key_of((OLD,), HOST, KEY)
    assert not is_key_of((), HOST, KEY)


def test_after_a_rotation_keys_of_older_secrets_are_still_good_and_new_ones_come_from_the_first() -> None:
    secrets = read_secrets(f"# rotated in November\n{NEW.hex()}\n\n{OLD.hex()}\n")
    assert secrets == (NEW, OLD)
    assert is_key_of(secrets, HOST, key_of(OLD, HOST))
    assert filled(f"say {PLACEHOLDER}", secrets, HOST) == f"say {HOST} {KEY}"


@pytest.mark.parametrize("text", ["", "# nothing\n", "abc\n", "0" * 63, "G" * 64, f"{NEW.hex()}\nshort\n", "AB" * 32])
def test_a_file_without_a_whole_secret_is_not_taken(text: str) -> None:
    assert isinstance(read_secrets(text), str)


def test_a_script_without_the_placeholder_is_left_as_it_is() -> None:
    assert filled("uptime", (NEW,), HOST) == ""
    assert filled(f"say {PLACEHOLDER}", (), HOST) == ""


# --- forms


def test_an_announcement_is_read_whole() -> None:
    said = announcement(facts="os=Debian GNU/Linux 12\nkernel.release=6.1=x\nempty=\n")
    assert (said.host_id, said.key, said.left_out) == (HOST, KEY, 0)
    assert said.facts == {"os": "Debian GNU/Linux 12", "kernel.release": "6.1=x", "empty": ""}
    assert announcement().facts == {}


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\n\n",
        b"chargehand check-in 1",
        body(first="chargehand check-in 2"),
        body(host="web1"),
        body(host=f"{{{HOST}}}"),
        body(host=str(HOST).upper().replace("0", "A")),
        body(key="12"),
        body(key=KEY.upper()),
        body(key="é" * 64),
        body() .replace(b"key=", b"key2="),
        body().replace(b"\n\n", b"\nadmin=1\n\n"),
        b"\xff\x00" * 600,
        b"{" * 2000,
    ],
)  # fmt: skip
def test_what_is_no_announcement_is_answered_with_how_one_looks(bad: bytes) -> None:
    answer = read_announcement(bad)
    assert isinstance(answer, Answer)
    assert answer.status == 400
    assert answer.words.startswith("malformed: ")


def test_an_announcement_that_is_too_large_is_not_read() -> None:
    answer = read_announcement(body(facts="a=b\n" * 20_000))
    assert isinstance(answer, Answer)
    assert answer.status == 413


def test_facts_are_bounded_and_what_is_none_is_left_out_and_told() -> None:
    many = "".join(f"f{n}={n}\n" for n in range(MAX_FACTS + 5))
    said = announcement(facts=f"Bad Name=1\nno equals sign\n-x=1\nlong={'é' * 2000}\n{many}")
    assert len(said.facts) == MAX_FACTS
    assert len(said.facts["long"]) == MAX_FACT_CHARACTERS
    assert said.left_out == 3 + 6
    assert "9 lines" in check_in.accepted(said).words


def test_hostile_facts_are_data_that_can_be_published() -> None:
    raw = (
        body() + b"escape=\x1b]0;owned\x07\nmarkup=<script>{{ 1 }}\nnul=\x00\nbroken=\xff\xfe\nsurrogate=\xed\xa0\x80\n"
    )
    said = read_announcement(raw)
    assert isinstance(said, Announcement)
    event = check_in.reported(said, NOON, facts())
    again = type(event).model_validate_json(event.model_dump_json())
    assert again.facts == said.facts
    assert again.facts["escape"] == "\x1b]0;owned\x07"


# --- refusals


def facts() -> AgentFacts:
    return AgentFacts(agent_id="a1", agent_boot_id=uuid4(), journal_id=uuid4(), proxy="dmz")


def test_only_who_has_the_key_is_told_whether_there_is_such_a_host() -> None:
    said = announcement(key=key_of(NEW, OTHER))
    for is_ours in (True, False):
        refused = check_in.objection(said, (NEW,), is_ours, "dmz")
        assert refused is not None
        assert refused.status == 403
    gone = check_in.objection(announcement(), (NEW,), False, "dmz")
    assert gone is not None
    assert gone.status == 410
    assert check_in.objection(announcement(), (NEW,), True, "dmz") is None


def test_the_rate_of_one_host_is_bounded_and_it_is_told_when_to_come_again() -> None:
    allowance, wait, at_s = None, timedelta(0), 100.0
    for _ in range(check_in.BURST):
        allowance, wait = spend(allowance, at_s)
        assert not wait
    allowance, wait = spend(allowance, at_s)
    assert wait == check_in.REFILL
    assert check_in.too_often(wait).retry_after_s == check_in.REFILL.total_seconds()
    assert spend(allowance, at_s + wait.total_seconds())[1] == timedelta(0)
    assert spend(allowance, at_s - 1000)[1] == wait, "a clock that stands still gives nothing"


# --- whose hosts


def event(
    model: type[HostRegistered] | type[HostChanged], version: int, proxy: str | None
) -> HostRegistered | HostChanged:
    return model(id=uuid4(), time=NOON, host_id=HOST, version=version, host=HostRecord(name="web1", proxy=proxy))


def test_hosts_of_the_proxy_are_those_that_name_it_and_by_default_those_that_name_none() -> None:
    ours, others = OwnHosts("dmz", "local"), OwnHosts("local", "local")
    for version, proxy, expected in ((1, "dmz", (True, False)), (2, None, (False, True)), (3, "lab", (False, False))):
        for hosts in (ours, others):
            hosts.fold(event(HostRegistered if version == 1 else HostChanged, version, proxy))
        assert (HOST in ours, HOST in others) == expected


def test_a_host_that_was_removed_is_nobodys_also_when_an_older_word_is_repeated() -> None:
    hosts = OwnHosts("dmz", "local")
    hosts.fold(event(HostRegistered, 1, "dmz"))
    assert HOST in hosts
    assert OTHER not in hosts
    hosts.fold(HostRemoved(id=uuid4(), time=NOON, host_id=HOST, version=2, name="web1"))
    hosts.fold(event(HostRegistered, 1, "dmz"))
    assert HOST not in hosts
