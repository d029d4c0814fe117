"""What can go wrong for a program that uses Chargehand, named by what it can do about it. Owns the names."""

from __future__ import annotations


class ClientError(Exception):
    """Base. `code` is a closed word (a Refusal of the schemas, or one of HTTP's), `detail` is for people."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


class Unreachable(ClientError):
    """The server or the brokers do not answer. Nothing is known about what was sent: repeat it with the same id."""


class LoginRequired(ClientError):
    """No token, or one that is expired or revoked."""


class Refused(ClientError):
    """Chargehand decided against it, and nothing was done."""


class NotFound(ClientError):
    """There is no such thing, or the prefix of an id fits several."""


class Pending(ClientError):
    """The command is published, and its decision was not there in time. It will be made."""
