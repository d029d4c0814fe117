"""Key files, sealing, one-time tokens, fault points, migrations."""

import stat
from pathlib import Path

import pytest
from chargehand_chassis.errors import FatalFailure
from chargehand_chassis.keys import (
    enrolment_keys,
    generate_keys,
    load_keys,
    load_pinned_planner,
    new_enrolment_token,
    public_document,
    seal,
    verify,
)
from chargehand_chassis.sqlite import migrate, open_sqlite
from chargehand_schemas.reasons import Role


def test_keys_are_kept_in_a_file_of_their_owner(tmp_path: Path) -> None:
    made = generate_keys(tmp_path / "k.json")
    assert stat.S_IMODE((tmp_path / "k.json").stat().st_mode) == 0o600
    again = load_keys(tmp_path / "k.json")
    assert again.kid == made.kid
    assert verify(made.signing_public, b"data", again.sign(b"data"))
    assert not verify(made.signing_public, b"datA", again.sign(b"data"))
    assert again.unseal(seal(made.sealing_public, b"secret")) == b"secret"
    assert "seed" not in repr(again)


def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    generate_keys(tmp_path / "k.json")
    (tmp_path / "k.json").chmod(0o644)
    with pytest.raises(FatalFailure, match="chmod 600"):
        load_keys(tmp_path / "k.json")


def test_keys_are_never_made_over_others(tmp_path: Path) -> None:
    generate_keys(tmp_path / "k.json")
    with pytest.raises(FileExistsError):
        generate_keys(tmp_path / "k.json")


def test_what_is_sealed_to_another_key_is_no_secret_of_ours(tmp_path: Path) -> None:
    one, two = generate_keys(tmp_path / "1"), generate_keys(tmp_path / "2")
    with pytest.raises(ValueError, match="sealed"):
        one.unseal(seal(two.sealing_public, b"secret"))


def test_a_one_time_token_is_a_key_pair() -> None:
    token = new_enrolment_token()
    assert enrolment_keys(token).kid == enrolment_keys(f" {token}\n").kid
    with pytest.raises(ValueError, match="token"):
        enrolment_keys("cge_short")


def test_only_a_planners_key_can_be_pinned(tmp_path: Path) -> None:
    import json

    keys = generate_keys(tmp_path / "k")
    (tmp_path / "p.json").write_text(json.dumps(public_document(keys, Role.PLANNER, "planner")))
    assert load_pinned_planner(tmp_path / "p.json").kid == keys.kid
    (tmp_path / "p.json").write_text(json.dumps(public_document(keys, Role.AGENT, "planner")))
    with pytest.raises(FatalFailure, match="not planner"):
        load_pinned_planner(tmp_path / "p.json")


def test_migrations_run_once_and_a_newer_store_is_refused(tmp_path: Path) -> None:
    connection = open_sqlite(tmp_path / "s.db")
    migrate(connection, ["create table a (x)"])
    migrate(connection, ["create table a (x)", "create table b (x)"])
    assert connection.execute("pragma user_version").fetchone()[0] == 2
    assert stat.S_IMODE((tmp_path / "s.db").stat().st_mode) == 0o600
    with pytest.raises(FatalFailure, match="newer"):
        migrate(connection, ["create table a (x)"])
    connection.close()
