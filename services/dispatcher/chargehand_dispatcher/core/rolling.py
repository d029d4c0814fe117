"""Rolling: ordered hosts in batches, the next batch when the one before has its verdicts, and a limit on failures.

Owns how batches and limits are read. Pure arithmetic.
"""

from __future__ import annotations

from math import ceil

from chargehand_schemas.properties import Rolling


def share_of(share: str, total: int, *, rounds_up: bool) -> int:
    """`"5"` as 5, `"25%"` as a quarter of `total`; 0 for what is neither."""
    text = share.strip()
    number = text.removesuffix("%").strip()
    if not (number.isascii() and number.replace(".", "", 1).isdigit() and len(number) < 12):
        return 0
    if not text.endswith("%"):
        return int(float(number))
    return (ceil if rounds_up else int)(total * float(number) / 100)


def size_of(share: str, total: int) -> int:
    """The size of a batch, at least one."""
    return max(1, share_of(share, total, rounds_up=True))


def released_ordinals(rolling: Rolling, total: int, verdicts: int) -> int:
    """How many of the ordered job tasks may be claimed when `verdicts` of them have ended."""
    batches = rolling.batches or ("1",)
    released, index = 0, 0
    while released < total:
        released += size_of(batches[min(index, len(batches) - 1)], total)
        index += 1
        if verdicts < released:
            break
    return min(released, total)


def halt_after(rolling: Rolling, total: int) -> int:
    """The largest number of failures that does not halt it."""
    return share_of(rolling.failure_limit, total, rounds_up=False)
