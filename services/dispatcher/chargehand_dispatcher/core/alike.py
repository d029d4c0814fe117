"""One word to very many job tasks that differ in nothing but who they are: those that were never dispatched.

Owns how they are answered at once. The rule is asked for one that stands in for all; what each says is its answer with the names
of each put in. That this is what the rule answers each of them is shown in tests/unit/dispatcher and by the model of the stores.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from hashlib import sha1
from typing import Any, ClassVar, NamedTuple, TypeVar
from uuid import UUID

from chargehand_schemas.base import InvocationItem, Item
from chargehand_schemas.dispatch import AttemptDue, JobTaskEnded
from chargehand_schemas.frozen import replace
from chargehand_schemas.ids import item_id_prefix
from pydantic_core import to_json

from .job_task import JobTask, State
from .rules import Circumstances
from .table import CancelRequested, Claimed, Halted, step

_ID, _JOB_TASK_ID, _HOST_ID = (UUID(f"5f0e7a1c-0000-4000-8000-00000000000{n}") for n in range(3))
_HOST_NAME, _ORDINAL = "the host that stands in for all of them", 1_987_654_321


class Many(InvocationItem):
    """Items of one invocation that are alike: `documents` are a `model` each, as JSON; `ids`: of the first and of the last. Never
    published as it is: the outbox takes them apart."""

    model: ClassVar[type[Item]]
    documents: tuple[bytes, ...]
    ids: tuple[str, str]


class ManyEnded(Many):
    """Verdicts."""

    model = JobTaskEnded


class ManyDue(Many):
    """Dispatches."""

    model = AttemptDue


M = TypeVar("M", bound=Many)


class Same(NamedTuple):
    """A job task as far as it differs from its like: ids as their 16 bytes, the name of its host as JSON."""

    job_task_id: bytes
    host_id: bytes
    host_name: str
    ordinal: int


@dataclass(frozen=True, slots=True)
class AnswerToAll:
    """What the rule says of one that stands in for all, whose name no host has."""

    verdict: JobTaskEnded

    def said_of(self, job_tasks: Iterable[Same]) -> ManyEnded:
        """Their verdicts, at most as many as fit into a message."""
        return _said(ManyEnded, self.verdict, job_tasks, item_id_prefix("ended"))


def answer_to_all(job_invocation_id: UUID, word: CancelRequested | Halted, at: Circumstances) -> AnswerToAll:
    """What becomes of each job task of an invocation that waits and was never dispatched."""
    decision = step(_stands_in(job_invocation_id, "", at), word, at)
    (verdict,) = decision.emits
    assert isinstance(verdict, JobTaskEnded) and decision.job_task.state is State.ENDED  # noqa: S101 (a word that ends them)
    return AnswerToAll(verdict)


@dataclass(frozen=True, slots=True)
class ClaimOfAll:
    """What a claim makes of each: `changes` are the fields that are others then."""

    due: AttemptDue
    changes: Mapping[str, Any]

    def of(self, job_task: JobTask) -> JobTask:
        return replace(job_task, **self.changes)

    def said_of(self, job_tasks: Iterable[JobTask]) -> ManyDue:
        """Their dispatches, at most as many as fit into a message."""
        same = (
            Same(one.job_task_id.bytes, one.host_id.bytes, to_json(one.host_name).decode(), one.ordinal)
            for one in job_tasks
        )
        return _said(ManyDue, self.due, same, item_id_prefix("attempt-due"), f"\x1f{self.due.attempt}")


def is_new(job_task: JobTask) -> bool:
    """Whether it waits and nothing has happened to it yet."""
    return job_task.state is State.WAITING and not job_task.last_attempt and not job_task.is_cancelling


def claim_of_all(job_invocation_id: UUID, proxy: str, at: Circumstances) -> ClaimOfAll | None:
    """What becomes of each new job task of an invocation at a proxy when it is given a slot; None: it gets none any more."""
    before = _stands_in(job_invocation_id, proxy, at)
    decision = step(before, Claimed(), at)
    (due,) = decision.emits
    if not isinstance(due, AttemptDue):
        return None
    after = {field.name: getattr(decision.job_task, field.name) for field in fields(JobTask)}
    return ClaimOfAll(due, {name: value for name, value in after.items() if value != getattr(before, name)})


def _stands_in(job_invocation_id: UUID, proxy: str, at: Circumstances) -> JobTask:
    return JobTask(_JOB_TASK_ID, job_invocation_id, _HOST_ID, _HOST_NAME, proxy, _ORDINAL, at.now)


def _said(kind: type[M], item: InvocationItem, job_tasks: Iterable[Same], prefix: bytes, rest: str = "") -> M:
    pattern = _pattern(item)
    documents: list[bytes] = []
    ids: list[str] = []
    for one in job_tasks:
        job_task_id = _as_text(one.job_task_id.hex())
        identity = _item_id(prefix, job_task_id + rest)
        ids.append(identity)
        names = {
            "id": identity,
            "task": job_task_id,
            "host": _as_text(one.host_id.hex()),
            "name": one.host_name,
            "n": one.ordinal,
        }
        documents.append((pattern % names).encode())
    made: Any = kind.model_construct(
        id=UUID(ids[0]),
        time=item.time,
        job_invocation_id=item.job_invocation_id,
        documents=tuple(documents),
        ids=(ids[0], ids[-1]),
    )
    many: M = made
    return many


def _pattern(item: Item) -> str:
    text = item.model_copy(update={"id": _ID}).model_dump_json().replace("%", "%%")
    for found, name in (
        (str(_ID), "%(id)s"),
        (str(_JOB_TASK_ID), "%(task)s"),
        (str(_HOST_ID), "%(host)s"),
        (f'"{_HOST_NAME}"', "%(name)s"),
        (str(_ORDINAL), "%(n)d"),
    ):
        text = text.replace(found, name)
    return text


def _item_id(prefix: bytes, last: str) -> str:
    """`item_id`, as text, of parts of which all but the last are in the prefix."""
    digest = sha1(prefix + last.encode(), usedforsecurity=False).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{_VARIANT[digest[16]]}{digest[17:20]}-{digest[20:32]}"


def _as_text(digits: str) -> str:
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
"""RFC 9562: the two high bits of the clock field are 10."""
