"""`repair`: the stores of one machine, or of one service, against the log; and what is done about what is missing.

Owns opening them while nothing runs, and the order: everything is found before anything is mended. What a store can do is its
service's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..embedded.errors import LauncherError
from ..embedded.kafka import EmbeddedKafka
from ..errors import CommandError, ExitStatus
from .layout import DataDirectory
from .programs import kafka_environment, service_programs
from .stack import end_left_behind, in_daemon_thread
from .state import Lock, load_state

if TYPE_CHECKING:
    from chargehand_chassis.repair import Finding, Repair

DOORS = {
    "planner": ("chargehand_planner.shell", "PlannerSettings", "PlannerRepair"),
    "dispatcher": ("chargehand_dispatcher.shell", "DispatcherSettings", "DispatcherRepair"),
    "reporter": ("chargehand_reporter.shell", "ReporterSettings", "ReporterRepair"),
}
"""Of each service that keeps positions: its package, its settings, and its part of a repair."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The parts, opened, by service."""

    repairs: Mapping[str, Repair]

    async def find(self) -> list[Finding]:
        """What is missing, by service and place."""
        found = [finding for repair in self.repairs.values() for finding in await repair.find()]
        return sorted(found, key=lambda finding: (finding.service, finding.cut.place))

    async def mend(self, findings: Sequence[Finding]) -> list[tuple[str, str]]:
        """Mend every store; what was done, by service."""
        done: list[tuple[str, str]] = []
        for name, repair in self.repairs.items():
            done += [(name, words) for words in await repair.mend(findings)]
        return done


@contextlib.asynccontextmanager
async def machine(data: DataDirectory, report: Callable[[str], None]) -> AsyncIterator[Opened]:
    """Every store of a data directory, with its Kafka running and nothing else. CommandError if it is in use."""
    if not data.marker.exists():
        raise CommandError(
            f"there is nothing to repair in {data.root}.",
            why="it was not made by `chargehand up`.",
            do="name the data directory with --data DIR, or a service: chargehand repair dispatcher.",
        )
    lock = Lock(data.lock)
    if not lock.take():
        raise _is_in_use(data)
    kafka = EmbeddedKafka(data.kafka, report=report)
    try:
        end_left_behind(data, report)
        address = await in_daemon_thread(kafka.start)
        where = kafka_environment(address)
        environments = {p.name: {**p.environment, **where} for p in service_programs(data, 0)}
        async with _opened({name: environments[name] for name in DOORS}) as opened:
            yield opened
    except LauncherError as error:
        raise CommandError(error.what, why=error.why, do=error.do, status=ExitStatus.UNREACHABLE) from error
    finally:
        await in_daemon_thread(kafka.stop)
        lock.release()


@contextlib.asynccontextmanager
async def one_service(name: str) -> AsyncIterator[Opened]:
    """The store of one service, whose settings are in our environment, as for `chargehand run`. CommandError if it runs."""
    from chargehand_chassis.kafka import group_members

    async with _opened({name: dict(os.environ)}) as opened:
        repair = opened.repairs[name]
        if await group_members(repair.settings, repair.group):
            raise CommandError(
                f"a {name} runs, or ran a moment ago.",
                why=f"Kafka's group {repair.group} has a member.",
                do="stop every instance of it, and try again; one that was killed is forgotten after some seconds.",
            )
        yield opened


@contextlib.asynccontextmanager
async def _opened(environments: Mapping[str, Mapping[str, str]]) -> AsyncIterator[Opened]:
    with contextlib.ExitStack() as stack:
        repairs: dict[str, Any] = {}
        for name, environment in environments.items():
            repairs[name] = _open(name, environment)
            stack.callback(repairs[name].close)
        yield Opened(repairs)


def _open(name: str, environment: Mapping[str, str]) -> Any:
    package, settings, repair = DOORS[name]
    try:
        with _environment(environment):
            made = getattr(import_module(f"{package}.settings"), settings)()
        return getattr(import_module(f"{package}.repair"), repair)(made)
    except ModuleNotFoundError as error:
        raise CommandError(
            f"the store of the {name} cannot be opened.",
            why=f"the module {error.name} is not installed.",
            do=f"install chargehand[{name}].",
        ) from error
    except ValueError as error:
        raise CommandError(
            f"the settings of the {name} cannot be read.",
            why=" ".join(str(error).split())[:300] + ".",
            do="give them in the environment, as for `chargehand run`.",
        ) from error


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Settings are read from the environment and nowhere else: a service's own, for as long as they are read."""
    own = dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update(variables)
        yield
    finally:
        os.environ.clear()
        os.environ.update(own)


def _is_in_use(data: DataDirectory) -> CommandError:
    state = load_state(data)
    return CommandError(
        f"{data.root} is in use.",
        why=f"process {state.pid if state else '(unknown)'} runs its services, and what they do meanwhile would be undone.",
        do=f"stop it first: chargehand down --data {data.root}",
    )
