"""The data directory: what may become one, what stands in it, and that only one supervisor holds it."""

import json
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from chargehand.embedded.processes import own_mark
from chargehand.errors import CommandError, ExitStatus
from chargehand.up.credentials import make_keys, make_token
from chargehand.up.layout import DataDirectory
from chargehand.up.programs import inherited, service_programs
from chargehand.up.state import ChildState, Lock, UpState, load_state, save_state
from chargehand_chassis.keys import load_keys, load_pinned_planner, writer_of
from chargehand_schemas.reasons import Role


@pytest.fixture
def data(tmp_path: Path) -> DataDirectory:
    directory = DataDirectory(tmp_path / "data")
    assert directory.make()
    return directory


def test_everything_in_it_is_for_its_owner_only(data: DataDirectory) -> None:
    make_keys(data)
    make_token(data, "http://127.0.0.1:8757")
    for path in (data.root, *data.root.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_directory_with_other_files_is_never_taken_over(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    mode = tmp_path.stat().st_mode
    with pytest.raises(CommandError, match="cannot be a data directory"):
        DataDirectory(tmp_path).make()
    assert tmp_path.stat().st_mode == mode
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_settings_may_be_there_before_the_first_start(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text('[reporter]\nstall_after = "30s"\n')
    assert DataDirectory(tmp_path).make()


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(CommandError, match="cannot be a data directory"):
        DataDirectory(tmp_path / "x").make()


def test_a_second_start_finds_the_same_installation_and_keys(data: DataDirectory) -> None:
    make_keys(data)
    installation, kid = data.installation(), load_keys(data.key_of("planner")).kid
    assert not data.make()
    make_keys(data)
    assert (data.installation(), load_keys(data.key_of("planner")).kid) == (installation, kid)


def test_the_public_halves_of_all_keys_are_handed_to_the_planner(data: DataDirectory) -> None:
    make_keys(data)
    writers = [writer_of(row) for row in json.loads(data.trusted_keys.read_text())]
    assert {writer.role for writer in writers} == {
        Role.PLANNER, Role.DISPATCHER, Role.REPORTER, Role.GATEWAY, Role.AGENT,
    }  # fmt: skip
    assert load_pinned_planner(data.planner_key).kid == load_keys(data.key_of("planner")).kid
    seeds = json.loads(data.key_of("planner").read_text())["signing_seed"]
    assert seeds not in data.trusted_keys.read_text()


def test_the_token_is_kept_until_half_of_its_life_is_over(data: DataDirectory) -> None:
    noon = datetime(2026, 11, 24, 12, tzinfo=UTC)
    token = make_token(data, "http://a", noon)
    assert make_token(data, "http://b", noon + timedelta(days=100)) == token
    assert json.loads(data.client.read_text())["server"] == "http://b"
    assert make_token(data, "http://b", noon + timedelta(days=200)) != token
    assert token not in data.admin.read_text()


def test_only_one_holds_the_lock(data: DataDirectory) -> None:
    first, second = Lock(data.lock), Lock(data.lock)
    assert first.take()
    assert not second.take()
    first.release()
    assert second.take()
    second.release()


def test_what_runs_is_read_back_and_a_damaged_file_is_nothing(data: DataDirectory) -> None:
    me = own_mark()
    state = UpState(me.pid, me.began, "ready", "http://a", {}, (ChildState("planner", me.pid, "then"),))
    save_state(data, state)
    assert load_state(data) == state
    assert state.is_running()
    assert state.left_behind() == ()  # the number is in use, and by another process than then
    data.state.write_text("{")
    assert load_state(data) is None


def test_services_are_told_nothing_secret_and_nothing_of_the_clients(data: DataDirectory) -> None:
    make_keys(data)
    token = make_token(data, "http://a")
    environment = {
        **os.environ,
        "CHARGEHAND_TOKEN": "t0ken",
        "AWS_SECRET_ACCESS_KEY": "s3cret",
        "CHARGEHAND_LOG_LEVEL": "debug",
    }
    programs = service_programs(data, 8757, environment)
    assert [program.name for program in programs] == ["planner", "dispatcher", "proxy-agent", "reporter", "gateway"]
    for program in programs:
        told = "\n".join([*program.argv, *program.environment.values()])
        assert not any(secret in told for secret in (token, "t0ken", "s3cret"))
        assert program.environment["CHARGEHAND_LOG_LEVEL"] == "debug"
        assert program.environment["CHARGEHAND_PARENT_PID"] == str(os.getpid())
    assert len({program.health_port for program in programs}) == 5


def test_settings_of_one_service_stand_in_a_file(data: DataDirectory) -> None:
    data.settings.write_text('[dispatcher]\nfault_point = "after_claim"\nlog_level = "debug"\n')
    by_name = {program.name: program for program in service_programs(data, 8757, {"PATH": "/bin"})}
    assert by_name["dispatcher"].environment["CHARGEHAND_FAULT_POINT"] == "after_claim"
    assert "CHARGEHAND_FAULT_POINT" not in by_name["planner"].environment
    data.settings.write_text("[dispatchr]\n")
    with pytest.raises(CommandError) as caught:
        service_programs(data, 8757, {})
    assert "[dispatchr] is no service" in caught.value.why
    assert caught.value.status is ExitStatus.REFUSED


def test_what_a_service_needs_of_our_environment_goes_on_to_it() -> None:
    given = {"PATH": "/bin", "LC_ALL": "C", "SSH_AUTH_SOCK": "/s", "EDITOR": "vi", "CHARGEHAND_SERVER": "http://x"}
    assert inherited(given) == {"PATH": "/bin", "LC_ALL": "C", "SSH_AUTH_SOCK": "/s"}
