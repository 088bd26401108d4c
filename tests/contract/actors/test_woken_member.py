"""A member that is stopped beyond its leases and woken up: real processes, a real server, no Ray."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import psutil
from redis import asyncio as aioredis

from benchmarks.harness.pool_member import member
from benchmarks.harness.processes import Worker
from tests.fakes import START, wait_until
from tests.support import free_settings
from tocsin.streams.heartbeats import read_consumers
from tocsin.streams.lanes import Lane
from tocsin.streams.records import Record
from tocsin.wire.lanes import LaneName
from tocsin.wire.notifications import Envelope, Notification
from verification.files import read_delivery_logs

NOTE = Notification("emergency", "t", "r", "", "", "", "shop", ("log",), "", 0.0, "", {}, START)
NAMES = ["router-p0-0", "router-p0-1"]
ROUNDS = 40


async def test_what_a_stopped_member_had_is_delivered_by_others_and_not_again_when_it_wakes(
    url: str, client: aioredis.Redis, namespace: str, tmp_path: Path
) -> None:
    settings = msgspec.structs.replace(free_settings(tmp_path), redis_url=url, namespace=namespace)
    lane = Lane.of(client, settings, LaneName.P0)
    await lane.ensure_groups()
    accepted: list[str] = []

    async def send(number: int) -> None:
        for place in range(number):
            envelope = msgspec.msgpack.encode(Envelope(NOTE))
            (placed,) = await lane.append([Record(place % lane.partitions, envelope)])
            accepted.append(placed.id)

    def arrivals() -> Counter[str]:
        return Counter(one.id for one in read_delivery_logs(settings.data_path / "deliveries")[0])

    async def both() -> bool:
        return await read_consumers(client, lane.keys) == NAMES

    async def settled() -> bool:
        return not (await lane.depth()).blocks

    with (
        Worker(member, NAMES[0], "p0", settings) as first,
        Worker(member, NAMES[1], "p0", settings) as second,
    ):
        for one in (first, second):
            one.receive(str, timeout_s=60)
        await wait_until(both, 20)
        process = psutil.Process(first.pid)
        await send(ROUNDS)
        await wait_until(
            settled, 20
        )  # its next read waits at the server, and takes blocks while it is stopped
        process.suspend()
        try:
            await send(ROUNDS)
            await wait_until(lambda: set(accepted) <= set(arrivals()), 20)
        finally:
            process.resume()
        await wait_until(both, 20)
        await wait_until(settled, 20)
        await send(ROUNDS)
        await wait_until(lambda: set(accepted) <= set(arrivals()), 20)
        await wait_until(settled, 20)
    counts = await client.hgetall(lane.keys.counts)
    assert int(counts[b"delivered"]) == len(accepted) == 3 * ROUNDS
    assert set(arrivals().values()) == {1}
