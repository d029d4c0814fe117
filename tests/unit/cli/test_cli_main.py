"""The door of the command line: how fast, which exit status, what an error looks like."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

CLIENT_MODULES = ("pydantic", "httpx", "rich", "aiokafka", "asyncssh")


def chargehand(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "chargehand", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(environment or {})},
        check=False,
    )


@pytest.fixture
def nowhere(tmp_path: Path) -> dict[str, str]:
    """An environment in which nothing was ever started."""
    return {"XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_DATA_HOME": str(tmp_path / "data"), "HOME": str(tmp_path)}


def test_help_comes_within_150_ms() -> None:
    """The best of ten: what else runs on the machine is not ours."""
    times = []
    for _ in range(10):
        began = time.monotonic()
        assert chargehand("--help").returncode == 0
        times.append(time.monotonic() - began)
        if times[-1] < 0.15:
            break
    assert min(times) < 0.15, f"{min(times) * 1000:.0f} ms"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["job", "--help"], ["up", "--help"], ["exec", "--help"], ["host", "import", "--help"]]
)
def test_help_imports_nothing_that_is_slow(arguments: list[str]) -> None:
    code = (
        "import sys; from chargehand.main import run; status = run(sys.argv[1:]); "
        f"print([name for name in {CLIENT_MODULES!r} if name in sys.modules]); sys.exit(status)"
    )
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[]"


def test_every_command_that_is_listed_has_a_help_of_its_own() -> None:
    from chargehand.commands import groups
    from chargehand.lazy import LazyGroup
    from chargehand.main import cli
    from click import Context

    assert isinstance(cli, LazyGroup)
    for name in cli.list_commands(Context(cli)):
        command = cli.get_command(Context(cli), name)
        assert command is not None
        assert command.help, name
    for group in (groups.job, groups.host, groups.proxy, groups.event, groups.config):
        assert isinstance(group, LazyGroup)
        for name in group.list_commands(Context(group)):
            inner = group.get_command(Context(group), name)
            assert inner is not None
            assert inner.help, name


@pytest.mark.parametrize(
    ("arguments", "meant"), [(["jbo"], "`job`"), (["job", "wacth"], "`watch`"), (["host", "imprt"], "`import`")]
)
def test_a_mistyped_verb_is_refused_with_what_was_meant(arguments: list[str], meant: str) -> None:
    result = chargehand(*arguments)
    assert result.returncode == 2
    assert f"Did you mean {meant}" in result.stderr
    assert result.stdout == ""


def test_an_error_is_three_lines_on_stderr(nowhere: dict[str, str]) -> None:
    result = chargehand("job", "list", environment=nowhere)
    assert result.returncode == 3
    assert result.stdout == ""
    what, why, do = result.stderr.splitlines()
    assert what.startswith("error: ")
    assert why.startswith("  why: ")
    assert do.startswith("  what to do: ")


def test_a_traceback_is_shown_only_when_asked_for(nowhere: dict[str, str]) -> None:
    assert "Traceback" not in chargehand("job", "list", environment=nowhere).stderr
    assert "Traceback" in chargehand("job", "list", "--debug", environment=nowhere).stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["exec", "--all", "--host", "web1", "--", "uptime"],
        ["exec", "--", "uptime"],
        ["exec", "--host", "web1", "--tries", "0", "--", "uptime"],
        ["job", "show"],
        ["--output", "xml", "status"],
        ["invoke", "x", "--input", "novalue", "--host", "a"],
        ["exec", "--host", "a", "--user", "app", "--effective-user-password", "--", "id"],
        ["exec", "--host", "a", "--user", "app", "--effective-user-password-file", "/no/such/file", "--", "id"],
        ["exec", "--host", "a", "--user", "app", "--effective-user-password-file", "/dev/null", "--", "id"],
    ],
)
def test_wrong_usage_exits_2_before_anything_is_asked(arguments: list[str], nowhere: dict[str, str]) -> None:
    assert chargehand(*arguments, environment=nowhere).returncode == 2


def test_a_server_that_is_not_there_exits_3(nowhere: dict[str, str]) -> None:
    result = chargehand("job", "list", "--server", "http://127.0.0.1:9", environment=nowhere)
    assert result.returncode == 3
    assert "cannot be reached" in result.stderr


def test_nothing_running_is_said_as_a_document(nowhere: dict[str, str]) -> None:
    result = chargehand("status", "--output", "json", environment=nowhere)
    assert result.returncode == 3
    document = json.loads(result.stdout)
    assert (document["status"], document["services"]) == ("stopped", [])


def test_config_show_says_who_said_so(nowhere: dict[str, str]) -> None:
    result = chargehand(
        "config", "show", "--origin", "--output", "json", environment={**nowhere, "CHARGEHAND_COLOR": "never"}
    )
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert rows["color"] == {"name": "color", "value": "never", "origin": "CHARGEHAND_COLOR in the environment"}
    assert rows["output"]["origin"] == "--output"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_printed(shell: str) -> None:
    result = chargehand("completion", shell)
    assert result.returncode == 0
    assert "_CHARGEHAND_COMPLETE" in result.stdout


def test_completion_offers_verbs_and_is_silent_where_no_server_is(nowhere: dict[str, str]) -> None:
    asked = {**nowhere, "_CHARGEHAND_COMPLETE": "bash_complete", "COMP_CWORD": "2"}
    verbs = chargehand(environment={**asked, "COMP_WORDS": "chargehand job "}).stdout
    assert {"plain,watch", "plain,cancel"} <= set(verbs.splitlines())
    result = chargehand(environment={**asked, "COMP_WORDS": "chargehand exec --host ", "COMP_CWORD": "3"})
    assert (result.returncode, result.stderr) == (0, "")


def test_an_inventory_with_a_mistake_exits_2_and_names_the_line(tmp_path: Path, nowhere: dict[str, str]) -> None:
    """`an unreadable inventory file`: nothing is imported, file and line are named."""
    file = tmp_path / "hosts.csv"
    file.write_text("name,port\nweb1,22\nweb2,99999\n")
    result = chargehand("host", "import", str(file), environment=nowhere)
    assert result.returncode == 2
    assert f"{file}:3: port '99999' cannot be taken" in result.stderr
