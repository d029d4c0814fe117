"""The closed lists of words for states, reasons and refusals. Every reader knows all of them; a new word is a new version.

Owns words only; docs/glossary.md says what they mean.
"""

from __future__ import annotations

from enum import StrEnum


class JobTaskStatus(StrEnum):
    """Where a job task is. The last three are verdicts."""

    WAITING = "waiting"
    WAITING_FOR_CHECK_IN = "waiting_for_check_in"
    DUE = "due"
    ACCEPTED = "accepted"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_verdict(self) -> bool:
        return self in VERDICTS


VERDICTS = frozenset({JobTaskStatus.SUCCEEDED, JobTaskStatus.FAILED, JobTaskStatus.CANCELLED})


class Reason(StrEnum):
    """Why a job task did not succeed."""

    EXIT_STATUS = "exit_status"
    TIMED_OUT = "timed_out"
    NOT_PICKED_UP = "not_picked_up"
    COULD_NOT_CONNECT = "could_not_connect"
    REFUSED = "refused"
    RENDER_FAILED = "render_failed"
    CANCELLED = "cancelled"
    HALTED = "halted"
    INTERRUPTED = "interrupted"
    UNKNOWN = "unknown"
    LOST_MESSAGE = "lost_message"


class JobInvocationStatus(StrEnum):
    """Where an invocation is, as a whole. The last four are ends."""

    SCHEDULED = "scheduled"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REFUSED = "refused"

    @property
    def is_end(self) -> bool:
        return self in INVOCATION_ENDS


INVOCATION_ENDS = frozenset(
    {
        JobInvocationStatus.SUCCEEDED,
        JobInvocationStatus.FAILED,
        JobInvocationStatus.CANCELLED,
        JobInvocationStatus.REFUSED,
    }
)


class Refusal(StrEnum):
    """Why the planner refused a command."""

    MALFORMED = "malformed"
    NO_SUCH_TEMPLATE = "no_such_template"
    NO_SUCH_HOST = "no_such_host"
    NO_HOSTS = "no_hosts"
    NO_SUCH_JOB_INVOCATION = "no_such_job_invocation"
    ALREADY_ENDED = "already_ended"
    INPUT_MISSING = "input_missing"
    INPUT_UNKNOWN = "input_unknown"
    TEMPLATE_INVALID = "template_invalid"
    OUT_OF_RANGE = "out_of_range"
    NOT_ALLOWED = "not_allowed"
    NO_SUCH_PROXY = "no_such_proxy"
    TOKEN_INVALID = "token_invalid"  # noqa: S105 (a word, no password)
    ALREADY_EXISTS = "already_exists"
    NO_SUCH_USER = "no_such_user"
    NO_SUCH_KEY = "no_such_key"
    UNEXPECTED_HOSTS = "unexpected_hosts"
    TOO_OLD = "too_old"
    NOT_SUPPORTED = "not_supported"


class ReleaseReason(StrEnum):
    """Why an agent will never start an attempt itself (AttemptReleased)."""

    COULD_NOT_CONNECT = "could_not_connect"
    EXPIRED = "expired"
    NOT_VALID = "not_valid"
    CLOCK_OFFSET = "clock_offset"
    JOURNAL = "journal"
    POLICY = "policy"
    HOST_REBOOTED = "host_rebooted"
    HOST_REFUSED = "host_refused"
    NOT_SUPPORTED = "not_supported"
    STOPPING = "stopping"


class EndCause(StrEnum):
    """Who ended an attempt on its host; the first writer wins."""

    EXITED = "exited"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"


class NeverStartedWhy(StrEnum):
    """What proves that an attempt was never started."""

    TOMBSTONE = "tombstone"
    LATE = "late"
    FENCED = "fenced"


class Stream(StrEnum):
    """Output streams of a process."""

    STDOUT = "stdout"
    STDERR = "stderr"


class StepKind(StrEnum):
    """What can be said of a job task or of one of its attempts: the steps of its delivery ladder, in the order of their course."""

    ACCEPTED = "accepted"
    PLANNED = "planned"
    CANCEL_REQUESTED = "cancel_requested"
    DISPATCHED = "dispatched"
    BOUND = "bound"
    REFUSED = "refused"
    REBOUND = "rebound"
    VOIDED = "voided"
    DELIVERED = "delivered"
    RELEASED = "released"
    STARTED = "started"
    OUTPUT = "output"
    ASKED_FOR = "asked_for"
    ASKED_TO_END = "asked_to_end"
    ENDED = "ended"
    INTERRUPTED = "interrupted"
    NEVER_STARTED = "never_started"
    NO_REPLY = "no_reply"
    WAITING_FOR_CHECK_IN = "waiting_for_check_in"
    NEXT_TRY = "next_try"
    VERDICT = "verdict"


class Role(StrEnum):
    """Who a key belongs to; a role may write the topics that name it."""

    PLANNER = "planner"
    DISPATCHER = "dispatcher"
    AGENT = "agent"
    REPORTER = "reporter"
    GATEWAY = "gateway"
    SERVICE_ACCOUNT = "service_account"
    ENROLEE = "enrolee"


class DeadLetterReason(StrEnum):
    """Why a message had no effect."""

    UNREADABLE = "unreadable"
    TOO_LARGE = "too_large"
    UNKNOWN_TYPE = "unknown_type"
    UNKNOWN_VERSION = "unknown_version"
    INVALID = "invalid"
    UNSIGNED = "unsigned"
    UNKNOWN_KEY = "unknown_key"
    REVOKED_KEY = "revoked_key"
    BAD_SIGNATURE = "bad_signature"
    ROLE_NOT_ALLOWED = "role_not_allowed"
    SUBJECT_NOT_ALLOWED = "subject_not_allowed"
    TOO_OLD = "too_old"
