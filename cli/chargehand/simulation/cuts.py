"""What a dispatcher's store knows of its logs, and `chargehand repair dispatcher` over the store in memory.

Owns what stands in chargehand_dispatcher.shell.repair (docs/adr/0023); what may have been lost is told by the core.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from heapq import heappush

from chargehand_dispatcher.core.job_task import State
from chargehand_dispatcher.core.repair import between, say_again, with_lost_word
from chargehand_schemas.base import Item
from chargehand_schemas.topics import DISPATCH_EVENTS, EXECUTION_EVENTS, PLANNING_EVENTS

from .bus import Bus, Cut, Mark, Place
from .store import Durable, Row

KEEP_ROWS = 200
CHECKED = (PLANNING_EVENTS.name, EXECUTION_EVENTS.name, DISPATCH_EVENTS.name)


def find_cuts(bus: Bus, durable: Durable, number: int) -> list[Cut]:
    """The logs of a partition that do not hold what the store knows of them (rule RET)."""
    marks = {Place(topic, number): durable.marks.get(Place(topic, number), Mark()) for topic in CHECKED}
    return [cut for place, mark in marks.items() if (cut := bus.find_cut(place, mark))]


def keep(bus: Bus, durable: Durable, number: int, rows: Sequence[Row]) -> None:
    """They were published, and their log ends here at most."""
    place = Place(DISPATCH_EVENTS.name, number)
    end = bus.end(place)
    durable.marks[place] = bus.mark(place, end)
    kept = durable.kept.setdefault(number, [])
    kept += [(end, row) for row in rows]
    if len(kept) > KEEP_ROWS:
        durable.kept_from[number] = kept[-KEEP_ROWS - 1][0]
        del kept[:-KEEP_ROWS]


def mend(bus: Bus, durable: Durable, now: datetime) -> None:
    """Positions go back to where the logs are whole, what stood beyond is said again, and what may have been accepted is asked
    for on its host: of every partition, for nobody knows what else was there."""
    cuts = [cut for number in range(bus.partitions) for cut in find_cuts(bus, durable, number)]
    for cut in cuts:
        number = cut.place.partition
        durable.marks[cut.place] = bus.mark(cut.place, cut.held)
        if cut.place.topic == DISPATCH_EVENTS.name:
            _say_again(durable, number, cut.held, now)
        else:
            durable.inbox[cut.place.topic, number] = cut.held
    _ask_for_all(durable, now)


def _say_again(durable: Durable, number: int, held: int, now: datetime) -> None:
    rows = durable.outbox.setdefault(number, {})
    kept, kept_from = durable.kept.get(number, []), durable.kept_from.get(number, 0)
    before = [row for end, row in kept if held < end <= kept_from]
    after = [row for end, row in kept if end > max(held, kept_from)]
    states: list[Item] = []
    if kept_from > held:
        states = between(_items(before), _states(durable, number, now), _items([*after, *rows.values()]))
    # In front of what was never published, in this order.
    first = min(rows, default=durable.numbers[number] + 1)
    again = [*(row.items for row in before), *([tuple(states)] if states else []), *(row.items for row in after)]
    for place, items in enumerate(again, first - len(again)):
        rows[place] = Row(number, place, items)
    durable.kept[number] = [(end, row) for end, row in kept if end <= held]
    durable.own_log[number] = min(held, durable.own_log.get(number, 0))


def _items(rows: Sequence[Row]) -> list[Item]:
    return [item for row in rows for item in row.items]


def _states(durable: Durable, number: int, now: datetime) -> list[Item]:
    """What those that are kept do not reach back to: every invocation and job task as they are."""
    items: list[Item] = []
    for one, invocation in durable.invocations.items():
        if durable.places[one] == number:
            items += say_again(
                invocation, (task for task in durable.job_tasks.values() if task.job_invocation_id == one), now
            )
    return items


def _ask_for_all(durable: Durable, now: datetime) -> None:
    for one, job_task in durable.job_tasks.items():
        if job_task.state in (State.DUE, State.ACCEPTED):
            durable.job_tasks[one] = with_lost_word(job_task)
            durable.look_at[one] = now
            heappush(durable.looks, (now, "job_task", one))
