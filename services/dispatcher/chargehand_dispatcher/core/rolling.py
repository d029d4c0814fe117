"""Rolling: ordered hosts in batches, the next batch when the one before has its verdicts, and a limit on failures.

Owns how batches and limits are read. Pure arithmetic.
"""

from __future__ import annotations

from math import ceil

from chargehand_schemas.properties import Rolling


def size_of(share: str, total: int) -> int:
    """`"5"` as 5, `"25%"` as a quarter of `total` rounded up, at least one."""
    if share.endswith("%"):
        return max(1, ceil(total * float(share[:-1]) / 100))
    return max(1, int(share))


def released_ordinals(rolling: Rolling, total: int, verdicts: int) -> int:
    """How many of the ordered job tasks may be claimed when `verdicts` of them have ended."""
    released, index = 0, 0
    while released < total:
        released += size_of(rolling.batches[min(index, len(rolling.batches) - 1)], total)
        index += 1
        if verdicts < released:
            break
    return min(released, total)


def halt_after(rolling: Rolling, total: int) -> int:
    """The largest number of failures that does not halt it."""
    limit = rolling.failure_limit
    return int(total * float(limit[:-1]) / 100) if limit.endswith("%") else int(limit)
