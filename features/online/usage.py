"""What readers record of their use, off the hot path.

answers ──record──► counts in memory ──flush──► Redis: popular advertisers, wanted vectors, schema mismatches,
                                               a sample of the vectors served
"""

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
MAX_SAMPLES: Final = 10_000  # kept on Redis
MAX_POPULAR: Final = 10_000  # advertisers kept for an hour
MAX_POPULAR_PER_FLUSH: Final = 1_000  # advertisers, those most asked for
MAX_BUFFERED: Final = 10_000  # advertisers between two flushes
SAMPLE_EVERY: Final = 64  # vectors served for one sample


class Served(msgspec.Struct, frozen=True, array_like=True):
    """One sampled answer, to be replayed offline."""

    advertiser_id: str
    as_of: float
    watermark: float  # epoch seconds; everything accepted before it is in the values
    schema: bytes  # the schema hashes of the views, joined
    values: tuple[float, ...]  # all stored features in the order of `FEATURES`; NaN: not defined


class UsageLog:
    """Counts in memory; `flush` writes.

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
        self._schema_mismatches: Counter[str] = Counter()
        self._served: list[Served] = []
        self._seen = 0
        self._schema = b"".join(view.schema_hash for view in VIEWS)
        self._encode = msgspec.msgpack.Encoder().encode

    def record(self, answer: Answer) -> None:
        """Count an answer as of now. Answers as of other moments do not show which vectors to keep materialized."""
        self._schema_mismatches.update(answer.schema_mismatches)
        if len(self._asked) < MAX_BUFFERED:
            self._asked.update(answer.advertiser_ids)
        for name in answer.wanted[:MAX_BUFFERED]:
            self._wanted[partition_of(name, self._partitions)].add(name)
        self._seen += len(answer.advertiser_ids)
        if self._seen >= SAMPLE_EVERY and answer.advertiser_ids:
            index = self._seen % len(answer.advertiser_ids)
            self._seen %= SAMPLE_EVERY
            self._sample(answer, index)

    def _sample(self, answer: Answer, index: int) -> None:
        read = answer.reads(index)[0]
        if read.status is Status.PRESENT and read.age_s is not None and len(self._served) < MAX_BUFFERED:
            name, mark = answer.advertiser_ids[index], answer.as_of - read.age_s
            self._served.append(Served(name, answer.as_of, mark, self._schema, answer.vector(index)))

    async def flush(self, client: aioredis.Redis) -> None:
        """Write what was recorded since the last flush; dropped where it cannot be written.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        asked, self._asked = self._asked, Counter()
        wanted, self._wanted = self._wanted, defaultdict(set)
        schema_mismatches, self._schema_mismatches = self._schema_mismatches, Counter()
        served, self._served = self._served, []
        if not (asked or wanted or schema_mismatches or served):
            return
        async with client.pipeline(transaction=False) as pipe:
            if asked:
                key = self._keys.popular(int(self._clock.now() // HOUR_S))
                for name, number in asked.most_common(MAX_POPULAR_PER_FLUSH):
                    pipe.zincrby(key, number, name)
                pipe.zremrangebyrank(key, 0, -MAX_POPULAR - 1)
                pipe.expire(key, POPULAR_TTL_S)
            for partition, names in wanted.items():
                pipe.sadd(self._keys.wanted(partition), *names)
                pipe.expire(self._keys.wanted(partition), WANTED_TTL_S)
            for view, number in schema_mismatches.items():
                pipe.hincrby(self._keys.refused, f"schema:{view}", number)
            for sample in served:
                body: dict[Any, Any] = {"b": self._encode(sample)}
                pipe.xadd(self._keys.served, body, maxlen=MAX_SAMPLES, approximate=False)
            with translated():
                await pipe.execute()
