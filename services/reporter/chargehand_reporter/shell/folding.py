"""One group of messages, folded in one transaction. Owns the order: load, fold, store, positions, what is to be said of it.

It runs in the one writer thread and knows neither Kafka nor Faust.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from chargehand_schemas.accumulated import AccumulatedProgressReport
from chargehand_schemas.base import Item
from chargehand_schemas.registry import type_of
from chargehand_schemas.topics import TOPICS

from ..core.accumulated import accumulate
from ..core.invocation import JobInvocation, differs_at_end
from ..core.job_task import JobTask
from ..core.notifications import (
    ENDED,
    MAX_FAILED_HOSTS,
    is_news,
    mark_told,
    news_of,
    write_news,
    write_return,
    write_silence,
)
from ..core.positions import Gap, advance, find_gaps
from ..core.proxies import is_silent, last_heard
from ..core.read_model import Disbelieved, ReadModel, Said, wanted_by
from .store.fold_store import FoldStore, StoredNews

COMPACTED = frozenset(topic.name for topic in TOPICS if topic.is_compacted)

Place = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Touched:
    """A job task that a group of messages was about, as it is now."""

    task: JobTask
    position: int


@dataclass(frozen=True, slots=True)
class Folded:
    """What a transaction brought about: job tasks and news to be published, and what somebody must know."""

    touched: Mapping[UUID, Touched]
    news: tuple[StoredNews, ...]
    disbelieved: tuple[Disbelieved, ...]
    contradictions: tuple[UUID, ...]
    miscounted: tuple[UUID, ...]
    gaps: tuple[Gap, ...]
    output_bytes: int
    items: int


class Folding:
    """Folds groups of messages into a store."""

    def __init__(self, store: FoldStore, notify_within: timedelta) -> None:
        self._store = store
        self._notify_within = notify_within

    def positions(self) -> dict[tuple[str, int], int]:
        """The next offset of each partition, as of the last transaction."""
        return self._store.load_positions()

    def fold(
        self,
        messages: Sequence[Said],
        read: Sequence[Place],
        moment: datetime,
        times: Mapping[tuple[str, int], int] = {},
    ) -> Folded:
        """Fold `messages` and note that all of `read` (topic, partition, offset) is done with; `times` are the broker's (ms) of
        the last of each partition.

        StoreUnavailable if nothing was stored: then the same call is to be made again.
        """
        store = self._store
        with store.database.transaction():
            model = store.load(wanted_by(messages))
            for said in messages:
                model.apply(said)
            model.fold_all_output(store.load_waiting(model.closing_streams()))
            model.finish()
            told = self._tell(model, moment)
            saved = store.save(model)
            news = self._write(model, told, moment)
            gaps = find_gaps(store.load_positions(), read, COMPACTED)
            store.save_positions(advance(read), times)
        return Folded(
            touched=_touched(model, saved.positions),
            news=news,
            disbelieved=tuple(model.disbelieved),
            contradictions=tuple(model.contradictions),
            miscounted=tuple(i.job_invocation_id for i, words in told if ENDED in words and differs_at_end(i)),
            gaps=tuple(gaps),
            output_bytes=saved.output_bytes,
            items=sum(len(said.items) for said in messages),
        )

    def _tell(self, model: ReadModel, moment: datetime) -> list[tuple[JobInvocation, tuple[str, ...]]]:
        """What is news now is marked as told in the same transaction."""
        found: list[tuple[JobInvocation, tuple[str, ...]]] = []
        for invocation in list(model.job_invocations.changed().values()):
            words = news_of(invocation)
            if words:
                model.job_invocations.put(invocation.job_invocation_id, mark_told(invocation, words))
                found.append((invocation, words))
        return found

    def _write(
        self, model: ReadModel, told: Iterable[tuple[JobInvocation, tuple[str, ...]]], moment: datetime
    ) -> tuple[StoredNews, ...]:
        news: list[StoredNews] = []
        for invocation, words in told:
            for word in words:
                if is_news(invocation, word, moment, self._notify_within):
                    ended = word == ENDED
                    failed = self._store.failed_hosts(invocation.job_invocation_id, MAX_FAILED_HOSTS) if ended else []
                    item = write_news(invocation, word, moment, failed)
                    news.append(_stored(item, str(invocation.job_invocation_id)))
        self._store.add_news(news)
        return tuple(news)

    def accumulate(self, touched: Mapping[UUID, Touched], moment: datetime) -> list[AccumulatedProgressReport]:
        """The reports of job tasks that were touched, with the ends of their output as they are now."""
        shown = {(key, one.task.shown) for key, one in touched.items() if one.task.streams}
        tails = self._store.load_tails(shown)
        return [accumulate(one.task, one.position, tails.get(key, {}), moment) for key, one in touched.items()]

    def pending_news(self) -> list[StoredNews]:
        """What an earlier process stored and may not have published."""
        return self._store.load_news()

    def forget_news(self, ids: Sequence[UUID]) -> None:
        """They are acknowledged."""
        with self._store.database.transaction():
            self._store.drop_news(ids)

    def watch_proxies(
        self, listening_since: datetime, moment: datetime, silent_after: timedelta
    ) -> tuple[StoredNews, ...]:
        """Tell of proxies that fell silent or came back, once each."""
        heard = last_heard(agent for agent in self._store.load_agents() if not agent.has_stopped)
        silent = self._store.load_silences()
        quiet = {p: at for p, at in heard.items() if is_silent(at, listening_since, moment, silent_after)}
        fallen = {proxy: at for proxy, at in quiet.items() if proxy not in silent}
        back = [proxy for proxy, since in silent.items() if proxy in heard and heard[proxy] > since]
        if not fallen and not back:
            return ()
        news = [_stored(write_silence(proxy, at, moment), proxy) for proxy, at in fallen.items()]
        news += [_stored(write_return(proxy, silent[proxy], moment), proxy) for proxy in back]
        with self._store.database.transaction():
            for proxy, at in fallen.items():
                self._store.save_silence(proxy, at)
            for proxy in back:
                self._store.save_silence(proxy, None)
            self._store.add_news(news)
        return tuple(news)


def _stored(item: Item, key: str) -> StoredNews:
    return StoredNews(item.id, key, type_of(type(item)).family, item.model_dump_json())


def _touched(model: ReadModel, positions: Mapping[UUID, int]) -> dict[UUID, Touched]:
    """All that were touched, changed or not: what was sent before a crash may be lost."""
    found: dict[UUID, Touched] = {}
    for key in model.touched_tasks:
        task = model.job_tasks.get(key)
        if task is not None:
            found[key] = Touched(task, positions.get(key, task.position))
    return found
