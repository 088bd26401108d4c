"""Backfill: restores the online state from the archive, with live shards running or without them.

    archive ──advertisers in order──► blocks ──► Shard (the same fold, the same writes) ──► events, tiles, vectors
                                                                              └─ and progress, in one transaction

A portion is written as a shard writes its blocks: only while no other shard changed the partition, else it is computed
again. A known event changes nothing and a newer version online stays, so a backfill may run at any time and any number
of times, and be stopped at any point: the next run continues after the last portion.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from redis import asyncio as aioredis
from redis import exceptions as redis_errors
from redis.asyncio.client import Pipeline

from features.event_table import activities_of
from features.offline.archive import Archive
from features.offline.archive_files import Part
from features.shard.shard import AppliedUnit, Change, Shard
from tocsin.clock import Clock
from tocsin.errors import OverloadedError
from tocsin.keys import FeatureKeys, LaneKeys, digest
from tocsin.storage.errors import translated
from tocsin.storage.optimistic import Guarded, watch
from tocsin.streams.records import Entry, pack_block, partition_of
from tocsin.wire.activity import Activity
from tocsin.wire.lanes import WIRE_VERSION, LaneName

PORTION_EVENTS: Final = 20_000
PROGRESS_TTL_S: Final = 7 * 86_400
ATTEMPTS: Final = 100  # how often live shards may change the partition while one portion is computed
_encode = msgspec.msgpack.Encoder().encode


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The work of a backfill: the number of events of each partition's advertisers."""

    digest: str  # of the archive's files: another set of files is another backfill
    partitions: int
    counts: dict[int, dict[str, int]]  # by partition and advertiser

    def events(self, partitions: Sequence[int]) -> int:
        """The number of events of some partitions."""
        return sum(sum(self.counts.get(partition, {}).values()) for partition in partitions)


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a backfill."""

    advertisers: int
    events: int
    skipped: int  # advertisers done by an earlier run
    again: int  # portions computed again because a live shard changed the partition


def plan(archive: Archive, partitions: int) -> Plan:
    """Count the events in the archive.

    Raises:
        SchemaMismatchError, UnreadableFileError: a file of it has other columns, or is damaged.
    """
    parts = archive.parts()
    counts: dict[int, dict[str, int]] = defaultdict(dict)
    for name, number in archive.counts(parts).items():
        counts[partition_of(name, partitions)][name] = number
    return Plan(digest=_digest_of(parts), partitions=partitions, counts=dict(counts))


def _digest_of(parts: Sequence[Part]) -> str:
    return digest("\n".join(f"{part.path} {part.rows}" for part in parts))


class _ArchiveShard(Shard):
    """Writes a shard's state without its log and counts: these events were logged and counted once already."""

    def _stage_log(self, pipe: Pipeline, unit: AppliedUnit, changes: Mapping[str, Change]) -> None:
        pass

    def _stage_counts(self, pipe: Pipeline, unit: AppliedUnit, changes: Mapping[str, Change]) -> None:
        pass


class Backfill:
    """Restores partitions of the online state from the archive.

    Args:
        client: The feature store's server.
        archive: Holds the events.
        namespace: The prefix of all keys.
        work: From `plan`.
        as_of: The setting, as the shards have it.
        clock: Time.
    """

    def __init__(
        self,
        client: aioredis.Redis,
        archive: Archive,
        *,
        namespace: str,
        work: Plan,
        as_of: str,
        clock: Clock,
    ) -> None:
        self._client = client
        self._archive = archive
        self._work = work
        keys = LaneKeys(namespace, LaneName.ACTIVITY)
        self._shard = _ArchiveShard(
            client, keys, namespace=namespace, partitions=work.partitions, as_of=as_of, clock=clock
        )
        self._progress = FeatureKeys(namespace).backfill(work.digest)

    async def run(
        self, partitions: Sequence[int], on_events: Callable[[int], None] = lambda _number: None
    ) -> Done:
        """Backfill some partitions, continuing an earlier run.

        Args:
            partitions: Which; no other backfill may run on them meanwhile.
            on_events: Called after each portion with its number of events, skipped ones included.

        Raises:
            StorageUnavailableError: the server does not answer, or is full; run it again.
            OverloadedError: live shards changed a partition at every attempt; run it again under less load.
        """
        last = await self._last()
        wanted: list[str] = []
        skipped = events = again = 0
        for partition in partitions:
            for name, number in self._work.counts.get(partition, {}).items():
                if name <= last.get(partition, ""):
                    skipped += 1
                    on_events(number)
                else:
                    wanted.append(name)
        if wanted:
            for table in self._archive.read(advertisers=wanted, batch_rows=PORTION_EVENTS * 10):
                for partition, part in _by_partition(table, self._work.partitions).items():
                    for portion in _portions(part):
                        again += await self._settle(partition, portion)
                        events += len(portion)
                        on_events(len(portion))
        return Done(advertisers=len(wanted), events=events, skipped=skipped, again=again)

    async def _last(self) -> dict[int, str]:
        with translated():
            found: Any = await self._client.hgetall(self._progress)
        return {int(partition): name.decode() for partition, name in found.items()}

    async def _settle(self, partition: int, portion: Sequence[Activity]) -> int:
        """Write one portion; returns how often it was computed again."""
        block = pack_block([_encode(event) for event in portion])
        entry = Entry(LaneName.ACTIVITY, partition, "0-0", WIRE_VERSION, block)
        for attempt in range(ATTEMPTS):
            stage = await self._shard.handle([entry])
            with translated():
                try:
                    async with self._client.pipeline(transaction=True) as pipe:
                        if isinstance(stage, Guarded) and stage.expected:
                            await watch(pipe, stage.expected)
                        stage(pipe)
                        pipe.hset(self._progress, str(partition), portion[-1].advertiser_id)
                        pipe.expire(self._progress, PROGRESS_TTL_S)
                        await pipe.execute()
                except redis_errors.WatchError:
                    continue
            return attempt
        raise OverloadedError(
            f"partition {partition} moved at each of {ATTEMPTS} attempts",
            hint="run it again when less comes in",
        )


def _by_partition(table: pa.Table, partitions: int) -> dict[int, list[Activity]]:
    """The events of a table, by partition, in the order of advertisers."""
    names = pc.unique(table["advertiser_id"].cast(pa.string())).to_pylist()
    owner = {name: partition_of(name, partitions) for name in names}
    found: dict[int, list[Activity]] = defaultdict(list)
    for activity in activities_of(table):
        found[owner[activity.advertiser_id]].append(activity)
    for events in found.values():
        events.sort(key=lambda event: event.advertiser_id)
    return found


def _portions(events: Sequence[Activity]) -> list[list[Activity]]:
    """Portions of whole advertisers, of about PORTION_EVENTS: progress is stored by advertiser."""
    found: list[list[Activity]] = []
    for event in events:
        full = not found or len(found[-1]) >= PORTION_EVENTS
        if full and not (found and found[-1][-1].advertiser_id == event.advertiser_id):
            found.append([])
        found[-1].append(event)
    return found


def merged(results: Sequence[Done]) -> Done:
    """The sum of the results of several backfills of different partitions."""
    totals: dict[str, Any] = {
        name: sum(getattr(result, name) for result in results) for name in Done.__struct_fields__
    }
    return Done(**totals)
