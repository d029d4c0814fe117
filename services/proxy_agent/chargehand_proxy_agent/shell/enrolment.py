"""Becoming an agent that is believed: its keys, and their enrolment with a one-time token (docs/adr/0017-enrolment-by-one-time-key.md).

Owns the wait for the planner. Whether a token is good is the planner's to say.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog
from chargehand_chassis.clock import now
from chargehand_chassis.errors import FatalFailure
from chargehand_chassis.kafka import KeyringFollower, Publisher
from chargehand_chassis.keys import OwnKeys, enrolment_keys, generate_keys, load_keys
from chargehand_schemas.batches import Outgoing
from chargehand_schemas.commands import EnrolKey
from chargehand_schemas.ids import item_id
from chargehand_schemas.keyring import Writer
from chargehand_schemas.reasons import Role
from chargehand_schemas.topics import COMMANDS

from .settings import AgentSettings

_LOOK_AGAIN_S = 0.2


def own_keys(settings: AgentSettings) -> OwnKeys:
    """The keys of this agent; made now if there are none and a token to enrol them. FatalFailure if there is neither."""
    if settings.key_file.exists() or settings.enrolment_token_file is None:
        return load_keys(settings.key_file)
    return generate_keys(settings.key_file)


async def own_writer(settings: AgentSettings, keys: OwnKeys, follower: KeyringFollower) -> Writer:
    """This agent in the keyring, enrolled now if it is not there yet.

    FatalFailure if it is enrolled as something else, or not within the time the settings give.
    """
    writer = follower.keyring.find(keys.kid)
    if writer is None and settings.enrolment_token_file is not None:
        await _ask(settings, keys, _token(settings.enrolment_token_file))
    if writer is None:
        writer = await _enrolled(settings, keys, follower)
    if writer.is_revoked or writer.role is not Role.AGENT or writer.subject != settings.proxy:
        what = "revoked" if writer.is_revoked else f"enrolled as {writer.role.value} of {writer.subject!r}"
        raise FatalFailure(f"key {keys.kid} is {what}, not as an agent of proxy {settings.proxy!r}: enrol a new key")
    return writer


async def _ask(settings: AgentSettings, keys: OwnKeys, token: OwnKeys) -> None:
    """The one message that a token may sign."""
    publisher = Publisher(settings, token, f"enrolee/{settings.proxy}")
    await publisher.start()
    try:
        request = EnrolKey(
            id=item_id("enrol", token.kid, keys.kid),
            time=now(),
            token_kid=token.kid,
            agent_id=settings.agent_id or keys.kid,
            signing_key=keys.signing_public.hex(),
            sealing_key=keys.sealing_public.hex(),
        )
        await publisher.publish([Outgoing(COMMANDS.name, keys.kid, request)])
    finally:
        await publisher.stop()
    structlog.get_logger().info("enrolment_asked_for", kid=keys.kid, token_kid=token.kid)


async def _enrolled(settings: AgentSettings, keys: OwnKeys, follower: KeyringFollower) -> Writer:
    within = settings.enrol_within.total_seconds()
    try:
        async with asyncio.timeout(within):
            while (writer := follower.keyring.find(keys.kid)) is None:
                failure = follower.failure()
                if failure is not None:
                    raise failure
                await asyncio.sleep(_LOOK_AGAIN_S)
    except TimeoutError:
        raise FatalFailure(
            f"key {keys.kid} was not enrolled as an agent of proxy {settings.proxy!r} within {within:g} s: "
            "see what the planner says of the token (used, expired, for another proxy?), or give another one"
        ) from None
    return writer


def _token(path: Path) -> OwnKeys:
    try:
        return enrolment_keys(path.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise FatalFailure(f"CHARGEHAND_ENROLMENT_TOKEN_FILE {path}: {error}") from error
