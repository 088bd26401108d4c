"""Circuit breakers: how patient the platform is with whom, and `pybreaker`'s state machine around awaits.

    closed ──fail_max failures in a row──► open ──reset_s──► half_open ──success──► closed
                                            ▲                    │ failure
                                            └────────────────────┘

A call slower than `slow_call_s` is a failure, though its answer is handed on: whoever waits is no better off with
an answer that comes too late. An answer that says "your request is wrong" is no failure of the dependency and never
counts; nor does a caller that went away.

The breakers of one process are here; those a pool of processes shares are in `tocsin.resilience.shared_breaker`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any, TypeVar

import msgspec
import pybreaker

from tocsin.clock import Clock, SystemClock
from tocsin.errors import InvalidRecordError, NotFoundError, StorageUnavailableError

T = TypeVar("T")

# The dependency answered, and the answer was no.
EXCLUDED: tuple[type[Exception], ...] = (InvalidRecordError, NotFoundError)


class Criticality(StrEnum):
    """What stands still while the dependency is away."""

    EMERGENCY = "emergency"
    P0 = "p0"
    P1 = "p1"
    P2 = "p2"
    QUESTION = "question"  # somebody waits for an answer, and gets a degraded one
    ANALYTICS = "analytics"


class BreakerPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When to stop asking a dependency, and for how long.

    `fail_max` failures in a row open it, for `reset_s` seconds; a call that took longer than `slow_call_s` seconds
    is one of them.
    """

    name: str
    fail_max: int
    reset_s: float
    criticality: Criticality = Criticality.QUESTION
    slow_call_s: float = math.inf


# name, criticality, fail_max, reset_s, slow_call_s. The more urgent, the sooner a failing dependency is left alone
# for its fallback, and the sooner it is tried again; analytics may rest. Where a call's own deadline is as short as
# slow_call_s, a late answer is not even waited for.
_TABLE: tuple[tuple[str, Criticality, int, float, float], ...] = (
    ("emergency_contacts", Criticality.EMERGENCY, 3, 30.0, 0.3),
    ("device_status", Criticality.EMERGENCY, 3, 30.0, 0.3),
    ("p0_channels", Criticality.P0, 4, 30.0, 2.0),
    ("p1_channels", Criticality.P1, 6, 60.0, 4.0),
    ("p2_channels", Criticality.P2, 8, 120.0, 5.0),
    ("storage_reads", Criticality.QUESTION, 3, 2.0, 1.0),
    ("churn_calls", Criticality.QUESTION, 5, 5.0, 5.0),
    ("analytics", Criticality.ANALYTICS, 10, 300.0, 30.0),
)
POLICIES: dict[str, BreakerPolicy] = {
    name: BreakerPolicy(
        name=name, criticality=criticality, fail_max=fail_max, reset_s=reset_s, slow_call_s=slow_call_s
    )
    for name, criticality, fail_max, reset_s, slow_call_s in _TABLE
}
STORAGE_READS = POLICIES["storage_reads"]
CHURN_CALLS = POLICIES["churn_calls"]


class AsyncBreaker:
    """A breaker around coroutines of one process.

    Args:
        policy: Its thresholds.
        clock: Whose stopwatch finds slow calls.
    """

    def __init__(self, policy: BreakerPolicy, clock: Clock | None = None) -> None:
        self.policy = policy
        self._clock: Clock = clock or SystemClock()
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=policy.fail_max,
            reset_timeout=policy.reset_s,
            exclude=[*EXCLUDED, asyncio.CancelledError],
            name=policy.name,
            throw_new_error_on_trip=False,  # the call that opens it raises its own error
        )

    @property
    def state(self) -> str:
        """`closed`, `open` or `half-open`."""
        return str(self._breaker.current_state)

    async def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Await `work()` if the breaker lets it through.

        Raises:
            StorageUnavailableError: the breaker is open; `work` was not called.
            Exception: whatever `work` raises.
        """
        try:
            with self._breaker.calling():
                return await self._timed(work)
        except _SlowCallError as slow:
            late: T = slow.answer
            return late
        except pybreaker.CircuitBreakerError:
            raise StorageUnavailableError(
                f"{self.policy.name}: not asked, it failed {self.policy.fail_max} times in a row",
                retry_after_s=self.policy.reset_s,
            ) from None

    async def _timed(self, work: Callable[[], Awaitable[T]]) -> T:
        started = self._clock.monotonic()
        answer = await work()
        if self._clock.monotonic() - started > self.policy.slow_call_s:
            raise _SlowCallError(answer)  # the only way to tell pybreaker of a failure
        return answer


class _SlowCallError(Exception):
    """Carries an answer that came too late past the breaker; never leaves this module."""

    def __init__(self, answer: Any) -> None:
        super().__init__("slow call")
        self.answer = answer
