"""`repair`. Owns its words and when it may go on; what is found and mended is in `chargehand.up.repairing`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ..errors import CommandError, ExitStatus
from ..help import Command
from ..options import Asked, common_options

if TYPE_CHECKING:
    from chargehand_chassis.repair import Finding

_CONFIRMATION = "repair"


@click.command(cls=Command)
@click.argument("service", required=False, type=click.Choice(["planner", "dispatcher", "reporter"]))
@click.option(
    "--yes", "-y", "is_confirmed", is_flag=True, help="Do what is listed; else it is asked for, or only listed."
)
@common_options
def repair(asked: Asked, service: str | None, is_confirmed: bool) -> int:
    """Go on after a log was cut: services stop when Kafka has lost what they read or wrote.

    Lists, for each service and partition, what its store says, what the log holds and what is missing; and what would be done
    about it. Without SERVICE it is about everything that `chargehand up` runs here, which must be stopped. With SERVICE it is
    about that one, with its settings in the environment; stop all services first, and mend each of the three before the first
    is started again.

    Exit status 0: nothing is missing, or it was mended; 1: something is missing and nothing was changed.
    """
    return asyncio.run(_repair(asked, service, is_confirmed))


async def _repair(asked: Asked, service: str | None, is_confirmed: bool) -> int:
    from chargehand_chassis.errors import ChargehandError

    from ..up.layout import DataDirectory
    from ..up.repairing import machine, one_service

    try:
        async with (
            one_service(service) if service else machine(DataDirectory(asked.settings.data), asked.screen.say) as opened
        ):
            findings = await opened.find()
            may_mend = _may_mend(asked, findings, is_confirmed)
            done = await opened.mend(findings) if may_mend else []
    except ChargehandError as error:
        raise CommandError(
            "nothing was repaired.",
            why=f"{error}.",
            do="see that Kafka answers, the stores can be opened, and no service runs.",
            status=ExitStatus.UNREACHABLE,
        ) from error
    _print_done(asked, findings, done)
    return ExitStatus.SUCCEEDED if may_mend or not findings else ExitStatus.NOT_SUCCEEDED


def _may_mend(asked: Asked, findings: Sequence[Finding], is_confirmed: bool) -> bool:
    if asked.screen.is_table:
        _print(asked, findings)
    if not findings:
        return False
    if not all(finding.is_mendable for finding in findings):
        asked.screen.say("What was deleted unread cannot be brought back here: restore that log. Nothing was changed.")
        return False
    if is_confirmed:
        return True
    if not asked.screen.may_ask:
        asked.screen.say("Nothing was changed. To do what is listed: chargehand repair --yes")
        return False
    return bool(
        click.prompt(f"Type {_CONFIRMATION} to do this", err=True, default="", show_default=False) == _CONFIRMATION
    )


def _print(asked: Asked, findings: Sequence[Finding]) -> None:
    columns = ("service", "log", "the store says", "the log holds", "missing", "what is done")
    asked.screen.table(columns, map(_row, findings), empty="every log holds what the stores know of it")
    for finding in findings:
        for what in finding.gone:
            asked.screen.print(f"gone for good from {finding.cut.place}: {what}")


def _row(finding: Finding) -> tuple[str, ...]:
    cut = finding.cut
    holds = f"{cut.begin} to {cut.end}" if cut.end == cut.held else f"the same up to {cut.held}, now up to {cut.end}"
    return (
        finding.service,
        cut.place,
        str(cut.position),
        holds,
        str(cut.missing),
        finding.does or "nothing can be done",
    )


def _print_done(asked: Asked, findings: Sequence[Finding], done: Sequence[tuple[str, str]]) -> None:
    if asked.screen.is_table:
        for service, words in done:
            asked.screen.print(f"{service}: {words}")
        if done:
            asked.screen.say("Start the services again: they say again what is listed.")
        return
    document = {
        "findings": [_document(finding) for finding in findings],
        "done": [{"service": service, "what": words} for service, words in done],
    }
    if asked.screen.output == "json":
        asked.screen.json(document)
    else:
        asked.screen.json_lines([document])


def _document(finding: Finding) -> dict[str, Any]:
    cut = finding.cut
    return {
        "service": finding.service,
        "topic": cut.topic,
        "partition": cut.partition,
        "position": cut.position,
        "begin": cut.begin,
        "held": cut.held,
        "end": cut.end,
        "missing": cut.missing,
        "does": finding.does,
        "gone": list(finding.gone),
    }
