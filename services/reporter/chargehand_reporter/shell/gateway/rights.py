"""What a person may do over HTTP, and which role may do it. Every route names one right, or the gateway does not start.

Owns the words and the one role there is; filters by host and job come with their issue.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Right(StrEnum):
    """One right. `ANYONE` needs no login, `LOGIN` any living account."""

    ANYONE = "anyone"
    LOGIN = "login"
    VIEW_JOB_INVOCATIONS = "view_job_invocations"
    CREATE_JOB_INVOCATIONS = "create_job_invocations"
    CANCEL_JOB_INVOCATIONS = "cancel_job_invocations"
    EDIT_JOB_INVOCATIONS = "edit_job_invocations"
    VIEW_HOSTS = "view_hosts"
    EDIT_HOSTS = "edit_hosts"
    VIEW_PROXIES = "view_proxies"
    EDIT_PROXIES = "edit_proxies"
    ENROL_PROXIES = "enrol_proxies"


ROLE_RIGHTS = {"administrator": frozenset(Right)}


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who asks. `by` is `token` or `cookie`; `proof` is the digest by which the account is looked up again."""

    login: str
    role: str
    by: str
    proof: str

    def has(self, right: Right) -> bool:
        """Whether this person has a right. A role nobody knows has none."""
        return right in ROLE_RIGHTS.get(self.role, frozenset())
