"""What readers note, off the hot path: who is asked for, which vectors were missing, a sample of what was served."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any, Final

import msgspec
from redis import asyncio as aioredis

from features.definitions import HOUR_S, VIEWS
from features.online.result import Answer, Status
from tocsin.clock import Clock
from tocsin.keys import FeatureKeys
from tocsin.storage.errors import translated
from tocsin.streams.records import partition_of

WANTED_TTL_S: Final = 3_600
POPULAR_TTL_S: Final = 7_200
SERVED_ENTRIES: Final = 10_000
POPULAR_KEPT: Final = 10_000
POPULAR_NOTED: Final = 1_000  # of one flush, those most asked for
NOTED: Final = 10_000  # advertisers between two flushes
SAMPLE_EVERY: Final = 64  # of so many vectors served one is noted


class Served(msgspec.Struct, frozen=True, array_like=True):
    """One sampled answer, to be replayed offline: all stored features in the order of `FEATURES`."""

    advertiser_id: str
    as_of: float
    watermark: float  # everything accepted before is in it
    schema: bytes  # the schema hashes of the views, joined
    values: tuple[float, ...]


class UsageNotes:
    """Collects in memory; `flush` writes.

    Args:
        keys: Of the feature store.
        partitions: How many the activity lane has.
        clock: Time.
    """

    def __init__(self, keys: FeatureKeys, *, partitions: int, clock: Clock) -> None:
        self._keys = keys
        self._partitions = partitions
        self._clock = clock
        self._asked: Counter[str] = Counter()
        self._wanted: dict[int, set[str]] = defaultdict(set)
        self._unfit: Counter[str] = Counter()
        self._served: list[Served] = []
        self._seen = 0
        self._schema = b"".join(view.schema_hash for view in VIEWS)
        self._encode = msgspec.msgpack.Encoder().encode

    def note(self, answer: Answer) -> None:
        """An answer about now. Answers about other moments say nothing about what should be kept ready."""
        self._unfit.update(answer.unfit)
        if len(self._asked) < NOTED:
            self._asked.update(answer.advertiser_ids)
        for name in answer.wanted[:NOTED]:
            self._wanted[partition_of(name, self._partitions)].add(name)
        self._seen += len(answer.advertiser_ids)
        if self._seen >= SAMPLE_EVERY and answer.advertiser_ids:
            place = self._seen % len(answer.advertiser_ids)
            self._seen %= SAMPLE_EVERY
            self._sample(answer, place)

    def _sample(self, answer: Answer, place: int) -> None:
        read = answer.reads(place)[0]
        if read.status is Status.PRESENT and read.age_s is not None and len(self._served) < NOTED:
            name, mark = answer.advertiser_ids[place], answer.as_of - read.age_s
            self._served.append(Served(name, answer.as_of, mark, self._schema, answer.vector(place)))

    async def flush(self, client: aioredis.Redis) -> None:
        """Write what was noted; what cannot be written is forgotten.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        asked, self._asked = self._asked, Counter()
        wanted, self._wanted = self._wanted, defaultdict(set)
        unfit, self._unfit = self._unfit, Counter()
        served, self._served = self._served, []
        if not (asked or wanted or unfit or served):
            return
        async with client.pipeline(transaction=False) as pipe:
            if asked:
                key = self._keys.popular(int(self._clock.now() // HOUR_S))
                for name, number in asked.most_common(POPULAR_NOTED):
                    pipe.zincrby(key, number, name)
                pipe.zremrangebyrank(key, 0, -POPULAR_KEPT - 1)
                pipe.expire(key, POPULAR_TTL_S)
            for partition, names in wanted.items():
                pipe.sadd(self._keys.wanted(partition), *names)
                pipe.expire(self._keys.wanted(partition), WANTED_TTL_S)
            for view, number in unfit.items():
                pipe.hincrby(self._keys.refused, f"schema:{view}", number)
            for one in served:
                body: dict[Any, Any] = {"b": self._encode(one)}
                pipe.xadd(self._keys.served, body, maxlen=SERVED_ENTRIES, approximate=False)
            with translated():
                await pipe.execute()
