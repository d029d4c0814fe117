"""The aggregate Host: registering, changing and removing what people assign.

Owns those decisions and the meaning of the host parameters that this program knows. Observed facts do not enter here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from chargehand_schemas.base import Item
from chargehand_schemas.catalog import HostChanged, HostRegistered, HostRemoved
from chargehand_schemas.commands import HostRecord, ImportHosts, RemoveHosts
from chargehand_schemas.ids import item_id
from chargehand_schemas.reasons import Refusal

from .outcomes import Append, Decided, Outcome, Refused
from .words import did_you_mean, listed

PROVIDER = "provider"
WORK_DIRECTORY = "work_directory"
DEFAULT_WORK_DIRECTORY = ".chargehand/run"
SCRIPT_PROVIDERS = ("ssh", "simulated")
"""Providers that take a script: one written for any of them runs on all, so a host may say which it is reached by."""

_PATH = re.compile(r"/?[A-Za-z0-9_.+@ -]+(/[A-Za-z0-9_.+@ -]+)*")
MAX_WORK_DIRECTORY = 400


@dataclass(frozen=True, slots=True)
class Host:
    """A host as of its version. A removed one keeps its id and its history, and gives its name back."""

    host_id: UUID
    version: int
    record: HostRecord
    is_removed: bool = False


def evolve(host: Host | None, event: Item) -> Host | None:
    """The host after an event of its stream."""
    match event:
        case HostRegistered() | HostChanged():
            return Host(event.host_id, event.version, event.host)
        case HostRemoved() if host is not None:
            return Host(host.host_id, event.version, host.record, is_removed=True)
        case _:
            return host


def decide_import(command: ImportHosts, known: Mapping[str, Host], proxies: Collection[str], now: datetime) -> Outcome:
    """Register what has a new name, change what has a known one, leave alone what is the same. All of it or nothing."""
    refused = _check_rows(command.hosts, proxies)
    if refused is not None:
        return refused
    appends: list[Append] = []
    counts = {"registered": 0, "changed": 0, "unchanged": 0}
    for record in command.hosts:
        host = known.get(record.name)
        if host is not None and host.record == record:
            counts["unchanged"] += 1
            continue
        counts["registered" if host is None else "changed"] += 1
        appends.append(_assigned(command, host, record, now))
    return Decided(tuple(appends), counts)


def _assigned(command: ImportHosts, host: Host | None, record: HostRecord, now: datetime) -> Append:
    # The id follows from the command's, which is random: a command read again gives the same host, not another.
    host_id = item_id("host", command.id, record.name) if host is None else host.host_id
    version = 1 if host is None else host.version + 1
    kind = HostRegistered if host is None else HostChanged
    event = kind(
        id=item_id("host-assigned", command.id, host_id),
        time=now,
        causation_id=command.id,
        traceparent=command.traceparent,
        actor=command.actor,
        host_id=host_id,
        version=version,
        host=record,
    )
    return Append(host_id, version, event)


def _check_rows(records: Sequence[HostRecord], proxies: Collection[str]) -> Refused | None:
    seen: dict[str, int] = {}
    for row, record in enumerate(records, 1):
        if record.name in seen:
            where = f"host {record.name!r} stands twice, in rows {seen[record.name]} and {row}"
            return Refused(Refusal.MALFORMED, f"{where}; nothing was imported: keep one of them")
        seen[record.name] = row
        refused = _check_row(row, record, proxies)
        if refused is not None:
            return refused
    return None


def _check_row(row: int, record: HostRecord, proxies: Collection[str]) -> Refused | None:
    where = f"row {row}, host {record.name!r}: "
    if record.proxy is not None and record.proxy not in proxies:
        hint = did_you_mean(record.proxy, proxies) or f"; known: {listed(sorted(proxies)) or 'none'}"
        detail = f"{where}no proxy {record.proxy!r} has enrolled{hint}. Nothing was imported: enrol it first"
        return Refused(Refusal.NO_SUCH_PROXY, detail)
    fault = work_directory_fault(record)
    return None if fault is None else Refused(Refusal.MALFORMED, f"{where}{fault}. Nothing was imported")


def work_directory_fault(record: HostRecord) -> str | None:
    """What is wrong with the host parameter `work_directory`, if it is given and wrong."""
    path = record.parameters.get(WORK_DIRECTORY)
    if path is None:
        return None
    is_path = len(path) <= MAX_WORK_DIRECTORY and _PATH.fullmatch(path) and not path.startswith("-")
    if is_path and not {".", ".."} & set(path.split("/")):
        return None
    return (
        f"parameter {WORK_DIRECTORY!r} is no plain path (letters, digits and _.+@ -, no '..', "
        f"at most {MAX_WORK_DIRECTORY} characters)"
    )


def lock_path(record: HostRecord, job_task_id: UUID) -> str:
    """The directory of a job task on its host, relative to the connecting user's home unless the host says otherwise.

    It is computed once, at the first binding (docs/protocol.md, rule PIN)."""
    directory = record.parameters.get(WORK_DIRECTORY, DEFAULT_WORK_DIRECTORY)
    return f"{directory}/{job_task_id}"


def provider_of(record: HostRecord, provider_type: str) -> str:
    """The provider a script goes by: the template's, unless the host names another that takes scripts."""
    wanted = record.parameters.get(PROVIDER, "")
    return wanted if wanted in SCRIPT_PROVIDERS and provider_type in SCRIPT_PROVIDERS else provider_type


def decide_remove(command: RemoveHosts, known: Mapping[UUID, Host], now: datetime) -> Outcome:
    """Take hosts out of the inventory. An id nobody ever had is refused, one removed before is no news."""
    strangers = [str(host_id) for host_id in command.host_ids if host_id not in known]
    if strangers:
        detail = f"no host has the id {listed(strangers)}; `chargehand host list` shows them. Nothing was removed"
        return Refused(Refusal.NO_SUCH_HOST, detail)
    present = [known[host_id] for host_id in dict.fromkeys(command.host_ids) if not known[host_id].is_removed]
    appends = tuple(_removed(command, host, now) for host in present)
    return Decided(appends, {"removed": len(appends)})


def _removed(command: RemoveHosts, host: Host, now: datetime) -> Append:
    event = HostRemoved(
        id=item_id("host-removed", command.id, host.host_id),
        time=now,
        causation_id=command.id,
        traceparent=command.traceparent,
        actor=command.actor,
        host_id=host.host_id,
        version=host.version + 1,
        name=host.record.name,
    )
    return Append(host.host_id, host.version + 1, event)
