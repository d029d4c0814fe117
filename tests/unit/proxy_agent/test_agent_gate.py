"""A bound that those who only wait cannot fill."""

import asyncio
from datetime import timedelta

from chargehand_proxy_agent.providers.gate import Gate

NEVER = timedelta(hours=1)


async def test_no_more_than_its_number_are_in_it_at_once() -> None:
    gate, inside, most = Gate(asyncio.Semaphore(2), NEVER), 0, 0

    async def passes() -> None:
        nonlocal inside, most
        async with gate.entered():
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(passes() for _ in range(10)))
    assert most == 2


async def test_whoever_stays_too_long_makes_room_and_gives_it_back_only_once() -> None:
    slots = asyncio.Semaphore(1)
    gate, is_over = Gate(slots, timedelta(milliseconds=1)), asyncio.Event()

    async def stays() -> None:
        async with gate.entered():
            await is_over.wait()

    staying = [asyncio.create_task(stays()) for _ in range(5)]
    async with asyncio.timeout(5), gate.entered():
        is_over.set()
        await asyncio.gather(*staying)
    assert not slots.locked()
    await slots.acquire()
    assert slots.locked(), "five that stayed gave back one place, not five"
