"""What admission goes by: how full a server and a lane are, and what each source has waiting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tocsin.keys import GROUP
from tocsin.storage.script import Script
from tocsin.streams.lanes import Lane

_FACTS: Final = Script(
    """#!lua flags=no-writes
local memory = redis.pcall('INFO', 'memory')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local blocks, retrying, oldest = 0, 0, now
for k = pairs_at, #KEYS, 2 do
  local stream, retries = KEYS[k], KEYS[k + 1]
  local length = redis.call('XLEN', stream)
  blocks = blocks + length
  retrying = retrying + redis.call('ZCARD', retries)
  if length > 0 then
    local pending = redis.pcall('XPENDING', stream, group)
    local first = pending[2] or redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1][1]
    oldest = math.min(oldest, tonumber(string.match(first, '^%d+')))
  end
end
local finals = redis.call('HMGET', counts, 'delivered', 'suppressed', 'expired', 'dead', 'purged')
local finished = 0
for _, number in ipairs(finals) do finished = finished + (tonumber(number) or 0) end
local accepted = tonumber(redis.call('HGET', counts, 'accepted') or 0)
return {type(memory) == 'string' and memory or '', now, blocks, retrying, oldest, accepted, finished}
""",
    keys="counts pairs*",
    args="group",
)


async def read_facts(lane: Lane) -> list[Any]:
    """What a lane and its server hold, bodies not sent.

    Returns:
        INFO's memory section as text, then as numbers: now (ms), blocks, retries, ms of the oldest waiting entry (or
        now), records accepted, records that are out of the lane for good.

    Raises:
        RedisError: as the driver raises it.
    """
    pairs = [
        key
        for partition in range(lane.partitions)
        for key in (lane.keys.stream(partition), lane.keys.retries(partition))
    ]
    found: list[Any] = await _FACTS.run(lane.client, counts=lane.keys.counts, pairs=pairs, group=GROUP)
    return found


_SOURCES: Final = Script(
    """#!lua flags=allow-oom
local now = tonumber(redis.call('TIME')[1])
waiting = tonumber(waiting)
local held, seen, total, number = {}, {}, 0, 0
local function add(source, records, at)
  if not held[source] then number = number + 1 end
  held[source] = (held[source] or 0) + records
  seen[source] = math.max(seen[source] or 0, at)
  total = total + records
end
local kept = redis.call('HGETALL', sources)
for k = 1, #kept, 2 do
  local records, at = string.match(kept[k + 1], '^(%S+) (%d+)$')
  if now - at < tonumber(remembered_s) then add(kept[k], tonumber(records), tonumber(at)) end
end
for a = let_in_at, #ARGV, 2 do
  local source = ARGV[a]
  if not held[source] and number >= tonumber(max_sources) then source = '' end
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
redis.call('DEL', sources)
if #fields > 0 then
  redis.call('HSET', sources, unpack(fields))
  redis.call('EXPIRE', sources, remembered_s)
end
return answer
""",
    keys="sources",
    args="waiting remembered_s max_sources let_in*",
)


async def share_holdings(
    lane: Lane, let_in: Mapping[str, int], *, waiting: int, remembered_s: int, max_sources: int
) -> dict[str, float]:
    """Add what was let in of each source to what it holds. Nobody counts what leaves: where the sum is more than what
    waits, all holdings shrink alike.

    Args:
        lane: Whose sources.
        let_in: Records let in since the last call, by source.
        waiting: Records that wait in the lane.
        remembered_s: How long a source is remembered.
        max_sources: How many are counted separately; the rest share the empty name.

    Returns:
        What each source holds.

    Raises:
        RedisError: as the driver raises it.
    """
    answer: Any = await _SOURCES.run(
        lane.client,
        sources=lane.keys.sources,
        waiting=waiting,
        remembered_s=remembered_s,
        max_sources=max_sources,
        let_in=[part for pair in let_in.items() for part in pair],
    )
    return {
        source.decode(): float(records) for source, records in zip(answer[::2], answer[1::2], strict=True)
    }
