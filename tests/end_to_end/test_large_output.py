"""Much output of several hosts at once: every byte of it, or its beginning and its end, with what is left out said plainly."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.installation import Installation
from support.sshd import SshdFleet

MIB = 1024 * 1024
CAP = 64 * MIB
LINES = ("1", "1000000")
MANY = ("10000000", "32222221")
"""So many lines of nine bytes that they are 200 MB."""
SCRIPT = f"""
case $HOME in
*web4) seq {" ".join(LINES)} | tee "$HOME/printed" ;;
*web5) head -c {12 * MIB} /dev/urandom | tr -d '\\n' | head -c {10 * MIB} | tee "$HOME/printed" ;;
*web6) seq {" ".join(MANY)} ;;
*) head -c {10 * MIB} /dev/urandom | tee "$HOME/printed" ;;
esac
"""


@dataclass
class Shown:
    """What a host printed, as it is told and given out."""

    document: Any
    headers: httpx.Headers
    output: bytes

    @property
    def told(self) -> tuple[int, str, bool]:
        stream = self.document["streams"]["stdout"]
        return stream["length"], stream["digest"], stream["complete"]


@pytest.fixture
def own(tmp_path: Path, fleet: SshdFleet) -> Iterator[Installation]:
    made = Installation(tmp_path / "data")
    made.start()
    made.import_hosts(fleet.hosts)
    yield made
    made.stop()
    for host in fleet.hosts:
        (host.home / "printed").unlink(missing_ok=True)


def shown_of(own: Installation, job_tasks: list[dict[str, str]]) -> dict[str, Shown]:
    found = {}
    with own.http() as http:
        for row in job_tasks:
            document = http.get(f"/job-tasks/{row['job_task_id']}").json()
            answer = http.get(f"/job-tasks/{row['job_task_id']}/output", params={"stream": "stdout"})
            found[document["host"]] = Shown(document, answer.headers, answer.content)
    return found


def seq(first: str, last: str) -> bytes:
    return subprocess.run(["seq", first, last], capture_output=True, check=True).stdout


def test_every_byte_of_much_output_or_both_ends_of_too_much(own: Installation, fleet: SshdFleet) -> None:
    document = own.exec("--all", "--yes", command=["sh", "-c", SCRIPT], within_s=120)
    assert document["counts"] == {"succeeded": len(fleet.hosts)}
    shown = shown_of(own, document["job_tasks"])
    for host in fleet.hosts[:5]:
        printed = (host.home / "printed").read_bytes()
        assert shown[host.name].told == (len(printed), hashlib.sha256(printed).hexdigest(), True)
        assert shown[host.name].output == printed
        assert "Chargehand-Omitted" not in shown[host.name].headers
    assert shown["web4"].output.count(b"\n") == int(LINES[1])
    assert b"\n" not in shown["web5"].output and len(shown["web5"].output) == 10 * MIB

    printed, large = seq(*MANY), shown["web6"]
    half, start = CAP // 2, len(printed) - CAP // 2
    kept = printed[:half] + printed[start:]
    assert len(printed) == 200_000_000 - 2
    assert large.output == kept
    assert large.told == (len(kept), hashlib.sha256(kept).hexdigest(), True)
    assert large.document["streams"]["stdout"]["omitted"] == [[half, start]]
    assert large.headers["Chargehand-Omitted"] == f"{half}-{start - 1}"
    read = own.run("job", "output", document["job_invocation_id"], "--host", "web6", "--raw")
    assert read.stdout.encode() == kept
    assert f"bytes {half} to {start}, {start - half} of them, are left out" in read.stderr
    assert own.violations() == []
