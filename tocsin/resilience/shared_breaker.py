"""A breaker that the processes of a pool share over Redis, cheap enough to ask before every delivery.

                                                        ┌──── the lease ran out ────┐
                                                        ▼                           │
    closed ──fail_max failures in a row, pool-wide──► open ──reset_s and the lease──► half_open ──success──► closed
                                                        ▲                                │ failure
                                                        └────────────────────────────────┘

`half_open` is the state of the one process that holds the probe lease; to the others the breaker stays `open`.

`admit` and `record` touch local state alone. The owner calls `sync` every `SYNC_EVERY_S` (`Breakers.run` does, and at
once when something changed): one script tells the pool what happened here, and this process what happened elsewhere.
So a failing dependency is left alone at once where it failed, and within one sync everywhere else.

When Redis does not answer, or nobody calls `sync` for `STALE_S`, the breaker goes on alone with what it knows, probes
included: it never stays open for want of news. What happened meanwhile is told when Redis is back. The clocks of a
pool's machines are taken to agree within a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, TypeVar

import msgspec
from redis import asyncio as aioredis
from redis import exceptions as redis_errors

from tocsin.clock import Clock, to_datetime
from tocsin.errors import TocsinError
from tocsin.keys import BreakerKeys
from tocsin.resilience.breaker import EXCLUDED, BreakerPolicy
from tocsin.storage.scripts import BREAKER, Script

T = TypeVar("T")

SYNC_EVERY_S = 0.25
SYNC_TIMEOUT_S = 1.0
STALE_S = 5.0
PROBE_WAIT_S = 0.5  # when to ask again while somebody may be probing
STATE_TTL_S = 86_400
MIN_LEASE_S = 5.0  # a delivery that was parked needs a while to come back and be the probe
MAX_LEASE_S = 60.0
EARLY_S = 0.005  # durations are rounded: how much before its start a probe may seem to have begun
MAX_REASON = 120


class BreakerState(StrEnum):
    """Where a breaker is; the module draws how it moves."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class BreakerOpenError(TocsinError):
    """The dependency was not asked: its breaker is open. Try again after `retry_after_s`."""

    code = "breaker-open"
    retryable: ClassVar[bool] = True

    def __init__(self, name: str, reason: str, *, retry_after_s: float) -> None:
        super().__init__(f"{name}: not asked, its breaker is open ({reason})")
        self.retry_after_s = retry_after_s


class BreakerView(msgspec.Struct, frozen=True, kw_only=True):
    """One breaker, for people."""

    name: str
    state: BreakerState
    failures: int  # in a row
    opened_at: datetime | None  # null while closed
    reason: str  # of the last transition
    retry_in_s: float | None  # until the next probe may start; null while closed
    opened: int = 0  # transitions within the last day or so
    closed: int = 0
    probes: int = 0
    opened_for: str = ""  # reason of the last opening


class _Unsent(msgspec.Struct):
    """What happened here since the last sync."""

    succeeded: bool = False
    failures: int = 0  # since the last success
    reason: str = ""
    probe: str = ""  # "", ok or failed

    def after(self, earlier: _Unsent) -> _Unsent:
        """Both together, `earlier` having happened first."""
        return _Unsent(
            succeeded=self.succeeded or earlier.succeeded,
            failures=self.failures + (0 if self.succeeded else earlier.failures),
            reason=self.reason or earlier.reason,
            probe=self.probe or earlier.probe,
        )


class _Probe(msgspec.Struct):
    """The right to try once: until when (stopwatch, s), and since when it is in use."""

    until: float
    started: float | None = None


class SharedBreaker:
    """One dependency's breaker, in one process of the pool. Not for several threads.

    Args:
        policy: Its thresholds.
        name: Unique among the breakers of the namespace; lower case letters, digits and `_:.-`.
        client: Where the state is shared; None: this process is alone.
        keys: Where it is kept.
        clock: Time.
        holder: Who this process is, unique in the pool.
        changed: Called when something happened that others should know before the next sync is due.
    """

    def __init__(
        self,
        policy: BreakerPolicy,
        name: str,
        client: aioredis.Redis | None,
        keys: BreakerKeys,
        clock: Clock,
        *,
        holder: str,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.policy = policy
        self.name = name
        self.sync_failures = 0
        self.opened = self.closed = self.probes = 0  # of the whole pool, as far as known here
        self._client = client
        self._keys = [keys.state(name), keys.probe(name), keys.names]
        self._clock = clock
        self._holder = holder
        self._changed = changed
        self._script = Script(BREAKER)
        self._failing = False  # the last sync
        self._synced_at = clock.monotonic()
        self._ask_at = 0.0  # not before (stopwatch, s): somebody else holds the probe
        self._open = False
        self._failures = 0
        self._opened_at = 0.0
        self._reason = ""
        self._probe: _Probe | None = None
        self._wanted = False
        self._unsent = _Unsent()
        self._syncing = asyncio.Lock()

    # ------------------------------------------------------------------ the hot path: no I/O

    def admit(self, now: float) -> float | None:
        """Whether to go ahead: None is go, else the seconds until it is worth asking again.

        While the breaker is half open, one call gets None: it is the probe, and its `record` decides.

        Args:
            now: Seconds since the epoch.
        """
        if not self._open:
            return None
        self._lapse()
        if self._probe is not None:
            return self._start_probe()
        wait_s = self._opened_at + self.policy.reset_s - now
        if wait_s > 0:
            return min(wait_s, self.policy.reset_s)
        if self._alone():
            self.probes += 1
            self._probe = _Probe(self._clock.monotonic() + self._lease_s)
            return self._start_probe()
        if not self._wanted and self._clock.monotonic() >= self._ask_at:
            self._wanted = True
            self._changed()
        return PROBE_WAIT_S

    def record(self, ok: bool, duration_s: float, reason: str = "") -> None:
        """How a call that was admitted ended. A refusal ("your request is wrong") is an answer: record it as ok.

        A call that started before the breaker opened says nothing about the dependency now, and is passed over.

        Args:
            ok: Whether the dependency did its work.
            duration_s: How long it took.
            reason: Why not, as a short label.
        """
        if ok and duration_s > self.policy.slow_call_s:
            ok, reason = False, "slow"
        reason = reason[:MAX_REASON] or "failed"
        if self._open:
            self._record_probe(duration_s, reason, ok=ok)
        elif ok:
            self._failures = 0
            self._unsent = _Unsent(succeeded=True, probe=self._unsent.probe)
        else:
            self._failures += 1
            self._unsent.failures += 1
            self._unsent.reason = reason
            if self._failures >= self.policy.fail_max:
                self._turn_open(reason)

    async def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Await `work()` if the breaker lets it through, and record how it went.

        Raises:
            BreakerOpenError: it is open; `work` was not called.
            Exception: whatever `work` raises.
        """
        wait_s = self.admit(self._clock.now())
        if wait_s is not None:
            raise BreakerOpenError(self.name, self._reason, retry_after_s=wait_s)
        started = self._clock.monotonic()
        try:
            answer = await work()
        except EXCLUDED:
            self.record(ok=True, duration_s=self._clock.monotonic() - started)
            raise
        except Exception as error:
            self.record(ok=False, duration_s=self._clock.monotonic() - started, reason=_label(error))
            raise
        self.record(ok=True, duration_s=self._clock.monotonic() - started)
        return answer

    # ------------------------------------------------------------------ what the process shows

    @property
    def state(self) -> BreakerState:
        """Its state, as this process knows it."""
        if not self._open:
            return BreakerState.CLOSED
        return BreakerState.OPEN if self._probe is None else BreakerState.HALF_OPEN

    def view(self, now: float) -> BreakerView:
        """What this process knows of it, at `now` (epoch seconds)."""
        return make_view(
            self.name,
            self.state,
            failures=self._failures,
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
            sent, self._unsent = self._unsent, _Unsent()
            asked, self._wanted = self._wanted and self._probe is None, False
            try:
                async with asyncio.timeout(SYNC_TIMEOUT_S):
                    answer = await self._script.run(
                        self._client, self._keys, self._arguments(sent, asked=asked)
                    )
            except (redis_errors.RedisError, OSError, TimeoutError):
                self.sync_failures += 1
                self._failing = True
                self._unsent = self._unsent.after(sent)
                return
            except BaseException:  # cancelled: told again next time
                self._unsent = self._unsent.after(sent)
                raise
            self._failing, self._synced_at = False, self._clock.monotonic()
            self._adopt(answer, asked=asked)

    def _arguments(self, sent: _Unsent, *, asked: bool) -> list[Any]:
        now = self._clock.now()
        return [
            repr(now),
            self.policy.fail_max,
            repr(self.policy.reset_s),
            STATE_TTL_S,
            self.name,
            self._holder,
            int(self._lease_s * 1000),
            1 if sent.succeeded else 0,
            sent.failures,
            sent.reason,
            sent.probe,
            1 if asked else 0,
            repr(self._opened_at if self._open else now),
        ]

    def _adopt(self, answer: list[bytes], *, asked: bool) -> None:
        """Take over what the pool says, and on top of it what happened here while it was asked."""
        state, failures, opened_at, reason, opened, closed, probes, granted = (
            part.decode() for part in answer
        )
        self.opened, self.closed, self.probes = int(opened), int(closed), int(probes)
        if self._unsent.probe:  # the probe ended meanwhile; the next sync tells
            return
        if state == BreakerState.OPEN:
            self._open, self._opened_at, self._reason = True, float(opened_at), reason
            self._failures = int(failures)
            if asked:
                now_s = self._clock.monotonic()
                self._probe = _Probe(now_s + self._lease_s) if granted == "1" else None
                self._ask_at = now_s + SYNC_EVERY_S
            return
        self._failures = self._unsent.failures + (0 if self._unsent.succeeded else int(failures))
        if self._failures < self.policy.fail_max:
            self._open, self._probe, self._reason = False, None, reason

    # ------------------------------------------------------------------ transitions

    @property
    def _lease_s(self) -> float:
        return min(max(MIN_LEASE_S, 3 * self.policy.slow_call_s), MAX_LEASE_S)

    def _alone(self) -> bool:
        """Whether there is nobody to ask for the probe."""
        stale = self._clock.monotonic() - self._synced_at > STALE_S
        return self._client is None or self._failing or stale

    def _start_probe(self) -> float | None:
        probe = self._probe
        if probe is None or probe.started is not None:
            return PROBE_WAIT_S
        probe.started = self._clock.monotonic()
        return None

    def _record_probe(self, duration_s: float, reason: str, *, ok: bool) -> None:
        probe, ended = self._probe, self._clock.monotonic()
        if probe is None or probe.started is None or ended - duration_s < probe.started - EARLY_S:
            return
        self._probe = None
        if not ok:
            self._unsent.probe = "failed"
            self._turn_open(reason)
            return
        self._open, self._failures, self._reason = False, 0, "probe succeeded"
        self._unsent = _Unsent(succeeded=True, probe="ok")
        self.closed += 1
        self._changed()

    def _turn_open(self, reason: str) -> None:
        self._open, self._opened_at, self._reason = True, self._clock.now(), reason
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


def make_view(
    name: str,
    state: BreakerState,
    *,
    failures: int,
    opened_at: float,
    reason: str,
    retry_in_s: float,
    totals: tuple[int, int, int],
    opened_for: str = "",
) -> BreakerView:
    """A view with the fields that only an open breaker has (times in epoch seconds)."""
    is_open = state is not BreakerState.CLOSED
    opened, closed, probes = totals
    return BreakerView(
        name=name,
        state=state,
        failures=failures,
        opened_at=to_datetime(opened_at) if is_open else None,
        reason=reason,
        retry_in_s=round(max(0.0, retry_in_s), 3) if is_open else None,
        opened=opened,
        closed=closed,
        probes=probes,
        opened_for=opened_for,
    )
