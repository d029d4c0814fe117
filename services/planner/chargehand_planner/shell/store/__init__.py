"""The planner's store: streams of events, the projections read from them, the binder's decisions, what waits to be published.

One suite of tests holds for both engines. `eventsourcing` enters here and nowhere else.
"""

from .planner_store import PlannerStore, open_store
from .records import Change, Conflict, Due, Fenced, HostReport, Offer, Parked, Position, Sending
from .repairing import RepairStore, Said

__all__ = [
    "Change",
    "Conflict",
    "Due",
    "Fenced",
    "HostReport",
    "Offer",
    "Parked",
    "PlannerStore",
    "Position",
    "RepairStore",
    "Said",
    "Sending",
    "open_store",
]
