"""Online reads: all views of many entities in one round trip, each with its age and status.

    Question ──keys──► MGET ──bodies──► take ──► Answer (features.online.result)
                                          └─ no fitting vector ──► histories (and events) ──► computed exactly

`Question` does no I/O: `OnlineReader` and `AsyncOnlineReader` are a dozen lines each around it.

A vector is used where its schema, its step and its events fit the moment asked for (`features.online.packing`). Its
age is how far the watermark of its partition lies behind that moment: `as_of - watermark`. So an advertiser that does
nothing stays fresh, and one whose shard is stuck does not.

Bodies are checked together: joined they are one matrix, and a few comparisons find the vectors that fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, cast

import numpy as np
import redis
from redis import asyncio as aioredis

from features.online.packing import (
    ENTITY_BYTES,
    ENTITY_WORDS,
    PACKERS,
    PREFIX_WORDS,
    Fit,
    arrange,
    by_view,
    prefixes,
)
from features.online.result import MISSING, NEVER, Age, Answer, Bools, Floats, Status, VectorRead
from features.online.store import decode_activity, read_history
from features.tiles import History, fold
from features.vectors import covers, values
from tocsin.keys import FeatureKeys
from tocsin.streams.records import partition_of
from tocsin.wire.activity import Activity

_PREFIXES: Final = np.array([packer.first + word for packer in PACKERS for word in range(PREFIX_WORDS)])
_NEWEST: Final = np.array([packer.newest for packer in PACKERS])
_UNTIL: Final = np.array([packer.until for packer in PACKERS])
_FLOAT: Final = np.dtype("<f8")
_INTEGER: Final = np.dtype("<i8")
_NOTHING: Final = bytes(ENTITY_BYTES)


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
        self._partitions = partitions
        # Watermarks to read: a few too many cost less than finding the partition of each of many entities.
        self._owners: Sequence[int] = range(partitions)
        if len(advertiser_ids) < partitions:
            self._owners = sorted({partition_of(name, partitions) for name in advertiser_ids})
        self._unanswered: list[int] = []  # indexes of entities without a fitting vector
        self._answer: Answer

    def keys(self) -> list[str]:
        """The keys to read first: watermarks of partitions, then the vectors of every entity."""
        prefix = self._keys.vectors("")
        keys = [self._keys.watermark(partition) for partition in self._owners]
        keys += [prefix + name for name in self.advertiser_ids]
        return keys

    def take(self, bodies: Sequence[bytes | None]) -> list[str]:
        """Take the values of `keys`. Returns the advertisers without a fitting vector: read their histories."""
        count = len(self._owners)
        as_of, stored = self.as_of, _of_one_size(bodies[count:])
        marks = [float(mark) if mark else None for mark in bodies[:count]]
        matrix: Floats = np.ndarray((len(stored), ENTITY_WORDS), _FLOAT, b"".join(stored))
        fits = _fitting(matrix, as_of)
        complete = np.count_nonzero(fits) == fits.size
        self._answer = Answer(
            self.advertiser_ids,
            as_of,
            bodies=stored,
            matrix=matrix if complete else matrix.copy(),
            ages={owner: _ages(mark, as_of) for owner, mark in zip(self._owners, marks, strict=True)},
            partitions=self._partitions,
        )
        if not complete:
            self._unanswered = np.flatnonzero(~fits.all(axis=1)).tolist()
            for index in self._unanswered:
                self._override_part(index, fits[index].tolist())
        return [self.advertiser_ids[index] for index in self._unanswered]

    def take_histories(self, bodies: Sequence[bytes | None]) -> list[str]:
        """Take these histories. Returns the advertisers whose tiles the moment cuts through: read their events."""
        rest: list[int] = []
        for index, body in zip(self._unanswered, bodies, strict=True):
            history, refold = read_history(body)
            if history is not None and covers(history, self.as_of):
                self.answer(index, history)
            elif history is not None or refold:
                rest.append(index)
        self._unanswered = rest
        return [self.advertiser_ids[index] for index in rest]

    def take_events(self, logs: Sequence[Iterable[bytes]]) -> None:
        """Take these events, a collection of encoded activities for each advertiser."""
        for index, bodies in zip(self._unanswered, logs, strict=True):
            events = [decode_activity(body) for body in bodies]
            self.answer(index, _before(self.advertiser_ids[index], events, self.as_of))
        self._unanswered = []

    def answer(self, index: int, history: History | None) -> None:
        """Compute all views of a known entity from its history; None: no event before the moment."""
        answer = self._answer
        answer.wanted.append(self.advertiser_ids[index])
        if history is None:
            answer.override(index, MISSING)
            return
        newest = _newest_before(history, self.as_of)
        parts = zip(answer.ages_of(index), by_view(values(history, self.as_of)), strict=True)
        answer.override(index, [VectorRead(status, age_s, newest, part) for (status, age_s), part in parts])

    def finish(self) -> Answer:
        """The answer, complete once nothing is left to read."""
        return self._answer

    def _override_part(self, index: int, fits: Sequence[bool]) -> None:
        """Of an entity whose stored vectors do not all fit, keep those that do and set the others to `NEVER`."""
        answer = self._answer
        body = answer.bodies[index]
        if body is _NOTHING:
            answer.override(index, NEVER)
            return
        for packer, fit in zip(PACKERS, fits, strict=True):
            if not fit and packer.fit(body[packer.bytes], self.as_of) is Fit.SCHEMA:
                answer.schema_mismatches[packer.view.name] += 1
        found = zip(fits, answer.reads(index), NEVER, strict=True)
        answer.override(index, [read if fit else never for fit, read, never in found])


def _of_one_size(bodies: Sequence[bytes | None]) -> Sequence[bytes]:
    """Stored values, all of `ENTITY_BYTES`."""
    found = cast("Sequence[bytes]", bodies)
    if None in bodies or set(map(len, found)) != {ENTITY_BYTES}:
        return [
            _NOTHING if body is None else body if len(body) == ENTITY_BYTES else arrange(body)
            for body in bodies
        ]
    return found


def _fitting(matrix: Floats, as_of: float) -> Bools:
    """Which vectors answer for a moment, shape `(entities, views)`: `Packer.fit` for all at once."""
    found: Bools = (matrix.take(_NEWEST, axis=1) < as_of) & (matrix.take(_UNTIL, axis=1) >= as_of)
    words = matrix.view(_INTEGER).take(_PREFIXES, axis=1)
    wanted = prefixes(as_of)
    if words.tobytes() != wanted * len(matrix):  # rare, and the exact comparison costs more
        same = words == np.frombuffer(wanted, dtype=_INTEGER)
        found &= same.reshape(len(matrix), len(PACKERS), PREFIX_WORDS).all(axis=2)
    return found


def _ages(mark: float | None, as_of: float) -> list[Age]:
    """Status and age of each view of a partition, by its watermark."""
    if mark is None:
        return [(Status.STALE, None)] * len(PACKERS)
    age_s = max(0.0, as_of - mark)
    return [(Status.PRESENT if age_s <= packer.view.ttl_s else Status.STALE, age_s) for packer in PACKERS]


def _before(advertiser_id: str, events: Sequence[Activity], as_of: float) -> History | None:
    return fold(advertiser_id, [event for event in events if event.event_time < as_of])


def _newest_before(history: History, as_of: float) -> float | None:
    """Time of the newest event before a moment that the tiles cover."""
    return next(
        (t.last_event_time for t in reversed((*history.weeks, *history.days)) if t.last_event_time < as_of),
        None,
    )


class OnlineReader:
    """Reads with a synchronous client, for notebooks, jobs and benchmarks.

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
