"""Orders and observations for tests of providers: what most orders have in common, and what many observations come to."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import pairwise

from chargehand_proxy_agent.providers.port import (
    ConnectionLost,
    Ended,
    HostConnection,
    LookOrder,
    Observation,
    Output,
    StartOrder,
    Stream,
)


def start_order(script: str, **changes: object) -> StartOrder:
    """An order for a new attempt, issued now, with time enough for a slow machine."""
    order = StartOrder(
        job_task_id=str(uuid.uuid4()),
        attempt=1,
        lock_path="",
        script=script,
        not_after_in=timedelta(minutes=1),
        grace=timedelta(seconds=2),
    )
    return replace(order, **changes)  # type: ignore[arg-type]


def look_order(order: StartOrder, **changes: object) -> LookOrder:
    """A look at the attempt that a start order starts."""
    look = LookOrder(
        job_task_id=order.job_task_id,
        attempt=order.attempt,
        lock_path=order.lock_path,
        issued_ago=order.issued_ago,
        clock_margin=order.clock_margin,
        grace=order.grace,
        output_cap_bytes=order.output_cap_bytes,
        effective_user=order.effective_user,
        effective_user_method=order.effective_user_method,
    )
    return replace(look, **changes)  # type: ignore[arg-type]


def allowed() -> bool:
    """The agent's clock still allows the start."""
    return True


async def gather(observations: AsyncIterator[Observation]) -> list[Observation]:
    """All of them."""
    return [observation async for observation in observations]


async def start(connection: HostConnection, order: StartOrder) -> list[Observation]:
    return await gather(connection.start(order, allowed))


async def look(connection: HostConnection, order: LookOrder) -> list[Observation]:
    return await gather(connection.look(order))


def text_of(observations: Sequence[object], stream: Stream = "stdout") -> bytes:
    """The bytes of a stream, which must come in order and without a gap."""
    pieces = [one for one in observations if isinstance(one, Output) and one.stream == stream]
    for earlier, later in pairwise(pieces):
        assert later.offset == earlier.offset + len(earlier.data)
    return b"".join(piece.data for piece in pieces)


@dataclass(frozen=True)
class Outcome:
    """What most tests ask of a visit."""

    final: Observation
    stdout: bytes
    stderr: bytes

    @property
    def ended(self) -> Ended:
        assert isinstance(self.final, Ended), self.final
        return self.final

    @property
    def exit_status(self) -> int | None:
        return self.ended.exit_status


def outcome(observations: Sequence[Observation]) -> Outcome:
    assert observations, "an iterator that ends without a final observation"
    return Outcome(observations[-1], text_of(observations), text_of(observations, "stderr"))


async def follow(connection: HostConnection, order: StartOrder) -> Outcome:
    """Look again until the connection holds to the end, each time from where the bytes stopped. Gives them all together."""
    gathered: list[Observation] = []
    offsets: dict[Stream, int] = {"stdout": 0, "stderr": 0}
    while True:
        async for observation in connection.look(look_order(order, offsets=dict(offsets))):
            gathered.append(observation)
            if isinstance(observation, Output):
                offsets[observation.stream] = observation.offset + len(observation.data)
        if not isinstance(gathered[-1], ConnectionLost):
            return outcome(gathered)
