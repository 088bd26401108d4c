"""The Lua scripts, each with its contract. They run atomically on the server."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from redis import asyncio as aioredis
from redis import exceptions as redis_errors

# KEYS: counts, idempotency key (or counts again), then for each unit: stream, dedup key (or counts again).
# ARGV: idempotent?, fingerprint, ttl, wire version, then for each unit: records, deduplicated?, block.
# Returns: "stored" | "repeat" | "conflict", then for each unit its position `partition-entry`, marked with a
# leading "=" where a dedup key had been seen before.
APPEND = """
if ARGV[1] == '1' then
  local first = redis.call('HMGET', KEYS[2], 'fingerprint', 'result')
  if first[2] then
    if first[1] ~= ARGV[2] then return {'conflict'} end
    local answer = {'repeat'}
    for mark in string.gmatch(first[2], '[^,]+') do answer[#answer + 1] = mark end
    return answer
  end
end
local answer = {'stored'}
local accepted = 0
local u = 0
for k = 3, #KEYS, 2 do
  local a = 5 + u * 3
  u = u + 1
  local dedup = ARGV[a + 1] == '1'
  local seen = dedup and redis.call('GET', KEYS[k + 1])
  if seen then
    answer[u + 1] = '=' .. seen
  else
    local entry = redis.call('XADD', KEYS[k], '*', 'v', ARGV[4], 'b', ARGV[a + 2])
    local mark = string.match(KEYS[k], '(%d+)$') .. '-' .. entry
    if dedup then redis.call('SET', KEYS[k + 1], mark, 'EX', ARGV[3]) end
    answer[u + 1] = mark
    accepted = accepted + tonumber(ARGV[a])
  end
end
if accepted > 0 then redis.call('HINCRBY', KEYS[1], 'accepted', accepted) end
if ARGV[1] == '1' then
  redis.call('HSET', KEYS[2], 'fingerprint', ARGV[2], 'result', table.concat(answer, ',', 2))
  redis.call('EXPIRE', KEYS[2], ARGV[3])
end
return answer
"""

# KEYS: retries, stream. ARGV: now (s), limit, wire version. Moves due envelopes back into the stream, one entry
# each, so that one of them failing again concerns no other. Returns how many.
PROMOTE = """
local due = redis.call('ZRANGE', KEYS[1], '-inf', ARGV[1], 'BYSCORE', 'LIMIT', 0, ARGV[2])
for _, body in ipairs(due) do
  redis.call('XADD', KEYS[2], '*', 'v', ARGV[3], 'b', string.char(145) .. body)
  redis.call('ZREM', KEYS[1], body)
end
return #due
"""

# KEYS: dead letters, dead-letter index, stream, counts. ARGV: id, wire version, envelope. Puts a dead letter back
# into its lane; it was counted as accepted the first time. Returns 1, or 0 when the letter is gone.
REPLAY = """
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('XADD', KEYS[3], '*', 'v', ARGV[2], 'b', string.char(145) .. ARGV[3])
redis.call('HINCRBY', KEYS[4], 'dead', -1)
return 1
"""

# KEYS: members, then the leases. ARGV: name, member ttl (ms). Reports this member alive.
# Returns: the live members, sorted; then the owners of the leases.
HEARTBEAT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
local members = redis.call('ZRANGE', KEYS[1], 0, -1)
local owners = {}
for k = 2, #KEYS do owners[k - 1] = redis.call('GET', KEYS[k]) or '' end
return {members, owners}
"""

# KEYS: leases. ARGV: name, ttl (ms). Takes those that are free and extends those already held.
# Returns for each lease 1 (ours) or 0.
ACQUIRE = """
local ours = {}
for k = 1, #KEYS do
  local owner = redis.call('GET', KEYS[k])
  if owner == false or owner == ARGV[1] then
    redis.call('SET', KEYS[k], ARGV[1], 'PX', ARGV[2])
    ours[k] = 1
  else
    ours[k] = 0
  end
end
return ours
"""

# KEYS: members (to leave the pool) or nothing, then leases. ARGV: name, leave? Gives up leases that are ours.
RELEASE = """
local first = 1
if ARGV[2] == '1' then
  redis.call('ZREM', KEYS[1], ARGV[1])
  first = 2
end
for k = first, #KEYS do
  if redis.call('GET', KEYS[k]) == ARGV[1] then redis.call('DEL', KEYS[k]) end
end
return 1
"""


class Script:
    """A script run by its digest, loaded again after the server lost it."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    async def run(self, client: aioredis.Redis, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run it once.

        Raises:
            RedisError: as the driver raises it.
        """
        execute: Any = client.execute_command  # untyped upstream
        try:
            return await execute("EVALSHA", self._digest, len(keys), *keys, *args)
        except redis_errors.NoScriptError:
            return await execute("EVAL", self._source, len(keys), *keys, *args)
