"""A shard is killed over and over in the middle of an import; what is stored is what an undisturbed import stores."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import msgspec
import pytest
from redis import asyncio as aioredis

from benchmarks.harness.pool_member import member
from benchmarks.harness.processes import Worker
from features.importing.importer import read_activity
from features.simulator import simulate
from features.tiles import fold
from tests.fakes import wait_until
from tests.feature_bench import Bench
from tests.paths import DATA
from tocsin.settings import Settings
from tocsin.streams.lanes import Lane
from tocsin.streams.records import Record, partition_of
from tocsin.wire.activity import Activity
from tocsin.wire.lanes import LaneName

GOOGLE = DATA / "google_ads_spend" / "advertiser_weekly_spend.parquet"
AS_OF = "2024-06-01T00:00:00Z"
SIMULATION_END = 1_700_000_000.0 // 86_400 * 86_400
NAMES = ("shard-0", "shard-1")
KILLS = 6
CHUNK = 100
START_S = 90.0


def google() -> list[Activity]:
    if not GOOGLE.exists():
        pytest.skip("../shared/data/google_ads_spend is not beside the project")
    return [one for batch in read_activity(GOOGLE, None, 1_750_000_000.0) for one in batch.activities]


def simulated() -> list[Activity]:
    return simulate(advertisers=80, weeks=50, seed=3, end=SIMULATION_END).activities


class Shards:
    """Two pool members in processes of their own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._running: dict[str, ExitStack] = {}
        self._workers: dict[str, Worker] = {}

    def start(self, name: str) -> None:
        stack = self._running[name] = ExitStack()
        worker = Worker(member, name, LaneName.ACTIVITY.value, self._settings)
        self._workers[name] = stack.enter_context(worker)

    def await_start(self, name: str) -> None:
        assert self._workers[name].receive(str, timeout_s=START_S) == name

    def kill(self, name: str) -> None:
        os.kill(self._workers[name].pid, signal.SIGKILL)
        self._running.pop(name).close()

    def close(self) -> None:
        for stack in self._running.values():
            stack.close()


@pytest.fixture
def shards(url: str, namespace: str) -> Iterator[Shards]:
    settings = msgspec.structs.replace(
        Settings.from_env({}), redis_url=url, namespace=namespace, as_of=AS_OF, activity_partitions=2
    )
    found = Shards(settings)
    yield found
    found.close()


@pytest.mark.parametrize("source", [google, simulated])
async def test_killed_shards_leave_what_an_undisturbed_import_leaves(
    client: aioredis.Redis, namespace: str, shards: Shards, source: Callable[[], list[Activity]]
) -> None:
    told = [msgspec.structs.replace(one, arrival=one.event_time) for one in source()]
    chance = random.Random(5)  # noqa: S311 (when to kill whom)
    chance.shuffle(told)  # an advertiser's history changes all the time
    lane = Lane(client, namespace=namespace, name="activity", partitions=2, block_records=20)
    await lane.ensure_groups()
    for name in NAMES:
        shards.start(name)
    for name in NAMES:
        shards.await_start(name)
    chunks = [told[start : start + CHUNK] for start in range(0, len(told), CHUNK)]
    kill_after = set(chance.sample(range(1, len(chunks)), KILLS))
    for number, chunk in enumerate(chunks):
        await lane.append([_record(one) for one in chunk])
        if number in kill_after:
            name = chance.choice(NAMES)
            applied = await _applied(client, lane)
            await wait_until(lambda: _moved(client, lane, applied), timeout_s=60)  # noqa: B023 (awaited here)
            shards.kill(name)
            shards.start(name)
            shards.await_start(name)
    await wait_until(lambda: _drained(lane), timeout_s=90)

    counts = await client.hgetall(lane.keys.counts)
    assert (counts.get(b"applied"), counts.get(b"repeated")) == (str(len(told)).encode(), None)
    undisturbed = Bench(client, f"{namespace}-calm")
    undisturbed.shard("calm", as_of=AS_OF)
    try:
        await undisturbed.send(*told)
        await undisturbed.work(count=1000, shard="calm")
        disturbed = Bench(client, namespace)
        assert await disturbed.state() == await undisturbed.state()
        by_id: dict[str, list[Activity]] = {}
        for one in told:
            by_id.setdefault(one.advertiser_id, []).append(one)
        for start in range(0, len(by_id), 500):
            ids = list(by_id)[start : start + 500]
            found = await disturbed.shard("reader").store.histories(ids)
            assert found == [fold(name, by_id[name]) for name in ids]
    finally:
        await client.delete(*[key async for key in client.scan_iter(match=f"{undisturbed.namespace}:*")])


def _record(one: Activity) -> Record:
    return Record(partition_of(one.advertiser_id, 2), msgspec.msgpack.encode(one))


async def _applied(client: aioredis.Redis, lane: Lane) -> int:
    return int(await client.hget(lane.keys.counts, "applied") or 0)


async def _moved(client: aioredis.Redis, lane: Lane, before: int) -> bool:
    return await _applied(client, lane) > before


async def _drained(lane: Lane) -> bool:
    return (await lane.depth()).blocks == 0
