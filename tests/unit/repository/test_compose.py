"""docker-compose.yml without Docker: the Compose specification accepts it, and its commands, settings and files exist."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import generate
import pytest
import yaml
from chargehand.config import NAMES
from chargehand.main import cli
from compose_spec import PyCompose

ROOT = Path(__file__).resolve().parents[3]
# Variables that the images or libraries under ours read.
FOREIGN = {"KAFKA_HEAP_OPTS", "PGPASSFILE", "POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD_FILE"}
CLIENT = {f"CHARGEHAND_{name.upper()}" for name in NAMES}


def document() -> dict[str, Any]:
    """The file with its anchors merged, as Compose reads it."""
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return loaded


SERVICES: dict[str, dict[str, Any]] = document()["services"]
OURS = [name for name, service in SERVICES.items() if service.get("command", [""])[0] == "run"]


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `secrets` makes, by its own command."""
    folder = tmp_path_factory.mktemp("secrets")
    subprocess.run([sys.executable, ROOT / "deploy" / "prepare.py", folder], check=True)
    return folder


def test_the_compose_specification_accepts_it() -> None:
    compose = PyCompose.from_json(json.dumps(document()))
    compose.validate()
    assert set(compose.service_names()) == set(SERVICES)


def test_the_whole_of_it_is_there() -> None:
    assert {"kafka", "postgres", "client", "host-1", "host-2"} <= set(SERVICES)
    assert OURS == ["planner", "dispatcher", "proxy-agent", "reporter", "gateway"]


@pytest.mark.parametrize("name", OURS)
def test_every_command_exists(name: str) -> None:
    run = cli.get_command(click.Context(cli), "run")
    assert run is not None
    context = run.make_context("run", SERVICES[name]["command"][1:])
    assert context.params["service"] == name


@pytest.mark.parametrize("name", SERVICES)
def test_every_setting_exists(name: str) -> None:
    given = set(SERVICES[name].get("environment", {})) - FOREIGN
    known = CLIENT if name == "client" else generate.environment_names()
    assert given - known == set()


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_is_in_an_environment(name: str) -> None:
    for variable, value in SERVICES[name].get("environment", {}).items():
        assert not re.search(r"PASSWORD|TOKEN|SECRET", variable) or str(value).startswith("/secrets/")
        assert not re.search(r"://[^/@]*:[^/@]*@", str(value)), f"{variable} holds a password"


@pytest.mark.parametrize("name", SERVICES)
def test_every_stage_and_extra_exists(name: str) -> None:
    build = SERVICES[name].get("build")
    if build is None:
        assert re.search(r":\d", SERVICES[name]["image"])
        return
    dockerfile = (ROOT / build["context"] / build["dockerfile"]).read_text(encoding="utf-8")
    assert re.search(rf"^FROM \S+ AS {build['target']}$", dockerfile, flags=re.MULTILINE)
    assert set(build.get("args", {})) <= set(re.findall(r"^ARG (\w+)$", dockerfile, flags=re.MULTILINE))


def test_a_service_is_built_with_its_own_extra() -> None:
    extras = {name: SERVICES[name]["build"]["args"]["EXTRA"] for name in OURS}
    assert extras == {name: "reporter" if name == "gateway" else name for name in OURS}


@pytest.mark.parametrize("name", SERVICES)
def test_every_secret_that_is_named_is_made_and_private(name: str, secrets: Path) -> None:
    mounted = [volume for volume in SERVICES[name].get("volumes", []) if ":/secrets" in volume]
    named = set(re.findall(r"/secrets/([\w.-]+)", json.dumps(SERVICES[name])))
    if name in {"host-1", "host-2"}:
        named |= set(re.findall(r"/secrets/([\w.-]+)", (ROOT / "deploy" / "host").read_text(encoding="utf-8")))
    assert not named or mounted
    for file in named:
        path = secrets / name / file
        assert path.is_file()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_every_party_gets_its_volume_of_secrets_and_no_other() -> None:
    made = {volume.partition(":")[0]: volume.rpartition("/")[2] for volume in SERVICES["secrets"]["volumes"]}
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            if ":/secrets" in volume:
                assert made[volume.partition(":")[0]] == name


def test_preparing_again_keeps_everything(secrets: Path) -> None:
    before = {path: path.read_bytes() for path in secrets.rglob("*") if path.is_file()}
    subprocess.run([sys.executable, ROOT / "deploy" / "prepare.py", secrets], check=True)
    assert {path: path.read_bytes() for path in secrets.rglob("*") if path.is_file()} == before


def test_kafka_listens_for_the_other_containers_and_asks_for_credentials(secrets: Path) -> None:
    properties = (secrets / "kafka" / "server.properties").read_text(encoding="utf-8")
    bootstrap = SERVICES["planner"]["environment"]["CHARGEHAND_KAFKA_BOOTSTRAP"]
    assert f"\nadvertised.listeners=SASL_PLAINTEXT://{bootstrap}\n" in properties
    assert "\nlisteners=SASL_PLAINTEXT://0.0.0.0:9092,CONTROLLER://127.0.0.1:9093\n" in properties
    assert "PLAINTEXT:PLAINTEXT" not in properties.replace("SASL_PLAINTEXT:SASL_PLAINTEXT", "")


def test_only_the_gateway_is_published_and_on_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if service.get("ports")}
    assert published == {"gateway": ["127.0.0.1:7373:7373"]}


@pytest.mark.parametrize("name", OURS)
def test_a_service_is_ready_when_its_health_address_says_so(name: str) -> None:
    port = SERVICES[name]["environment"]["CHARGEHAND_HEALTH_PORT"]
    assert f":{port}/readyz" in " ".join(SERVICES[name]["healthcheck"]["test"])
