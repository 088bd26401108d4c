"""A feature shard: the handler of its blocks, with its materializer and archiver in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from redis import asyncio as aioredis

from features.online.as_of import AsOf
from features.shard.archiver import Archiver, open_archive
from features.shard.materializer import Materializer
from features.shard.shard import Shard
from tocsin.clock import Clock
from tocsin.settings import Settings
from tocsin.streams.lanes import Lane
from tocsin.streams.records import partition_of


class LaneShard:
    """The shard's handler, its materializer and its archiver. Made within a running event loop.

    Args:
        settings: Namespace, archive, `as_of`.
        lane: The activity lane.
        main: The main server.
        held: The partitions the shard holds now.
        clock: Time.
    """

    def __init__(
        self,
        settings: Settings,
        lane: Lane,
        main: aioredis.Redis,
        *,
        held: Callable[[], list[int]],
        clock: Clock,
    ) -> None:
        self._partitions = lane.partitions
        self.handler = Shard(
            main,
            lane.keys,
            namespace=settings.namespace,
            partitions=lane.partitions,
            as_of=settings.as_of,
            clock=clock,
        )
        self.materializer = Materializer(
            self.handler.store,
            main,
            lane.keys,
            held=held,
            partitions=lane.partitions,
            as_of=AsOf(settings.as_of, self.handler.store.latest, clock),
            clock=clock,
        )
        self.archiver = Archiver(
            main,
            self.handler.store.keys,
            archive=lambda: open_archive(settings.archive),
            held=held,
            clock=clock,
        )
        self._background = [
            asyncio.create_task(self.materializer.run()),
            asyncio.create_task(self.archiver.run()),
        ]

    def remembered(self, advertiser_ids: Sequence[str]) -> list[tuple[bytes | None, float | None]]:
        """The last known history of each advertiser, encoded, with the time (epoch seconds) up to which its
        partition was known to be applied: for readers while storage is down.
        """
        watermarks = self.materializer.watermarks
        return [
            (body, watermarks.get(partition_of(name, self._partitions)))
            for name, body in zip(advertiser_ids, self.handler.remembered(advertiser_ids), strict=True)
        ]

    def parts(self) -> Sequence[object]:
        """The parts that count faults."""
        return (self.handler, self.materializer, self.archiver)

    async def aclose(self) -> None:
        """End the background work."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
