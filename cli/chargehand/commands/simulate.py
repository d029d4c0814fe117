"""`simulate`: run the rules over hosts, clocks and a broker that exist only in memory. Owns its words and exit status."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from ..errors import CommandError, ExitStatus
from ..help import Command
from ..options import Asked, common_options

if TYPE_CHECKING:
    from ..simulation.run import Outcome
    from ..simulation.series import Series

_STORY_LINES = 400


@click.command(cls=Command)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="The first seed.")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="How many, one after the other.")
@click.option("--hosts", type=click.IntRange(1, 100_000), help="How many hosts; else a few, by the seed.")
@click.option(
    "--faults",
    metavar="KIND,…",
    default="all",
    show_default=True,
    help="Which kinds of faults happen: all, none, or names (`--faults help` tells them).",
)
@click.option("--story", is_flag=True, help="Tell what happened, event by event.")
@common_options
def simulate(asked: Asked, seed: int, seeds: int, hosts: int | None, faults: str, story: bool) -> int:
    """Try the rules themselves: the real cores of all services, with simulated hosts, clocks, broker and faults.

    Nothing is started and nothing is contacted. The promises are checked at every step, and the recorded topics at the
    end. The same seed is the same run. Exit status 1: a promise was broken, and the shortest story that shows it is told.
    """
    from ..simulation.run import run
    from ..simulation.scenario import FAULTS, draw
    from ..simulation.series import run_series

    kinds = _kinds(faults, FAULTS)
    if kinds is None:
        asked.screen.print("\n".join(f"{name:8} {words}" for name, words in FAULTS.items()))
        return ExitStatus.SUCCEEDED
    if story and seeds == 1:
        told = run(draw(seed, hosts, kinds), is_told=True)
        asked.screen.print("\n".join(told.story))
    began = time.process_time()
    series = run_series(range(seed, seed + seeds), hosts, kinds)
    document = _document(series, time.process_time() - began)
    screen = asked.screen
    if screen.output == "jsonl":
        screen.json_lines([document])
    elif screen.output == "json":
        screen.json(document)
    else:
        screen.print(_summary(document))
    if series.failure is not None:
        screen.say(_failure(series.failure, series.failed[0]))
    return ExitStatus.NOT_SUCCEEDED if series.failed or series.differing else ExitStatus.SUCCEEDED


def _kinds(faults: str, known: dict[str, str]) -> tuple[str, ...] | None:
    match faults:
        case "all":
            return tuple(known)
        case "none" | "":
            return ()
        case "help":
            return None
    named = tuple(name.strip() for name in faults.split(","))
    unknown = [name for name in named if name not in known]
    if unknown:
        raise CommandError(
            f"there is no kind of fault called {unknown[0]!r}.",
            why=f"the kinds are {', '.join(known)}.",
            do="name some of them with commas in between, or all, or none.",
        )
    return named


def _document(series: Series, cpu_s: float) -> dict[str, Any]:
    return {
        "seeds": series.seeds,
        "job_tasks": series.job_tasks,
        "records": series.records,
        "verdicts": dict(sorted(series.verdicts.items())),
        "job_tasks_per_cpu_s": round(series.job_tasks / cpu_s) if cpu_s else 0,
        "failed_seeds": series.failed,
        "differing_seeds": series.differing,
    }


def _summary(document: dict[str, Any]) -> str:
    verdicts = ", ".join(f"{number} {word}" for word, number in document["verdicts"].items())
    lines = [
        f"{document['seeds']} seeds, {document['job_tasks']} job tasks ({verdicts or 'none'}), {document['records']} records, "
        f"{document['job_tasks_per_cpu_s']} job tasks per second of CPU"
    ]
    if document["differing_seeds"]:
        lines.append(f"not the same when run again: seeds {document['differing_seeds']}")
    failed = document["failed_seeds"]
    lines.append(f"promises broken: {len(failed)}" + (f" (seeds {failed[:20]})" if failed else ""))
    return "\n".join(lines)


def _failure(outcome: Outcome, seed: int) -> str:
    story = outcome.story[-_STORY_LINES:]
    left = len(outcome.story) - len(story)
    lines = [
        "",
        f"broken at seed {seed}; the shortest scenario found that still breaks it:",
        str(outcome.scenario),
        *([f"… {left} lines before"] if left else []),
        *story,
        *(str(promise) for promise in outcome.broken),
    ]
    return "\n".join(lines)
