"""Breaker policies: how patient the platform is with whom.

`pybreaker` holds each policy: how many failures in a row open a breaker, for how long, and which errors are answers
rather than failures. `tocsin.resilience.breaker` says why it does not hold the rest.
"""

from __future__ import annotations

import asyncio
import math
from enum import StrEnum

import msgspec
import pybreaker

from tocsin.errors import InvalidRecordError, NotFoundError

# The dependency answered, and the answer was no; or the caller went away.
EXCLUDED: tuple[type[BaseException], ...] = (InvalidRecordError, NotFoundError, asyncio.CancelledError)


class Criticality(StrEnum):
    """What stands still while the dependency is away."""

    EMERGENCY = "emergency"
    P0 = "p0"
    P1 = "p1"
    P2 = "p2"
    QUESTION = "question"  # a person waits for an answer, and gets a degraded one
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

    def rules(self) -> pybreaker.CircuitBreaker:
        """The policy as `pybreaker` keeps it: `fail_max`, `reset_timeout`, and what `is_system_error` counts."""
        return pybreaker.CircuitBreaker(
            fail_max=self.fail_max, reset_timeout=self.reset_s, exclude=EXCLUDED, name=self.name
        )


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
