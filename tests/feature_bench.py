"""A feature store on a real server, its lane, shards and readers driven by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from redis import asyncio as aioredis

from features.definitions import DAY_S
from features.online.as_of import AsOf
from features.online.reader import AsyncOnlineReader
from features.online.result import Answer
from features.shard.materializer import Materializer
from features.shard.shard import Shard
from features.vectors import named
from tests.fakes import ManualClock
from tocsin.streams.lanes import Lane
from tocsin.streams.records import Entry, Record, partition_of
from tocsin.wire.activity import Activity

PARTITIONS = 2
DAY = 20_000
NOW = (DAY + 0.5) * DAY_S + 900.0  # a quarter past noon
encode = msgspec.msgpack.Encoder().encode


class Bench:
    """A lane, shards and a reader, driven by hand."""

    def __init__(self, client: aioredis.Redis, namespace: str) -> None:
        self.client: Any = client  # what it answers is a union of everything
        self.namespace = namespace
        self.clock = ManualClock(NOW)
        self.lane = Lane(client, namespace=namespace, name="activity", partitions=PARTITIONS, block_records=4)
        self.reader = AsyncOnlineReader(client, namespace=namespace, partitions=PARTITIONS)
        self.shards: dict[str, Shard] = {}

    def shard(self, name: str = "one", *, as_of: str = "now") -> Shard:
        if name not in self.shards:
            self.shards[name] = Shard(
                self.client,
                self.lane.keys,
                namespace=self.namespace,
                partitions=PARTITIONS,
                as_of=as_of,
                clock=self.clock,
            )
        return self.shards[name]

    def materializer(self, held: Sequence[int] = range(PARTITIONS)) -> Materializer:
        store = self.shard().store
        return Materializer(
            store,
            self.client,
            self.lane.keys,
            held=lambda: list(held),
            partitions=PARTITIONS,
            as_of=AsOf("now", store.latest, self.clock),
            clock=self.clock,
        )

    async def send(self, *activities: Activity) -> None:
        await self.lane.ensure_groups()
        records = [Record(partition_of(one.advertiser_id, PARTITIONS), encode(one)) for one in activities]
        await self.lane.append(records)

    async def take(self, count: int = 100, consumer: str = "one") -> list[Entry]:
        return await self.lane.read(consumer, range(PARTITIONS), count=count, block_ms=1)

    async def work(self, count: int = 100, shard: str = "one") -> None:
        """Apply all that waits, `count` blocks of a partition at a time."""
        while entries := await self.take(count):
            await self.lane.settle(entries, await self.shard(shard).handle(entries))

    async def set_watermarks(self, at: float) -> None:
        keys = self.shard().store.keys
        await self.client.mset({keys.watermark(p): f"{at:.6f}" for p in range(PARTITIONS)})

    async def read(self, *names: str, as_of: float = NOW) -> Answer:
        return await self.reader.read(names, as_of)

    async def features(self, name: str = "a", as_of: float = NOW) -> dict[str, float | None]:
        return named((await self.read(name, as_of=as_of)).vector(0))

    async def state(self) -> dict[str, Any]:
        """Everything that events decide, byte for byte."""
        found: dict[str, Any] = {}
        async for key in self.client.scan_iter(match=f"{self.namespace}:*", count=1000):
            name = key.decode().removeprefix(self.namespace)
            kind = name.split(":")[2]
            if kind in {"history", "vectors"}:
                found[name] = await self.client.get(key)
            elif kind == "events":
                found[name] = await self.client.hgetall(key)
            elif kind == "advertisers":
                found[name] = await self.client.zrange(key, 0, -1, withscores=True)
        return found
