"""The delivery pipelines of the lanes, and the router that is put together from them.

p0:      Preferences ► CompanionChannel               ──► Deliver, with fallback contacts
p1, p2:  Expire ► Preferences ► QuietHours ► Throttle ──► Deliver
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec
from redis import asyncio as aioredis

from routing.channels import Channel
from routing.channels.configured import configured_channels
from routing.delivery.deliver import Deliver
from routing.delivery.fallback import Fallback
from routing.delivery.late_answers import LateDeliveries, LatePolicy
from routing.delivery.pipeline import DeliveryStage
from routing.delivery.router import Router
from routing.delivery.stages.companion_channel import CompanionChannel
from routing.delivery.stages.expire import Expire
from routing.delivery.stages.preferences import Preferences
from routing.delivery.stages.quiet_hours import QuietHours
from routing.delivery.stages.throttle import Throttle
from routing.ledger.ledger import Ledger
from routing.recipients.store import RecipientStore
from routing.recipients.windows import RedisWindows
from tocsin.clock import Clock
from tocsin.resilience.breakers import Breakers, ChannelGuard
from tocsin.resilience.retry import RetryPolicy
from tocsin.settings import Settings
from tocsin.streams.lanes import Lane
from tocsin.wire.lanes import LaneName


class DeliveryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How often a lane's notifications are tried, and how long a block waits for a slow call."""

    retry: RetryPolicy
    late: LatePolicy = LatePolicy(wait_s=0.1)


POLICIES: dict[LaneName, DeliveryPolicy] = {
    LaneName.P0: DeliveryPolicy(
        retry=RetryPolicy(max_attempts=6, base_s=0.2, cap_s=5.0, max_parked_s=600.0),
        late=LatePolicy(wait_s=0.25, lease_s=6.0),
    ),
    LaneName.P1: DeliveryPolicy(retry=RetryPolicy(max_attempts=6, base_s=1.0, cap_s=60.0)),
    LaneName.P2: DeliveryPolicy(
        retry=RetryPolicy(max_attempts=5, base_s=2.0, cap_s=120.0, max_parked_s=21_600.0)
    ),
}


class Wiring(msgspec.Struct, frozen=True, kw_only=True):
    """What the stages of one lane are made with."""

    lane: LaneName
    settings: Settings
    clock: Clock
    profiles: RecipientStore
    windows: RedisWindows
    channels: dict[str, Channel]


Stages = tuple[Callable[[Wiring], DeliveryStage], ...]

P0_DELIVERY: Stages = (
    lambda wiring: Preferences(wiring.profiles, wiring.lane),
    lambda wiring: CompanionChannel("webhook" if wiring.settings.webhook_url else "log"),
)

DELIVERY: Stages = (
    lambda wiring: Expire(wiring.lane),
    lambda wiring: Preferences(wiring.profiles, wiring.lane),
    lambda wiring: QuietHours(wiring.lane),
    lambda wiring: Throttle(wiring.windows, wiring.lane),
)


class LaneRouter:
    """A router with everything it stands on. Made within a running event loop.

    Args:
        settings: Targets, accounts, retention.
        lane: The lane, on its own server.
        main: The main server: recipients, windows and breakers.
        name: Of the pool member; unique, the same after a restart.
        clock: Time.

    Raises:
        ConfigurationError: a secret or a provider's URL cannot be used.
    """

    def __init__(
        self, settings: Settings, lane: Lane, main: aioredis.Redis, *, name: str, clock: Clock
    ) -> None:
        lane_name, namespace = LaneName(lane.name), settings.namespace
        policy = POLICIES[lane_name]
        breakers = Breakers(main, namespace, clock, holder=name)
        guard = ChannelGuard(breakers, lane_name, clock)
        wiring = Wiring(
            lane=lane_name,
            settings=settings,
            clock=clock,
            profiles=RecipientStore(main, namespace=namespace),
            windows=RedisWindows(main, namespace=namespace),
            channels=configured_channels(settings, lane_name, name, clock, guard),
        )
        urgent = lane_name is LaneName.P0
        ledger = Ledger(lane, lane.client, retention_s=settings.outcome_retention_s)
        self._late = LateDeliveries(ledger, policy.late, clock)
        self._channels = wiring.channels
        self.handler = Router(
            [stage(wiring) for stage in (P0_DELIVERY if urgent else DELIVERY)],
            Deliver(
                wiring.channels,
                policy.retry,
                clock,
                fallback=Fallback(wiring.channels, wiring.profiles) if urgent else None,
            ),
            ledger,
            lane.keys,
            clock,
            late=self._late,
        )
        self._sharing = asyncio.create_task(breakers.run())

    def parts(self) -> Sequence[object]:
        """Those that count faults."""
        return (self.handler,)

    def remembered(self, advertiser_ids: Sequence[str]) -> list[tuple[bytes | None, float | None]]:
        """A router remembers no advertiser."""
        return [(None, None)] * len(advertiser_ids)

    async def aclose(self) -> None:
        """Settle what is late, then close the channels."""
        await self._late.drain()
        self._sharing.cancel()
        await asyncio.gather(self._sharing, return_exceptions=True)
        for channel in self._channels.values():
            await channel.close()
