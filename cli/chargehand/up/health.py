"""Asking a process on this machine how it is, in one small HTTP request. Owns the request; no HTTP library is imported for it."""

from __future__ import annotations

import asyncio

from chargehand_chassis.errors import NEEDS_A_PERSON

from .ports import LOOPBACK

_ASKED_WITHIN_S = 5.0
_FIRST_LOOK_S = 0.05
_LAST_LOOK_S = 0.5


async def ask(port: int, path: str) -> tuple[int, str] | None:
    """The status and the text of the answer; None if there is none."""
    try:
        async with asyncio.timeout(_ASKED_WITHIN_S):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            try:
                writer.write(f"GET {path} HTTP/1.0\r\nHost: {LOOPBACK}\r\n\r\n".encode())
                return _parse(await reader.read(65_536))
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return None


async def until_ready(port: int) -> str:
    """Returns when /readyz says 200: ""; or when it says that waiting does not help: why."""
    look_again_s = _FIRST_LOOK_S
    while True:
        answer = await ask(port, "/readyz")
        if answer is not None and answer[0] == 200:
            return ""
        if answer is not None and NEEDS_A_PERSON in answer[1]:
            return answer[1].partition(NEEDS_A_PERSON)[2]
        await asyncio.sleep(look_again_s)
        look_again_s = min(_LAST_LOOK_S, look_again_s * 1.2)


def _parse(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), body.decode("utf-8", "replace").strip()
