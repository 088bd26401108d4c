"""Deliver: try the channels; then delivered, retrying or dead."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from routing.channels import PERMANENT, Channel, Failure, FailureReason
from routing.pipeline import Delivery, OutcomeReason
from tocsin.clock import Clock
from tocsin.resilience.retry import RetryPolicy
from tocsin.schemas import Attempt, NotificationState

log = logging.getLogger(__name__)


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
