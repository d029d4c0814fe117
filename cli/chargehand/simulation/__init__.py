"""The simulation: the real cores of planner, dispatcher, agents and reporter over a bus, clocks and hosts that exist only here.

Every run follows from its scenario alone: the same seed gives the same run, to the last bit.
"""

from .promises import BrokenPromise
from .run import Outcome, run
from .scenario import FAULTS, Fault, Scenario, draw
from .shrinking import shrink

__all__ = ["FAULTS", "BrokenPromise", "Fault", "Outcome", "Scenario", "draw", "run", "shrink"]
