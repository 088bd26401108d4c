"""A channel made of a list of providers: each behind a breaker, the next one asked at once when one fails.

    group ──► provider 1 ──failed──► provider 2 ──failed──► …
                 └─ its breaker is open, or its target asked to be left alone for now (Retry-After): not asked,
                    no attempt; with no attempt at all the group is parked

A call waits for one of its provider's slots first; only then does its deadline begin, and its breaker is asked. So a
provider that hangs costs the others nothing, and what queues behind it is parked once its breaker opens.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from routing.channels import PERMANENT, ChannelResult, Deliverable, Failure, FailureReason, Provider
from tocsin.clock import Clock
from tocsin.resilience.breakers import BreakerGuard
from tocsin.wire.notifications import Attempt

log = logging.getLogger(__name__)

SLOT_WAIT_S = 0.5
STUCK_S = 1.0  # with every slot taken and a call out for so long, no slot is waited for
BUSY_RETRY_S = 2.0
MIN_PARKED_S = 0.2
NOT_ASKED = Failure(
    FailureReason.BREAKER_OPEN, "not asked: its breaker is open, or its target asked to be left alone"
)


class Slots:
    """The calls a provider may have out at once.

    Args:
        most: How many.
    """

    def __init__(self, most: int) -> None:
        self._free = asyncio.Semaphore(most)
        self._out: dict[int, float] = {}  # calls by number, in the order they began (stopwatch, s)
        self._number = 0

    def stuck(self, now: float) -> bool:
        """Whether every slot is taken, one of them for long."""
        return self._free.locked() and bool(self._out) and now - next(iter(self._out.values())) > STUCK_S

    async def take(self) -> bool:
        """Wait at most `SLOT_WAIT_S` for one; whether it was taken."""
        if not self._free.locked():
            return await self._free.acquire()
        try:
            async with asyncio.timeout(SLOT_WAIT_S):
                return await self._free.acquire()
        except TimeoutError:
            return False

    def began(self, now: float) -> int:
        """Record the call that a slot was taken for; returns its number."""
        self._number += 1
        self._out[self._number] = now
        return self._number

    def ended(self, number: int) -> None:
        """Give its slot back."""
        del self._out[number]
        self._free.release()


class ProvidedChannel:
    """Asks its providers in order until one delivers.

    Args:
        name: Of the channel.
        providers: In order of preference; none: nothing can be delivered here.
        guard: Their breakers.
        clock: For the times of attempts.
        busy_retry_s: How long a notification that found no slot is parked.
    """

    def __init__(
        self,
        name: str,
        providers: Sequence[Provider],
        guard: BreakerGuard,
        clock: Clock,
        *,
        busy_retry_s: float = BUSY_RETRY_S,
    ) -> None:
        self.name = name
        self._providers = tuple(providers)
        self._guard = guard
        self._clock = clock
        self._busy_retry_s = busy_retry_s
        self._slots = {provider.name: Slots(provider.max_calls) for provider in providers}

    def groups(self, batch: Sequence[Deliverable]) -> Sequence[Sequence[int]]:
        """As the first provider would call; what it cannot serve goes one by one."""
        if not self._providers:
            return [range(len(batch))]
        calls = list(self._providers[0].calls(batch))
        served = {place for places in calls for place in places}
        return [*calls, *([place] for place in range(len(batch)) if place not in served)]

    async def deliver(self, batch: Sequence[Deliverable]) -> Sequence[ChannelResult]:
        """Ask one provider after the other, each for what is still undelivered."""
        attempts: list[tuple[Attempt, ...]] = [()] * len(batch)
        parked: list[dict[str, float]] = [{} for _ in batch]  # by provider
        waits: list[list[float]] = [[] for _ in batch]  # of those that failed and may be asked again
        left: Sequence[int] = range(len(batch))
        for provider in self._providers:
            calls = [[left[at] for at in places] for places in provider.calls([batch[at] for at in left])]
            answers = await asyncio.gather(
                *(self._call(provider, [batch[at] for at in places]) for places in calls)
            )
            for places, answer in zip(calls, answers, strict=True):
                for at in places:
                    if isinstance(answer, Attempt):
                        attempts[at] = (*attempts[at], answer)
                        if not answer.ok and answer.reason not in PERMANENT:
                            waits[at].append(provider.retry_after([batch[at]]))
                    else:
                        parked[at][provider.name] = answer
            left = [at for at in left if not attempts[at] or not attempts[at][-1].ok]
            if not left:
                break
        return [self._result(*one) for one in zip(attempts, parked, waits, strict=True)]

    def _result(
        self, attempts: tuple[Attempt, ...], parked: Mapping[str, float], waits: Sequence[float]
    ) -> ChannelResult:
        if attempts and attempts[-1].ok:
            return ChannelResult(attempts)
        if not attempts and not parked:
            failure = Failure(FailureReason.NOT_CONFIGURED, f"no provider serves {self.name} here")
            return ChannelResult((failure.attempt(self.name, self._clock.now(), 0.0),))
        if attempts and parked:  # or the refusal of one would hide that another could still be asked
            at = self._clock.now()
            attempts += tuple(NOT_ASKED.attempt(self.name, at, 0.0, provider=provider) for provider in parked)
        until_next = min((*waits, *parked.values()), default=0.0)
        return ChannelResult(attempts, min(parked.values(), default=0.0), until_next if waits else 0.0)

    async def _call(self, provider: Provider, items: Sequence[Deliverable]) -> Attempt | float:
        """One call as an attempt, or the seconds until its provider may be asked."""
        slots = self._slots[provider.name]
        if slots.stuck(self._clock.monotonic()) or not await slots.take():
            return self._busy_retry_s
        call = slots.began(self._clock.monotonic())
        try:
            if (wait_s := provider.retry_after(items)) > 0:
                return max(wait_s, MIN_PARKED_S)
            host = provider.host(items)
            if not self._guard.allows(provider.name, host):
                return max(self._guard.retry_after(provider.name, host), MIN_PARKED_S)
            return await self._attempt(provider, items, host)
        finally:
            slots.ended(call)

    async def _attempt(self, provider: Provider, items: Sequence[Deliverable], host: str) -> Attempt:
        at, started = self._clock.now(), self._clock.monotonic()
        try:
            failure = await provider.call(items)
        except Exception as error:  # one call's fault must not make the rest of the batch look failed
            log.exception("the call for %s failed", items[0].id)
            failure = Failure(FailureReason.INTERNAL, f"{type(error).__name__} in the channel")
        took_s = self._clock.monotonic() - started
        # A refusal is an answer: the provider is healthy.
        answered = failure is None or failure.permanent
        self._guard.record(
            provider.name,
            ok=answered,
            duration_s=took_s,
            reason=failure.reason if failure else "",
            host=host,
        )
        took_ms = round(took_s * 1000, 3)
        if failure is not None:
            return failure.attempt(self.name, at, took_ms, provider=provider.name)
        return Attempt(at, self.name, ok=True, duration_ms=took_ms, provider=provider.name)

    async def close(self) -> None:
        """Close the providers."""
        for provider in self._providers:
            await provider.close()
