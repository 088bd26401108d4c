"""What a pool knows of a breaker: a hash on Redis, one script that merges into it, and its view for people."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import msgspec
from redis import asyncio as aioredis

from tocsin.clock import to_datetime
from tocsin.keys import BreakerKeys
from tocsin.resilience.policies import BreakerPolicy
from tocsin.storage.errors import translated
from tocsin.storage.script import Script

STATE_TTL_S = 86_400
MAX_REASON = 120


class BreakerState(StrEnum):
    """Where a breaker is; the module draws how it moves."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


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


class CallReport(msgspec.Struct):
    """What happened here since the last sync."""

    succeeded: bool = False
    failures: int = 0  # since the last success
    reason: str = ""
    probe: str = ""  # "", ok or failed

    def after(self, earlier: CallReport) -> CallReport:
        """Both together, `earlier` having happened first."""
        return CallReport(
            succeeded=self.succeeded or earlier.succeeded,
            failures=self.failures + (0 if self.succeeded else earlier.failures),
            reason=self.reason or earlier.reason,
            probe=self.probe or earlier.probe,
        )


class PoolState(msgspec.Struct, frozen=True, kw_only=True):
    """What the pool knows after a merge."""

    is_open: bool
    failures: int  # in a row
    opened_at: float  # epoch seconds
    reason: str  # of the last transition
    opened: int  # transitions within the last day or so
    closed: int
    probes: int
    may_probe: bool  # the right to probe is ours


_MERGE: Final = Script(
    """#!lua flags=allow-oom
local s = redis.call('HMGET', breaker, 'state', 'failures', 'opened_at')
local state, failures, opened_at = s[1] or 'closed', tonumber(s[2] or '0'), tonumber(s[3] or '0')
local owner = redis.call('GET', lease)
local ours = not owner or owner == holder
if not s[1] then
  redis.call('HSET', breaker, 'state', 'closed', 'failures', 0, 'opened_at', 0, 'reason', '', 'reset_s', reset_s)
end
local function open()
  state, opened_at = 'open', tonumber(since)
  redis.call('HSET', breaker, 'state', state, 'opened_at', since, 'reason', reason, 'reset_s', reset_s,
    'opened_for', reason)
  redis.call('HINCRBY', breaker, 'opened', 1)
end
if state == 'open' then
  if probe ~= '' and ours then
    if probe == 'ok' then
      state, failures = 'closed', 0
      redis.call('HSET', breaker, 'state', state, 'failures', 0, 'opened_at', 0, 'reason', 'probe succeeded')
      redis.call('HINCRBY', breaker, 'closed', 1)
    else
      open()
    end
    redis.call('DEL', lease)
    owner = false
  end
else
  local sum = tonumber(failed)
  if succeeded ~= '1' then sum = sum + failures end
  if sum ~= failures then redis.call('HSET', breaker, 'failures', sum) end
  failures = sum
  if failures >= tonumber(fail_max) then open() end
end
local granted = '0'
if state == 'open' and wants_probe == '1' and tonumber(now) >= opened_at + tonumber(reset_s) then
  if owner == holder then
    redis.call('PEXPIRE', lease, lease_ms)
    granted = '1'
  elseif redis.call('SET', lease, holder, 'NX', 'PX', lease_ms) then
    redis.call('HINCRBY', breaker, 'probes', 1)
    granted = '1'
  end
end
if redis.call('TTL', breaker) < ttl_s / 2 then
  redis.call('EXPIRE', breaker, ttl_s)
  redis.call('ZADD', names, now, name)
  redis.call('ZREMRANGEBYSCORE', names, '-inf', now - ttl_s)
  redis.call('EXPIRE', names, ttl_s)
end
local t = redis.call('HMGET', breaker, 'opened_at', 'reason', 'opened', 'closed', 'probes')
return {state, tostring(failures), t[1], t[2], t[3] or '0', t[4] or '0', t[5] or '0', granted}
""",
    keys="breaker lease names",
    args="now fail_max reset_s ttl_s name holder lease_ms succeeded failed reason probe wants_probe since",
)


async def exchange(
    client: aioredis.Redis,
    keys: BreakerKeys,
    name: str,
    policy: BreakerPolicy,
    seen: CallReport,
    *,
    holder: str,
    lease_s: float,
    wants_probe: bool,
    now: float,
    opened_at: float,
) -> PoolState:
    """Merge what one process saw into the breaker all share, and hand the right to probe to one of them. It writes
    only where something changes: a healthy breaker costs no write.

    Args:
        client: Where it is shared.
        keys: Of the namespace.
        name: Of the breaker.
        policy: Its thresholds.
        seen: What happened here since the last exchange.
        holder: Who this process is.
        lease_s: How long the right to probe lasts.
        wants_probe: Whether this process would probe.
        now: Epoch seconds.
        opened_at: Since when it counts as open if this opens it (epoch seconds).

    Raises:
        RedisError: as the driver raises it.
    """
    answer: Any = await _MERGE.run(
        client,
        breaker=keys.state(name),
        lease=keys.probe(name),
        names=keys.names,
        now=repr(now),
        fail_max=policy.fail_max,
        reset_s=repr(policy.reset_s),
        ttl_s=STATE_TTL_S,
        name=name,
        holder=holder,
        lease_ms=int(lease_s * 1000),
        succeeded=1 if seen.succeeded else 0,
        failed=seen.failures,
        reason=seen.reason,
        probe=seen.probe,
        wants_probe=1 if wants_probe else 0,
        since=repr(opened_at),
    )
    state, failures, opened, reason, times_opened, closed, probes, granted = (
        part.decode() for part in answer
    )
    return PoolState(
        is_open=state == BreakerState.OPEN,
        failures=int(failures),
        opened_at=float(opened),
        reason=reason,
        opened=int(times_opened),
        closed=int(closed),
        probes=int(probes),
        may_probe=granted == "1",
    )


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


async def read_breakers(client: aioredis.Redis, namespace: str, now: float) -> list[BreakerView]:
    """Every shared breaker of a namespace as the pool knows it, by name.

    Args:
        client: Where they are shared.
        namespace: The prefix of their keys.
        now: Seconds since the epoch.

    Raises:
        StorageUnavailableError: the server does not answer.
    """
    keys = BreakerKeys(namespace)
    with translated():
        found: Any = await client.zrange(keys.names, 0, -1)
        names = sorted(name.decode() for name in found)
        async with client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hgetall(keys.state(name))
                pipe.exists(keys.probe(name))
            answers: list[Any] = await pipe.execute()
    pairs = zip(names, answers[::2], answers[1::2], strict=True)
    return [_stored_view(name, state, bool(probed), now) for name, state, probed in pairs if state]


def _stored_view(name: str, stored: Mapping[bytes, bytes], probed: bool, now: float) -> BreakerView:
    opened_at = float(stored.get(b"opened_at", b"0"))
    state = BreakerState(stored.get(b"state", b"closed").decode())
    if state is BreakerState.OPEN and probed:
        state = BreakerState.HALF_OPEN
    opened, closed, probes = (int(stored.get(field, b"0")) for field in (b"opened", b"closed", b"probes"))
    return make_view(
        name,
        state,
        failures=int(stored.get(b"failures", b"0")),
        opened_at=opened_at,
        reason=stored.get(b"reason", b"").decode(),
        retry_in_s=opened_at + float(stored.get(b"reset_s", b"0")) - now,
        totals=(opened, closed, probes),
        opened_for=stored.get(b"opened_for", b"").decode(),
    )
