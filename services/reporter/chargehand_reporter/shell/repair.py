"""The reporter's part of `chargehand repair`: it reads everything again, which changes nothing that it knows and skips nothing.

Owns that (docs/adr/0023): the read model is a fold in which a repeat has no effect, so that its positions may go back to the
beginning.
"""

from __future__ import annotations

from collections.abc import Sequence

from chargehand_chassis.kafka import find_cuts
from chargehand_chassis.repair import Finding
from chargehand_chassis.settings import KafkaSettings

from .service import checked_marks, group_of
from .settings import ReporterSettings
from .store.database import open_database
from .store.fold_store import FoldStore

NAME = "reporter"
_READS_AGAIN = "reads every log from its beginning at its next start; what it knows stays, and a repeat changes nothing"


class ReporterRepair:
    """Opens the store of the settings."""

    def __init__(self, settings: ReporterSettings) -> None:
        self.settings: KafkaSettings = settings
        self._store = FoldStore(open_database(settings.store_url, settings.data, is_writer=True))
        self.group = group_of(self._store)

    def close(self) -> None:
        self._store.database.close()

    async def find(self) -> list[Finding]:
        """What it read against the logs. A log that lost its beginning unread is told of when it is read."""
        cuts = await find_cuts(self.settings, checked_marks(self._store))
        return [Finding(NAME, cut, _READS_AGAIN) for cut in cuts if not cut.is_below]

    async def mend(self, findings: Sequence[Finding]) -> list[str]:
        """Its positions are forgotten, in its store and, by a group of another name, in Kafka."""
        if not any(finding.service == NAME for finding in findings):
            return []
        self._store.read_again()
        return ["every log is read from its beginning"]
