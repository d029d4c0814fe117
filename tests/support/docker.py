"""Whether a Docker engine answers: the client may be there without one. Owns the question, which takes at most 2 seconds."""

from __future__ import annotations

from concurrent.futures import Future
from functools import cache
from importlib import import_module
from threading import Thread

_WITHIN_S = 2.0


@cache
def docker_answers() -> bool:
    """Whether containers can be started. Asked in a thread of its own: an engine behind a dead address may hold a
    connection for longer than any time-out of the client's."""
    answer: Future[bool] = Future()
    Thread(target=_ask, args=(answer,), name="asks docker", daemon=True).start()
    try:
        return answer.result(_WITHIN_S)
    except TimeoutError:
        return False


def _ask(answer: Future[bool]) -> None:
    docker = import_module("docker")
    try:
        client = docker.from_env(timeout=1, version="1.41")
        answer.set_result(bool(client.ping()))
        client.close()
    except (docker.errors.DockerException, OSError):
        answer.set_result(False)
