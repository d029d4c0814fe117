"""Which hosts are those of this agent's proxy, as the catalog says. Owns that fold; a removed host is nobody's for ever."""

from __future__ import annotations

from uuid import UUID

from chargehand_schemas.base import Item
from chargehand_schemas.catalog import HostChanged, HostRegistered, HostRemoved


class OwnHosts:
    """Mutable, but only through `fold`. One small number for each host: 100,000 of them take about 15 MiB."""

    def __init__(self, proxy: str, default_proxy: str) -> None:
        self._proxy, self._default_proxy = proxy, default_proxy
        self._known: dict[bytes, int] = {}

    def fold(self, event: Item) -> None:
        """Take in one catalog event; what is no news of a host, or older than what is known, changes nothing."""
        match event:
            case HostRegistered() | HostChanged():
                self._note(event.host_id, event.version, (event.host.proxy or self._default_proxy) == self._proxy)
            case HostRemoved():
                self._note(event.host_id, event.version, False)
            case _:
                pass

    def __contains__(self, host_id: UUID) -> bool:
        return self._known.get(host_id.bytes, 0) % 2 == 1

    def _note(self, host_id: UUID, version: int, is_ours: bool) -> None:
        """The version in the upper bits, whose it is in the lowest."""
        fact = version * 2 + is_ours
        if fact // 2 > self._known.get(host_id.bytes, -1) // 2:
            self._known[host_id.bytes] = fact
