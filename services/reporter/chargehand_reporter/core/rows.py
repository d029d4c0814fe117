"""Rows on their way through a fold: as loaded, as they are now, and which of them differ. Owns nothing about their meaning."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Rows(Generic[K, V]):
    """Rows of one kind by key. A row that is not loaded does not exist; the one who loads sees to it that all are."""

    def __init__(self, loaded: Mapping[K, V] | None = None) -> None:
        self._loaded: Mapping[K, V] = loaded if loaded is not None else {}
        self._now: dict[K, V | None] = {}

    def __iter__(self) -> Iterator[K]:
        yield from (key for key in self._loaded if key not in self._now)
        yield from (key for key, row in self._now.items() if row is not None)

    def get(self, key: K) -> V | None:
        try:
            return self._now[key]
        except KeyError:
            return self._loaded.get(key)

    def put(self, key: K, row: V) -> None:
        self._now[key] = row

    def drop(self, key: K) -> None:
        self._now[key] = None

    def before(self, key: K) -> V | None:
        """The row as it was loaded."""
        return self._loaded.get(key)

    def changed(self) -> dict[K, V]:
        """Rows that are new or differ from what was loaded."""
        return {key: row for key, row in self._now.items() if row is not None and row != self._loaded.get(key)}

    def dropped(self) -> Iterable[K]:
        """Keys of loaded rows that are to be deleted."""
        return [key for key, row in self._now.items() if row is None and key in self._loaded]
