"""The checker: reads recorded topics alone and says which promises of docs/promises the log breaks. Pure but for `record`."""

from .promises import Violation, check
from .recording import Entry, Recording

__all__ = ["Entry", "Recording", "Violation", "check"]
