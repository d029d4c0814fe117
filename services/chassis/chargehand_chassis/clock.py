"""The wall clock, read in shells only; cores are given the time. Owns nothing else."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """The present instant, aware, in UTC."""
    return datetime.now(UTC)
