"""kill -9 on a whole installation with 50 real ssh hosts in flight: `python -m chaos.campaign --kills n --seed s`.

Owns the campaign: one installation with short timers, runs of a job that streams from every host, and what is killed meanwhile
by the schedule. What counts as a fault is in evidence.py. The last line is the result; the exit status is 1 if any count is not 0.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import os
import random
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from chaos.evidence import Findings, examine_recording, examine_run, job_tasks, script
from chaos.schedule import ROUNDS, TREE, Strike, draw
from chargehand.checker import check
from chargehand.embedded.processes import ProcessMark
from support.installation import Installation
from support.processes import SESSION_VARIABLE, kill, ours
from support.sshd import SshdFleet
from support.users import throw_away_user
from support.waiting import wait_until

HOSTS = 50
PER_SSHD = 16
CONCURRENCY = 25
EXECUTION_TIMEOUT_S = 60
SHORT_TIMERS = {
    "HEARTBEAT_EVERY": "PT5S",
    "ASK_AFTER": "PT15S",
    "ASK_AGAIN": "PT8S",
    "READABLE_FOR": "PT10S",
    "AGENT_SILENT_AFTER": "PT10S",
    "CHUNK_MISSING_AFTER": "PT20S",
}
_VERDICTS_WITHIN_S = 240
_ALIVE_WITHIN = timedelta(seconds=90)
_POINT_WITHIN = timedelta(seconds=20)


class Campaign:
    """One installation, killed again and again. `tell` gets a line for each thing that is done."""

    def __init__(self, installation: Installation, fleet: SshdFleet, seed: int, tell: Callable[[str], None]) -> None:
        self.findings = Findings()
        self.kills = 0
        self.points = 0
        self._installation, self._fleet, self._tell = installation, fleet, tell
        self._ids = random.Random(f"invocations of {seed}")
        self._invocations: list[UUID] = []
        self._killed: dict[str, ProcessMark] = {}

    def strike_at_random(self, strikes: Sequence[Strike]) -> None:
        """One run of the job with these strikes in it."""
        invocation = self._invoke()
        for strike in strikes:
            time.sleep(strike.delay_s)
            self._kill(strike.victim)
            self._tell(f"kill {self.kills}: {strike.victim}, {strike.delay_s} s after the last")
        self._await_verdicts(invocation)

    def strike_at(self, armed: Mapping[str, str]) -> None:
        """One run of the job in which these services end themselves, each at its point; a start of the whole arms and disarms."""
        self._restart("".join(f"[{service}]\nfault_point = {json.dumps(point)}\n" for service, point in armed.items()))
        before = {service: self._mark(service) for service in armed}
        invocation = self._invoke()
        for service, point in armed.items():
            self._await_end_at(point, before[service], service)
        self._restart("")
        self._invoke_again(invocation)
        self._await_verdicts(invocation)

    def judge(self) -> None:
        """The topics, when all runs are over."""
        recording = self._installation.recording()
        self.findings.add_violations(check(recording))
        with self._installation.http() as http:
            rows = [row for invocation in self._invocations for row in job_tasks(http, invocation)]
        examine_recording(self.findings, recording, rows)

    def result(self) -> str:
        """The last line."""
        return f"kills {self.kills} {self.findings.summary()}"

    # --- killing

    def _kill(self, victim: str) -> None:
        if victim == TREE:
            self._restart(None)
            return
        wait_until(lambda: self._is_fresh(victim), within=_ALIVE_WITHIN)
        mark = self._mark(victim)
        self._killed[victim] = mark
        with contextlib.suppress(ProcessLookupError):
            os.kill(mark.pid, signal.SIGKILL)
        self.kills += 1

    def _await_end_at(self, point: str, before: ProcessMark, service: str) -> None:
        try:
            wait_until(lambda: self._mark(service) != before, within=_POINT_WITHIN)
        except AssertionError:
            self._tell(f"not reached: {point}")
            return
        self.kills += 1
        self.points += 1
        self._tell(f"kill {self.kills}: {service} at {point}")

    def _restart(self, settings: str | None) -> None:
        """Kill the whole tree and start it again, with other settings if any are given."""
        self._installation.kill_tree()
        self.kills += 1
        if settings is not None:
            (self._installation.data / "settings.toml").write_text(settings)
        self._installation.start()
        self._killed.clear()

    def _mark(self, service: str) -> ProcessMark:
        """The process of a service, as the supervisor wrote it down; number 0 while there is none."""
        rows: list[dict[str, Any]] = json.loads((self._installation.data / "up.json").read_text())["services"]
        row = next(row for row in rows if row["name"] == service)
        return ProcessMark(int(row["pid"]), str(row["began"]))

    def _is_fresh(self, service: str) -> bool:
        mark = self._mark(service)
        return mark.pid > 0 and mark != self._killed.get(service) and mark.is_running()

    # --- jobs

    def _invoke(self) -> UUID:
        invocation = UUID(int=self._ids.getrandbits(128), version=4)
        self._invocations.append(invocation)
        self._invoke_again(invocation)
        return invocation

    def _invoke_again(self, invocation: UUID) -> None:
        """Until it is taken, decided now or later; the same id is the same command."""
        wait_until(lambda: self._post(invocation), within=_ALIVE_WITHIN)

    def _post(self, invocation: UUID) -> bool:
        run = self._invocations.index(invocation) + 1
        body = {
            "job_invocation_id": str(invocation),
            "targeting": {"host_names": [host.name for host in self._fleet.hosts]},
            "inputs": {"command": script(run)},
            "overrides": {"concurrency": CONCURRENCY, "tries": 1, "execution_timeout_interval": EXECUTION_TIMEOUT_S},
        }
        try:
            with self._installation.http() as http:
                answer = http.post("/job-invocations", json=body)
        except httpx.TransportError:
            return False
        assert answer.status_code < 500 or answer.status_code == 503, answer.text
        assert answer.status_code not in (400, 401, 403, 404, 422), answer.text
        return answer.status_code in (201, 202, 409)

    def _await_verdicts(self, invocation: UUID) -> None:
        began = time.monotonic()
        wait_until(self._installation.answers, within=_ALIVE_WITHIN)
        watch = ("job", "watch", str(invocation), "--timeout", f"{_VERDICTS_WITHIN_S}s")
        self._installation.run(*watch, status=None, within_s=_VERDICTS_WITHIN_S + 30)
        run = self._invocations.index(invocation) + 1
        with self._installation.http() as http:
            examine_run(self.findings, http, self._fleet.hosts, invocation, run)
        waited = time.monotonic() - began
        self._tell(
            f"run {run}: verdicts {waited:.0f} s after the last kill; {self.result()}; ends {dict(self.findings.ends)}"
        )


@contextlib.contextmanager
def prepared(hosts_directory: Path, user: str, data: Path) -> Iterator[tuple[Installation, SshdFleet]]:
    """An installation that runs, with 50 hosts in its inventory; nothing of it stays."""
    fleet = SshdFleet(HOSTS, scratch=hosts_directory, user=user, prefix="chaos", per_sshd=PER_SSHD)
    installation = Installation(data, SHORT_TIMERS)
    try:
        installation.start()
        installation.import_hosts(fleet.hosts)
        yield installation, fleet
    finally:
        try:
            installation.stop()
        finally:
            fleet.close()


@contextlib.contextmanager
def _job_user(scratch: Path) -> Iterator[str]:
    """As whom jobs run: a user of this campaign when we are root, else our own."""
    if os.geteuid() != 0:
        yield getpass.getuser()
        return
    with throw_away_user(scratch / "user") as name:
        yield name


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def _run(chosen: argparse.Namespace, scratch: Path) -> int:
    rounds = ROUNDS if chosen.points else ()
    last_start = time.monotonic() + 60 * chosen.minutes
    with (
        _job_user(scratch) as user,
        prepared(scratch, user, scratch / "installation" / "data") as (installation, fleet),
    ):
        campaign = Campaign(installation, fleet, chosen.seed, _say)
        for strikes in draw(chosen.seed, chosen.kills):
            if time.monotonic() < last_start:
                campaign.strike_at_random(strikes)
        for armed in rounds:
            if time.monotonic() < last_start:
                campaign.strike_at(armed)
        campaign.judge()
        for note in campaign.findings.notes:
            _say(note)
        _say(
            f"named points {campaign.points} of {sum(map(len, ROUNDS))}; job tasks by their end {dict(campaign.findings.ends)}"
        )
        print(campaign.result(), flush=True)
        return int(any(campaign.findings.counts.values()))


def main() -> int:
    """Run a campaign of this many kills at random instants, then one at each named point."""
    parser = argparse.ArgumentParser(prog="chaos.campaign", description=main.__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--points", action=argparse.BooleanOptionalAction, default=True, help="also at each named point"
    )
    parser.add_argument("--minutes", type=float, default=60, help="no run is begun later")
    chosen = parser.parse_args()
    os.environ.setdefault(SESSION_VARIABLE, secrets.token_hex(8))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="chargehand-chaos-") as directory:
        scratch = Path(directory)
        scratch.chmod(0o711)
        (scratch / "installation").mkdir(mode=0o700)
        try:
            return _run(chosen, scratch)
        finally:
            kill(ours())


if __name__ == "__main__":
    sys.exit(main())
