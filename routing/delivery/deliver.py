"""Deliver: try the channels; then delivered, retrying or dead."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from routing.channels import PERMANENT, Channel, ChannelResult, Failure, FailureReason
from routing.deliveries import Delivery, OutcomeReason
from routing.delivery.fallback import Fallback, reached_somebody
from tocsin.clock import Clock
from tocsin.resilience.retry import RetryPolicy
from tocsin.wire.notifications import Attempt, NotificationState

log = logging.getLogger(__name__)


class Deliver:
    """Tries every channel that has not delivered yet, all at once; then delivered, retrying or dead.

    What shares a call is decided as soon as that call has ended, whatever the others still wait for. Where no
    provider may be asked, the notification is parked: it waits, and no attempt is counted.

    Args:
        channels: By name.
        retry: How often and when.
        clock: For the times of attempts.
        draw: A number from 0 to 1 for jitter.
        fallback: What is tried at once when no channel reached anybody; for p0.
    """

    def __init__(
        self,
        channels: Mapping[str, Channel],
        retry: RetryPolicy,
        clock: Clock,
        draw: Callable[[], float] = random.random,
        *,
        fallback: Fallback | None = None,
    ) -> None:
        self._channels = channels
        self._retry = retry
        self._clock = clock
        self._draw = draw
        self._fallback = fallback

    async def __call__(self, batch: Sequence[Delivery]) -> None:
        """Decide every delivery of the batch."""
        calls = [
            (name, [waiting[place] for place in places] if len(places) < len(waiting) else waiting)
            for name, waiting in self._by_channel(batch).items()
            for places in self._groups(name, waiting)
        ]
        if len(calls) == 1:
            await self._try(*calls[0])
        else:
            await asyncio.gather(*(self._try(name, waiting) for name, waiting in calls))

    def _by_channel(self, batch: Sequence[Delivery]) -> dict[str, Sequence[Delivery]]:
        """Deliveries by the channels that are still open for them."""
        channels = batch[0].notification.channels
        if len(channels) == 1 and not any(
            one.envelope.attempts or (one.wanted or one.envelope.notification).channels != channels
            for one in batch
        ):  # nearly always: all on their first pass, to the same channel
            return {channels[0]: batch}
        todo: dict[str, list[Delivery]] = {}
        for delivery in batch:
            names: Sequence[str] = (delivery.wanted or delivery.envelope.notification).channels
            if len(names) == 1 and not delivery.envelope.attempts:
                todo.setdefault(names[0], []).append(delivery)
                continue
            names = open_channels(delivery)
            if len(names) != 1:
                delivery.pending_channels = len(names)
                if not names:  # its recipient's preferences changed between two passes
                    self._decide(delivery, self._clock.now(), tried=True)
            for name in names:
                todo.setdefault(name, []).append(delivery)
        return dict(todo)

    def _groups(self, name: str, waiting: Sequence[Delivery]) -> Sequence[Sequence[int]]:
        channel = self._channels.get(name)
        return [range(len(waiting))] if channel is None else channel.groups(waiting)

    async def _try(self, name: str, waiting: Sequence[Delivery]) -> None:
        """One channel's attempts for those that share a call; what waits for no other channel is decided."""
        tries = await self._ask(name, waiting)
        at = self._clock.now()
        undelivered: list[Delivery] = []
        for delivery, (attempts, parked_s, retry_after_s) in zip(waiting, tries, strict=True):
            delivery.attempts = (*delivery.attempts, *attempts) if delivery.attempts else attempts
            if parked_s:
                delivery.parked = {**delivery.parked, name: parked_s}
            if retry_after_s:
                delivery.retry_after = {**delivery.retry_after, name: retry_after_s}
            if delivery.pending_channels > 1:
                delivery.pending_channels -= 1
            elif (
                len(delivery.attempts) == 1 and attempts and attempts[0].ok and not delivery.envelope.attempts
            ):
                delivery.state = NotificationState.DELIVERED  # nearly always
                delivery.decided_at = at
            else:
                undelivered.append(delivery)
        if self._fallback is None:
            for delivery in undelivered:
                self._decide(delivery, at, tried=bool(delivery.attempts))
        elif undelivered:
            await asyncio.gather(*(self._finish(one, self._fallback) for one in undelivered))

    async def _ask(self, name: str, waiting: Sequence[Delivery]) -> Sequence[ChannelResult]:
        channel = self._channels.get(name)
        started = self._clock.now()
        if channel is None:
            failure = Failure(FailureReason.NOT_CONFIGURED, f"no channel {name!r} here")
        else:
            try:
                return await channel.deliver(waiting)
            except Exception as error:  # a faulty channel must not hold up the rest of the block
                log.exception("channel %s failed on %d notifications", name, len(waiting))
                failure = Failure(FailureReason.INTERNAL, f"{type(error).__name__} in the channel")
        return [ChannelResult((failure.attempt(name, started, 0.0),))] * len(waiting)

    async def _finish(self, delivery: Delivery, fallback: Fallback) -> None:
        """All its channels were tried: use the fallback where nobody was reached, and decide."""
        tried = bool(delivery.attempts)
        if not reached_somebody(delivery, (*delivery.envelope.attempts, *delivery.attempts)):
            delivery.attempts += await fallback.reach(delivery)
        self._decide(delivery, self._clock.now(), tried=tried)

    def _decide(self, delivery: Delivery, at: float, *, tried: bool) -> None:
        delivery.attempts = (*delivery.envelope.attempts, *delivery.attempts)
        wanted = (
            delivery.notification.channels
        )  # what was tried elsewhere decides only where nothing else can
        progress = [ChannelProgress(name, delivery) for name in wanted]
        failed = [one for one in progress if not one.delivered]
        if not failed:
            delivery.decide(NotificationState.DELIVERED, OutcomeReason.NONE, at)
            return
        elsewhere = [a for a in delivery.attempts if a.ok and (a.recipient or a.channel not in wanted)]
        if any(not attempt.recipient for attempt in elsewhere):
            delivery.decide(NotificationState.DELIVERED, OutcomeReason.FALLBACK, at)
            return
        delivery.error = "; ".join(f"{one.name}: {one.detail}" for one in failed)
        wait_s, reason = self._wait(delivery, [one for one in failed if one.open], at, tried=tried)
        if wait_s is not None:
            delivery.retry_at = at + wait_s
            delivery.decide(NotificationState.RETRYING, reason, at)
        elif elsewhere:
            delivery.decide(NotificationState.DELIVERED, OutcomeReason.FALLBACK, at)
        else:
            delivery.decide(NotificationState.DEAD, reason, at)

    def _wait(
        self, delivery: Delivery, still_open: Sequence[ChannelProgress], at: float, *, tried: bool
    ) -> tuple[float | None, OutcomeReason]:
        """How long to wait before the next pass, None for no more, and why."""
        if not still_open:
            return None, OutcomeReason.REFUSED
        if not tried:
            delivery.parked_at = delivery.envelope.parked_at or at
            if at - delivery.parked_at > self._retry.max_parked_s:
                return None, OutcomeReason.BREAKER_OPEN
            return min(delivery.parked.values()) * (1.0 + 0.1 * self._draw()), OutcomeReason.BREAKER_OPEN
        delay_s = self._retry.delay_s(max(one.passes for one in still_open) or 1, self._draw())
        if delay_s is None:
            return None, OutcomeReason.ATTEMPTS_EXHAUSTED
        # No earlier than a target asked for (`Retry-After`), unless another channel may be tried before.
        asked_s = min(delivery.retry_after.get(one.name, 0.0) for one in still_open)
        return max(delay_s, asked_s), OutcomeReason.RETRY_SCHEDULED


class ChannelProgress:
    """The state of one wanted channel of a delivery after all its attempts."""

    def __init__(self, name: str, delivery: Delivery) -> None:
        tries = [a for a in delivery.attempts if a.channel == name and not a.recipient]
        last = {attempt.provider: attempt for attempt in tries}
        self.name = name
        self.delivered = any(attempt.ok for attempt in tries)
        self.open = name in delivery.parked or any(is_open(attempt) for attempt in last.values())
        asked = Counter(a.provider for a in tries if a.reason != FailureReason.BREAKER_OPEN)
        self.passes = max(asked.values(), default=0)
        self.detail = (
            tries[-1].detail if tries else "no provider may be asked now (breaker open, or asked to wait)"
        )


def open_channels(delivery: Delivery) -> Sequence[str]:
    """The channels that have neither delivered nor refused for good, in the order wanted."""
    channels = delivery.notification.channels
    if not delivery.envelope.attempts:
        return channels
    last: dict[str, dict[str, Attempt]] = {}
    for attempt in delivery.envelope.attempts:
        if not attempt.recipient:
            last.setdefault(attempt.channel, {})[attempt.provider] = attempt
    return [name for name in channels if name not in last or _any_open(last[name])]


def _any_open(by_provider: Mapping[str, Attempt]) -> bool:
    tries = by_provider.values()
    return not any(attempt.ok for attempt in tries) and any(is_open(attempt) for attempt in tries)


def is_open(attempt: Attempt) -> bool:
    """Whether another attempt on this channel could succeed."""
    return not attempt.ok and attempt.reason not in PERMANENT
