"""The lane: a durable, partitioned queue of blocks on Redis streams.

    append ──► stream {partition} ──read──► pending (owned by a consumer) ──settle──► gone, outcome kept
                     ▲                            │
                     └──── promote ◄── retries ◄──┘ (settle may schedule a retry)

A stream entry is a *block*: a MessagePack array of records. Many records share one entry, because an entry
costs the server and the driver the same whether it holds 1 record or 500. What a record is, the lane does not
know. A record's position (`lane-partition-entry-index`) is its id: it costs nothing to store and says where to
look.

Everything that must not come apart is one atomic step on the server: `append` (blocks, dedup keys, request
idempotency, counts), `settle` (acknowledge, trim, and whatever the caller stages) and `promote`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from redis import asyncio as aioredis
from redis import exceptions as redis_errors
from redis.asyncio.client import Pipeline

from tocsin.errors import ConflictError, StateMovedError, StorageUnavailableError
from tocsin.keys import GROUP, LaneKeys
from tocsin.settings import Settings
from tocsin.storage.errors import translated
from tocsin.storage.limit import create_group, execute_at_limit
from tocsin.storage.optimistic import MOVED, Guarded, watch
from tocsin.streams.lane_scripts import BlockToAppend, append_blocks, promote_due
from tocsin.streams.records import (
    BLOCK_RECORDS,
    Entry,
    LaneDepth,
    Placement,
    Position,
    Record,
    Writes,
    pack_block,
)
from tocsin.telemetry.reports import Fault
from tocsin.wire.lanes import LaneName

FIELD_VERSION = b"v"
FIELD_BLOCK = b"b"
CLAIM_PAGE = 100


class Lane:
    """A lane on Redis.

    Args:
        client: The lane's server; its timeout must exceed the `block_ms` of reads.
        namespace: The prefix of the lane's keys.
        name: `p0`, `p1`, `p2` or `activity`.
        partitions: How many streams the lane has.
        block_records: The most records in one entry.
    """

    def __init__(
        self, client: aioredis.Redis, *, namespace: str, name: str, partitions: int, block_records: int
    ) -> None:
        self.name = name
        self.partitions = partitions
        self.keys = LaneKeys(namespace, name)
        self.client = client
        self._block_records = block_records
        self.settled_at_limit = 0  # transactions the server was too full for

    @classmethod
    def of(cls, client: aioredis.Redis, settings: Settings, name: LaneName) -> Lane:
        """A lane of the platform that `settings` describe."""
        return cls(
            client,
            namespace=settings.namespace,
            name=name,
            partitions=settings.partitions(name),
            block_records=BLOCK_RECORDS[name],
        )

    def faults(self) -> dict[Fault, int]:
        """The faults survived since this object was made."""
        return {Fault.SETTLED_AT_LIMIT: self.settled_at_limit}

    async def append(
        self, records: Sequence[Record], *, idempotency_key: str = "", fingerprint: str = ""
    ) -> list[Placement]:
        """Store records durably, all of them or none, and say where each went, in their order.

        Args:
            records: Each with its partition; one with a dedup key seen in the last 24 h is not stored again.
            idempotency_key: A repeat with the same key returns the first result without storing anything.
            fingerprint: Digest of the request; a repeat must carry the same one.

        Raises:
            ConflictError: the idempotency key was used for another request.
            StorageUnavailableError: the server did not confirm; it may or may not have stored them.
            OverloadedError: the server is out of memory; nothing was stored.
        """
        placements, _ = await self._put(records, idempotency_key, fingerprint, wait_ms=0)
        return placements

    async def append_synced(
        self, records: Sequence[Record], *, wait_ms: int, idempotency_key: str = "", fingerprint: str = ""
    ) -> tuple[list[Placement], bool]:
        """As `append`; then wait up to `wait_ms` until they are on the server's disk, and say whether they are.

        Readers have the records meanwhile. A repeat waits for what the first request wrote. A connection that breaks
        while waiting is an error, as it is before.
        """
        return await self._put(records, idempotency_key, fingerprint, wait_ms=wait_ms)

    async def _put(
        self, records: Sequence[Record], idempotency_key: str, fingerprint: str, *, wait_ms: int
    ) -> tuple[list[Placement], bool]:
        units = self._units(records)
        blocks = [
            BlockToAppend(
                self.keys.stream(partition),
                len(members),
                pack_block([records[i].body for i in members]),
                self.keys.dedup(dedup_key) if dedup_key else "",
            )
            for partition, dedup_key, members in units
        ]
        with translated():
            answer, synced = await append_blocks(
                self.client,
                blocks,
                counts=self.keys.counts,
                idempotency=self.keys.idempotency(idempotency_key) if idempotency_key else "",
                fingerprint=fingerprint,
                wait_ms=wait_ms,
            )
        if answer[0] == b"conflict":
            raise ConflictError(
                "this Idempotency-Key was used for a different request", hint="use a new key for each request"
            )
        return self._placements(len(records), units, answer), synced

    def _units(self, records: Sequence[Record]) -> list[tuple[int, str, list[int]]]:
        """Group record indexes into entries; a record with a dedup key gets an entry of its own."""
        units: list[tuple[int, str, list[int]]] = []
        by_partition: dict[int, list[int]] = defaultdict(list)
        for index, record in enumerate(records):
            if record.dedup_key:
                units.append((record.partition, record.dedup_key, [index]))
            else:
                by_partition[record.partition].append(index)
        for partition, members in by_partition.items():
            units += [
                (partition, "", members[start : start + self._block_records])
                for start in range(0, len(members), self._block_records)
            ]
        units.sort(key=lambda unit: unit[2][0])
        return units

    def _placements(
        self, total: int, units: Sequence[tuple[int, str, list[int]]], answer: Sequence[bytes]
    ) -> list[Placement]:
        repeated = answer[0] == b"repeat"
        placements: list[Placement | None] = [None] * total
        for (_, _, members), mark in zip(units, answer[1:], strict=True):
            text = mark.decode()
            seen = text.startswith("=")
            base = text[1:] if seen else text
            for offset, index in enumerate(members):
                placements[index] = Placement(f"{self.name}-{base}-{offset}", duplicate=seen or repeated)
        return [p for p in placements if p is not None]

    async def ensure_groups(self) -> None:
        """Make the streams and their consumer group; harmless when they exist.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        for partition in range(self.partitions):
            with translated():
                try:
                    await create_group(self.client, self.keys.stream(partition), GROUP)
                except redis_errors.ResponseError as error:
                    if "BUSYGROUP" not in str(error):
                        raise

    async def read(
        self, consumer: str, partitions: Sequence[int], *, count: int, block_ms: int
    ) -> list[Entry]:
        """Take up to `count` new blocks a partition, waiting up to `block_ms` for the first.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        streams: dict[Any, Any] = {self.keys.stream(partition): ">" for partition in partitions}
        by_key = {self.keys.stream(partition).encode(): partition for partition in partitions}
        with translated():
            try:
                answer: Any = await self.client.xreadgroup(
                    GROUP,
                    consumer,
                    streams,
                    count=count,
                    block=block_ms,
                )
            except redis_errors.ResponseError as error:
                if "NOGROUP" in str(error):  # the server lost its data: begin again
                    await self.ensure_groups()
                    return []
                raise
        return [
            self._entry(by_key[key], entry, values)
            for key, entries in answer or ()
            for entry, values in entries
        ]

    async def claim(self, consumer: str, partition: int, *, min_idle_ms: int) -> list[Entry]:
        """Take over blocks of a partition that a consumer read and left unsettled for `min_idle_ms`.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        claimed: list[Entry] = []
        cursor: Any = "0-0"
        while True:
            try:
                with translated():
                    answer: Any = await self.client.xautoclaim(
                        self.keys.stream(partition),
                        GROUP,
                        consumer,
                        min_idle_ms,
                        start_id=cursor,
                        count=CLAIM_PAGE,
                    )
            except StorageUnavailableError as error:
                if "NOGROUP" not in error.message:
                    raise
                await self.ensure_groups()
                return claimed
            cursor, entries = answer[0], answer[1]
            claimed += [self._entry(partition, entry, values) for entry, values in entries if values]
            if cursor in {b"0-0", "0-0"}:
                return claimed

    def _entry(self, partition: int, entry: bytes, values: Mapping[bytes, bytes]) -> Entry:
        version = values.get(FIELD_VERSION, b"")
        known = int(version) if version.isdigit() else 0  # 0: not written by us, for the quarantine
        return Entry(self.name, partition, entry.decode(), known, values.get(FIELD_BLOCK, b""))

    async def settle(self, entries: Sequence[Entry], writes: Writes, *, again: bool = False) -> None:
        """Acknowledge and trim blocks together with what `writes` adds, in one transaction.

        Args:
            entries: Blocks read together.
            writes: Adds the results to the transaction.
            again: The last try was not confirmed: it may have been carried out, so look first.

        Raises:
            StorageUnavailableError: the server did not confirm; try with `again`.
            StateMovedError: the writes are `Guarded` and the state they depend on has changed; nothing was written.

        At the server's memory limit it refuses the transaction untouched; then the same is done as a script that is
        exempt, so that a full server drains.
        """
        if again and not await self._waits(entries[0]):
            return
        by_partition: dict[int, list[str]] = defaultdict(list)
        for entry in entries:
            by_partition[entry.partition].append(entry.entry)
        expected = writes.expected if isinstance(writes, Guarded) else {}
        with translated():
            try:
                async with self.client.pipeline(transaction=True) as pipe:
                    if expected:
                        await watch(pipe, expected)
                    writes(pipe)
                    self._stage_settled(pipe, by_partition)
                    await pipe.execute()
            except redis_errors.WatchError:
                raise StateMovedError(MOVED) from None
            except redis_errors.OutOfMemoryError:
                await self._settle_at_limit(by_partition, writes, expected)

    def _stage_settled(self, pipe: Pipeline, by_partition: Mapping[int, Sequence[str]]) -> None:
        for partition, ids in by_partition.items():
            pipe.xack(self.keys.stream(partition), GROUP, *ids)
            pipe.xdel(self.keys.stream(partition), *ids)

    async def _settle_at_limit(
        self, by_partition: Mapping[int, Sequence[str]], writes: Writes, expected: Mapping[str, bytes]
    ) -> None:
        self.settled_at_limit += 1
        pipe = self.client.pipeline(transaction=True)
        self._stage_settled(pipe, by_partition)
        writes(pipe)
        with translated():
            done = await execute_at_limit(self.client, pipe, expected)
        if not done:
            raise StateMovedError(MOVED)

    async def _waits(self, entry: Entry) -> bool:
        """Whether a block is unsettled. A transaction is whole, so one block stands for those settled with it."""
        with translated():
            key = self.keys.stream(entry.partition)
            return bool(await self.client.xrange(key, min=entry.entry, max=entry.entry, count=1))

    async def unsettled(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those of some blocks that are not settled yet.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        return [entry for entry in entries if await self._waits(entry)]

    async def promote(self, partition: int, now: float, *, limit: int) -> int:
        """Move retries that are due back into the stream, atomically. Returns how many.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        with translated():
            return await promote_due(
                self.client,
                retries=self.keys.retries(partition),
                stream=self.keys.stream(partition),
                now=now,
                limit=limit,
            )

    async def depth(self) -> LaneDepth:
        """How much waits, over all partitions.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        with translated():
            async with self.client.pipeline(transaction=False) as pipe:
                for partition in range(self.partitions):
                    pipe.xlen(self.keys.stream(partition))
                    pipe.xpending(self.keys.stream(partition), GROUP)
                    pipe.zcard(self.keys.retries(partition))
                answers: list[Any] = await pipe.execute(raise_on_error=False)
        pending = (
            a["pending"] for a in answers[1::3] if not isinstance(a, Exception)
        )  # no group yet: none pending
        return LaneDepth(blocks=sum(answers[0::3]), pending=sum(pending), retrying=sum(answers[2::3]))

    def stage_peek(self, pipe: Pipeline, position: Position) -> None:
        """Ask, as part of a transaction, for the block a record is in while it waits or is pending."""
        pipe.xrange(self.keys.stream(position.partition), min=position.entry, max=position.entry, count=1)

    def peeked(self, answer: Any, position: Position) -> Entry | None:
        """The block in the answer to `stage_peek`; None when it is settled."""
        return self._entry(position.partition, *answer[0]) if answer else None
