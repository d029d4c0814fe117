"""One word to very many job tasks that differ in nothing but who they are: those that were never dispatched.

Owns how they are answered at once. The rule is asked for one that stands in for all; what each says is its answer with the names
of each put in. That this is what the rule answers each of them is shown in tests/unit/dispatcher and by the model of the stores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha1
from typing import NamedTuple
from uuid import UUID

from chargehand_schemas.base import InvocationItem
from chargehand_schemas.dispatch import JobTaskEnded
from chargehand_schemas.ids import item_id_prefix

from .job_task import JobTask, State
from .rules import Circumstances
from .table import CancelRequested, Halted, step

_ID, _JOB_TASK_ID, _HOST_ID = (UUID(f"5f0e7a1c-0000-4000-8000-00000000000{n}") for n in range(3))
_HOST_NAME, _ORDINAL = "the host that stands in for all of them", 1_987_654_321


class ManyEnded(InvocationItem):
    """Verdicts of job tasks of one invocation that are alike: `documents` are a JobTaskEnded each, as JSON; `ids`: of the first and
    of the last. Never published as it is: the outbox takes them apart."""

    documents: tuple[bytes, ...]
    ids: tuple[str, str]


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

    def said_of(self, job_tasks: Sequence[Same]) -> ManyEnded:
        """Their verdicts, at most as many as fit into a message."""
        pattern = self._pattern()
        documents: list[str] = []
        ids: list[str] = []
        for one in job_tasks:
            job_task_id = _as_text(one.job_task_id.hex())
            identity = _ended_id(job_task_id)
            ids.append(identity)
            documents.append(
                pattern
                % {
                    "id": identity,
                    "task": job_task_id,
                    "host": _as_text(one.host_id.hex()),
                    "name": one.host_name,
                    "n": one.ordinal,
                }
            )
        return ManyEnded.model_construct(
            id=UUID(ids[0]),
            time=self.verdict.time,
            job_invocation_id=self.verdict.job_invocation_id,
            documents=tuple(document.encode() for document in documents),
            ids=(ids[0], ids[-1]),
        )

    def _pattern(self) -> str:
        text = self.verdict.model_copy(update={"id": _ID}).model_dump_json().replace("%", "%%")
        for found, name in (
            (str(_ID), "%(id)s"),
            (str(_JOB_TASK_ID), "%(task)s"),
            (str(_HOST_ID), "%(host)s"),
            (f'"{_HOST_NAME}"', "%(name)s"),
            (str(_ORDINAL), "%(n)d"),
        ):
            text = text.replace(found, name)
        return text


def answer_to_all(job_invocation_id: UUID, word: CancelRequested | Halted, at: Circumstances) -> AnswerToAll:
    """What becomes of each job task of an invocation that waits and was never dispatched."""
    stands_in = JobTask(_JOB_TASK_ID, job_invocation_id, _HOST_ID, _HOST_NAME, "", _ORDINAL, at.now)
    decision = step(stands_in, word, at)
    (verdict,) = decision.emits
    assert isinstance(verdict, JobTaskEnded) and decision.job_task.state is State.ENDED  # noqa: S101 (a word that ends them)
    return AnswerToAll(verdict)


def _ended_id(job_task_id: str) -> str:
    """item_id("ended", job_task_id), as text."""
    digest = sha1(_ENDED + job_task_id.encode(), usedforsecurity=False).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{_VARIANT[digest[16]]}{digest[17:20]}-{digest[20:32]}"


def _as_text(digits: str) -> str:
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


_ENDED = item_id_prefix("ended")
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
"""RFC 9562: the two high bits of the clock field are 10."""
