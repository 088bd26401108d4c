"""Online reads: all views of many entities in one round trip, each with its age and status.

    Question ──keys──► MGET ──bodies──► decode ──► Answer
                                           └─ what no vector answers ──► histories (and events) ──► computed exactly

Nothing here does I/O: `OnlineReader` and `AsyncOnlineReader` below are a dozen lines each around a `Question`.

A vector is used where its schema, its step and its events fit the moment asked for (`features.packing`). Its age is
how far the knowledge of its partition lies behind that moment: `as_of - watermark`. So an advertiser that does
nothing stays fresh, and one whose shard is stuck does not.

| status  | means |
|---------|-------|
| present | known up to at most the view's TTL ago |
| stale   | known, but older, or storage was down and memory answered |
| missing | the advertiser is known, the value is not defined as of that moment |
| never   | nobody told us of this advertiser |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any

import redis
from msgspec import Struct
from redis import asyncio as aioredis

from features.definitions import VIEWS
from features.packing import PACKERS, VALUES, Fit
from features.store import decode_activity, read_history
from features.tiles import History, fold
from features.vectors import covers, values
from tocsin.keys import FeatureKeys
from tocsin.lanes import partition_of
from tocsin.schemas import Activity


class Status(StrEnum):
    """What a value is worth."""

    PRESENT = "present"
    STALE = "stale"
    MISSING = "missing"
    NEVER = "never"


class VectorRead(Struct, gc=False):
    """One view of one entity as read. `age_s` is None where no shard ever said how far it is."""

    status: Status
    age_s: float | None
    event_time: float | None  # of the newest event that counted
    values: tuple[float, ...]  # in the view's order; NaN: not defined


_NEVER = tuple(VectorRead(Status.NEVER, None, None, (float("nan"),) * packer.count) for packer in PACKERS)
_MISSING = tuple(VectorRead(Status.MISSING, None, None, read.values) for read in _NEVER)


class Answer(Struct):
    """All views of the entities asked for: `reads[view][entity]`, in the order asked."""

    advertiser_ids: Sequence[str]
    as_of: float
    reads: list[list[VectorRead]]
    wanted: list[str]  # whose vectors should be computed again
    unfit: Counter[str]  # vectors of other definitions, by view

    def vector(self, entity: int) -> tuple[float, ...]:
        """The values of one entity over all views, in the order of `FEATURES`."""
        return tuple([value for view in self.reads for value in view[entity].values])

    def columns(self, names: Sequence[str]) -> dict[str, list[float]]:
        """Some features as columns over the entities; NaN where not defined.

        Raises:
            KeyError: a name is not a stored feature.
        """
        found: dict[str, list[float]] = {}
        whole: list[list[tuple[float, ...]]] = [[]] * len(PACKERS)
        for name in names:
            view, place = _PLACES[name]
            if not whole[view]:
                whole[view] = list(zip(*[read.values for read in self.reads[view]], strict=True))
            found[name] = list(whole[view][place])
        return found

    def statuses(self, entity: int) -> list[Status]:
        """Of each view of one entity."""
        return [view[entity].status for view in self.reads]


_PLACES = {
    name: (number, place) for number, view in enumerate(VIEWS) for place, name in enumerate(view.names)
}


class Question:
    """One read of many entities.

    Args:
        keys: Of the feature store.
        advertiser_ids: The entities, each once.
        partitions: How many the activity lane has.
        as_of: The moment asked for.
    """

    def __init__(
        self, keys: FeatureKeys, advertiser_ids: Sequence[str], *, partitions: int, as_of: float
    ) -> None:
        self.advertiser_ids = advertiser_ids
        self.as_of = as_of
        self._keys = keys
        self._owners = [partition_of(name, partitions) for name in advertiser_ids]
        self._asked = sorted(set(self._owners))
        self._open: list[int] = []  # entities that no vector answered
        self._marks: dict[int, float | None] = {}
        self._reads: list[list[VectorRead]] = []
        self._unfit: Counter[str] = Counter()
        self._wanted: list[str] = []

    def keys(self) -> list[str]:
        """What to read first: every view of every entity, and how far each partition is."""
        names = self.advertiser_ids
        keys = [self._keys.watermark(partition) for partition in self._asked]
        for view in VIEWS:
            prefix = self._keys.vector(view.name, "")
            keys += [prefix + name for name in names]
        return keys

    def take(self, bodies: Sequence[bytes | None]) -> list[str]:
        """The answers to `keys`. Returns whose histories to read, because no vector answers for them."""
        count = len(self._asked)
        marks = [float(mark) if mark else None for mark in bodies[:count]]
        self._marks = dict(zip(self._asked, marks, strict=True))
        owners, as_of, size = self._owners, self.as_of, len(self.advertiser_ids)
        unanswered: set[int] = set()
        for number, packer in enumerate(PACKERS):
            prefix, unpack = packer.prefix(as_of), packer.unpack
            known = {owner: _age(mark, as_of, packer.view.ttl_s) for owner, mark in self._marks.items()}
            reads: list[VectorRead] = []
            start = count + number * size
            for place, body in enumerate(bodies[start : start + size]):
                if body is not None and body.startswith(prefix):
                    found = unpack(body)
                    newest = found[0]
                    if newest < as_of <= found[1]:
                        status, age_s = known[owners[place]]
                        reads.append(VectorRead(status, age_s, newest, found[VALUES:]))
                        continue
                if body is not None and packer.fit(body, as_of) is Fit.SCHEMA:
                    self._unfit[packer.view.name] += 1
                reads.append(_NEVER[number])
                unanswered.add(place)
            self._reads.append(reads)
        self._open = sorted(unanswered)
        return [self.advertiser_ids[place] for place in self._open]

    def take_histories(self, bodies: Sequence[bytes | None]) -> list[str]:
        """The histories asked for. Returns whose events to read, because the moment cuts through a tile."""
        rest: list[int] = []
        for place, body in zip(self._open, bodies, strict=True):
            history, refold = read_history(body)
            if history is not None and covers(history, self.as_of):
                self.answer(place, history)
            elif history is not None or refold:
                rest.append(place)
        self._open = rest
        return [self.advertiser_ids[place] for place in rest]

    def take_events(self, logs: Sequence[Iterable[bytes]]) -> None:
        """The events asked for."""
        for place, bodies in zip(self._open, logs, strict=True):
            events = [decode_activity(body) for body in bodies]
            self.answer(place, _before(self.advertiser_ids[place], events, self.as_of))
        self._open = []

    def answer(self, place: int, history: History | None) -> None:
        """Compute all views of a known entity from its history as it counts at the moment asked for."""
        vector = values(history, self.as_of)
        mark = self._marks.get(self._owners[place])
        self._wanted.append(self.advertiser_ids[place])
        start = 0
        for number, packer in enumerate(PACKERS):
            stop = start + packer.count
            if history is None:
                self._reads[number][place] = _MISSING[number]
            else:
                status, age_s = _age(mark, self.as_of, packer.view.ttl_s)
                newest = _newest_before(history, self.as_of)
                self._reads[number][place] = VectorRead(status, age_s, newest, vector[start:stop])
            start = stop

    def finish(self) -> Answer:
        """What is known now."""
        return Answer(self.advertiser_ids, self.as_of, self._reads, self._wanted, self._unfit)


def _age(mark: float | None, as_of: float, ttl_s: float) -> tuple[Status, float | None]:
    if mark is None:
        return Status.STALE, None
    age_s = max(0.0, as_of - mark)
    return Status.PRESENT if age_s <= ttl_s else Status.STALE, age_s


def _before(advertiser_id: str, events: Sequence[Activity], as_of: float) -> History | None:
    return fold(advertiser_id, [event for event in events if event.event_time < as_of])


def _newest_before(history: History, as_of: float) -> float | None:
    """Of the newest day with activity before a moment that the tiles cover."""
    return next(
        (t.last_event_time for t in reversed((*history.weeks, *history.days)) if t.last_event_time < as_of),
        None,
    )


class OnlineReader:
    """Reads in process, for notebooks, jobs and benchmarks.

    Args:
        client: A synchronous client.
        namespace: The prefix of all keys.
        partitions: How many the activity lane has.
    """

    def __init__(self, client: redis.Redis, *, namespace: str, partitions: int) -> None:
        self._client = client
        self._keys = FeatureKeys(namespace)
        self._partitions = partitions

    def read(self, advertiser_ids: Sequence[str], as_of: float) -> Answer:
        """All features of each advertiser; one round trip where vectors answer.

        Raises:
            RedisError: as the driver raises it.
        """
        question = Question(self._keys, advertiser_ids, partitions=self._partitions, as_of=as_of)
        client: Any = self._client  # the driver's answers are untyped
        missing = question.take(client.mget(question.keys()))
        if missing:
            cut = question.take_histories(client.mget([self._keys.history(name) for name in missing]))
            if cut:
                question.take_events([client.hvals(self._keys.events(name)) for name in cut])
        return question.finish()


class AsyncOnlineReader:
    """The same for an event loop.

    Args:
        client: An asyncio client.
        namespace: The prefix of all keys.
        partitions: How many the activity lane has.
    """

    def __init__(self, client: aioredis.Redis, *, namespace: str, partitions: int) -> None:
        self._client = client
        self._keys = FeatureKeys(namespace)
        self._partitions = partitions

    async def read(self, advertiser_ids: Sequence[str], as_of: float) -> Answer:
        """As `OnlineReader.read`.

        Raises:
            RedisError: as the driver raises it.
        """
        question = Question(self._keys, advertiser_ids, partitions=self._partitions, as_of=as_of)
        client: Any = self._client
        missing = question.take(await client.mget(question.keys()))
        if missing:
            cut = question.take_histories(await client.mget([self._keys.history(name) for name in missing]))
            if cut:
                question.take_events([await client.hvals(self._keys.events(name)) for name in cut])
        return question.finish()
