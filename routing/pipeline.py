"""The delivery pipeline: stages over a batch, each a decision with a named reason.

    DELIVERY = (Expire(), Deliver(channels, retry))

A stage gets the deliveries that are still undecided and may decide some. What no stage decides stays pending.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from routing.channels import Channel, Failure, FailureReason
from tocsin.clock import Clock
from tocsin.resilience.retry import RetryPolicy
from tocsin.schemas import Attempt, Envelope, LaneName, NotificationState


class OutcomeReason(StrEnum):
    """Why a delivery is in its state: a metric label, so the list is short and closed."""

    NONE = ""
    STALE = "stale"  # expired before it was delivered
    RETRY_SCHEDULED = "retry_scheduled"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    REFUSED = "refused"  # every open channel said no for good


@dataclass(slots=True)
class Delivery:
    """One notification on its way through the stages."""

    id: str
    envelope: Envelope
    state: NotificationState = NotificationState.ACCEPTED  # accepted: undecided
    reason: OutcomeReason = OutcomeReason.NONE
    error: str = ""
    attempts: tuple[Attempt, ...] = ()
    decided_at: float = 0.0
    retry_at: float = 0.0

    def decide(self, state: NotificationState, reason: OutcomeReason, at: float) -> None:
        """Fix what becomes of it."""
        self.state = state
        self.reason = reason
        self.decided_at = at


class DeliveryStage(Protocol):
    """One step of the pipeline."""

    async def __call__(self, batch: Sequence[Delivery], now: float) -> None:
        """Decide some of these, or none."""
        ...


async def run_stages(stages: Sequence[DeliveryStage], batch: Sequence[Delivery], clock: Clock) -> None:
    """Hand each stage what is still undecided."""
    for stage in stages:
        open_ = [delivery for delivery in batch if delivery.state is NotificationState.ACCEPTED]
        if not open_:
            return
        await stage(open_, clock.now())


class Expire:
    """Drops a P2 whose time has passed. P0 and P1 are told even late."""

    def __init__(self, lane: LaneName) -> None:
        self._applies = lane is LaneName.P2

    async def __call__(self, batch: Sequence[Delivery], now: float) -> None:
        """Decide `expired` for what is stale."""
        if not self._applies:
            return
        for delivery in batch:
            expires_at = delivery.envelope.notification.expires_at
            if expires_at and expires_at <= now:
                delivery.decide(NotificationState.EXPIRED, OutcomeReason.STALE, now)


class Deliver:
    """Tries every channel that has not delivered yet, all at once; then delivered, retrying or dead.

    Args:
        channels: By name.
        retry: How often and when.
        clock: For the times of attempts.
        draw: A number from 0 to 1 for jitter.
    """

    def __init__(
        self,
        channels: Mapping[str, Channel],
        retry: RetryPolicy,
        clock: Clock,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._channels = channels
        self._retry = retry
        self._clock = clock
        self._draw = draw

    async def __call__(self, batch: Sequence[Delivery], now: float) -> None:  # noqa: ARG002 (each attempt takes its own time)
        """Decide every delivery of the batch."""
        if len(batch) == 1:
            await self._one(batch[0])
        else:
            await asyncio.gather(*(self._one(delivery) for delivery in batch))

    async def _one(self, delivery: Delivery) -> None:
        earlier = delivery.envelope.attempts
        done = {attempt.channel for attempt in earlier if attempt.ok}
        todo = [name for name in delivery.envelope.notification.channels if name not in done]
        if len(todo) == 1:
            results = [await self._attempt(todo[0], delivery)]
        else:
            results = list(await asyncio.gather(*(self._attempt(name, delivery) for name in todo)))
        delivery.attempts = earlier + tuple(attempt for attempt, _ in results)
        failures = [(attempt, failure) for attempt, failure in results if failure is not None]
        now = self._clock.now()
        if not failures:
            delivery.decide(NotificationState.DELIVERED, OutcomeReason.NONE, now)
            return
        delivery.error = "; ".join(f"{attempt.channel}: {failure.detail}" for attempt, failure in failures)
        self._after_failure(delivery, [failure for _, failure in failures], now)

    def _after_failure(self, delivery: Delivery, failures: Sequence[Failure], now: float) -> None:
        if all(failure.permanent for failure in failures):
            delivery.decide(NotificationState.DEAD, OutcomeReason.REFUSED, now)
            return
        made: dict[str, int] = {}
        for attempt in delivery.attempts:
            made[attempt.channel] = made.get(attempt.channel, 0) + (not attempt.ok)
        delay_s = self._retry.delay_s(max(made.values()), self._draw())
        if delay_s is None:
            delivery.decide(NotificationState.DEAD, OutcomeReason.ATTEMPTS_EXHAUSTED, now)
            return
        delivery.retry_at = now + delay_s
        delivery.decide(NotificationState.RETRYING, OutcomeReason.RETRY_SCHEDULED, now)

    async def _attempt(self, name: str, delivery: Delivery) -> tuple[Attempt, Failure | None]:
        at, started = self._clock.now(), self._clock.monotonic()
        channel = self._channels.get(name)
        if channel is None:
            failure: Failure | None = Failure(
                FailureReason.NOT_CONFIGURED, f"no channel {name!r} here", permanent=True
            )
        else:
            failure = await channel.deliver(delivery.id, delivery.envelope.notification)
        took_ms = round((self._clock.monotonic() - started) * 1000, 3)
        if failure is None:
            return Attempt(at, name, ok=True, duration_ms=took_ms), None
        return Attempt(
            at, name, ok=False, reason=failure.reason, detail=failure.detail, duration_ms=took_ms
        ), failure
