"""The circuit breaker: one state machine, for a process alone or for a pool that shares it over Redis.

                            ┌──────────────────────── the lease lapses ────────────────────────┐
                            ▼                                                                  │
    closed ──fail_max failures in a row──► open ──reset_s, and the right to probe──► half_open ─┴─success──► closed
                                            ▲                                           │ failure
                                            └───────────────────────────────────────────┘

A call slower than `slow_call_s` is a failure, though its answer is returned: a caller is no better off with an
answer that comes too late. An answer that says "your request is wrong" is no failure of the dependency and never
counts; nor does a caller that went away.

`half_open` is the state of the one process that holds the probe lease; to the others the breaker stays `open`. A
breaker without a client is alone, and grants the probe to itself.

`allows` and `record` touch local state alone. The owner of a shared one calls `sync` every `SYNC_EVERY_S`
(`Breakers.run` does, and at once when something changed): one script reports to the pool what happened here, and
returns what happened elsewhere. So a failing dependency is left alone at once where it failed, and within one sync
everywhere else. When Redis does not answer, or nobody calls `sync` for `STALE_S`, the breaker goes on alone with what
it knows, probes included: it never stays open for want of news. The clocks of a pool's machines are taken to agree
within a second.

`pybreaker` keeps the policy, which errors count, and this process's state and counter (a `CircuitBreakerStorage`). Its
own transitions are not used: they read the system's clock, let every caller through while half open, and have no
place for a verdict that comes from elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar

import msgspec
import pybreaker
from redis import asyncio as aioredis
from redis import exceptions as redis_errors

from tocsin.clock import Clock
from tocsin.errors import StorageUnavailableError
from tocsin.keys import BreakerKeys
from tocsin.resilience.policies import BreakerPolicy
from tocsin.resilience.pool_state import (
    MAX_REASON,
    BreakerState,
    BreakerView,
    CallReport,
    PoolState,
    exchange,
    make_view,
)

T = TypeVar("T")

CLOSED: str = pybreaker.STATE_CLOSED
OPEN: str = pybreaker.STATE_OPEN

SYNC_EVERY_S = 0.25
SYNC_TIMEOUT_S = 1.0
STALE_S = 5.0
PROBE_WAIT_S = 0.5  # when to ask again while somebody may be probing
MIN_LEASE_S = 5.0  # a delivery that was parked needs a while to come back and be the probe
MAX_LEASE_S = 60.0
EARLY_S = 0.005  # durations are rounded: how much before its start a probe may seem to have begun


class BreakerOpenError(StorageUnavailableError):
    """The dependency was not asked: its breaker is open. Try again after `retry_after_s`."""

    def __init__(self, name: str, reason: str, *, retry_after_s: float) -> None:
        super().__init__(f"{name}: not asked, its breaker is open ({reason})", retry_after_s=retry_after_s)


class _Local(pybreaker.CircuitBreakerStorage):
    """State and failures in a row, where `pybreaker` keeps them. Plain attributes: `allows` is called before every
    delivery, and the properties of `CircuitMemoryStorage` cost several times as much.
    """

    state: str = CLOSED  # or OPEN
    counter: int = 0
    success_counter: int = 0  # unused, like `opened_at`: the transitions are ours
    opened_at: datetime | None = None


class _Probe(msgspec.Struct):
    """The right to try once: until when (stopwatch, s), and since when it is in use."""

    until: float
    started: float | None = None


class Breaker:
    """One dependency's breaker, in one process. Not for several threads.

    Args:
        policy: Its thresholds.
        name: Unique among the breakers of the namespace; lower case letters, digits and `_:.-`.
        clock: Time.
        client: Where the state is shared; None: this process is alone.
        keys: Where it is kept, with a client.
        holder: Who this process is, unique in the pool; with a client.
        changed: Called when something happened that others should know before the next sync is due.
    """

    def __init__(
        self,
        policy: BreakerPolicy,
        name: str,
        clock: Clock,
        *,
        client: aioredis.Redis | None = None,
        keys: BreakerKeys | None = None,
        holder: str = "",
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.policy = policy
        self.name = name
        self.sync_failures = 0
        self.opened = self.closed = self.probes = 0  # of the whole pool, as far as known here
        self._client = client
        self._keys = keys or BreakerKeys("")
        self._rules = policy.rules()
        self._local = _Local(policy.name)
        self._clock = clock
        self._holder = holder
        self._changed = changed
        self._failing = False  # the last sync
        self._synced_at = clock.monotonic()
        self._ask_at = 0.0  # not before (stopwatch, s): somebody else holds the probe
        self._opened_at = 0.0
        self._reason = ""
        self._probe: _Probe | None = None
        self._wanted = False
        self._unsent = CallReport()
        self._syncing = asyncio.Lock()

    # ------------------------------------------------------------------ the hot path: no I/O

    def allows(self, now: float) -> bool:
        """Whether to go ahead now (epoch seconds). While it is half open, one call may: it is the probe, and its
        `record` decides.
        """
        if self._local.state == CLOSED:
            return True
        self._lapse()
        if self._probe is not None:
            return self._start_probe()
        if self._opened_at + self.policy.reset_s > now:
            return False
        if self._alone():
            self.probes += 1
            self._probe = _Probe(self._clock.monotonic() + self._lease_s)
            return self._start_probe()
        if not self._wanted and self._clock.monotonic() >= self._ask_at:
            self._wanted = True
            self._changed()
        return False

    def retry_after(self, now: float) -> float:
        """Seconds until it is worth asking again, after `allows` said no."""
        rest_s = self._opened_at + self.policy.reset_s - now
        return min(rest_s, self.policy.reset_s) if rest_s > 0 and self._probe is None else PROBE_WAIT_S

    def record(self, ok: bool, duration_s: float, reason: str = "") -> None:
        """How a call that was allowed ended. A refusal ("your request is wrong") is an answer: record it as ok.

        A call that started before the breaker opened says nothing about the dependency now, and is passed over.

        Args:
            ok: Whether the dependency did its work.
            duration_s: How long it took.
            reason: Why not, as a short label.
        """
        if ok and duration_s > self.policy.slow_call_s:
            ok, reason = False, "slow"
        reason = reason[:MAX_REASON] or "failed"
        if self._local.state == OPEN:
            self._record_probe(duration_s, reason, ok=ok)
        elif ok:
            self._local.counter = 0
            self._unsent = CallReport(succeeded=True, probe=self._unsent.probe)
        else:
            self._local.counter += 1
            self._unsent.failures += 1
            self._unsent.reason = reason
            if self._local.counter >= self._rules.fail_max:
                self._turn_open(reason)

    async def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Await `work()` if the breaker lets it through, and record how it went.

        Raises:
            BreakerOpenError: it is open; `work` was not called.
            Exception: whatever `work` raises.
        """
        now = self._clock.now()
        if not self.allows(now):
            raise BreakerOpenError(self.name, self._reason, retry_after_s=self.retry_after(now))
        probe = self._probe  # this call, where there is one: no other is allowed meanwhile
        started = self._clock.monotonic()
        try:
            answer = await work()
        except asyncio.CancelledError:
            if probe is not None:
                probe.started = None  # the next caller may be the probe
            raise
        except Exception as error:
            answered = not self._rules.is_system_error(error)
            self.record(ok=answered, duration_s=self._clock.monotonic() - started, reason=_label(error))
            raise
        self.record(ok=True, duration_s=self._clock.monotonic() - started)
        return answer

    # ------------------------------------------------------------------ what the process shows

    @property
    def state(self) -> BreakerState:
        """Its state, as this process knows it."""
        if self._local.state == CLOSED:
            return BreakerState.CLOSED
        return BreakerState.OPEN if self._probe is None else BreakerState.HALF_OPEN

    def view(self, now: float) -> BreakerView:
        """What this process knows of it, at `now` (epoch seconds)."""
        return make_view(
            self.name,
            self.state,
            failures=self._local.counter,
            opened_at=self._opened_at,
            reason=self._reason,
            retry_in_s=self._opened_at + self.policy.reset_s - now,
            totals=(self.opened, self.closed, self.probes),
        )

    # ------------------------------------------------------------------ the pool

    async def sync(self) -> None:
        """Tell the pool, and learn from it. Never raises for a server that is away: that is counted."""
        if self._client is None:
            return
        async with self._syncing:
            self._lapse()
            sent, self._unsent = self._unsent, CallReport()
            asked, self._wanted = self._wanted and self._probe is None, False
            try:
                async with asyncio.timeout(SYNC_TIMEOUT_S):
                    known = await exchange(
                        self._client,
                        self._keys,
                        self.name,
                        self.policy,
                        sent,
                        holder=self._holder,
                        lease_s=self._lease_s,
                        wants_probe=asked,
                        now=(now := self._clock.now()),
                        opened_at=self._opened_at if self._local.state == OPEN else now,
                    )
            except (redis_errors.RedisError, OSError, TimeoutError):
                self.sync_failures += 1
                self._failing = True
                self._unsent = self._unsent.after(sent)
                return
            except BaseException:  # cancelled: reported again next time
                self._unsent = self._unsent.after(sent)
                raise
            self._failing, self._synced_at = False, self._clock.monotonic()
            self._adopt(known, asked=asked)

    def _adopt(self, known: PoolState, *, asked: bool) -> None:
        """Take over what the pool knows, and on top of it what happened here while it was asked."""
        self.opened, self.closed, self.probes = known.opened, known.closed, known.probes
        if self._unsent.probe:  # the probe ended meanwhile; the next sync reports it
            return
        if known.is_open:
            self._local.state, self._opened_at, self._reason = (
                OPEN,
                known.opened_at,
                known.reason,
            )
            self._local.counter = known.failures
            if asked:
                now_s = self._clock.monotonic()
                self._probe = _Probe(now_s + self._lease_s) if known.may_probe else None
                self._ask_at = now_s + SYNC_EVERY_S
            return
        self._local.counter = self._unsent.failures + (0 if self._unsent.succeeded else known.failures)
        if self._local.counter < self._rules.fail_max:
            self._local.state, self._probe, self._reason = CLOSED, None, known.reason

    # ------------------------------------------------------------------ transitions

    @property
    def _lease_s(self) -> float:
        return min(max(MIN_LEASE_S, 3 * self.policy.slow_call_s), MAX_LEASE_S)

    def _alone(self) -> bool:
        """Whether there is nobody to ask for the probe."""
        stale = self._clock.monotonic() - self._synced_at > STALE_S
        return self._client is None or self._failing or stale

    def _start_probe(self) -> bool:
        probe = self._probe
        if probe is None or probe.started is not None:
            return False
        probe.started = self._clock.monotonic()
        return True

    def _record_probe(self, duration_s: float, reason: str, *, ok: bool) -> None:
        probe, ended = self._probe, self._clock.monotonic()
        if probe is None or probe.started is None or ended - duration_s < probe.started - EARLY_S:
            return
        self._probe = None
        if not ok:
            self._unsent.probe = "failed"
            self._turn_open(reason)
            return
        self._local.state, self._reason = CLOSED, "probe succeeded"
        self._local.counter = 0
        self._unsent = CallReport(succeeded=True, probe="ok")
        self.closed += 1
        self._changed()

    def _turn_open(self, reason: str) -> None:
        self._local.state, self._opened_at, self._reason = OPEN, self._clock.now(), reason
        self._unsent.reason = reason
        self.opened += 1
        self._changed()

    def _lapse(self) -> None:
        """Give up a probe that was not used, or not answered for, while its lease lasted."""
        probe = self._probe
        if probe is None:
            return
        # One that has not started needs time left to end in.
        spare_s = min(self.policy.slow_call_s, self._lease_s / 2) if probe.started is None else 0.0
        if self._clock.monotonic() > probe.until - spare_s:
            self._probe = None


def _label(error: Exception) -> str:
    """The reason an error gives, if it gives one, else its kind."""
    return str(getattr(error, "reason", "")) or type(error).__name__
