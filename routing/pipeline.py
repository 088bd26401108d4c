"""The delivery pipeline: stages over a batch, each a decision with a named reason.

    DELIVERY = (Expire(), Deliver(channels, retry))

A stage gets the deliveries that are still undecided and may decide some. What no stage decides stays pending.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from routing.channels import PERMANENT, Channel, Failure, FailureReason
from tocsin.clock import Clock
from tocsin.resilience.retry import RetryPolicy
from tocsin.schemas import Attempt, Envelope, LaneName, NotificationState

log = logging.getLogger(__name__)


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
        last = {attempt.channel: attempt for attempt in delivery.envelope.attempts}
        channels = delivery.envelope.notification.channels
        todo = [name for name in channels if name not in last or _is_open(last[name])]
        if len(todo) == 1:
            results = [await self._attempt(todo[0], delivery)]
        else:
            results = list(await asyncio.gather(*(self._attempt(name, delivery) for name in todo)))
        delivery.attempts = (*delivery.envelope.attempts, *results)
        last |= {attempt.channel: attempt for attempt in results}
        failed = [attempt for attempt in last.values() if not attempt.ok]
        delivery.error = "; ".join(f"{attempt.channel}: {attempt.detail}" for attempt in failed)
        self._decide(delivery, failed)

    def _decide(self, delivery: Delivery, failed: Sequence[Attempt]) -> None:
        now = self._clock.now()
        if not failed:
            delivery.decide(NotificationState.DELIVERED, OutcomeReason.NONE, now)
            return
        still_open = {attempt.channel for attempt in failed if _is_open(attempt)}
        if not still_open:
            delivery.decide(NotificationState.DEAD, OutcomeReason.REFUSED, now)
            return
        made = Counter(attempt.channel for attempt in delivery.attempts if attempt.channel in still_open)
        delay_s = self._retry.delay_s(max(made.values()), self._draw())
        if delay_s is None:
            delivery.decide(NotificationState.DEAD, OutcomeReason.ATTEMPTS_EXHAUSTED, now)
            return
        delivery.retry_at = now + delay_s
        delivery.decide(NotificationState.RETRYING, OutcomeReason.RETRY_SCHEDULED, now)

    async def _attempt(self, name: str, delivery: Delivery) -> Attempt:
        at, started = self._clock.now(), self._clock.monotonic()
        failure = await self._try(name, delivery)
        took_ms = round((self._clock.monotonic() - started) * 1000, 3)
        if failure is None:
            return Attempt(at, name, ok=True, duration_ms=took_ms)
        return Attempt(at, name, ok=False, reason=failure.reason, detail=failure.detail, duration_ms=took_ms)

    async def _try(self, name: str, delivery: Delivery) -> Failure | None:
        channel = self._channels.get(name)
        if channel is None:
            return Failure(FailureReason.NOT_CONFIGURED, f"no channel {name!r} here")
        try:
            return await channel.deliver(delivery.id, delivery.envelope.notification)
        except Exception as error:  # a faulty channel must not hold up the rest of the block
            log.exception("channel %s failed on %s", name, delivery.id)
            return Failure(FailureReason.INTERNAL, f"{type(error).__name__} in the channel")


def _is_open(attempt: Attempt) -> bool:
    """Whether another try on this channel could help."""
    return not attempt.ok and attempt.reason not in PERMANENT
