"""What a planner can say again of what it decided about attempts."""

from datetime import UTC, datetime
from uuid import UUID

from chargehand_planner.core.bindings import Binding, BindingKind, announced
from chargehand_planner.core.repair import decisions_again
from chargehand_schemas.base import AttemptItem
from chargehand_schemas.ids import item_id
from chargehand_schemas.planning import AttemptBound, AttemptRebound, AttemptRefused, AttemptVoided

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def binding(kind: BindingKind, attempt: int) -> Binding:
    return Binding(
        UUID(int=1),
        UUID(int=2),
        attempt,
        UUID(int=3),
        kind,
        proxy="dmz",
        template_id=UUID(int=4),
        script_digest="d" * 64,
    )


def test_every_decision_is_told_again_under_its_id() -> None:
    bindings = [binding(kind, number) for number, kind in enumerate(BindingKind, 1)]
    again = decisions_again(bindings, NOON)
    assert [type(item) for item in again] == [AttemptBound, AttemptRefused, AttemptRebound, AttemptVoided]
    for item, one in zip(again, bindings, strict=True):
        due = AttemptItem(
            id=item_id("attempt-due", one.job_task_id, one.attempt), time=NOON, job_invocation_id=one.job_invocation_id,
            job_task_id=one.job_task_id, attempt=one.attempt,
        )  # fmt: skip
        assert item == announced(one, due, NOON)
