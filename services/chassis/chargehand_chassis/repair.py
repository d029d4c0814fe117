"""What a repair is: a service's store is compared with the log, what differs is told in words, and mended when told to.

Owns the shape of that; what each store can do is its service's (docs/adr/0023). Nothing is mended here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .kafka import Cut
from .settings import KafkaSettings


@dataclass(frozen=True, slots=True)
class Finding:
    """One log that does not hold what a store knows of it: what a repair does about it (empty: nothing can be done), and what
    is gone for good."""

    service: str
    cut: Cut
    does: str
    gone: tuple[str, ...] = ()

    @property
    def is_mendable(self) -> bool:
        return bool(self.does)


class Repair(Protocol):
    """One service's store, opened while the service is down."""

    settings: KafkaSettings
    group: str
    """The consumer group in which the service is a member while it runs."""

    async def find(self) -> Sequence[Finding]:
        """What the store and the log disagree about; nothing is changed. TransientFailure if one of them cannot be reached."""

    async def mend(self, findings: Sequence[Finding]) -> Sequence[str]:
        """Do what the findings say, of this service; what was done, in words. Called also when only others found something: a
        crash that cut their logs may have taken what nobody had read yet."""

    def close(self) -> None: ...


LOST_BEGINNING = "its beginning was deleted before it was read: only a restored log has it"
