"""What `up` says when it is ready: once, and then nothing. Pure.

Owns the words.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..embedded.kafka import KafkaAddress


@dataclass(frozen=True, slots=True)
class Banner:
    """What a person needs to know of a running installation."""

    version: str
    login_url: str
    server: str
    data: Path
    kafka: KafkaAddress
    pid: int
    hosts: int
    is_temporary: bool = False
    is_detached: bool = False

    def text(self) -> str:
        """The lines for a terminal."""
        kept = "removed when this stops" if self.is_temporary else "kept when this stops, found again by the next start"
        down = f"chargehand down --data {self.data}"
        rows = [
            ("page", f"{self.login_url}  (logs in once; another: chargehand open)"),
            ("data", f"{self.data}  ({kept})"),
            ("Kafka", f"{self.kafka.bootstrap} as {self.kafka.username}, password in {self.kafka.password_file}"),
            ("log", str(self.data / "logs" / "up.log")),
            ("to stop", down if self.is_detached else f"Ctrl-C, or {down}"),
        ]
        if not self.is_temporary:
            rows.append(("to erase", f"stop it, then rm -r {self.data}"))
        lines = [f"Chargehand {self.version} is running (process {self.pid}).", ""]
        lines += [f"  {name:<9} {value}" for name, value in rows]
        if not self.hosts and not self.is_temporary:
            lines += ["", "There are no hosts yet. Two ways to get some:", *_FIRST_HOSTS]
        return "\n".join(lines)

    def document(self) -> dict[str, object]:
        """The same for programs."""
        return {
            "version": self.version,
            "login_url": self.login_url,
            "server": self.server,
            "data": str(self.data),
            "kafka": {
                "bootstrap": self.kafka.bootstrap,
                "username": self.kafka.username,
                "password_file": str(self.kafka.password_file),
            },
            "log": str(self.data / "logs" / "up.log"),
            "pid": self.pid,
        }


_FIRST_HOSTS = (
    "  chargehand host import ~/.ssh/config",
    "  chargehand host import INVENTORY   (Ansible's, CSV, JSON lines)",
)
