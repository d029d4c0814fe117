"""The proxy agent as a process: what it is made of, in which order that starts and stops.

Owns wiring. What happens to attempts is in the core; how effects are carried out is in attempts.py.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from uuid import uuid4

from chargehand_chassis.clock import now
from chargehand_chassis.errors import PublishFailed, TransientFailure
from chargehand_chassis.kafka import DeadLetters, KeyringFollower, Publisher, topics_ready
from chargehand_chassis.keys import load_pinned_planner
from chargehand_chassis.runner import Context, calm_garbage_collector, run_service
from chargehand_schemas.keyring import Writer

from ..core.facts import AgentFacts
from ..core.output import OutputLimits
from ..core.own_hosts import OwnHosts
from ..core.policy import Policy
from ..providers.port import Provider
from .attempts import Attempts
from .check_in_endpoint import Endpoint
from .check_in_secrets import own_secrets
from .check_ins import CheckIns
from .commands import Commands, topics_of
from .enrolment import own_keys, own_writer
from .journal import Journal
from .offers import make_providers
from .outbox import Outbox
from .presence import Presence
from .reachability import Reachability
from .settings import AgentSettings

NAME = "proxy-agent"
PRUNE_EVERY_S = 60.0
HOST_NOUNS = ("host",)
FLUSH_WITHIN_S = 6.0
DESCRIPTORS = 65_536


def main() -> int:
    """Run the agent with the settings of the environment; the exit status."""
    return run_service(NAME, AgentSettings, serve)


async def serve(context: Context[AgentSettings]) -> None:
    """Be an agent until the process is to stop."""
    settings = context.settings
    _take_descriptors()
    with _only_one(settings.data):
        async with AsyncExitStack() as stack:
            await _run(context, stack)


async def _run(context: Context[AgentSettings], stack: AsyncExitStack) -> None:
    settings = context.settings
    keys = own_keys(settings)
    journal = Journal(settings.data / "journal.sqlite")
    stack.push_async_callback(journal.close)
    secrets = own_secrets(settings)
    endpoint = Endpoint(settings) if secrets else None
    hosts = OwnHosts(settings.proxy, settings.default_proxy)
    planner = load_pinned_planner(settings.planner_key_file)
    keyring = KeyringFollower(settings, planner, hosts.fold, nouns=HOST_NOUNS if secrets else ())
    await keyring.start()
    stack.push_async_callback(keyring.stop)
    writer = await own_writer(settings, keys, keyring)
    await topics_ready(settings, topics_of(settings.proxy))
    source = f"agent/{settings.proxy}/{writer.agent_id or writer.kid}"
    publishers = [Publisher(settings, keys, source) for _ in range(3 if secrets else 2)]
    for publisher in publishers:
        await publisher.start()
        stack.push_async_callback(publisher.stop)
    facts_publisher, output_publisher, *others = publishers
    providers = make_providers(settings)
    for provider in providers.values():
        stack.push_async_callback(provider.close)
    outbox = Outbox(facts_publisher, output_publisher)
    facts = replace(_facts(settings, writer, journal, providers), takes_check_ins=bool(secrets))
    reachability = Reachability(facts_publisher, journal, lambda: attempts.facts())
    attempts = Attempts(settings, keys, facts, journal, outbox, providers, context.faults, reachability, secrets)
    presence = Presence(settings, facts_publisher, attempts)
    letters = DeadLetters(facts_publisher, NAME)
    await _measure(context, presence, attempts, journal)
    commands = Commands(context, keyring, letters, attempts)
    if endpoint is not None:
        # Hosts that check in all at once have a producer of their own: no attempt's word waits behind theirs.
        check_ins = CheckIns(others[0], attempts.facts, secrets, hosts)
        await stack.enter_async_context(_background(check_ins.carry()))
        await stack.enter_async_context(endpoint.listening(check_ins.announce))
    async with _background(outbox.carry(), reachability.tell(), presence.beat(), _prune(journal)):
        calm_garbage_collector()
        attempts.restore(journal.unfinished())
        await commands.read()
        await _stop(context, attempts, outbox, presence, providers)


def _facts(settings: AgentSettings, writer: Writer, journal: Journal, providers: Mapping[str, Provider]) -> AgentFacts:
    return AgentFacts(
        agent_id=writer.agent_id or writer.kid,
        agent_boot_id=uuid4(),
        journal_id=journal.identity.journal_id,
        proxy=settings.proxy,
        journal_birth=journal.identity.birth,
        clock_margin=settings.clock_margin,
        providers={name: provider.supports.host_lock for name, provider in providers.items()},
        same_user_only=frozenset(name for name, provider in providers.items() if not provider.supports.effective_user),
        policy=Policy(
            frozenset(settings.allowed_effective_users),
            frozenset(settings.denied_effective_users),
            settings.denied_scripts,
        ),
        limits=OutputLimits(head_bytes=settings.output_cap_bytes),
        journal_keep=settings.journal_keep,
    )


async def _measure(context: Context[AgentSettings], presence: Presence, attempts: Attempts, journal: Journal) -> None:
    """Compare clocks before anything is taken; a journal without a birth gets it with the first trusted clock."""
    await presence.started(_version())
    facts = attempts.facts()
    if facts.is_clock_trusted and facts.journal_birth is None:
        attempts.set_birth(journal.confirm_birth(now()).birth)
    context.log.info(
        "agent_started",
        proxy=facts.proxy,
        agent_id=facts.agent_id,
        journal_id=str(facts.journal_id),
        clock_offset_s=None if facts.clock_offset is None else round(facts.clock_offset.total_seconds(), 3),
    )


async def _stop(
    context: Context[AgentSettings],
    attempts: Attempts,
    outbox: Outbox,
    presence: Presence,
    providers: Mapping[str, Provider],
) -> None:
    """Nothing new is taken; what was seen is said; what runs goes on on its hosts and is followed again after the restart."""
    context.health.set_ready(False, "stopping")
    attempts.stop()
    try:
        async with asyncio.timeout(FLUSH_WITHIN_S):
            await attempts.left()
            await outbox.flushed()
            attempts.stop()
            await attempts.journal.settled()
            await outbox.flushed()
            await presence.stopped("asked to stop")
    except (TimeoutError, PublishFailed) as error:
        context.log.warning("stopped_with_unsaid_facts", left=len(outbox.facts) + len(outbox.output), error=str(error))


async def _prune(journal: Journal) -> None:
    while True:
        pruned = await journal.prune(now())
        await asyncio.sleep(0 if pruned else PRUNE_EVERY_S)


@asynccontextmanager
async def _background(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run these beside the body; if one ends by an exception, so does the body."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(coroutine) for coroutine in coroutines]
        yield
        for task in tasks:
            task.cancel()


def _take_descriptors() -> None:
    """A host that is waited for costs a descriptor, and many systems let a process have 1,024 until it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _version() -> str:
    try:
        return version("chargehand")
    except PackageNotFoundError:
        return ""


@contextmanager
def _only_one(data: Path) -> Iterator[None]:
    """One process per data directory: two would answer for one journal. TransientFailure if there is another."""
    path = data / "agent.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise TransientFailure(f"{path}: another agent works in this data directory; stop that one") from error
    try:
        yield
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
