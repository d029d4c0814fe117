"""deploy/Dockerfile without Docker: what it copies is there, and what it installs installs, by the line that stands in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
EXTRAS = ("planner", "dispatcher", "proxy-agent", "reporter")
WEB_FRAMEWORKS = {"starlette", "uvicorn", "faust-streaming", "jinja2"}


def instructions() -> list[tuple[str, str]]:
    """(instruction, rest) in order, with continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text(encoding="utf-8"))
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def copied() -> list[str]:
    """Paths that are copied from the repository."""
    rests = [rest for word, rest in instructions() if word == "COPY" and not rest.startswith("--from")]
    return [path for rest in rests for path in rest.split()[:-1]]


def install_lines() -> list[str]:
    return [rest for word, rest in instructions() if word == "RUN" and re.search(r"\b(pip|uv) .*install", rest)]


@pytest.fixture(scope="module")
def build_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the Dockerfile copies, and nothing else."""
    folder = tmp_path_factory.mktemp("build")
    for name in copied():
        source, goal = ROOT / name, folder / name
        goal.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, goal, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, goal)
    return folder


def run_line(line: str, extra: str, folder: Path, environment: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """A RUN line as the image's shell would run it, in this folder, into this environment."""
    tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = {
        **os.environ,
        "EXTRA": extra,
        "VIRTUAL_ENV": str(environment),
        "UV_LINK_MODE": "copy",
        "UV_SYSTEM_CERTS": "1",
        "PATH": tools,
    }
    command = ["sh", "-c", " ".join((line, *options))]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)


def test_what_is_copied_is_there_and_let_through() -> None:
    let_in = {
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    assert copied() != []
    for path in copied():
        assert (ROOT / path).exists()
        assert path in let_in or path.partition("/")[0] in let_in


def test_the_tool_that_installs_is_the_one_that_was_tested() -> None:
    image = next(rest for word, rest in instructions() if word == "FROM" and rest.endswith(" AS uv"))
    pinned = re.search(r"^uv==(\S+)", (ROOT / "requirements-test.lock").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert pinned is not None
    assert image == f"ghcr.io/astral-sh/uv:{pinned[1]} AS uv"


def test_no_image_is_taken_at_whatever_version() -> None:
    stages = {rest.rpartition(" ")[2] for word, rest in instructions() if word == "FROM"}
    for word, rest in instructions():
        name = rest.split()[0]
        if word == "FROM" and name not in stages:
            assert re.search(r":[\w.-]*(\d|bookworm)", name), name
            assert not name.endswith(":latest")


def test_services_do_not_run_as_root() -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    service = text[text.index(" AS service") : text.index(" AS host")]
    assert re.search(r"^USER chargehand$", service, flags=re.MULTILINE)


@pytest.mark.parametrize("extra", EXTRAS)
def test_each_extra_can_be_installed_by_the_line_of_the_image(extra: str, build_folder: Path) -> None:
    for line in install_lines():
        done = run_line(line, extra, build_folder, Path(sys.prefix), "--dry-run --reinstall")
        assert done.returncode == 0, done.stderr
        wanted = set(re.findall(r"^ \+ ([a-z0-9-]+)", done.stderr, flags=re.MULTILINE))
        assert {"chargehand", "aiokafka", "click"} <= wanted
        assert extra in {"planner", "reporter"} or not wanted & WEB_FRAMEWORKS


def test_an_image_holds_a_working_command_line_and_no_more_than_it_needs(build_folder: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    for line in install_lines():
        done = run_line(line, "proxy-agent", build_folder, tmp_path / "venv")
        assert done.returncode == 0, done.stderr
    version = subprocess.run(
        [tmp_path / "venv/bin/chargehand", "--version"], capture_output=True, text=True, check=True
    )
    assert version.stdout.startswith("chargehand ")
    probe = "import asyncssh, importlib.util, sys; sys.exit(importlib.util.find_spec('starlette') is not None)"
    subprocess.run([tmp_path / "venv/bin/python", "-c", probe], check=True)


def test_a_changed_file_is_not_installed(build_folder: Path, tmp_path: Path) -> None:
    """The hashes of the lock are looked at: one digit changed, and nothing is installed."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    other = re.sub(r"(?<=--hash=sha256:)[0-9a-f]{8}", "0" * 8, lock)
    (tmp_path / "changed.lock").write_text(other, encoding="utf-8")
    for line in install_lines():
        changed = line.replace("--constraint requirements.lock", f"--constraint {tmp_path}/changed.lock", 1)
        done = run_line(changed, "dispatcher", build_folder, tmp_path / "venv")
        assert done.returncode != 0
        assert "Hash mismatch" in done.stderr
    assert not (tmp_path / "venv/bin/chargehand").exists()


def test_the_shell_scripts_of_the_images_can_be_read_by_sh() -> None:
    for path in (ROOT / "deploy").iterdir():
        if path.read_bytes().startswith(b"#!/bin/sh"):
            assert path.stat().st_mode & 0o111
            subprocess.run(["sh", "-n", path], check=True)
