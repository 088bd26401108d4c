"""A pool member: one consumer in a thread with an event loop of its own.

The plain class does the work and is tested as such; `actors.pools` makes Ray actors of it. The consumer starts in
the constructor, so that an actor Ray restarts goes on by itself; the thread keeps it apart from the actor's own
calls (health, stats, stop).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future

import msgspec
import uvloop
from redis import asyncio as aioredis

from features.online.as_of import AsOf
from features.shard.archiver import Archiver, open_archive
from features.shard.materializer import Materializer
from features.shard.shard import Shard
from routing.channels.configured import configured_channels
from routing.delivery.fallback import Fallback
from routing.delivery.late_answers import LateDeliveries, LatePolicy
from routing.delivery.pipeline import DeliveryStage
from routing.delivery.router import Router
from routing.delivery.stages.choose import Choose
from routing.delivery.stages.deliver import Deliver
from routing.delivery.stages.expire import Expire
from routing.delivery.stages.preferences import Preferences
from routing.delivery.stages.quiet_hours import QuietHours
from routing.delivery.stages.throttle import Throttle
from routing.ledger.ledger import Ledger
from routing.recipients import RecipientStore, RedisWindows
from tocsin.clock import Clock, SystemClock
from tocsin.resilience.breakers import Breakers, ChannelGuard
from tocsin.resilience.retry import RetryPolicy
from tocsin.settings import Settings
from tocsin.storage.connect import CONSUME_TIMEOUT_S, connect, resolve_url
from tocsin.storage.servers import Servers
from tocsin.streams.consumer import Consumer, ConsumerPolicy, ConsumerState, Handler
from tocsin.streams.lanes import Lane, partition_of
from tocsin.streams.leases import LeasePolicy, Leases
from tocsin.telemetry.reports import Reports, faults_of
from tocsin.wire.lanes import LaneName

log = logging.getLogger(__name__)

START_DEADLINE_S = 30.0
# Where cores are short, what waits for a person comes first. A process may only become nicer.
NICENESS = {LaneName.P0: 0, LaneName.P1: 2, LaneName.P2: 10, LaneName.ACTIVITY: 10}
GC_THRESHOLDS = (50_000, 20, 50)


class LanePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How a lane is consumed, leased and retried."""

    consumer: ConsumerPolicy
    lease: LeasePolicy
    retry: RetryPolicy
    late: LatePolicy = LatePolicy(patience_s=0.1)


# A dead p0 router is noticed within two seconds; the others trade speed for fewer heartbeats.
POLICIES: dict[LaneName, LanePolicy] = {
    LaneName.P0: LanePolicy(
        consumer=ConsumerPolicy(unit_entries=1, read_entries=32, concurrency=64, heartbeat_s=0.4),
        lease=LeasePolicy(ttl_s=1.8, heartbeat_s=0.4),
        retry=RetryPolicy(max_attempts=6, base_s=0.2, cap_s=5.0, patience_s=600.0),
        late=LatePolicy(patience_s=0.25, lease_s=6.0),
    ),
    LaneName.P1: LanePolicy(
        consumer=ConsumerPolicy(unit_entries=1, read_entries=8, concurrency=8),
        lease=LeasePolicy(),
        retry=RetryPolicy(max_attempts=6, base_s=1.0, cap_s=60.0),
    ),
    LaneName.P2: LanePolicy(
        consumer=ConsumerPolicy(unit_entries=4, read_entries=8, concurrency=16, promote_every_s=1.0),
        lease=LeasePolicy(),
        retry=RetryPolicy(max_attempts=5, base_s=2.0, cap_s=120.0, patience_s=21_600.0),
    ),
    LaneName.ACTIVITY: LanePolicy(
        # One unit at a time: a history has one writer. Large units, whatever the size of blocks: under load an
        # advertiser's events share its cost. Two MiB are some 25,000 events and half a second.
        consumer=ConsumerPolicy(
            unit_entries=1024,
            unit_bytes=2 * 1024 * 1024,
            read_entries=256,
            concurrency=1,
            promote_every_s=60.0,
            read_every_s=0.1,
        ),
        lease=LeasePolicy(),
        retry=RetryPolicy(max_attempts=1, base_s=1.0, cap_s=1.0),
    ),
}


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
    """

    def __init__(self, name: str, lane: str, settings: Settings) -> None:
        self._name = name
        self._lane = LaneName(lane)
        self._settings = settings
        self._clock: Clock = SystemClock()
        self._consumer: Consumer | None = None
        self._leases: Leases | None = None
        self._shard: Shard | None = None
        self._freshener: Materializer | None = None
        self._lander: Archiver | None = None
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
        """For when storage is down: the last known history of each advertiser, encoded, with the time (epoch
        seconds) up to which its partition was known to be applied. Only a feature shard remembers any.
        """
        if self._shard is None or self._freshener is None:
            return [(None, None)] * len(advertiser_ids)
        marks, partitions = self._freshener.marks, self._settings.partitions(self._lane)
        return [
            (body, marks.get(partition_of(name, partitions)))
            for name, body in zip(advertiser_ids, self._shard.remembered(advertiser_ids), strict=True)
        ]

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
        handler, close = self._handler(lane, servers, policy, leases)
        consumer = self._consumer = Consumer(lane, leases, handler, policy=policy.consumer, clock=self._clock)
        self._leases, self._loop = leases, asyncio.get_running_loop()
        parts = (consumer, lane, handler, self._freshener, self._lander)
        reports = Reports(control, lane.keys.reports, lambda: faults_of(*parts))
        telling = asyncio.create_task(reports.run())
        self._started.set_result(None)
        try:
            await consumer.run()
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
            await close()
            await servers.aclose()
            await control.aclose()

    def _handler(
        self, lane: Lane, servers: Servers, policy: LanePolicy, leases: Leases
    ) -> tuple[Handler, Callable[[], Awaitable[None]]]:
        client = servers.main
        if self._lane is LaneName.ACTIVITY:
            return self._shard_handler(lane, client, leases)
        settings, namespace = self._settings, self._settings.namespace
        breakers = Breakers(client, namespace, self._clock, holder=self._name)
        sharing = asyncio.create_task(breakers.run())
        guard = ChannelGuard(breakers, self._lane, self._clock)
        channels = configured_channels(settings, self._lane, self._name, self._clock, guard)
        profiles = RecipientStore(client, namespace=namespace)
        stages: tuple[DeliveryStage, ...] = (
            Expire(self._lane),
            Preferences(profiles, self._lane),
            QuietHours(self._lane),
            Throttle(RedisWindows(client, namespace=namespace), self._lane),
            Deliver(channels, policy.retry, self._clock),
        )
        if self._lane is LaneName.P0:
            stages = (
                Preferences(profiles, self._lane),
                Choose("webhook" if settings.webhook_url else "log"),
                Deliver(channels, policy.retry, self._clock, fallback=Fallback(channels, profiles)),
            )

        ledger = Ledger(lane, lane.client, retention_s=settings.outcome_retention_s)
        late = LateDeliveries(ledger, policy.late, self._clock)

        async def close() -> None:
            await late.drain()
            sharing.cancel()
            for channel in channels.values():
                await channel.close()

        return Router(stages, ledger, lane.keys, self._clock, late=late), close

    def _shard_handler(
        self, lane: Lane, client: aioredis.Redis, leases: Leases
    ) -> tuple[Handler, Callable[[], Awaitable[None]]]:
        settings = self._settings
        shard = Shard(
            client,
            lane.keys,
            namespace=settings.namespace,
            partitions=lane.partitions,
            as_of=settings.as_of,
            clock=self._clock,
        )
        freshener = Materializer(
            shard.store,
            client,
            lane.keys,
            held=leases.held,
            partitions=lane.partitions,
            moments=AsOf(settings.as_of, shard.store.latest, self._clock),
            clock=self._clock,
        )
        lander = Archiver(
            client,
            shard.store.keys,
            archive=lambda: open_archive(settings.archive),
            held=leases.held,
            clock=self._clock,
        )
        self._shard, self._freshener, self._lander = shard, freshener, lander
        beside = [asyncio.create_task(freshener.run()), asyncio.create_task(lander.run())]

        async def close() -> None:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

        return shard, close
