"""What became of a job: the hosts' own files, HTTP and the topics, held against each other.

Owns what counts as lost, doubled, contradictory and a gap:

- lost: a job task without a verdict, or one that is said to have succeeded and whose host has not written its end;
- doubled: a job task with one try that began more than once on its host;
- contradictory: HTTP and dispatch-events tell different verdicts; or a verdict that its host's file refutes: "never picked up" where
  it began, an exit status that the job cannot have; or any other promise the checker finds broken;
- output gap: a succeeded job task whose stdout or stderr is not, byte for byte, what the job writes.

`unknown` is no such fault, nor is `interrupted` where the host's file has no end; how many did not succeed is told beside the counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from chargehand.checker import Recording, Violation
from chargehand_schemas.dispatch import JobTaskEnded
from support.sshd import SshHost

KINDS = ("lost", "doubled", "contradictory", "output_gaps")
LINES = 16
LINE_BYTES = 1000
_LEDGER = "chaos-ledger"
_KIND_OF_PROMISE = {
    "no lost job": "lost",
    "no doubled run": "doubled",
    "two at once": "doubled",
    "no lost output": "output_gaps",
}


def script(run: int) -> str:
    """What each host runs: it writes into its own file that it begins, prints slowly on both streams, and writes that it ended."""
    return (
        f'echo "begin {run}" >> "$HOME/{_LEDGER}"; n=0; '
        f"while [ $n -lt {LINES} ]; do n=$((n+1)); "
        f'printf "%s {run} %0{LINE_BYTES}d\\n" "${{HOME##*/}}" $n; echo "{run} $n" >&2; sleep 0.8; done; '
        f'echo "end {run}" >> "$HOME/{_LEDGER}"'
    )


def expected(host: str, run: int) -> dict[str, bytes]:
    """The bytes of each stream."""
    numbers = range(1, LINES + 1)
    return {
        "stdout": "".join(f"{host} {run} {n:0{LINE_BYTES}d}\n" for n in numbers).encode(),
        "stderr": "".join(f"{run} {n}\n" for n in numbers).encode(),
    }


@dataclass
class Findings:
    """What was found so far; `notes` says each thing in words."""

    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, note: str) -> None:
        self.counts[kind] += 1
        self.notes.append(f"{kind}: {note}")

    def add_violations(self, violations: Iterable[Violation]) -> None:
        for violation in violations:
            self.add(_KIND_OF_PROMISE.get(violation.promise, "contradictory"), str(violation))

    def summary(self) -> str:
        """`lost 0 doubled 0 …`."""
        return " ".join(f"{kind} {self.counts[kind]}" for kind in KINDS)


def examine_run(findings: Findings, http: httpx.Client, hosts: Sequence[SshHost], invocation: UUID, run: int) -> None:
    """What HTTP and the hosts say of one run."""
    rows = {row["host"]: row for row in job_tasks(http, invocation)}
    for host in hosts:
        row = rows.get(host.name)
        if row is None or row["status"] not in ("succeeded", "failed", "cancelled"):
            findings.add("lost", f"run {run} on {host.name}: {row and row['status']}")
            continue
        findings.ends[row.get("reason") or row["status"]] += 1
        _compare_with_host(findings, host, row, run)
        if row["status"] == "succeeded":
            _compare_output(findings, http, host, row, run)


def examine_recording(findings: Findings, recording: Recording, rows: Iterable[dict[str, Any]]) -> None:
    """Verdicts of the topics against those that HTTP shows."""
    ended = {
        str(entry.item.job_task_id): entry.item
        for log in recording.invocations.values()
        for entry in log.dispatch
        if isinstance(entry.item, JobTaskEnded)
    }
    for row in rows:
        verdict = ended.get(row["job_task_id"])
        told = (row["status"], row.get("reason"), row.get("exit_status"))
        if verdict is None or told != (verdict.status, verdict.reason, verdict.exit_status):
            findings.add("contradictory", f"{row['host']} {row['job_task_id']}: HTTP {told}, topic {verdict}")


def job_tasks(http: httpx.Client, invocation: UUID) -> list[dict[str, Any]]:
    """The rows that HTTP shows."""
    answer = http.get(f"/job-invocations/{invocation}/job-tasks", params={"limit": 100}).raise_for_status()
    return list(answer.json()["items"])


def _compare_with_host(findings: Findings, host: SshHost, row: dict[str, Any], run: int) -> None:
    begun, ended = (_count(host.home / _LEDGER, f"{word} {run}") for word in ("begin", "end"))
    where, reason = f"run {run} on {host.name}", row.get("reason")
    if begun > 1:
        findings.add("doubled", f"{where}: began {begun} times")
    if row["status"] == "succeeded":
        if begun < 1 or ended < 1:
            findings.add("lost", f"{where}: succeeded, and its host has {begun} begins and {ended} ends")
    elif not _may_be_so(reason, begun, ended):
        findings.add("contradictory", f"{where}: {row['status']} for {reason}, with {begun} begins and {ended} ends")


def _may_be_so(reason: str | None, begun: int, ended: int) -> bool:
    """Whether the host's file leaves room for this end of a job that always exits with 0."""
    if reason in ("unknown", "interrupted"):
        return reason == "unknown" or not ended
    return not begun and reason not in ("exit_status", "timed_out")


def _compare_output(findings: Findings, http: httpx.Client, host: SshHost, row: dict[str, Any], run: int) -> None:
    for stream, wanted in expected(host.home.name, run).items():
        path = f"/job-tasks/{row['job_task_id']}/output"
        answer = http.get(path, params={"stream": stream, "follow": "true"}).raise_for_status()
        if answer.content != wanted:
            findings.add(
                "output_gaps",
                f"run {run} on {host.name} {stream}: {len(answer.content)} bytes, not {len(wanted)} or others",
            )


def _count(path: Path, line: str) -> int:
    return path.read_text().splitlines().count(line) if path.exists() else 0
