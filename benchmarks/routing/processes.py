"""The child processes of the routing run: what floods a lane, what reads a bare stream, a provider that hangs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from multiprocessing.connection import Connection
from typing import Any

import msgspec
import uvloop
from redis import asyncio as aioredis

from actors.lane_policies import POLICIES
from benchmarks.harness.payloads import BLOCK_RECORDS, p2_bodies
from benchmarks.harness.processes import receive, send
from tocsin.keys import GROUP
from tocsin.settings import Settings
from tocsin.storage.connect import CONSUME_TIMEOUT_S, WRITE_TIMEOUT_S, connect, resolve_url
from tocsin.streams.lanes import FIELD_BLOCK, FIELD_VERSION, Lane
from tocsin.streams.records import Record, pack_block, partition_of
from tocsin.wire.lanes import WIRE_VERSION, LaneName
from tocsin.wire.notifications import Envelope

APPENDERS = 2  # appends in flight: one is stored while the next is made
WATCH_S = 0.02
IDLE_S = 2.0  # a bare stream counts as empty when nothing came for this long
BARE_STREAM = "bench:{bare}:stream"

Put = Callable[[int], Awaitable[object]]
Depth = Callable[[], Awaitable[int]]


class Target(StrEnum):
    """Where a flood goes, and how a block of 500 is stored."""

    BLOCKS = "blocks"  # the lane; the whole block to one partition, one entry
    SCATTERED = (
        "scattered"  # the lane; each record to its recipient's partition, as HTTP does: an entry a partition
    )
    HANGING = "hanging"  # blocks of which one record in a hundred goes to a provider that never answers
    BARE = "bare"  # one stream without a lane


class Flood(msgspec.Struct, frozen=True, kw_only=True):
    """An order: send blocks for `seconds`, at most `max_records`, with a bounded backlog."""

    seconds: float
    max_records: int
    max_backlog: int  # in entries; a fuller stream makes the loader wait
    target: Target


class Flooded(msgspec.Struct, frozen=True, kw_only=True):
    """What was sent. Times are of the machine's monotonic clock, the same in every process."""

    records: int
    first_at: float
    last_at: float
    burst_records: int  # before the backlog was full for the first time
    burst_s: float


def hanging_provider(pipe: Connection) -> None:
    """Send a URL, then leave every call to it without an answer until the pipe closes."""
    asyncio.run(_hang(pipe))


async def _hang(pipe: Connection) -> None:
    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # else the loop logs each at the end
            while await reader.read(65_536):  # until the caller gives up
                pass
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    send(pipe, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/never")
    with contextlib.suppress(EOFError):
        await asyncio.to_thread(receive, pipe, str)
    server.close()


def loader(pipe: Connection, settings: Settings, seed: int, hanging_url: str) -> None:
    """Carry out floods (`Flood` in, `Flooded` out) until the pipe closes."""
    uvloop.run(_load(pipe, settings, seed, hanging_url))


async def _load(pipe: Connection, settings: Settings, seed: int, hanging_url: str) -> None:
    client = connect(resolve_url(settings), timeout_s=WRITE_TIMEOUT_S)
    targets = {
        Target.BLOCKS: _onto_lane(client, settings, p2_bodies(seed), scatter=False),
        Target.SCATTERED: _onto_lane(client, settings, p2_bodies(seed), scatter=True),
        Target.HANGING: _onto_lane(client, settings, p2_bodies(seed, hanging_url), scatter=False),
        Target.BARE: _onto_bare_stream(client, seed),
    }
    send(pipe, "ready")
    try:
        while True:
            order = await asyncio.to_thread(receive, pipe, Flood)
            put, depth = targets[order.target]
            send(pipe, await Loader(put, depth, order).flood())
    except EOFError:
        return
    finally:
        await client.aclose()


def _onto_lane(
    client: aioredis.Redis, settings: Settings, bodies: list[list[tuple[str, bytes]]], *, scatter: bool
) -> tuple[Put, Depth]:
    partitions = settings.partitions(LaneName.P2)
    lane = Lane.of(client, settings, LaneName.P2)
    blocks = [
        [
            Record(partition_of(recipient, partitions) if scatter else number % partitions, body)
            for recipient, body in block
        ]
        for number, block in enumerate(bodies)
    ]

    async def put(number: int) -> object:
        return await lane.append(blocks[number % len(blocks)])

    async def depth() -> int:
        async with client.pipeline(transaction=False) as pipe:
            for partition in range(partitions):
                pipe.xlen(lane.keys.stream(partition))
            return sum(await pipe.execute())

    return put, depth


def _onto_bare_stream(client: aioredis.Redis, seed: int) -> tuple[Put, Depth]:
    blocks = [pack_block([body for _, body in block]) for block in p2_bodies(seed)]

    async def put(number: int) -> object:
        return await client.xadd(
            BARE_STREAM, {FIELD_VERSION: WIRE_VERSION, FIELD_BLOCK: blocks[number % len(blocks)]}
        )

    async def depth() -> int:
        return int(await client.xlen(BARE_STREAM))

    return put, depth


class Loader:
    """One flood.

    Args:
        put: Stores the block of a number.
        depth: Returns how many entries wait.
        order: The limits of time, records and backlog.
    """

    def __init__(self, put: Put, depth: Depth, order: Flood) -> None:
        self._put = put
        self._depth = depth
        self._order = order
        self._may_send = asyncio.Event()
        self._given = self._stored = 0
        self._first_at = 0.0
        self._burst: tuple[int, float] | None = None

    async def flood(self) -> Flooded:
        """Send until time or records are used up."""
        self._may_send.set()
        self._first_at = time.monotonic()
        watch = asyncio.create_task(self._watch())
        try:
            await asyncio.gather(*(self._append() for _ in range(APPENDERS)))
        finally:
            watch.cancel()
        last_at = time.monotonic()
        burst_records, burst_s = self._burst or (self._stored, last_at - self._first_at)
        return Flooded(
            records=self._stored,
            first_at=self._first_at,
            last_at=last_at,
            burst_records=burst_records,
            burst_s=burst_s,
        )

    async def _append(self) -> None:
        ends = self._first_at + self._order.seconds
        max_blocks = self._order.max_records // BLOCK_RECORDS
        while time.monotonic() < ends and self._given < max_blocks:
            if not self._may_send.is_set():
                await asyncio.sleep(WATCH_S / 4)
                continue
            number, self._given = self._given, self._given + 1
            await self._put(number)
            self._stored += BLOCK_RECORDS

    async def _watch(self) -> None:
        while True:
            if await self._depth() < self._order.max_backlog:
                self._may_send.set()
            else:
                self._may_send.clear()
                self._burst = self._burst or (self._stored, time.monotonic() - self._first_at)
            await asyncio.sleep(WATCH_S)


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """What the bare loop read, and when it was done (monotonic)."""

    records: int
    last_at: float


def bare_reader(pipe: Connection, settings: Settings) -> None:
    """The floor: read, decode, acknowledge, delete, and nothing else; each time until the stream is empty."""
    uvloop.run(_read_bare(pipe, settings))


async def _read_bare(pipe: Connection, settings: Settings) -> None:
    client = connect(resolve_url(settings), timeout_s=CONSUME_TIMEOUT_S)
    await client.xgroup_create(BARE_STREAM, GROUP, id="0", mkstream=True)
    send(pipe, "ready")
    try:
        while True:
            await asyncio.to_thread(receive, pipe, str)
            send(pipe, await _read_out(client))
    except EOFError:
        return
    finally:
        await client.aclose()


async def _read_out(client: aioredis.Redis) -> Read:
    decode = msgspec.msgpack.Decoder(list[Envelope]).decode
    count = POLICIES[LaneName.P2].consumer.read_entries
    records, last_at = 0, 0.0
    while not records or time.monotonic() - last_at < IDLE_S:
        answer: Any = await client.xreadgroup(GROUP, "bare", {BARE_STREAM: ">"}, count=count, block=200)
        entries = answer[0][1] if answer else []
        if not entries:
            continue
        records += sum(len(decode(values[FIELD_BLOCK])) for _, values in entries)
        ids = [entry for entry, _ in entries]
        async with client.pipeline(transaction=False) as batch:
            batch.xack(BARE_STREAM, GROUP, *ids)
            batch.xdel(BARE_STREAM, *ids)
            await batch.execute()
        last_at = time.monotonic()
    return Read(records=records, last_at=last_at)
