"""Commands: looking up what their decision needs, asking the core, writing what it decided.

Owns the way from a command to a change of the store. Whether it is allowed, and what follows, the core decides.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import assert_never
from uuid import UUID

import structlog
from chargehand_chassis.clock import now
from chargehand_chassis.errors import TransientFailure
from chargehand_chassis.kafka import Received
from chargehand_chassis.keys import OwnKeys
from chargehand_chassis.metrics import METRICS
from chargehand_schemas.base import Item
from chargehand_schemas.commands import (
    CancelJobInvocation,
    ChangeProxy,
    Command,
    CreateUser,
    DisableUser,
    EditJobInvocation,
    EnrolKey,
    ImportHosts,
    InvokeJob,
    IssueEnrolmentToken,
    IssueToken,
    RemoveHosts,
    RevokeKey,
    RevokeToken,
    SaveJobTemplate,
)

from ..core import hosts, job_invocations, job_templates, keys, proxies, rights, users
from ..core.answers import answer
from ..core.job_invocations import InvokeLookups, JobInvocation
from ..core.job_templates import Analysis, SaveLookups
from ..core.outcomes import Append, Outcome, Refused, proxy_stream
from ..core.rights import Silenced
from .binder import Place
from .gate import StoreGate
from .rendering.renderer import Renderer
from .store import Change, Conflict, PlannerStore

TRIES = 5


def silenced(message: Received, max_age: timedelta) -> Silenced | None:
    """Why a message of commands has no effect at all; None if its commands are to be decided."""
    written = datetime.fromisoformat(message.time)
    too_old = rights.is_of_age(message.writer, written, message.append_time, max_age)
    spoken = (rights.may_speak(item, message.writer) for item in message.items)
    return too_old or next((fault for fault in spoken if fault is not None), None)


@dataclass(frozen=True, slots=True)
class _Invoke:
    """What is looked up for an InvokeJob in one go."""

    principal: rights.Principal | None
    present: JobInvocation | None
    lookups: InvokeLookups


class Commands:
    """Decides commands one by one. A command that was decided before has no effect and is counted."""

    def __init__(self, gate: StoreGate, renderer: Renderer, own_keys: OwnKeys) -> None:
        self._gate = gate
        self._renderer = renderer
        self._own_keys = own_keys
        self._log = structlog.get_logger()

    async def handle(self, message: Received, place: Place) -> None:
        """Decide every command of a message; the last one's transaction moves the position."""
        ids = [item.id for item in message.items]
        handled = await self._gate.ask(self._gate.store.handled, ids)
        for number, command in enumerate(message.items, 1):
            if command.id in handled:
                METRICS.repeats.labels(message.topic).inc()
                continue
            handled.add(command.id)
            await self._handle(command, message, place, is_last=number == len(ids))

    async def _handle(self, command: Item, message: Received, place: Place, *, is_last: bool) -> None:
        for _ in range(TRIES):
            change = await self._change(command, message)
            if change is None:
                METRICS.repeats.labels(message.topic).inc()
                return
            change = replace(change, tokens=place.tokens)
            if is_last:
                change = replace(change, positions=place.positions, times=place.times)
            try:
                await self._gate.record(change, "command")
            except Conflict as conflict:
                if await self._gate.ask(self._gate.store.handled, [command.id]):
                    return
                self._log.info("decided_again", command_id=str(command.id), why=str(conflict))
                continue
            return
        raise TransientFailure(f"command {command.id} met another writer {TRIES} times")

    async def _change(self, command: Item, message: Received) -> Change | None:
        """The change a command brings about; None if it is a repeat of an invocation under another command id."""
        moment = now()
        if isinstance(command, InvokeJob):
            change = await self._invoke(command, moment)
        elif isinstance(command, CancelJobInvocation):
            change = await self._cancel(command, moment)
        elif isinstance(command, EditJobInvocation):
            change = await self._edit(command, moment)
        else:
            outcome = await self._outcome(command, message, moment)
            appends = () if isinstance(outcome, Refused) else outcome.appends
            self._tell(command, outcome)
            change = Change(appends=(*appends, answer(command, outcome, moment)))
        return None if change is None else replace(change, handled=[command.id], moment=moment)

    def _tell(self, command: Item, outcome: Outcome) -> None:
        kind = type(command).__name__
        decision = "refused" if isinstance(outcome, Refused) else "handled"
        METRICS.commands.labels(kind, decision).inc()
        reason = outcome.reason.value if isinstance(outcome, Refused) else ""
        self._log.info("command_decided", kind=kind, command_id=str(command.id), decision=decision, reason=reason)

    # Invocations

    async def _invoke(self, command: InvokeJob, moment: datetime) -> Change | None:
        found = await self._gate.ask(self._look_up_invoke, self._gate.store, command)
        if found.present is not None:
            return None
        outcome = rights.check_actor(command, found.principal) or job_invocations.decide_invoke(
            command, await self._analysed(command, found.lookups), moment
        )
        self._tell(command, outcome)
        if isinstance(outcome, Refused):
            return of_invocation(None, (job_invocations.refusal(command, outcome, moment),))
        sealed = {command.job_invocation_id: outcome.sealed_inputs} if outcome.sealed_inputs else {}
        return replace(of_invocation(None, outcome.appends), sealed_inputs=sealed)

    @staticmethod
    def _look_up_invoke(store: PlannerStore, command: InvokeJob) -> _Invoke:
        template = store.template(command.template)
        lookups = InvokeLookups(
            template=template,
            inventory=store.inventory(command.targeting),
            near_templates=() if template else list(store.templates().values()),
        )
        principal = store.principals([command.actor]).get(command.actor)
        return _Invoke(principal, store.invocation(command.job_invocation_id), lookups)

    async def _analysed(self, command: InvokeJob, lookups: InvokeLookups) -> InvokeLookups:
        analysis = await self._renderer.analyse(lookups.template.body) if lookups.template else Analysis()
        unsealable = [
            f"input {name!r}" for name, sealed in command.sealed_inputs.items() if not self._can_unseal(sealed)
        ]
        password = command.sealed_effective_user_password
        if password and not self._can_unseal(password):
            unsealable.append("the effective user's password")
        return replace(lookups, analysis=analysis, unsealable=unsealable)

    def _can_unseal(self, sealed: str) -> bool:
        try:
            self._own_keys.unseal(base64.b64decode(sealed, validate=True)).decode()
        except (ValueError, binascii.Error):
            return False
        return True

    async def _cancel(self, command: CancelJobInvocation, moment: datetime) -> Change:
        store = self._gate.store
        principals = await self._gate.ask(store.principals, [command.actor])
        invocation = await self._gate.ask(store.invocation, command.job_invocation_id)
        targeted = await self._gate.ask(store.targeted, command.job_invocation_id) if command.host_ids else ()
        outcome = rights.check_actor(command, principals.get(command.actor)) or job_invocations.decide_cancel(
            command, invocation, frozenset(targeted), moment
        )
        self._tell(command, outcome)
        if isinstance(outcome, Refused):
            return Change(appends=[job_invocations.cancel_refusal(command, outcome, moment)])
        return of_invocation(invocation, outcome.appends)

    async def _edit(self, command: EditJobInvocation, moment: datetime) -> Change:
        store = self._gate.store
        principals = await self._gate.ask(store.principals, [command.actor])
        invocation = await self._gate.ask(store.invocation, command.job_invocation_id)
        outcome = rights.check_actor(command, principals.get(command.actor)) or job_invocations.decide_edit(
            command, invocation, moment
        )
        self._tell(command, outcome)
        if isinstance(outcome, Refused):
            return Change(appends=[job_invocations.edit_refusal(command, outcome, moment)])
        return of_invocation(invocation, outcome.appends)

    # All other commands

    async def _outcome(self, command: Item, message: Received, moment: datetime) -> Outcome:
        store = self._gate.store
        if isinstance(command, Command):
            principals = await self._gate.ask(store.principals, [command.actor])
            refused = rights.check_actor(command, principals.get(command.actor))
            if refused is not None:
                return refused
        if isinstance(command, SaveJobTemplate):
            analysis = await self._renderer.analyse(command.body)
            return await self._gate.ask(_save_template, store, command, analysis, moment)
        if isinstance(command, EnrolKey):
            return await self._gate.ask(_enrol, store, command, message.append_time, moment)
        return await self._gate.ask(_decide, store, command, moment)


def _decide(store: PlannerStore, command: Item, moment: datetime) -> Outcome:
    match command:
        case ImportHosts():
            known = store.hosts_by_name([record.name for record in command.hosts])
            return hosts.decide_import(command, known, store.proxies().keys(), moment)
        case RemoveHosts():
            return hosts.decide_remove(command, store.hosts_by_id(command.host_ids), moment)
        case ChangeProxy():
            version = store.version_of(proxy_stream(command.proxy))
            return proxies.decide_change(command, version, store.proxies().keys(), moment)
        case IssueEnrolmentToken():
            return keys.decide_issue(command, store.key(keys.key_id(command.token_key)), moment)
        case RevokeKey():
            return keys.decide_revoke(command, store.key(command.kid), moment)
        case CreateUser() | DisableUser() | IssueToken() | RevokeToken():
            return _decide_about_people(store, command, moment)
        case _:
            raise TypeError(f"{type(command).__name__} is no command of the planner")


def _decide_about_people(
    store: PlannerStore, command: CreateUser | DisableUser | IssueToken | RevokeToken, moment: datetime
) -> Outcome:
    match command:
        case CreateUser():
            return users.decide_create(command, store.user_lookups(command.login), moment)
        case DisableUser():
            return users.decide_disable(command, store.user_lookups(command.login), moment)
        case IssueToken():
            lookups = store.user_lookups(command.login, token_sha256=command.token_sha256)
            return users.decide_issue(command, lookups, moment)
        case RevokeToken():
            return users.decide_revoke(command, store.user_lookups(token_id=command.token_id), moment)
        case _:
            assert_never(command)


def _save_template(store: PlannerStore, command: SaveJobTemplate, analysis: Analysis, moment: datetime) -> Outcome:
    by_name = {name: template_id for template_id, name in store.templates().items()}
    present = store.template(str(command.template_id)) if command.template_id else None
    lookups = SaveLookups(analysis, present, _other(by_name.get(command.name), command.template_id))
    return job_templates.decide_save(command, lookups, moment)


def _other(found: UUID | None, own: UUID | None) -> UUID | None:
    return None if found == own else found


def _enrol(store: PlannerStore, command: EnrolKey, appended_at: datetime, moment: datetime) -> Outcome:
    token = store.key(command.token_kid)
    lookups = keys.EnrolLookups(
        token=token,
        present=store.key(keys.key_id(command.signing_key)),
        agents=store.agents_of(token.subject) if token else (),
    )
    return keys.decide_enrol(command, lookups, appended_at, moment)


def of_invocation(invocation: JobInvocation | None, appends: Sequence[Append]) -> Change:
    """Events of an invocation's stream, with the state they lead to."""
    for append in appends:
        invocation = job_invocations.evolve(invocation, append)
    return Change(appends=appends, invocations=[] if invocation is None else [invocation])
