"""Hosts behind 100 ms of network, one sshd playing them all: the good ones alone, and beside a tenth that answers nothing.

Owns the comparison, by the times of verdicts in the log: the middle and the last of the good ones, from the wish. In turns; all
connections are new each time. No concurrency limit is set; the agent is a site's own, with nothing set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from benchmarks.figures import Figure, at_most, percentile, ratio
from benchmarks.place import Place, Size, WrongResult, enrolled_client
from chargehand.client.kafka import KafkaClient
from chargehand_schemas.commands import Targeting
from chargehand_schemas.dispatch import JobTaskEnded
from support.distant_hosts import Relay, distant_hosts
from support.installation import Installation
from support.site_agent import agent_at
from support.sshd import SshHost

_GOOD = {Size.SHORT: 9, Size.SMALL: 270, Size.FULL: 270}
_BAD = {Size.SHORT: 1, Size.SMALL: 30, Size.FULL: 30}
_ROUND_TRIP = timedelta(milliseconds=100)
_MOST_TIMES = 1.2
_IMPATIENT = {"SSH_CONNECT_TIMEOUT": "PT3S", "CLOCK_MARGIN": "PT1S"}


def measure(place: Place) -> list[Figure]:
    """Middle and last good host, alone and beside black holes. NoSshd, NoNamespaces."""
    with (
        place.installation() as installation,
        place.directory() as directory,
        distant_hosts(scratch=place.scratch, user=place.user) as distant,
        agent_at(distant.site, installation, directory, settings=_IMPATIENT if place.size is Size.SHORT else {}),
    ):
        good = distant.shown(distant.fleet(_GOOD[place.size], "distant"))
        bad = distant.black_holes(_BAD[place.size], good[0])
        installation.import_hosts([*bad, *good], proxy=distant.site.name)
        distant.relay.delay(_ROUND_TRIP)
        alone, beside = asyncio.run(_take_turns(installation, distant.relay, good, bad, place.size.runs))
    return [*_compare("the middle one", 0.5, alone, beside), *_compare("the last one", 1.0, alone, beside)]


_Took = list[list[float]]


async def _take_turns(
    installation: Installation, relay: Relay, good: Sequence[SshHost], bad: Sequence[SshHost], runs: int
) -> tuple[_Took, _Took]:
    began: list[tuple[UUID, datetime]] = []
    async with enrolled_client(installation) as client:
        await _run(client, good, [])
        for _ in range(runs):
            for holes in ([], bad):
                relay.cut()
                began.append(await _run(client, good, holes))
    names = {host.name for host in good}
    recording = await asyncio.to_thread(installation.recording)
    took = [
        [
            (entry.append_time - since).total_seconds()
            for entry in recording.invocations[job].dispatch
            if isinstance(entry.item, JobTaskEnded) and entry.item.host_name in names
        ]
        for job, since in began
    ]
    return took[0::2], took[1::2]


async def _run(client: KafkaClient, good: Sequence[SshHost], bad: Sequence[SshHost]) -> tuple[UUID, datetime]:
    """The job on all of them, and when it was wished for."""
    began = datetime.now(UTC)
    names = tuple(host.name for host in (*bad, *good))
    accepted = await client.invoke(targeting=Targeting(host_names=names), inputs={"command": "echo hello"})
    ended = await client.wait(accepted.job_invocation_id)
    counts = {"succeeded": len(good), **({"failed": len(bad)} if bad else {})}
    if ended.counts != counts:
        raise WrongResult(f"job {ended.job_invocation_id}: {ended.counts} {ended.reasons}, not {counts}")
    return ended.job_invocation_id, began


def _compare(which: str, share: float, alone: _Took, beside: _Took) -> list[Figure]:
    by_themselves, with_holes = (
        Figure(f"{which} of the good hosts {how}", "s", tuple(percentile(took, share) for took in runs))
        for how, runs in (("alone", alone), ("beside black holes", beside))
    )
    return [
        by_themselves,
        with_holes,
        ratio(f"{which}: beside ÷ alone", with_holes, by_themselves, at_most(_MOST_TIMES)),
    ]
