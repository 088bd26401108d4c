"""The Lua scripts, each with its contract. They run atomically on the server.

Those that keep a lane draining carry the flag `allow-oom`: see `tocsin.storage.limit`. REPLAY and PURGE need none, as
their first write is a deletion.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from redis import asyncio as aioredis
from redis import exceptions as redis_errors

# KEYS: counts, idempotency key (or counts again), then for each unit: stream, dedup key (or counts again).
# ARGV: idempotent?, fingerprint, ttl, wire version, write?, then for each unit: records, deduplicated?, block.
# With `write?` a repeat, which stores nothing, sets a key's expiry to what it is: WAITAOF speaks only for what its own
# connection wrote, and on one that only read it would say yes at once.
# Returns: "stored" | "repeat" | "conflict", then for each unit its position `partition-entry`, marked with a
# leading "=" where a dedup key had been seen before.
APPEND = """
local function write(key)
  if ARGV[5] == '1' then redis.call('PEXPIREAT', key, redis.call('PEXPIRETIME', key)) end
end
if ARGV[1] == '1' then
  local first = redis.call('HMGET', KEYS[2], 'fingerprint', 'result')
  if first[2] then
    if first[1] ~= ARGV[2] then return {'conflict'} end
    write(KEYS[2])
    local answer = {'repeat'}
    for mark in string.gmatch(first[2], '[^,]+') do answer[#answer + 1] = mark end
    return answer
  end
end
local answer = {'stored'}
local accepted = 0
local u = 0
for k = 3, #KEYS, 2 do
  local a = 6 + u * 3
  u = u + 1
  local dedup = ARGV[a + 1] == '1'
  local seen = dedup and redis.call('GET', KEYS[k + 1])
  if seen then
    write(KEYS[k + 1])
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
PROMOTE = """#!lua flags=allow-oom
local due = redis.call('ZRANGE', KEYS[1], '-inf', ARGV[1], 'BYSCORE', 'LIMIT', 0, ARGV[2])
for _, body in ipairs(due) do
  redis.call('XADD', KEYS[2], '*', 'v', ARGV[3], 'b', string.char(145) .. body)
  redis.call('ZREM', KEYS[1], body)
end
return #due
"""

# KEYS: dead letters, dead-letter index, stream, counts, reports. ARGV: id, wire version, envelope. Puts a dead letter
# back into its lane; it was counted as accepted the first time. Returns 1, or 0 when the letter is gone.
REPLAY = """
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('XADD', KEYS[3], '*', 'v', ARGV[2], 'b', string.char(145) .. ARGV[3])
redis.call('HINCRBY', KEYS[4], 'dead', -1)
redis.call('HINCRBY', KEYS[5], 'replayed', 1)
return 1
"""

# KEYS: dead letters, dead-letter index, counts. ARGV: id. Deletes a dead letter for good; it moves from `dead` to
# `purged` in the counts, so that they still add up. Returns 1, or 0 when the letter is gone.
PURGE = """
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HINCRBY', KEYS[3], 'dead', -1)
redis.call('HINCRBY', KEYS[3], 'purged', 1)
return 1
"""

# KEYS: strings that must hold what is expected, then the key of each command. ARGV: how many are expected, their
# values (empty: not there), then for each command the number of its parts and the parts. Carries them out in order,
# as a transaction would, at the memory limit too. Returns how many there were, or -1 where something differed.
TRANSACTION = """#!lua flags=allow-oom
local guards = tonumber(ARGV[1])
for k = 1, guards do
  if (redis.call('GET', KEYS[k]) or '') ~= ARGV[k + 1] then return -1 end
end
local a = guards + 2
for _ = guards + 1, #KEYS do
  local parts = {}
  for i = 1, tonumber(ARGV[a]) do parts[i] = ARGV[a + i] end
  redis.call(unpack(parts))
  a = a + 1 + #parts
end
return #KEYS - guards
"""

# KEYS: for each partition its watermark and its stream. A stream holds what is not settled, so everything accepted
# before its oldest entry is applied, and everything up to now where it is empty: true whoever says it.
# Returns the watermarks (s) as text.
WATERMARK = """#!lua flags=allow-oom
local time = redis.call('TIME')
local marks = {}
for k = 1, #KEYS, 2 do
  local mark = time[1] .. string.format('.%06d', tonumber(time[2]))
  local oldest = redis.call('XRANGE', KEYS[k + 1], '-', '+', 'COUNT', 1)[1]
  if oldest then
    local ms = string.match(oldest[1], '^%d+')
    if tonumber(ms) / 1000 < tonumber(mark) then mark = string.format('%.3f', tonumber(ms) / 1000) end
  end
  redis.call('SET', KEYS[k], mark)
  marks[#marks + 1] = mark
end
return marks
"""

# KEYS: archive hash, log. ARGV: partition, then for each entry that is on file: id, events. Forgets the entries; one
# that is gone already was counted then. Once nothing is left, what was logged and never landed is known to be lost
# (trimmed, or not to be read). Returns how many events were counted.
LANDED = """#!lua flags=allow-oom
local landed = 0
for a = 2, #ARGV, 2 do
  if redis.call('XDEL', KEYS[2], ARGV[a]) == 1 then landed = landed + tonumber(ARGV[a + 1]) end
end
local fields = {'logged:' .. ARGV[1], 'landed:' .. ARGV[1], 'lost:' .. ARGV[1]}
redis.call('HINCRBY', KEYS[1], fields[2], landed)
redis.call('HSET', KEYS[1], 'landed_at', redis.call('TIME')[1])
if redis.call('XLEN', KEYS[2]) == 0 then
  local found = redis.call('HMGET', KEYS[1], unpack(fields))
  local left = tonumber(found[1] or 0) - tonumber(found[2] or 0) - tonumber(found[3] or 0)
  if left ~= 0 then redis.call('HINCRBY', KEYS[1], left > 0 and fields[3] or fields[1], math.abs(left)) end
end
return landed
"""

# KEYS: archive hash, then the log of each partition. Returns: the time (ms), the hash as pairs, then for each log its
# entries and the time (ms) of the oldest, 0 where there is none. The blocks themselves stay where they are.
BACKLOG = """#!lua flags=no-writes,allow-oom
local time = redis.call('TIME')
local answer = {time[1] * 1000 + math.floor(time[2] / 1000), redis.call('HGETALL', KEYS[1])}
for k = 2, #KEYS do
  local oldest = redis.call('XRANGE', KEYS[k], '-', '+', 'COUNT', 1)[1]
  answer[#answer + 1] = redis.call('XLEN', KEYS[k])
  answer[#answer + 1] = oldest and tonumber(string.match(oldest[1], '^%d+')) or 0
end
return answer
"""

# KEYS: retries, then the key of each command. ARGV: a retry, then as for TRANSACTION. Carries the commands out in place
# of a retry that waits. Returns 1, or 0 when it does not wait.
IN_PLACE = """#!lua flags=allow-oom
if redis.call('ZREM', KEYS[1], ARGV[1]) == 0 then return 0 end
local a = 2
for _ = 2, #KEYS do
  local parts = {}
  for i = 1, tonumber(ARGV[a]) do parts[i] = ARGV[a + i] end
  redis.call(unpack(parts))
  a = a + 1 + #parts
end
return 1
"""

# KEYS: stream. ARGV: group. Makes both, at the memory limit too.
CREATE_GROUP = """#!lua flags=allow-oom
return redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
"""

# KEYS: counts, then for each partition: stream, retries. ARGV: group. What admission goes by, bodies not sent.
# Returns: INFO memory as text, then as numbers: now (ms), blocks, retrying, ms of the oldest waiting entry (or now),
# records accepted, records that are out of the lane for good.
FACTS = """#!lua flags=no-writes
local memory = redis.pcall('INFO', 'memory')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local blocks, retrying, oldest = 0, 0, now
for k = 2, #KEYS, 2 do
  local length = redis.call('XLEN', KEYS[k])
  blocks = blocks + length
  retrying = retrying + redis.call('ZCARD', KEYS[k + 1])
  if length > 0 then
    local pending = redis.pcall('XPENDING', KEYS[k], ARGV[1])
    local first = pending[2] or redis.call('XRANGE', KEYS[k], '-', '+', 'COUNT', 1)[1][1]
    oldest = math.min(oldest, tonumber(string.match(first, '^%d+')))
  end
end
local finals = redis.call('HMGET', KEYS[1], 'delivered', 'suppressed', 'expired', 'dead', 'purged')
local finished = 0
for _, number in ipairs(finals) do finished = finished + (tonumber(number) or 0) end
local accepted = tonumber(redis.call('HGET', KEYS[1], 'accepted') or 0)
return {type(memory) == 'string' and memory or '', now, blocks, retrying, oldest, accepted, finished}
"""

# KEYS: sources. ARGV: records that wait, how long a source is remembered (s), how many are told apart, then source and
# records let in of each. Adds them to what each source holds. Nobody counts what leaves: where the sum is more than
# what waits, all holdings shrink alike. Returns each source and what it holds.
SOURCES = """#!lua flags=allow-oom
local now, waiting = tonumber(redis.call('TIME')[1]), tonumber(ARGV[1])
local held, seen, total, number = {}, {}, 0, 0
local function add(source, records, at)
  if not held[source] then number = number + 1 end
  held[source] = (held[source] or 0) + records
  seen[source] = math.max(seen[source] or 0, at)
  total = total + records
end
local kept = redis.call('HGETALL', KEYS[1])
for k = 1, #kept, 2 do
  local records, at = string.match(kept[k + 1], '^(%S+) (%d+)$')
  if now - at < tonumber(ARGV[2]) then add(kept[k], tonumber(records), tonumber(at)) end
end
for a = 4, #ARGV, 2 do
  local source = ARGV[a]
  if not held[source] and number >= tonumber(ARGV[3]) then source = '' end
  add(source, tonumber(ARGV[a + 1]), now)
end
local part = total > waiting and waiting / total or 1
local fields, answer = {}, {}
for source, records in pairs(held) do
  local left = string.format('%.1f', records * part)
  fields[#fields + 1] = source
  fields[#fields + 1] = left .. ' ' .. seen[source]
  answer[#answer + 1] = source
  answer[#answer + 1] = left
end
redis.call('DEL', KEYS[1])
if #fields > 0 then
  redis.call('HSET', KEYS[1], unpack(fields))
  redis.call('EXPIRE', KEYS[1], ARGV[2])
end
return answer
"""

# KEYS: reports. ARGV: field, number, and so on. Adds what a process counted, at the memory limit too. Returns 1.
REPORT = """#!lua flags=allow-oom
for a = 1, #ARGV, 2 do redis.call('HINCRBY', KEYS[1], ARGV[a], ARGV[a + 1]) end
return 1
"""

# KEYS: members, then the leases. ARGV: name, member ttl (ms). Reports this member alive.
# Returns: the live members, sorted; then the owners of the leases.
HEARTBEAT = """#!lua flags=allow-oom
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
ACQUIRE = """#!lua flags=allow-oom
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


# KEYS: breaker state, probe lease, names. ARGV: now (s), fail_max, reset (s), ttl (s), name, holder, lease (ms),
# succeeded?, failures since, their reason, probe result ("" | ok | failed), probe wanted?, since when it counts as
# open (s) if this opens it. Merges what one process saw into the breaker all share, and hands the right to probe to
# one of them. It writes only where something changes: a healthy breaker costs no write.
# Returns: state, failures, opened_at, reason, opened, closed, probes, then "1" when the probe is ours.
BREAKER = """#!lua flags=allow-oom
local s = redis.call('HMGET', KEYS[1], 'state', 'failures', 'opened_at')
local state, failures, opened_at = s[1] or 'closed', tonumber(s[2] or '0'), tonumber(s[3] or '0')
local owner = redis.call('GET', KEYS[2])
local ours = not owner or owner == ARGV[6]
if not s[1] then
  redis.call('HSET', KEYS[1], 'state', 'closed', 'failures', 0, 'opened_at', 0, 'reason', '', 'reset_s', ARGV[3])
end
local function open()
  state, opened_at = 'open', tonumber(ARGV[13])
  redis.call('HSET', KEYS[1], 'state', state, 'opened_at', ARGV[13], 'reason', ARGV[10], 'reset_s', ARGV[3],
    'opened_for', ARGV[10])
  redis.call('HINCRBY', KEYS[1], 'opened', 1)
end
if state == 'open' then
  if ARGV[11] ~= '' and ours then
    if ARGV[11] == 'ok' then
      state, failures = 'closed', 0
      redis.call('HSET', KEYS[1], 'state', state, 'failures', 0, 'opened_at', 0, 'reason', 'probe succeeded')
      redis.call('HINCRBY', KEYS[1], 'closed', 1)
    else
      open()
    end
    redis.call('DEL', KEYS[2])
    owner = false
  end
else
  local sum = tonumber(ARGV[9])
  if ARGV[8] ~= '1' then sum = sum + failures end
  if sum ~= failures then redis.call('HSET', KEYS[1], 'failures', sum) end
  failures = sum
  if failures >= tonumber(ARGV[2]) then open() end
end
local granted = '0'
if state == 'open' and ARGV[12] == '1' and tonumber(ARGV[1]) >= opened_at + tonumber(ARGV[3]) then
  if owner == ARGV[6] then
    redis.call('PEXPIRE', KEYS[2], ARGV[7])
    granted = '1'
  elseif redis.call('SET', KEYS[2], ARGV[6], 'NX', 'PX', ARGV[7]) then
    redis.call('HINCRBY', KEYS[1], 'probes', 1)
    granted = '1'
  end
end
if redis.call('TTL', KEYS[1]) < ARGV[4] / 2 then
  redis.call('EXPIRE', KEYS[1], ARGV[4])
  redis.call('ZADD', KEYS[3], ARGV[1], ARGV[5])
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', ARGV[1] - ARGV[4])
  redis.call('EXPIRE', KEYS[3], ARGV[4])
end
local t = redis.call('HMGET', KEYS[1], 'opened_at', 'reason', 'opened', 'closed', 'probes')
return {state, tostring(failures), t[1], t[2], t[3] or '0', t[4] or '0', t[5] or '0', granted}
"""

# KEYS: windows, a sorted set of ids by time each. ARGV: now (s), start of the window (s), its length (s), then for
# each key: how many it may hold, the number of ids, the ids. Lets in what there is room for, in order; an id that is
# in already is let in again and takes no room, so that a block handled twice counts once.
# Returns for each id 1 (let in) or 0.
LET_IN = """
local answer = {}
local a = 4
for k = 1, #KEYS do
  redis.call('ZREMRANGEBYSCORE', KEYS[k], '-inf', ARGV[2])
  local room = tonumber(ARGV[a]) - redis.call('ZCARD', KEYS[k])
  local last = a + 1 + ARGV[a + 1]
  for i = a + 2, last do
    local let_in = redis.call('ZSCORE', KEYS[k], ARGV[i])
    if not let_in and room > 0 then
      let_in = redis.call('ZADD', KEYS[k], ARGV[1], ARGV[i])
      redis.call('EXPIRE', KEYS[k], ARGV[3])
      room = room - 1
    end
    answer[#answer + 1] = let_in and 1 or 0
  end
  a = last + 1
end
return answer
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

    async def run_synced(
        self, client: aioredis.Redis, keys: Sequence[str], args: Sequence[Any], *, wait_ms: int
    ) -> tuple[Any, bool]:
        """Run it once, then wait until what it wrote is on the server's disk. Returns its answer and whether it is.

        Both go out together on one connection: WAITAOF speaks for no other. A server that does not know the command,
        has no append-only file or is not done in time leaves the second answer false.

        Raises:
            RedisError: as the driver raises it; also when the connection breaks while waiting.
        """
        try:
            return await self._then_wait(client, "EVALSHA", self._digest, keys, args, wait_ms)
        except redis_errors.NoScriptError:
            return await self._then_wait(client, "EVAL", self._source, keys, args, wait_ms)

    async def _then_wait(
        self,
        client: aioredis.Redis,
        command: str,
        script: str,
        keys: Sequence[str],
        args: Sequence[Any],
        wait_ms: int,
    ) -> tuple[Any, bool]:
        async with client.pipeline(transaction=False) as pipe:
            queue: Any = pipe.execute_command  # untyped upstream
            queue(command, script, len(keys), *keys, *args)
            queue("WAITAOF", 1, 0, wait_ms)
            answer, counts = await pipe.execute(raise_on_error=False)
        if isinstance(answer, Exception):
            raise answer
        return answer, isinstance(counts, list) and int(counts[0]) >= 1
