"""The aggregate Proxy: what people assign to a proxy, its concurrency.

Owns that decision. Who its agents are is in keys.py, what they offer is observed.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from chargehand_schemas.catalog import ProxyChanged
from chargehand_schemas.commands import ChangeProxy
from chargehand_schemas.ids import item_id
from chargehand_schemas.reasons import Refusal

from .outcomes import Decided, Outcome, Refused, appended, proxy_stream
from .words import did_you_mean


def decide_change(command: ChangeProxy, version: int, proxies: Collection[str], now: datetime) -> Outcome:
    """Another size for a proxy that has or had an agent. `version` is that of its stream, `proxies` are all of them."""
    if command.proxy not in proxies:
        hint = did_you_mean(command.proxy, sorted(proxies)) or "; `chargehand proxy list` shows them"
        return Refused(Refusal.NO_SUCH_PROXY, f"there is no proxy {command.proxy!r}{hint}. Nothing was changed")
    event = ProxyChanged(
        id=item_id("proxy-changed", command.id),
        time=now,
        causation_id=command.id,
        traceparent=command.traceparent,
        actor=command.actor,
        proxy=command.proxy,
        concurrency=command.concurrency,
    )
    return Decided(appended(proxy_stream(command.proxy), version, [event]), {"proxies": 1})
