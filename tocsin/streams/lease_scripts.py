"""The atomic steps of leases. They write little, so they run at the server's memory limit too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from redis import asyncio as aioredis

from tocsin.storage.script import Script

_HEARTBEAT: Final = Script(
    """#!lua flags=allow-oom
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', members, now, name)
redis.call('ZREMRANGEBYSCORE', members, '-inf', now - ttl_ms)
return redis.call('ZRANGE', members, 0, -1)
""",
    keys="members",
    args="name ttl_ms",
)


async def report_alive(client: aioredis.Redis, *, members: str, name: str, ttl_ms: int) -> list[str]:
    """Report a member alive, and forget those that did not for `ttl_ms`. Returns the live ones, sorted by report.

    Raises:
        RedisError: as the driver raises it.
    """
    found: Any = await _HEARTBEAT.run(client, members=members, name=name, ttl_ms=ttl_ms)
    return [member.decode() for member in found]


_ACQUIRE: Final = Script(
    """#!lua flags=allow-oom
local ours = {}
for k = leases_at, #KEYS do
  local owner = redis.call('GET', KEYS[k])
  if owner == false or owner == name then
    redis.call('SET', KEYS[k], name, 'PX', ttl_ms)
    ours[#ours + 1] = 1
  else
    ours[#ours + 1] = 0
  end
end
return ours
""",
    keys="leases*",
    args="name ttl_ms",
)


async def acquire(client: aioredis.Redis, *, leases: Sequence[str], name: str, ttl_ms: int) -> list[bool]:
    """Take the leases that are free and extend those already held. Returns for each whether it is ours.

    Raises:
        RedisError: as the driver raises it.
    """
    ours: Any = await _ACQUIRE.run(client, leases=leases, name=name, ttl_ms=ttl_ms)
    return [bool(one) for one in ours]


_RELEASE: Final = Script(
    """
if leave == '1' then redis.call('ZREM', members, name) end
for k = leases_at, #KEYS do
  if redis.call('GET', KEYS[k]) == name then redis.call('DEL', KEYS[k]) end
end
return 1
""",
    keys="members leases*",
    args="name leave",
)


async def release(
    client: aioredis.Redis, *, members: str, leases: Sequence[str], name: str, leave: bool
) -> None:
    """Give up the leases that are ours; with `leave`, leave the pool as well.

    Raises:
        RedisError: as the driver raises it.
    """
    await _RELEASE.run(client, members=members, leases=leases, name=name, leave=1 if leave else 0)
