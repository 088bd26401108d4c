"""The supervisor: grows and shrinks the pools with what waits in their lanes.

It only decides how many members there are; who owns which partition the members settle among themselves, so a
supervisor that is down for a while costs nothing but reaction. It also replaces members that are alive and do nothing
(`actors.watch`), and consumes p0 itself while no router does (`actors.standby`). It beats too: the process that started
the platform brings it back the same way. Where members ask for a place that no node has, Ray's autoscaler adds nodes.

It is also where the guard of a model's rollout is at work: there is one supervisor, and it needs nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from actors.scaling import PoolBounds, PoolLoad, ScalingPolicy, plan
from actors.standby import Member, Standby
from actors.watch import lane_watch
from actors.watchdog import LOOK_S
from tocsin.background import repeat
from tocsin.clock import SystemClock
from tocsin.processes import ProcessRecord, this_process
from tocsin.settings import Settings
from tocsin.storage.connect import WRITE_TIMEOUT_S
from tocsin.storage.servers import Server, Servers
from tocsin.streams.heartbeats import SUPERVISOR_BEAT_S, SupervisorHeartbeat
from tocsin.streams.lanes import Lane
from tocsin.wire.lanes import LaneName

log = logging.getLogger(__name__)

SAMPLE_S = 1.0

# Blocks of p0 hold one record each and are worked off at once; a backlog of them is rare and urgent.
SCALING: dict[LaneName, ScalingPolicy] = {
    LaneName.P0: ScalingPolicy(blocks_a_member=50, grow_after=1, idle_s=300.0),
    LaneName.P1: ScalingPolicy(blocks_a_member=40),
    LaneName.P2: ScalingPolicy(blocks_a_member=100),
    LaneName.ACTIVITY: ScalingPolicy(blocks_a_member=60),
}


class Pool(Protocol):
    """Starts and stops members; `actors.pools.RayPool`, or a list in tests."""

    def size(self, lane: LaneName) -> int:
        """Members there are."""
        ...

    def grow(self, lane: LaneName) -> None:
        """Start one more."""
        ...

    def shrink(self, lane: LaneName) -> None:
        """Drain the newest and end it."""
        ...

    def replace(self, name: str, process: ProcessRecord) -> bool:
        """End the process of a member that is hung, so that another takes its name. Returns whether it is gone."""
        ...


class Guard(Protocol):
    """Watches the rollout of a model until told to stop: `models.rollout.guard_loop.GuardLoop`."""

    async def run(self, stopping: asyncio.Event) -> None:
        """Look over and over."""
        ...


OpenGuard = Callable[[Settings, Servers], Guard]
"""Puts the guard together; a module's function, as Ray finds it by its name."""


class Supervisor:
    """Watches all lanes until told to stop.

    Args:
        settings: Bounds, server, partitions.
        pool: Where members are started and stopped.
        guard: Puts the guard of the models' rollouts together; heavy, so the first sample does not wait for it.
        standby: Starts a p0 member in this process, for when no other does anything; None: nobody stands in.
    """

    def __init__(
        self, settings: Settings, pool: Pool, guard: OpenGuard, standby: Callable[[], Member] | None = None
    ) -> None:
        self._settings = settings
        self._start_standby = standby
        self._pool = pool
        self._open_guard = guard
        self._loads: dict[LaneName, PoolLoad] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._started: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run()), name="supervisor", daemon=True
        )

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()
        self._started.result(timeout=10)

    def stop(self, timeout_s: float = 15.0) -> bool:
        """Stop watching; the pools stay as they are. Returns whether it ended in time."""
        if self._loop is not None and self._stopping is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(timeout=timeout_s)
        return not self._thread.is_alive()

    def sizes(self) -> dict[str, int]:
        """Members by lane."""
        return {str(lane): load.members for lane, load in self._loads.items()}

    async def _run(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), (stopping := asyncio.Event())
        servers = Servers(self._settings, timeout_s=WRITE_TIMEOUT_S, max_connections=16)
        self._started.set_result(None)
        try:
            await asyncio.gather(
                self._beat(servers, stopping),
                *(self._watch(server, stopping) for server in servers.all),
                *(
                    self._watch_members(server, LaneName(lane), stopping)
                    for server in servers.all
                    for lane in server.lanes
                ),
                self._watch_rollouts(servers, stopping),
            )
        finally:
            await servers.aclose()

    async def _watch(self, server: Server, stopping: asyncio.Event) -> None:
        """The lanes of one storage server; another that does not answer does not hold them up."""
        lanes = [Lane.of(server.client, self._settings, name) for name in server.lanes]

        async def sample() -> None:
            for lane in lanes:
                depth = await lane.depth()
                await asyncio.to_thread(self.look, LaneName(lane.name), depth.blocks, time.monotonic())

        await repeat(f"supervisor: sampling {server.name}", sample, every_s=SAMPLE_S, until=stopping)

    async def _beat(self, servers: Servers, stopping: asyncio.Event) -> None:
        heartbeat = SupervisorHeartbeat(servers.main, self._settings.namespace, this_process())
        await repeat("supervisor: heartbeat", heartbeat.beat, every_s=SUPERVISOR_BEAT_S, until=stopping)

    async def _watch_members(self, server: Server, lane: LaneName, stopping: asyncio.Event) -> None:
        """Replace members of a lane that are alive and do nothing."""
        watch = lane_watch(server, self._settings, lane, self._pool.replace)
        standby = None
        if lane is LaneName.P0 and self._start_standby is not None:
            standby = Standby(f"lane {lane}", self._start_standby, SystemClock())

        async def look() -> None:
            beating = await watch.look()
            if standby is not None:
                await standby.look(beating)

        try:
            await repeat(
                f"supervisor: watching the members of {lane}",
                look,
                every_s=LOOK_S,
                until=stopping,
                level=logging.DEBUG,  # sampling says so when storage is away
            )
        finally:
            if standby is not None:
                await standby.end()

    async def _watch_rollouts(self, servers: Servers, stopping: asyncio.Event) -> None:
        """The guard of the models' rollouts; without it the pools are still watched."""
        try:
            guard = await asyncio.to_thread(self._open_guard, self._settings, servers)
            await guard.run(stopping)
        except Exception:
            log.exception("supervisor: no guard watches the models")

    def look(self, lane: LaneName, waiting_blocks: int, now: float) -> None:
        """One sample of one lane: grow or shrink its pool by one at most."""
        size = self._pool.size(lane)
        before = self._loads.get(lane) or PoolLoad(members=size)
        after = plan(before, waiting_blocks, now, SCALING[lane], self.bounds(lane))
        self._loads[lane] = after
        if after.members > size:
            log.info("%s: %d blocks wait; member %d joins", lane, waiting_blocks, after.members)
            self._pool.grow(lane)
        elif after.members < size:
            log.info("%s: nothing waits; member %d leaves", lane, size)
            self._pool.shrink(lane)

    def bounds(self, lane: LaneName) -> PoolBounds:
        """From the configured size up to the configured most, and no more than there are partitions."""
        least = min(self._settings.pool_size(lane), self._settings.partitions(lane))
        return PoolBounds(
            least=least, most=max(least, min(self._settings.pool_max, self._settings.partitions(lane)))
        )
