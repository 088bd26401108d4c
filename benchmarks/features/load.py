"""Made-up activity, and a process that sends it through the activity lane: as fast as it drains, or by the second."""

from __future__ import annotations

import asyncio
import random
import time
from multiprocessing.connection import Connection

import msgspec
import uvloop

from benchmarks.harness.processes import receive, send
from tocsin.settings import Settings
from tocsin.storage.connect import WRITE_TIMEOUT_S, connect, resolve_url
from tocsin.streams.lanes import Lane
from tocsin.streams.records import Record, partition_of
from tocsin.wire.activity import Activity
from tocsin.wire.lanes import LaneName

ADVERTISERS = 5_000
BLOCK = 500
DAY_S = 86_400.0
WATCH_S = 0.01
APPENDERS = 2
_encode = msgspec.msgpack.Encoder().encode


def advertiser(number: int) -> str:
    """The id of one of `ADVERTISERS`."""
    return f"advertiser-{number:05d}"


class Send(msgspec.Struct, frozen=True, kw_only=True):
    """An order: so many events, dated within so many days before now."""

    events: int
    days: float
    per_s: float = 0.0  # 0: as fast as the lane drains
    seconds: float = 0.0  # 0: until all are sent
    max_backlog: int = 100_000


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """What was sent. Times are of the machine's monotonic clock."""

    events: int
    first_at: float
    last_at: float


def loader(pipe: Connection, settings: Settings, seed: int) -> None:
    """Carry out orders (`Send`, then anything to begin, and `Sent` back) until the pipe closes."""
    uvloop.run(_load(pipe, settings, seed))


async def _load(pipe: Connection, settings: Settings, seed: int) -> None:
    client = connect(resolve_url(settings), timeout_s=WRITE_TIMEOUT_S)
    lane = Lane.of(client, settings, LaneName.ACTIVITY)
    chance = random.Random(seed)  # noqa: S311 (nothing secret)
    send(pipe, "ready")
    made = 0
    try:
        while True:
            order = await asyncio.to_thread(receive, pipe, Send)
            batches = list(_batches(order, lane.partitions, chance, made))
            made += order.events
            send(pipe, "made")
            await asyncio.to_thread(receive, pipe, str)
            send(pipe, await (_paced if order.per_s else _flood)(lane, order, batches))
    except EOFError:
        return
    finally:
        await client.aclose()


def _batches(order: Send, partitions: int, chance: random.Random, first: int) -> list[list[Record]]:
    """Events in requests: whole blocks of one partition for a flood, mixed ones of a hundredth second when paced."""
    now = time.time()
    records: list[Record] = []
    for number in range(first, first + order.events):
        name = advertiser(chance.randrange(ADVERTISERS))
        at = now - chance.random() * order.days * DAY_S
        amount = round(chance.expovariate(0.02), 2)
        event = Activity(name, at, amount, "spend", f"e{number}", f"c{chance.randrange(4)}", "", now)
        records.append(Record(partition_of(name, partitions), _encode(event)))
    if order.per_s:
        size = max(1, int(order.per_s / 100))
        return [records[start : start + size] for start in range(0, len(records), size)]
    queues: list[list[Record]] = [[] for _ in range(partitions)]
    for record in records:
        queues[record.partition].append(record)
    cut = [[queue[s : s + BLOCK] for s in range(0, len(queue), BLOCK)] for queue in queues]
    return [
        block for round_ in range(max(map(len, cut))) for queue in cut for block in queue[round_ : round_ + 1]
    ]


async def _paced(lane: Lane, order: Send, batches: list[list[Record]]) -> Sent:
    began = time.monotonic()
    sent = 0
    for batch in batches:
        await asyncio.sleep(max(0.0, began + sent / order.per_s - time.monotonic()))
        await lane.append(batch)
        sent += len(batch)
    return Sent(events=sent, first_at=began, last_at=time.monotonic())


async def _flood(lane: Lane, order: Send, batches: list[list[Record]]) -> Sent:
    began = time.monotonic()
    rest = iter(batches)
    sent = 0
    may_send = asyncio.Event()
    may_send.set()

    async def append() -> None:
        nonlocal sent
        for batch in rest:
            await may_send.wait()
            await lane.append(batch)
            sent += len(batch)
            if order.seconds and time.monotonic() - began > order.seconds:
                return

    async def watch() -> None:
        while True:
            depth = await lane.depth()
            (may_send.set if depth.blocks * BLOCK < order.max_backlog else may_send.clear)()
            await asyncio.sleep(WATCH_S)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(append() for _ in range(APPENDERS)))
    watching.cancel()
    return Sent(events=sent, first_at=began, last_at=time.monotonic())
