"""What a shard does besides its blocks: write watermarks, and materialize vectors that no new activity renews.

    every 0.5 s   watermarks of its partitions
    every 1 s     vectors that readers did not find (`wanted`)
    every hour    vectors of the advertisers most asked for: their step has ended

A vector is written only while the token of its partition is unchanged, so that it can never replace a newer one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from redis import asyncio as aioredis
from redis import exceptions as redis_errors

from features.definitions import HOUR_S
from features.online.as_of import AsOf
from features.online.packing import pack_views
from features.online.store import FeatureStore
from features.shard.watermarks import write_watermarks
from features.tiles import History, fold
from features.vectors import step_of
from tocsin.background import repeat
from tocsin.clock import Clock
from tocsin.keys import LaneKeys
from tocsin.storage.errors import translated
from tocsin.streams.records import partition_of
from tocsin.telemetry.reports import Fault

log = logging.getLogger(__name__)

WATERMARKS_EVERY_S: Final = 0.5
MATERIALIZE_EVERY_S: Final = 1.0
MAX_ADVERTISERS: Final = 200  # of a partition in one step
MAX_POPULAR: Final = 2_000  # advertisers whose vectors are materialized when their step ends


class Materializer:
    """Writes watermarks and vectors of the partitions a shard holds.

    Args:
        store: The feature store.
        client: Its server.
        lane_keys: Of the activity lane.
        held: The partitions the shard holds now.
        partitions: How many the lane has.
        as_of: The moment to materialize for.
        clock: Time.
    """

    def __init__(
        self,
        store: FeatureStore,
        client: aioredis.Redis,
        lane_keys: LaneKeys,
        *,
        held: Callable[[], Sequence[int]],
        partitions: int,
        as_of: AsOf,
        clock: Clock,
    ) -> None:
        self.materialized = 0  # advertisers
        self.watermarks: dict[int, float] = {}  # the last watermark of each partition
        self.failures = 0
        self._store = store
        self._keys = store.keys
        self._client = client
        self._lane_keys = lane_keys
        self._held = held
        self._partitions = partitions
        self._as_of = as_of
        self._clock = clock
        self._hour: int | None = None
        self._due: list[str] = []  # popular advertisers whose step has ended

    def faults(self) -> Mapping[Fault, int]:
        """How often watermarks or vectors were not written, and tried again."""
        return {Fault.FRESHENING: self.failures}

    async def run(self) -> None:
        """Run both until cancelled; a step that fails is counted and repeated."""
        await asyncio.gather(
            repeat(
                "writing watermarks",
                self.write_watermarks,
                every_s=WATERMARKS_EVERY_S,
                failed=self._count,
                level=logging.DEBUG,
            ),
            repeat(
                "materializing vectors",
                self.materialize,
                every_s=MATERIALIZE_EVERY_S,
                failed=self._count,
                level=logging.DEBUG,
            ),
        )

    def _count(self, _error: Exception) -> None:
        self.failures += 1

    async def write_watermarks(self) -> None:
        """Write the watermarks of the partitions held.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        held = list(self._held())
        if not held:
            return
        pairs = [(self._keys.watermark(p), self._lane_keys.stream(p)) for p in held]
        with translated():
            watermarks = await write_watermarks(self._client, pairs)
        self.watermarks = dict(zip(held, watermarks, strict=True))

    async def materialize(self) -> None:
        """Compute vectors: those wanted, and after an hour has ended the popular ones.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        held = set(self._held())
        hour = step_of(await self._as_of.now(), HOUR_S)
        if self._hour is not None and hour != self._hour:
            self._due = await self._popular()
        self._hour = hour
        due, self._due = self._due[:MAX_ADVERTISERS], self._due[MAX_ADVERTISERS:]
        for partition in sorted(held):
            names_due = [name for name in due if partition_of(name, self._partitions) == partition]
            with translated():
                found: Any = await self._client.spop(self._keys.wanted(partition), MAX_ADVERTISERS)
            names = list(dict.fromkeys([*names_due, *(str(name, "utf-8") for name in found or ())]))
            if names:
                await self._materialize(partition, names)

    async def _materialize(self, partition: int, names: Sequence[str]) -> None:
        as_of = await self._as_of.now()
        with translated():
            try:
                async with self._client.pipeline(transaction=True) as typed:
                    pipe: Any = typed  # half of it is untyped upstream
                    await pipe.watch(self._keys.applied(partition))
                    pairs = await self._vectors(names, as_of)
                    if pairs:
                        pipe.multi()
                        pipe.mset(pairs)
                        await pipe.execute()
                        self.materialized += len(names)
            except redis_errors.WatchError:
                log.debug(
                    "partition %d changed meanwhile; its vectors are materialized when asked for again",
                    partition,
                )

    async def _vectors(self, names: Sequence[str], as_of: float) -> dict[Any, Any]:
        """Packed vectors as of a moment, by key. Later events are left out; a vector holds until the first of them."""
        histories = dict(zip(names, await self._store.histories(names), strict=True))
        ahead = [n for n, found in histories.items() if found and found.newest_event_time >= as_of]
        logs = dict(zip(ahead, await self._store.events_of(ahead), strict=True))
        pairs: dict[Any, Any] = {}
        for name, history in histories.items():
            until = min(
                (e.event_time for e in logs.get(name, ()) if e.event_time >= as_of), default=float("inf")
            )
            counted: History | None = history
            if name in logs:
                counted = fold(name, [e for e in logs[name] if e.event_time < as_of])
            if counted is not None:
                pairs[self._keys.vectors(name)] = pack_views(counted, as_of, until)
        return pairs

    async def _popular(self) -> list[str]:
        """The advertisers most asked for in the hour before."""
        hour = int(self._clock.now() // HOUR_S) - 1
        with translated():
            found: Any = await self._client.zrange(self._keys.popular(hour), 0, MAX_POPULAR - 1, desc=True)
        return [str(name, "utf-8") for name in found]
