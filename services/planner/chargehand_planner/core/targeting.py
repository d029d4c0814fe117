"""From a targeting to hosts: names, ids, or all; each host once, in the order given.

Owns that resolution and its refusals. The inventory comes in as plain values.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from chargehand_schemas.commands import Targeting
from chargehand_schemas.reasons import Refusal

from .outcomes import Refused
from .words import SHOWN, counted, did_you_mean, listed


@dataclass(frozen=True, slots=True)
class Inventory:
    """What the targeting asked for, as found: ids by name, which ids there are, all ids by name, and names near unknown ones."""

    named: Mapping[str, UUID] = field(default_factory=dict)
    present: Collection[UUID] = ()
    everyone: Sequence[UUID] = ()
    near: Mapping[str, Sequence[str]] = field(default_factory=dict)


def resolve(targeting: Targeting, inventory: Inventory, expect_hosts: int | None = None) -> tuple[UUID, ...] | Refused:
    """The ids of the hosts; a name nobody has, an empty result and an unexpected count are refused."""
    refused = _unknown_names(targeting, inventory) or _unknown_ids(targeting, inventory)
    if refused is not None:
        return refused
    everyone = inventory.everyone if targeting.all else ()
    named = (inventory.named[name] for name in targeting.host_names)
    hosts = tuple(dict.fromkeys((*named, *targeting.host_ids, *everyone)))
    return _check_count(targeting, hosts, expect_hosts) or hosts


def _unknown_names(targeting: Targeting, inventory: Inventory) -> Refused | None:
    unknown = [name for name in dict.fromkeys(targeting.host_names) if name not in inventory.named]
    if not unknown:
        return None
    quoted = [repr(name) + did_you_mean(name, inventory.near.get(name, ())) for name in unknown[:SHOWN]]
    more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
    detail = f"no host is named {', '.join(quoted)}{more}; `chargehand host list` shows the inventory. Nothing was run"
    return Refused(Refusal.NO_SUCH_HOST, detail)


def _unknown_ids(targeting: Targeting, inventory: Inventory) -> Refused | None:
    unknown = [str(host_id) for host_id in targeting.host_ids if host_id not in inventory.present]
    if not unknown:
        return None
    detail = f"no host has the id {listed(unknown)}; `chargehand host list` shows the inventory. Nothing was run"
    return Refused(Refusal.NO_SUCH_HOST, detail)


def _check_count(targeting: Targeting, hosts: Sequence[UUID], expect_hosts: int | None) -> Refused | None:
    if not hosts:
        empty = "the inventory has no hosts; `chargehand host import FILE` registers some"
        detail = empty if targeting.all else "the targeting names no host; give names, ids or all"
        return Refused(Refusal.NO_HOSTS, f"{detail}. Nothing was run")
    if expect_hosts is not None and len(hosts) != expect_hosts:
        detail = f"the targeting has {counted(len(hosts), 'host')}, {expect_hosts} were expected. Nothing was run"
        return Refused(Refusal.UNEXPECTED_HOSTS, detail)
    return None


def in_words(targeting: Targeting, count: int) -> str:
    """The targeting as people read it in a list of invocations."""
    if targeting.all:
        return f"all hosts ({count})"
    if targeting.host_names and not targeting.host_ids:
        names = listed(targeting.host_names, 3)
        return f"host {names}" if count == 1 else f"{counted(count, 'host')}: {names}"
    return counted(count, "chosen host")
