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

    async def __call__(self, batch: Sequence[Delivery], now: float) -> None:  # noqa: ARG002 (attempts take their own time)
        """Decide every delivery of the batch."""
        todo: dict[str, list[Delivery]] = {}
        for delivery in batch:
            for name in open_channels(delivery):
                todo.setdefault(name, []).append(delivery)
        if len(todo) == 1:
            await self._try(*next(iter(todo.items())))
        else:
            await asyncio.gather(*(self._try(name, waiting) for name, waiting in todo.items()))
        at = self._clock.now()
        for delivery in batch:
            attempts = delivery.attempts
            if len(attempts) == 1 and attempts[0].ok and not delivery.envelope.attempts:  # nearly always
                delivery.state = NotificationState.DELIVERED
                delivery.decided_at = at
            else:
                self._decide(delivery, at)

    async def _try(self, name: str, waiting: Sequence[Delivery]) -> None:
        """One channel's tries for all that wait for it; each is added to its delivery's attempts."""
        channel = self._channels.get(name)
        started = self._clock.now()
        if channel is None:
            failure = Failure(FailureReason.NOT_CONFIGURED, f"no channel {name!r} here")
            attempts: Sequence[Attempt] = [failure.attempt(name, started, 0.0)] * len(waiting)
        else:
            try:
                attempts = await channel.deliver(waiting)
            except Exception as error:  # a faulty channel must not hold up the rest of the block
                log.exception("channel %s failed on %d notifications", name, len(waiting))
                failure = Failure(FailureReason.INTERNAL, f"{type(error).__name__} in the channel")
                attempts = [failure.attempt(name, started, 0.0)] * len(waiting)
        for delivery, attempt in zip(waiting, attempts, strict=True):
            delivery.attempts = (*delivery.attempts, attempt) if delivery.attempts else (attempt,)

    def _decide(self, delivery: Delivery, at: float) -> None:
        delivery.attempts = (*delivery.envelope.attempts, *delivery.attempts)
        wanted = delivery.notification.channels  # what was tried elsewhere decides nothing now
        last = {attempt.channel: attempt for attempt in delivery.attempts if attempt.channel in wanted}
        failed = [attempt for attempt in last.values() if not attempt.ok]
        if not failed:
            delivery.decide(NotificationState.DELIVERED, OutcomeReason.NONE, at)
            return
        delivery.error = "; ".join(f"{attempt.channel}: {attempt.detail}" for attempt in failed)
        still_open = {attempt.channel for attempt in failed if is_open(attempt)}
        if not still_open:
            delivery.decide(NotificationState.DEAD, OutcomeReason.REFUSED, at)
            return
        made = Counter(attempt.channel for attempt in delivery.attempts if attempt.channel in still_open)
        delay_s = self._retry.delay_s(max(made.values()), self._draw())
        if delay_s is None:
            delivery.decide(NotificationState.DEAD, OutcomeReason.ATTEMPTS_EXHAUSTED, at)
            return
        delivery.retry_at = at + delay_s
        delivery.decide(NotificationState.RETRYING, OutcomeReason.RETRY_SCHEDULED, at)


def open_channels(delivery: Delivery) -> Sequence[str]:
    """The channels that have neither delivered nor refused for good, in the order wanted."""
    channels, attempts = delivery.notification.channels, delivery.envelope.attempts
    if not attempts:
        return channels
    last = {attempt.channel: attempt for attempt in attempts}
    return [name for name in channels if name not in last or is_open(last[name])]


def is_open(attempt: Attempt) -> bool:
    """Whether another try on this channel could help."""
    return not attempt.ok and attempt.reason not in PERMANENT
