"""Who may knock: the Host, Origin and Sec-Fetch headers of a request, judged before anything else is done with it.

Owns the rules against pages of other sites that reach for a service on this machine (DNS rebinding, cross-site requests, other
ports of localhost). Judged are the raw headers, never a URL put together from them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Headers = Sequence[tuple[bytes, bytes]]

_LOCAL = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?")
_SAFE_METHODS = frozenset({"GET", "HEAD"})
_OUR_OWN = frozenset({b"same-origin", b"none"})


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a request is not answered. `code` is a closed word."""

    status: int
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Door:
    """Which Host headers are ours: localhost at any port, and what the settings name. `scheme` is what browsers see."""

    public_hosts: frozenset[str] = frozenset()
    scheme: str = "http"

    def judge(self, method: str, headers: Headers, *, is_stream: bool = False) -> Refused | None:
        """None: it may come in. `is_stream`: an event stream, which only our own pages may open."""
        host = self._host(headers)
        if isinstance(host, Refused):
            return host
        return self._judge_origin(headers, host) or _judge_site(method, headers, is_stream)

    def _host(self, headers: Headers) -> str | Refused:
        hosts = values_of(headers, b"host")
        if len(hosts) != 1:
            return Refused(400, "host_malformed", f"{len(hosts)} Host headers; there must be one")
        host = hosts[0].decode("latin-1").lower()
        if _LOCAL.fullmatch(host) or host in self.public_hosts:
            return host
        detail = f"Host {host[:100]!r} is not this service; name it in CHARGEHAND_PUBLIC_HOSTS if it should be"
        return Refused(403, "host_not_allowed", detail)

    def _judge_origin(self, headers: Headers, host: str) -> Refused | None:
        origins = values_of(headers, b"origin")
        if not origins or [origin.decode("latin-1").lower() for origin in origins] == [f"{self.scheme}://{host}"]:
            return None
        return Refused(403, "origin_not_allowed", "the request comes from a page of another origin")


def _judge_site(method: str, headers: Headers, is_stream: bool) -> Refused | None:
    """Another port of localhost is the same site, and not us."""
    sites = values_of(headers, b"sec-fetch-site")
    if not sites or (len(sites) == 1 and sites[0].lower() in _OUR_OWN):
        return None
    is_navigation = (
        method in _SAFE_METHODS
        and not is_stream
        and values_of(headers, b"sec-fetch-mode") == [b"navigate"]
        and values_of(headers, b"sec-fetch-dest") == [b"document"]
    )
    return None if is_navigation else Refused(403, "origin_not_allowed", "the request comes from another site")


def is_from_our_page(headers: Headers) -> bool:
    """Whether a browser says that the request comes from a page of ours; asked where a cookie alone would let it act."""
    return bool(values_of(headers, b"origin")) or values_of(headers, b"sec-fetch-site") == [b"same-origin"]


def values_of(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """All values of a header, as they came. Names are lower case."""
    return [value for key, value in headers if key == name]
