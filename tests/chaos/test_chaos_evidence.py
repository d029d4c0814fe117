"""The judge of a campaign finds what it is for: each kind of fault, made by hand, is counted as that kind and no other."""

from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from chaos.evidence import Findings, examine_run, expected
from support.sshd import SshHost

INVOCATION = UUID("00000000-0000-4000-8000-000000000001")
RUN = 3
WHOLE = f"begin {RUN}\nend {RUN}\n"


def judged(home: Path, ledger: str, row: dict[str, Any], cut: int = 0) -> Findings:
    """One host with this file, of which HTTP shows this row and its output without the last bytes."""
    home.mkdir()
    (home / "chaos-ledger").write_text(f"begin {RUN - 1}\nend {RUN - 1}\n{ledger}")
    host = SshHost("web1", "127.0.0.1", 22, "job", home / "identity", "", home)

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/output"):
            output = expected(home.name, RUN)[request.url.params["stream"]]
            return httpx.Response(200, content=output[: len(output) - cut])
        return httpx.Response(200, json={"items": [{"host": "web1", "job_task_id": "t", **row}]})

    findings = Findings()
    with httpx.Client(base_url="http://chargehand", transport=httpx.MockTransport(answer)) as http:
        examine_run(findings, http, [host], INVOCATION, RUN)
    return findings


@pytest.mark.parametrize(
    ("ledger", "status", "reason", "found"),
    [
        (WHOLE, "succeeded", None, ""),
        ("", "failed", "not_picked_up", ""),
        ("", "failed", "could_not_connect", ""),
        (f"begin {RUN}\n", "failed", "interrupted", ""),
        (WHOLE, "failed", "unknown", ""),
        (WHOLE, "running", None, "lost"),
        ("", "succeeded", None, "lost"),
        (f"begin {RUN}\n", "succeeded", None, "lost"),
        (f"begin {RUN}\n{WHOLE}", "succeeded", None, "doubled"),
        (f"begin {RUN}\n{WHOLE}", "failed", "unknown", "doubled"),
        (WHOLE, "failed", "not_picked_up", "contradictory"),
        (WHOLE, "failed", "interrupted", "contradictory"),
        ("", "failed", "exit_status", "contradictory"),
    ],
)
def test_a_verdict_is_held_against_the_file_on_its_host(
    tmp_path: Path, ledger: str, status: str, reason: str | None, found: str
) -> None:
    findings = judged(tmp_path / "home", ledger, {"status": status, "reason": reason})
    assert dict(findings.counts) == ({found: 1} if found else {}), findings.notes


def test_output_is_compared_byte_by_byte(tmp_path: Path) -> None:
    findings = judged(tmp_path / "home", WHOLE, {"status": "succeeded"}, cut=1)
    assert dict(findings.counts) == {"output_gaps": 2}
