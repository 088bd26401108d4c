"""A pool member: hosts one consumer in a thread with an event loop of its own.

What it consumes with is handed in (`launch.assembly`). `actors.pools` makes Ray actors of it. The consumer starts in
the constructor, so that an actor Ray restarts continues by itself; the thread keeps it apart from the actor's own
calls (health, stats, stop).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

import msgspec
import uvloop

from actors.lane_policies import POLICIES
from tocsin.clock import Clock, SystemClock
from tocsin.settings import Settings
from tocsin.storage.connect import CONSUME_TIMEOUT_S, connect, resolve_url
from tocsin.storage.servers import Servers
from tocsin.streams.consumer import Consumer, ConsumerState
from tocsin.streams.lanes import Lane
from tocsin.streams.leases import Leases
from tocsin.streams.ports import Handler
from tocsin.telemetry.reports import Reports, faults_of
from tocsin.wire.lanes import LaneName

log = logging.getLogger(__name__)

START_DEADLINE_S = 30.0
# Where cores are short, what waits for a person comes first. A process may only become nicer.
NICENESS = {LaneName.P0: 0, LaneName.P1: 2, LaneName.P2: 10, LaneName.ACTIVITY: 10}
GC_THRESHOLDS = (50_000, 20, 50)


class Hosted(Protocol):
    """What a member hosts: a lane's handler with everything it stands on."""

    @property
    def handler(self) -> Handler:
        """Handles the lane's blocks."""
        ...

    def parts(self) -> Sequence[object]:
        """Those that count faults, for the reports."""
        ...

    def remembered(self, advertiser_ids: Sequence[str]) -> list[tuple[bytes | None, float | None]]:
        """The last known history of each advertiser, encoded, with the time (epoch seconds) up to which its
        partition was known to be applied. Only a feature shard remembers any.
        """
        ...

    async def aclose(self) -> None:
        """End what runs alongside the blocks, when nothing is in flight any more."""
        ...


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where something is hosted: the member, its lane, its partitions, its connections."""

    name: str  # of the member; unique in the pool, the same after a restart
    settings: Settings
    lane: Lane
    servers: Servers
    leases: Leases
    clock: Clock


Assemble = Callable[[Place], Hosted]
"""Puts together what a member hosts; called within its event loop. Ray finds it by its name, so it is a module's."""


class MemberStats(msgspec.Struct, frozen=True, kw_only=True):
    """What a member says of itself."""

    name: str
    lane: str
    state: str
    pid: int
    partitions: list[int]
    handled_blocks: int
    in_flight: int
    storage_failures: int


class PoolMember:
    """Consumes one lane until told to stop.

    Args:
        name: Unique in the pool, the same after a restart.
        lane: The lane's name.
        settings: Where and how.
        assemble: Puts together what is hosted.
    """

    def __init__(self, name: str, lane: str, settings: Settings, assemble: Assemble) -> None:
        self._name = name
        self._lane = LaneName(lane)
        self._settings = settings
        self._assemble = assemble
        self._clock: Clock = SystemClock()
        self._consumer: Consumer | None = None
        self._leases: Leases | None = None
        self._hosted: Hosted | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        self._started.result(timeout=START_DEADLINE_S)

    def stats(self) -> MemberStats:
        """State, partitions and counts."""
        consumer, leases = self._consumer, self._leases
        return MemberStats(
            name=self._name,
            lane=self._lane,
            state=consumer.state if consumer else ConsumerState.STOPPED,
            pid=os.getpid(),
            partitions=leases.held() if leases else [],
            handled_blocks=consumer.handled_blocks if consumer else 0,
            in_flight=consumer.in_flight if consumer else 0,
            storage_failures=consumer.failures if consumer else 0,
        )

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Drain: take no more, finish what is in flight. Returns whether it ended in time."""
        if self._loop is not None and self._consumer is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._consumer.stop)
        self._thread.join(timeout=timeout_s)
        return not self._thread.is_alive()

    def remembered(self, advertiser_ids: Sequence[str]) -> list[tuple[bytes | None, float | None]]:
        """What is hosted here remembers of these advertisers: see `Hosted.remembered`."""
        if self._hosted is None:
            return [(None, None)] * len(advertiser_ids)
        return self._hosted.remembered(advertiser_ids)

    def _run(self) -> None:
        # Blocks hold thousands of small acyclic records at once; walking them over and over finds nothing.
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        os.nice(NICENESS[self._lane])
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._consume())
        except BaseException as error:
            if not self._started.done():
                self._started.set_exception(error)
                return
            log.critical(
                "%s ended with an error; the process goes with it, to be restarted", self._name, exc_info=True
            )
            os._exit(1)

    async def _consume(self) -> None:
        policy = POLICIES[self._lane]
        servers = Servers(self._settings, timeout_s=CONSUME_TIMEOUT_S)
        control = connect(
            resolve_url(self._settings, self._lane),
            timeout_s=max(0.5, policy.lease.ttl_s / 3),
            max_connections=4,
        )
        lane = Lane.of(servers.of(self._lane), self._settings, self._lane)
        leases = Leases(
            control,
            keys=lane.keys,
            name=self._name,
            partitions=lane.partitions,
            policy=policy.lease,
            clock=self._clock,
        )
        hosted = self._hosted = self._assemble(
            Place(
                name=self._name,
                settings=self._settings,
                lane=lane,
                servers=servers,
                leases=leases,
                clock=self._clock,
            )
        )
        consumer = self._consumer = Consumer(
            lane, leases, hosted.handler, policy=policy.consumer, clock=self._clock
        )
        self._leases, self._loop = leases, asyncio.get_running_loop()
        parts = (consumer, lane, *hosted.parts())
        reports = Reports(control, lane.keys.reports, lambda: faults_of(*parts))
        reporting = asyncio.create_task(reports.run())
        self._started.set_result(None)
        try:
            await consumer.run()
        finally:
            reporting.cancel()
            await asyncio.gather(reporting, return_exceptions=True)
            await hosted.aclose()
            await servers.aclose()
            await control.aclose()
