"""Who asks: a bearer token or a login cookie, looked up by digest, and the account behind it, alive at this moment.

Owns authentication. Tokens and accounts are facts of the planner, read from the read model; sessions are the gateway's own.
"""

from __future__ import annotations

import re
from datetime import datetime

from ...core.access import Headers, is_from_our_page, values_of
from ..store.read_store import ReadStore
from .problems import HttpProblem
from .rights import Viewer
from .sessions import Sessions, digest

_MAX_SECRET = 512
_SAFE_METHODS = frozenset({"GET", "HEAD"})
_HOW = "send `Authorization: Bearer TOKEN`, or log in with the link that `chargehand open` prints"


class People:
    """Finds the viewer of a request. `cookie` is the name of the login cookie of this installation."""

    def __init__(self, sessions: Sessions, cookie: str) -> None:
        self.sessions = sessions
        self.cookie = cookie
        self._in_cookies = re.compile(rf"(?:^|;)\s*{re.escape(cookie)}=([A-Za-z0-9_-]{{1,{_MAX_SECRET}}})(?=;|$)")

    def find(self, store: ReadStore, method: str, headers: Headers, moment: datetime) -> Viewer:
        """The viewer. HttpProblem 401 if nobody is named, or one whose token, session or account is over.

        A cookie alone does not act: a browser must say that one of our own pages asks (403).
        """
        tokens = values_of(headers, b"authorization")
        if tokens:
            return self._by_token(store, tokens, moment)
        session = self._session(headers)
        if session is None:
            raise _login_required(_HOW)
        viewer = self.again(store, "cookie", digest(session), moment)
        if viewer is None:
            raise _login_required(f"this login is over; {_HOW}")
        if method not in _SAFE_METHODS and not is_from_our_page(headers):
            raise HttpProblem(403, "origin_not_allowed", "the browser did not say that a page of this service asks")
        return viewer

    def again(self, store: ReadStore, by: str, proof: str, moment: datetime) -> Viewer | None:
        """The viewer of a digest, if token or session and account are still good."""
        login = self._login_of_token(store, proof, moment) if by == "token" else self.sessions.login_of(proof, moment)
        user = None if login is None else store.user(login)
        if user is None or user.is_disabled or not user.role:
            return None
        return Viewer(user.login, user.role, by, proof)

    def session_digest(self, headers: Headers) -> str | None:
        """The digest of the login cookie that came along."""
        session = self._session(headers)
        return None if session is None else digest(session)

    def _by_token(self, store: ReadStore, values: list[bytes], moment: datetime) -> Viewer:
        scheme, _, token = values[0].decode("latin-1").partition(" ")
        if len(values) != 1 or scheme.lower() != "bearer" or not 0 < len(token.strip()) <= _MAX_SECRET:
            raise _login_required(f"the Authorization header cannot be read; {_HOW}")
        viewer = self.again(store, "token", digest(token.strip()), moment)
        if viewer is None:
            raise _login_required("this token is not known, expired or revoked, or its account is disabled")
        return viewer

    @staticmethod
    def _login_of_token(store: ReadStore, proof: str, moment: datetime) -> str | None:
        token = store.token(proof)
        if token is None or token.is_revoked or token.expires_at is None or token.expires_at <= moment:
            return None
        return token.login

    def _session(self, headers: Headers) -> str | None:
        for value in values_of(headers, b"cookie"):
            match = self._in_cookies.search(value.decode("latin-1"))
            if match is not None:
                return match[1]
        return None


def _login_required(detail: str) -> HttpProblem:
    return HttpProblem(401, "login_required", detail, {"WWW-Authenticate": "Bearer"})
