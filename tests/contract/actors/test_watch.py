"""A member that is alive and does nothing is ended: a real process, a real server, a clock moved by hand."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
from redis import asyncio as aioredis

from actors.watch import PoolWatch
from actors.watchdog import LOOK_S, HungPolicy
from tests.fakes import ManualClock, wait_until
from tocsin.keys import LaneKeys
from tocsin.processes import ProcessRecord, end_process, find_process, is_stopped, this_process
from tocsin.streams.leases import LeasePolicy, Leases

POLICY = HungPolicy(stopped_s=1.5, hung_s=5.0)


@pytest.fixture
def member() -> Iterator[ProcessRecord]:
    """A process that does nothing, as the record of a member."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    started_at = psutil.Process(child.pid).create_time()
    yield ProcessRecord(host=this_process().host, pid=child.pid, started_at=started_at, token="its own")
    child.kill()
    child.wait(timeout=10)


class Bench:
    """A watch over one lane whose looks come on time."""

    def __init__(self, client: aioredis.Redis, namespace: str, clock: ManualClock) -> None:
        self.keys = LaneKeys(namespace, "p0")
        self.ended: list[str] = []
        self._client = client
        self._clock = clock
        self.watch = PoolWatch(client, self.keys, ["router-p0-0", "router-p0-1"], POLICY, self._end, clock)

    def _end(self, name: str, process: ProcessRecord) -> bool:
        self.ended.append(name)
        return end_process(process)

    def join(self, name: str, process: ProcessRecord) -> Leases:
        return Leases(
            self._client,
            keys=self.keys,
            name=name,
            partitions=2,
            policy=LeasePolicy(),
            clock=self._clock,
            process=process,
        )

    async def look(self, for_s: float, *beating: Leases) -> None:
        for _ in range(round(for_s / LOOK_S)):
            for leases in beating:
                await leases.beat()
            await self.watch.look()
            self._clock.advance(LOOK_S)


async def test_a_stopped_member_is_ended_and_one_that_beats_is_not(
    client: aioredis.Redis, namespace: str, clock: ManualClock, member: ProcessRecord
) -> None:
    bench = Bench(client, namespace, clock)
    await bench.join("router-p0-0", member).beat()
    alive = bench.join("router-p0-1", this_process())
    psutil.Process(member.pid).send_signal(signal.SIGSTOP)
    await wait_until(lambda: is_stopped(member))
    await bench.look(1.2, alive)
    assert bench.ended == []
    await bench.look(1.2, alive)
    assert bench.ended == ["router-p0-0"]
    assert find_process(member) is None
    await bench.look(8.0, alive)
    assert bench.ended == ["router-p0-0"]  # once: Ray starts another, which is watched when it beats


async def test_a_member_that_runs_and_does_not_beat_has_longer(
    client: aioredis.Redis, namespace: str, clock: ManualClock, member: ProcessRecord
) -> None:
    bench = Bench(client, namespace, clock)
    await bench.join("router-p0-0", member).beat()
    await bench.look(4.8)
    assert bench.ended == []
    await bench.look(1.2)
    assert bench.ended == ["router-p0-0"]


async def test_one_that_ended_is_left_to_ray(
    client: aioredis.Redis, namespace: str, clock: ManualClock, member: ProcessRecord
) -> None:
    bench = Bench(client, namespace, clock)
    await bench.join("router-p0-0", member).beat()
    end_process(member)
    await wait_until(lambda: find_process(member) is None)
    await bench.look(8.0)
    assert bench.ended == []


async def test_one_that_left_the_pool_is_not_looked_for(
    client: aioredis.Redis, namespace: str, clock: ManualClock, member: ProcessRecord
) -> None:
    bench = Bench(client, namespace, clock)
    leases = bench.join("router-p0-0", member)
    await leases.beat()
    await bench.look(1.2)
    await leases.release(leases.held(), leave=True)
    await bench.look(8.0)
    assert bench.ended == []
