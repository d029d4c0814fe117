"""The providers an agent offers, and the words of the provider port in those of the core. Owns the translation."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta

from chargehand_chassis.errors import FatalFailure
from chargehand_chassis.keys import OwnKeys
from chargehand_schemas.commands import HostRecord
from chargehand_schemas.proxy_commands import ProxyCommand
from chargehand_schemas.reasons import EndCause, NeverStartedWhy, Stream

from ..core import inputs
from ..core.attempt import StartTerms
from ..core.check_in_keys import filled
from ..core.effects import Look
from ..providers import port
from .settings import AgentSettings

MAX_BOOT_ID = 128
DEFAULT_GRACE = timedelta(seconds=10)
_STREAMS: dict[port.Stream, Stream] = {"stdout": Stream.STDOUT, "stderr": Stream.STDERR}


def make_providers(settings: AgentSettings) -> dict[str, port.Provider]:
    """The providers that the settings name. FatalFailure for one that does not exist."""
    return {name: _make(name, settings) for name in settings.providers}


def _make(name: str, settings: AgentSettings) -> port.Provider:
    # Imported when named: an agent that offers no ssh needs no ssh library.
    match name:
        case "ssh":
            return _make_ssh(settings)
        case "simulated":
            from ..providers.simulated import SimulatedProvider

            return SimulatedProvider(settings.data / "simulated-hosts.jsonl")
        case _:
            raise FatalFailure(f"CHARGEHAND_PROVIDERS names {name!r}; there are ssh and simulated")


def _make_ssh(settings: AgentSettings) -> port.Provider:
    from ..providers.ssh import SshProvider, SshSettings

    return SshProvider(
        SshSettings(
            data_dir=settings.data / "ssh",
            config_files=settings.ssh_config_files,
            known_hosts_files=settings.ssh_known_hosts_files,
            identity_files=settings.ssh_identity_files,
            agent_socket=settings.ssh_agent_socket,
            connect_timeout=settings.ssh_connect_timeout,
            max_connections=settings.ssh_max_connections,
            allow_memory_filesystem=settings.ssh_allow_memory_filesystem,
        )
    )


def target(order: ProxyCommand) -> port.Target:
    """The host of an order, as providers see it."""
    host: HostRecord = order.host
    return port.Target(
        host_id=str(order.host_id),
        name=host.name,
        address=host.address,
        port=host.port,
        user=host.user,
        identity_file=host.identity_file,
        host_keys=host.host_keys,
        accept_new=host.accept_new,
        parameters=host.parameters,
    )


def start_order(
    terms: StartTerms, settings: AgentSettings, keys: OwnKeys, secrets: Sequence[bytes] = ()
) -> port.StartOrder:
    """What the provider is to start. `secrets`: those that hosts' check-in keys follow from. ValueError if the password is not sealed
    to a key of this agent."""
    run = terms.run
    return port.StartOrder(
        job_task_id=str(run.job_task_id),
        attempt=run.attempt,
        lock_path=run.lock_path,
        script=run.script,
        filled=filled(run.script, secrets, run.host_id),
        effective_user=run.effective_user,
        effective_user_method=_method(run.host.parameters, settings),
        effective_user_password=_opened(run.sealed_effective_user_password, keys),
        not_after_in=terms.not_after_in,
        run_deadline_in=terms.run_deadline_in,
        execution_timeout=run.execution_timeout,
        grace=run.grace,
        issued_ago=terms.issued_ago,
        clock_margin=settings.clock_margin,
        earlier=run.earlier,
        unknown=run.unknown,
        output_cap_bytes=settings.output_cap_bytes,
    )


def look_order(order: ProxyCommand, look: Look, issued_ago: timedelta, settings: AgentSettings) -> port.LookOrder:
    return port.LookOrder(
        job_task_id=str(order.job_task_id),
        attempt=order.attempt,
        lock_path=order.lock_path,
        issued_ago=issued_ago,
        clock_margin=settings.clock_margin,
        cancel=look.is_cancel,
        grace=getattr(order, "grace", DEFAULT_GRACE),
        offsets={"stdout": look.offsets.stdout, "stderr": look.offsets.stderr},
        output_cap_bytes=settings.output_cap_bytes,
        effective_user=order.effective_user,
        effective_user_method=_method(order.host.parameters, settings),
    )


def _method(parameters: Mapping[str, str], settings: AgentSettings) -> str:
    return parameters.get("effective_user_method") or settings.effective_user_method


def _opened(boxes: str, keys: OwnKeys) -> str:
    """What one of the boxes holds for us: each is sealed to the key of one agent of the proxy."""
    for box in boxes.split():
        with suppress(ValueError):
            return keys.unseal(base64.b64decode(box)).decode()
    if boxes:
        raise ValueError("the password is not sealed to this agent's key")
    return ""


def seen(visit: int, observation: port.Observation) -> inputs.Observation:
    """An observation as the core knows it. What a host may say without bound is bounded here."""
    match observation:
        case port.Output(stream, offset, data):
            return inputs.OutputSeen(visit, _STREAMS[stream], offset, data)
        case port.Started(boot_id, ago, existed):
            return inputs.StartSeen(visit, boot_id[:MAX_BOOT_ID], ago, existed)
        case port.Ended():
            return _ended(visit, observation)
        case port.Omitted(stream, start, end):
            return inputs.OmissionSeen(visit, _STREAMS[stream], start, end)
        case port.Interrupted(detail, boot_id, lengths):
            return inputs.InterruptionSeen(visit, detail, boot_id[:MAX_BOOT_ID], _lengths(lengths))
        case port.NeverStarted(why, fenced_by, refusal):
            return inputs.NeverStartedSeen(visit, NeverStartedWhy(why), fenced_by, refusal)
        case port.Refused(why, detail):
            return inputs.RefusalSeen(visit, why, detail)
        case port.ConnectionLost(detail, order_sent):
            return inputs.ConnectionCut(visit, detail, order_sent)


def _ended(visit: int, ended: port.Ended) -> inputs.EndSeen:
    return inputs.EndSeen(
        visit,
        ended.exit_status,
        ended.signal,
        EndCause(ended.cause),
        _lengths(ended.lengths),
        ended.ran_for,
        ended.boot_id[:MAX_BOOT_ID],
        ended.ended_ago,
    )


def _lengths(lengths: Mapping[port.Stream, int]) -> dict[Stream, int]:
    return {_STREAMS[stream]: length for stream, length in lengths.items()}
