"""Cancels that meet the start of what they cancel: one outcome each, the same in the log, over HTTP and on the host."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import httpx
from chargehand.checker import Recording
from chargehand.checker.recording import InvocationLog
from chargehand_schemas.dispatch import JobTaskEnded
from chargehand_schemas.execution import AttemptNeverStarted
from chargehand_schemas.reasons import JobTaskStatus
from support.installation import Installation
from support.sshd import SshdFleet

CANCELS = 300
AT_ONCE = 10
AROUND_S = 0.05
TO_THE_HOST_S = (0.04, 0.1, 0.3)
"""What may lie between the instant of the start and the host's own, on a machine that has less or more else to do."""
CLOCKS = timedelta(milliseconds=5)
"""Broker and host are one machine here; append times are whole milliseconds."""


def line_of(number: int) -> str:
    """A job that says on its host, outside of everything recorded, that and when it began."""
    return f'echo "{number} $(date +%s%N)" >> "$HOME/cancel-race"; sleep 2'


class Race:
    """Invocations that start at a known instant, and the cancels around it."""

    def __init__(self, http: httpx.AsyncClient, draw: random.Random) -> None:
        self._http, self._draw = http, draw
        self.ids: dict[int, UUID] = {}

    async def run(self, number: int) -> None:
        start_at = datetime.now(UTC) + timedelta(seconds=0.5)
        body = {
            "targeting": {"host_names": [f"web{number % 6 + 1}"]},
            "inputs": {"command": line_of(number)},
            "start_at": start_at.isoformat(),
        }
        answer = await self._http.post("/job-invocations", json=body)
        assert answer.status_code == 201, answer.text
        self.ids[number] = UUID(answer.json()["job_invocation_id"])
        offset = timedelta(seconds=TO_THE_HOST_S[number % 3] + self._draw.uniform(-AROUND_S, AROUND_S))
        await asyncio.sleep((start_at + offset - datetime.now(UTC)).total_seconds())
        answer = await self._http.post(f"/job-invocations/{self.ids[number]}/cancel", json={})
        assert answer.status_code in (200, 202, 409), answer.text

    async def ended(self, numbers: Iterable[int]) -> dict[int, str]:
        """Their ends, as HTTP tells them."""
        found = {}
        for number in numbers:
            async with self._http.stream("GET", f"/job-invocations/{self.ids[number]}/events") as answer:
                async for line in answer.aiter_lines():
                    if line == "event: end":
                        break
            found[number] = (await self._http.get(f"/job-invocations/{self.ids[number]}")).json()["status"]
        return found


async def run(installation: Installation) -> tuple[Race, dict[int, str]]:
    client = json.loads((installation.data / "client.json").read_text())
    headers = {"Authorization": f"Bearer {client['token']}", "Accept": "application/json"}
    async with httpx.AsyncClient(base_url=client["server"], headers=headers, timeout=60, trust_env=False) as http:
        race = Race(http, random.Random(300))
        for first in range(0, CANCELS, AT_ONCE):
            await asyncio.gather(*(race.run(number) for number in range(first, first + AT_ONCE)))
        return race, await race.ended(range(CANCELS))


def begun(fleet: SshdFleet) -> dict[int, list[datetime]]:
    """When each job began, by the files on the hosts."""
    found: dict[int, list[datetime]] = {}
    for host in fleet.hosts:
        path = Path(host.home) / "cancel-race"
        for line in path.read_text().splitlines() if path.exists() else []:
            number, moment_ns = line.split()
            found.setdefault(int(number), []).append(datetime.fromtimestamp(int(moment_ns) / 1e9, UTC))
    return found


def verdict_of(log: InvocationLog) -> tuple[JobTaskStatus, datetime]:
    (verdict,) = [e for e in log.dispatch if isinstance(e.item, JobTaskEnded)]
    assert isinstance(verdict.item, JobTaskEnded)
    return verdict.item.status, verdict.append_time


def judge(recording: Recording, race: Race, ends: dict[int, str], on_hosts: dict[int, list[datetime]]) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    for number in range(CANCELS):
        log = recording.invocations[race.ids[number]]
        begins = on_hosts.get(number, [])
        if not log.planned:
            assert (ends[number], begins) == ("cancelled", [])
            outcomes["cancelled before it was planned"] += 1
            continue
        status, moment = verdict_of(log)
        never = any(isinstance(e.item, AttemptNeverStarted) for facts in log.facts.values() for e in facts)
        assert ends[number] == status.value
        assert len(begins) <= 1, "it ran twice"
        assert not (never and begins), "it ran, and was said never to have started"
        assert all(begin <= moment + CLOCKS for begin in begins), "it began after its verdict"
        outcomes[f"{status.value}, {'begun' if begins else 'not begun'}"] += 1
    return outcomes


def test_three_hundred_cancels_around_the_start_have_one_outcome_each(checked: Installation, fleet: SshdFleet) -> None:
    race, ends = asyncio.run(run(checked))
    outcomes = judge(checked.recording(), race, ends, begun(fleet))
    print(dict(outcomes))
    assert sum(outcomes.values()) == CANCELS
    assert outcomes["succeeded, not begun"] == 0
    assert outcomes["cancelled, begun"] and outcomes["cancelled, not begun"], f"the cancels met no start: {outcomes}"
