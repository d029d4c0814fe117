"""`chargehand repair`: what it says, when it goes on, and when it does not begin."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from chargehand.commands.repair import _may_mend, _print_done
from chargehand.errors import CommandError
from chargehand.terminal.screen import Screen
from chargehand.up.layout import DataDirectory
from chargehand.up.repairing import Opened, machine
from chargehand.up.state import Lock
from chargehand_chassis.kafka import Cut
from chargehand_chassis.repair import Finding

CUT = Cut("chargehand.dispatch-events.v1", 2, 120, 0, 100, 100)
MENDABLE = Finding("dispatcher", CUT, "says it again", ("job 1: 2 of 3 verdicts",))
HOPELESS = Finding("planner", Cut("chargehand.commands.v1", 0, 3, 8, 3, 9), "")


def asked(output: str = "table") -> Any:
    return SimpleNamespace(screen=Screen(output, "never"))


def test_what_is_missing_is_listed_with_what_is_done_and_what_is_gone(capsys: pytest.CaptureFixture[str]) -> None:
    assert not _may_mend(asked(), [MENDABLE], is_confirmed=False)
    shown = capsys.readouterr()
    row = "dispatcher\tchargehand.dispatch-events.v1/2\t120\t0 to 100\t20\tsays it again"
    assert shown.out.splitlines() == [row, f"gone for good from {CUT.place}: job 1: 2 of 3 verdicts"]
    assert "Nothing was changed" in shown.err


@pytest.mark.parametrize(
    ("findings", "is_confirmed", "goes_on"),
    [([MENDABLE], True, True), ([MENDABLE], False, False), ([MENDABLE, HOPELESS], True, False), ([], True, False)],
)
def test_it_goes_on_when_told_to_and_when_everything_can_be_mended(
    findings: Sequence[Finding], is_confirmed: bool, goes_on: bool
) -> None:
    assert _may_mend(asked(), findings, is_confirmed) is goes_on


def test_the_document_has_every_number(capsys: pytest.CaptureFixture[str]) -> None:
    _print_done(asked("json"), [MENDABLE], [("dispatcher", "done")])
    document = json.loads(capsys.readouterr().out)
    assert document["findings"] == [
        {
            "service": "dispatcher", "topic": CUT.topic, "partition": 2, "position": 120, "begin": 0, "held": 100, "end": 100,
            "missing": 20, "does": "says it again", "gone": ["job 1: 2 of 3 verdicts"],
        }
    ]  # fmt: skip
    assert document["done"] == [{"service": "dispatcher", "what": "done"}]


class Kept:
    """A part of a repair that remembers what it was given."""

    def __init__(self, *findings: Finding) -> None:
        self.findings, self.given = findings, list[Finding]()

    async def find(self) -> Sequence[Finding]:
        return self.findings

    async def mend(self, findings: Sequence[Finding]) -> Sequence[str]:
        self.given += findings
        return [f"{len(self.findings)} of its own"]


async def test_every_store_is_told_what_any_of_them_has_found() -> None:
    planner, dispatcher = Kept(), Kept(MENDABLE)
    opened = Opened({"planner": planner, "dispatcher": dispatcher})  # type: ignore[dict-item]
    findings = await opened.find()
    assert await opened.mend(findings) == [("planner", "0 of its own"), ("dispatcher", "1 of its own")]
    assert planner.given == dispatcher.given == [MENDABLE]


async def test_a_directory_that_is_none_and_one_in_use_are_refused(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path / "data")
    with pytest.raises(CommandError, match="there is nothing to repair"):
        async with machine(data, print):
            pass
    data.make()
    lock = Lock(data.lock)
    assert lock.take()
    with pytest.raises(CommandError, match="is in use"):
        async with machine(data, print):
            pass
    lock.release()
