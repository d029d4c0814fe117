"""Where a setting comes from: flag, environment, context, default; and which server and token follow from it."""

import json
from pathlib import Path

import pytest
from chargehand.config import Rank, find_server, resolve
from chargehand.errors import CommandError, ExitStatus


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_DATA_HOME": str(tmp_path / "data")}


def write_config(home: dict[str, str], text: str) -> Path:
    path = Path(home["XDG_CONFIG_HOME"]) / "chargehand" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def write_client(home: dict[str, str]) -> None:
    path = Path(home["XDG_DATA_HOME"]) / "chargehand" / "client.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"server": "http://127.0.0.1:8757", "token": "local-token"}))


def test_a_flag_wins_over_the_environment_and_that_over_the_context(home: dict[str, str]) -> None:
    path = write_config(home, 'current = "a"\n[contexts.a]\noutput = "json"\n')
    assert resolve({}, home)["output"] == "json"
    assert resolve({}, home | {"CHARGEHAND_OUTPUT": "jsonl"})["output"] == "jsonl"
    assert resolve({"output": "table"}, home | {"CHARGEHAND_OUTPUT": "jsonl"})["output"] == "table"
    rows = resolve({}, home | {"CHARGEHAND_COLOR": "never"}).rows
    assert rows["output"].origin == f"context 'a' in {path}"
    assert rows["color"].origin == "CHARGEHAND_COLOR in the environment"
    assert rows["data"].rank is Rank.DEFAULT


def test_a_context_is_chosen_by_flag_environment_or_the_file(home: dict[str, str]) -> None:
    write_config(home, 'current = "a"\n[contexts.a]\nserver = "http://a"\n[contexts.b]\nserver = "http://b"\n')
    assert resolve({}, home)["server"] == "http://a"
    assert resolve({}, home | {"CHARGEHAND_CONTEXT": "b"})["server"] == "http://b"
    assert resolve({"context": "a"}, home | {"CHARGEHAND_CONTEXT": "b"})["server"] == "http://a"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('current = "nope"\n', "`current` in"),
        ('current = "a"\n[contexts.a]\nservre = "x"\n', "it has servre, which is no setting"),
        ("current = ", "Invalid"),
        ('current = "a"\n[contexts.a]\noutput = "xml"\n', "context 'a'"),
    ],
)
def test_a_contexts_file_with_a_mistake_is_an_error_that_names_it(home: dict[str, str], text: str, why: str) -> None:
    write_config(home, text)
    with pytest.raises(CommandError) as caught:
        resolve({}, home)
    assert why in caught.value.why
    assert caught.value.status is ExitStatus.REFUSED


def test_without_a_server_it_is_that_of_the_data_directory_with_its_token(home: dict[str, str]) -> None:
    write_client(home)
    server = find_server(resolve({}, home), home)
    assert (server.url, server.token) == ("http://127.0.0.1:8757", "local-token")
    assert "default" in server.origin
    assert "local-token" not in repr(server)


def test_where_nothing_was_started_the_error_says_so_and_exits_3(home: dict[str, str]) -> None:
    with pytest.raises(CommandError) as caught:
        find_server(resolve({}, home), home)
    assert caught.value.status is ExitStatus.UNREACHABLE
    assert "chargehand up" in caught.value.do


def test_the_token_of_this_machine_is_never_sent_to_a_server_that_was_named(home: dict[str, str]) -> None:
    write_client(home)
    server = find_server(resolve({"server": "https://elsewhere.example.com/"}, home), home)
    assert (server.url, server.token) == ("https://elsewhere.example.com", "")


def test_a_data_directory_named_by_flag_wins_over_a_server_in_the_environment(home: dict[str, str]) -> None:
    write_client(home)
    data = str(Path(home["XDG_DATA_HOME"]) / "chargehand")
    environment = home | {"CHARGEHAND_SERVER": "http://elsewhere"}
    assert find_server(resolve({}, environment), environment).url == "http://elsewhere"
    assert find_server(resolve({"data": data}, environment), environment).url == "http://127.0.0.1:8757"


def test_a_token_comes_from_the_environment_or_a_file(home: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-file\n")
    flags = {"server": "http://a", "token_file": str(file)}
    assert find_server(resolve(flags, home), home).token == "from-file"
    environment = home | {"CHARGEHAND_TOKEN": "from-environment"}
    assert find_server(resolve(flags, environment), environment).token == "from-environment"


def test_what_is_no_url_is_no_server(home: dict[str, str]) -> None:
    with pytest.raises(CommandError, match="is no server"):
        find_server(resolve({"server": "elsewhere:8757"}, home), home)
