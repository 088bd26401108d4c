"""Circuit breakers: `pybreaker`'s state machine around awaits.

    closed ──fail_max failures in a row──► open ──reset_s──► half_open ──success──► closed
                                            ▲                    │ failure
                                            └────────────────────┘

An answer that says "your request is wrong" is no failure of the dependency and never counts; nor does a caller that
went away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
import pybreaker

from tocsin.errors import InvalidRecordError, NotFoundError, StorageUnavailableError

T = TypeVar("T")


class BreakerPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When to stop asking a dependency, and for how long."""

    name: str
    fail_max: int
    reset_s: float


# What a person waits for fails fast and heals fast; analytics may rest.
STORAGE_READS = BreakerPolicy(name="storage_reads", fail_max=3, reset_s=2.0)
CHURN_CALLS = BreakerPolicy(name="churn_calls", fail_max=5, reset_s=5.0)


class AsyncBreaker:
    """A breaker around coroutines of one process.

    Args:
        policy: Its thresholds.
    """

    def __init__(self, policy: BreakerPolicy) -> None:
        self.policy = policy
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=policy.fail_max,
            reset_timeout=policy.reset_s,
            exclude=[InvalidRecordError, NotFoundError, asyncio.CancelledError],
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
                return await work()
        except pybreaker.CircuitBreakerError:
            raise StorageUnavailableError(
                f"{self.policy.name}: not asked, it failed {self.policy.fail_max} times in a row",
                retry_after_s=self.policy.reset_s,
            ) from None
