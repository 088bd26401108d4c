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
local known = redis.call('GET', process)
if known ~= record then
  if known and first ~= '1' then return {} end
  redis.call('SET', process, record)
end
redis.call('ZADD', members, now, name)
redis.call('ZREMRANGEBYSCORE', members, '-inf', now - ttl_ms)
return redis.call('ZRANGE', members, 0, -1)
""",
    keys="members process",
    args="name record first ttl_ms",
)


async def report_alive(
    client: aioredis.Redis,
    *,
    members: str,
    process: str,
    name: str,
    record: bytes,
    first: bool,
    ttl_ms: int,
) -> list[str]:
    """Report a member alive, and forget those that did not for `ttl_ms`.

    Args:
        client: The lane's server.
        members: The key of the heartbeats.
        process: The key that says which process holds the name.
        name: The member.
        record: The process.
        first: Its first report takes the name over; a later one of a process that lost its name changes nothing.
        ttl_ms: How long a report counts.

    Returns:
        The live members, sorted by report; none where another process took the name over.

    Raises:
        RedisError: as the driver raises it.
    """
    found: Any = await _HEARTBEAT.run(
        client,
        members=members,
        process=process,
        name=name,
        record=record,
        first=int(first),
        ttl_ms=ttl_ms,
    )
    return [member.decode() for member in found]


_ACQUIRE: Final = Script(
    """#!lua flags=allow-oom
local ours = {}
local named = redis.call('GET', process) == record
for k = leases_at, #KEYS do
  local owner = redis.call('GET', KEYS[k])
  if named and (owner == false or owner == name) then
    redis.call('SET', KEYS[k], name, 'PX', ttl_ms)
    ours[#ours + 1] = 1
  else
    ours[#ours + 1] = 0
  end
end
return ours
""",
    keys="process leases*",
    args="name record ttl_ms",
)


async def acquire(
    client: aioredis.Redis, *, process: str, leases: Sequence[str], name: str, record: bytes, ttl_ms: int
) -> list[bool]:
    """Take the leases that are free and extend those already held. Returns for each whether it is ours.

    A process whose name another one took over gets none.

    Raises:
        RedisError: as the driver raises it.
    """
    ours: Any = await _ACQUIRE.run(
        client, process=process, leases=leases, name=name, record=record, ttl_ms=ttl_ms
    )
    return [bool(one) for one in ours]


_RELEASE: Final = Script(
    """
if redis.call('GET', process) ~= record then return 0 end
if leave == '1' then
  redis.call('ZREM', members, name)
  redis.call('DEL', process)
end
for k = leases_at, #KEYS do
  if redis.call('GET', KEYS[k]) == name then redis.call('DEL', KEYS[k]) end
end
return 1
""",
    keys="members process leases*",
    args="name record leave",
)


async def release(
    client: aioredis.Redis,
    *,
    members: str,
    process: str,
    leases: Sequence[str],
    name: str,
    record: bytes,
    leave: bool,
) -> None:
    """Give up the leases that are ours; with `leave`, leave the pool as well. Nothing where the name was taken over.

    Raises:
        RedisError: as the driver raises it.
    """
    await _RELEASE.run(
        client,
        members=members,
        process=process,
        leases=leases,
        name=name,
        record=record,
        leave=int(leave),
    )
