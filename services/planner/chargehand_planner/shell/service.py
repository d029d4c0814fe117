"""The planner as a process: settings, keys, store, topics, then relay, inbox and renderer until it is told to stop.

Owns the order in which parts are started and stopped.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from chargehand_chassis.clock import now
from chargehand_chassis.errors import FatalFailure
from chargehand_chassis.kafka import DeadLetters, KeyringFollower, Publisher, ensure_topics
from chargehand_chassis.keys import OwnKeys, load_keys, load_pinned_planner
from chargehand_chassis.runner import Context, calm_garbage_collector, run_service

from ..core import rights
from .binder import Binder
from .commands import Commands
from .first_facts import record_first_facts
from .gate import StoreGate
from .inbox import Inbox, Parts
from .observations import Observations
from .occurrences import Occurrences
from .own_log import OwnLog
from .relay import Relay
from .rendering.renderer import Renderer
from .settings import PlannerSettings
from .store import open_store

TIDY_EVERY = timedelta(hours=1)


def main() -> int:
    """Run the planner until it is told to stop; its exit status (chassis, runner.py)."""
    return run_service("planner", PlannerSettings, serve)


@dataclass(frozen=True, slots=True)
class _Planner:
    """The parts, started."""

    gate: StoreGate
    relay: Relay
    inbox: Inbox


async def serve(context: Context[PlannerSettings]) -> None:
    """Serve until `context.stopping`: then finish what was taken, publish what is stored, and return."""
    async with _started(context) as planner, asyncio.TaskGroup() as tasks:
        calm_garbage_collector()
        relaying = tasks.create_task(planner.relay.run(context.watch("relay").beat), name="relay")
        asides = [
            tasks.create_task(planner.relay.listen(), name="listen"),
            tasks.create_task(_tidy(planner.gate, context.settings), name="tidy"),
        ]
        await planner.inbox.run(
            context.stopping, context.watch("inbox").beat, lambda: context.health.set_ready(True, "reading")
        )
        context.health.set_ready(False, "stopping")
        planner.relay.finish()
        await relaying
        for task in asides:
            task.cancel()


@asynccontextmanager
async def _started(context: Context[PlannerSettings]) -> AsyncIterator[_Planner]:
    settings = context.settings
    undeclared = rights.undeclared()
    if undeclared:
        raise FatalFailure(f"commands that declare no right: {', '.join(undeclared)}")
    own_keys, pinned = load_keys(settings.key_file), load_pinned_planner(settings.planner_key_file)
    if pinned.kid != own_keys.kid:
        raise FatalFailure(f"{settings.planner_key_file} is not the public half of {settings.key_file}")
    async with AsyncExitStack() as stack:
        gate, proxies = await _opened(context, own_keys, stack)
        renderer = Renderer()
        stack.push_async_callback(renderer.stop)
        if not await renderer.start():
            context.log.warning("renderer_has_network", what_to_do="allow network namespaces to this process")
        publisher = Publisher(settings, own_keys, f"planner/{settings.instance}")
        stack.push_async_callback(publisher.stop)
        await publisher.start()
        follower = KeyringFollower(settings, pinned)
        stack.push_async_callback(follower.stop)
        await follower.start()
        parts = _parts(context.settings, gate, renderer, follower, own_keys)
        own_log = OwnLog(settings, gate, pinned)
        relay = Relay(gate, publisher, partial(ensure_topics, settings), own_log.compare, context.faults, proxies)
        await relay.check()
        yield _Planner(gate, relay, Inbox(settings, gate, follower, DeadLetters(publisher, "planner"), parts))


async def _opened(
    context: Context[PlannerSettings], own_keys: OwnKeys, stack: AsyncExitStack
) -> tuple[StoreGate, list[str]]:
    """The store with the facts every installation begins with, and the topics of all proxies it knows."""
    settings = context.settings
    store = await asyncio.to_thread(
        open_store, settings.data, settings.store_url, settings.store_schema, lease=settings.session_timeout
    )
    gate = StoreGate(store, context.faults)
    stack.callback(gate.close)
    await gate.ask(record_first_facts, store, settings, own_keys, now())
    proxies = sorted(await gate.ask(store.proxies))
    await ensure_topics(settings, proxies)
    return gate, proxies


def _parts(
    settings: PlannerSettings, gate: StoreGate, renderer: Renderer, follower: KeyringFollower, own_keys: OwnKeys
) -> Parts:
    return Parts(
        commands=Commands(gate, renderer, own_keys),
        binder=Binder(gate, renderer, own_keys, follower.keyring, settings.default_proxy),
        occurrences=Occurrences(gate, settings.default_proxy),
        observations=Observations(gate, settings.default_proxy),
    )


async def _tidy(gate: StoreGate, settings: PlannerSettings) -> None:
    while True:
        await gate.ask(gate.store.forget, now() - settings.keep_bindings)
        await asyncio.sleep(TIDY_EVERY.total_seconds())


if __name__ == "__main__":
    sys.exit(main())
